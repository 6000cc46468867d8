"""Nodes of the comparison: each has a role, by which a new run finds and updates it; and where nodes are filed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import slicer
from slicer.i18n import tr as _

ROLE = "DWISuperRes.Role"
INPUT_REFERENCE = "DWISuperRes.Input"
"""Role of the reference from a super-resolved scan to its input."""
DWI_CLASS = "vtkMRMLDiffusionWeightedVolumeNode"


def nodes_by_class(class_name: str) -> Iterator[Any]:
    """The scene's nodes of a class."""
    collection = slicer.mrmlScene.GetNodesByClass(class_name)
    collection.UnRegister(None)  # GetNodesByClass hands its reference over
    for index in range(collection.GetNumberOfItems()):
        yield collection.GetItemAsObject(index)


def find(class_name: str, role: str) -> Any:
    """The scene's node with a role, or None."""
    return next((node for node in nodes_by_class(class_name) if node.GetAttribute(ROLE) == role), None)


def find_or_add(class_name: str, role: str, name: str) -> Any:
    """The scene's node with a role, created on first use inside the comparison's subject hierarchy folder."""
    node = find(class_name, role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
        node.SetAttribute(ROLE, role)
        if hierarchy().GetItemByDataNode(node):  # plots and views have none
            scene_item = hierarchy().GetSceneItemID()
            title = _("DWISuperRes comparison")
            folder = hierarchy().GetItemChildWithName(scene_item, title)
            file_under(node, folder or hierarchy().CreateFolderItem(scene_item, title))
    return node


def remove(node: Any) -> None:
    """Take a volume out of the scene with the nodes that display and store it, which MRML would leave behind."""
    displays = [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    for each in (*displays, node.GetStorageNode(), node):
        if each is not None:
            slicer.mrmlScene.RemoveNode(each)


def hierarchy() -> Any:
    """The scene's subject hierarchy: the tree of the Data module."""
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def file_under(node: Any, parent: Any) -> None:
    """Put a node under another node, or under an item of the subject hierarchy."""
    item = parent if isinstance(parent, int) else hierarchy().GetItemByDataNode(parent)
    if not item:  # Slicer's window files every node by itself; without it nobody does
        item = hierarchy().CreateItem(hierarchy().GetSceneItemID(), parent)
    if own := hierarchy().GetItemByDataNode(node):
        hierarchy().SetItemParent(own, item)
    else:
        hierarchy().CreateItem(item, node)


def scans(folder: int | None = None) -> list[Any]:
    """The scene's DWI volumes that are no results of super-resolution; of one subject hierarchy item on request."""
    found = [node for node in nodes_by_class(DWI_CLASS) if not is_result(node)]
    return found if folder is None else [node for node in found if folder in _items_above(node)]


def is_result(node: Any) -> bool:
    """Whether a scan was computed from another, rather than loaded."""
    return node.GetNodeReference(INPUT_REFERENCE) is not None


def folders_with_scans() -> list[tuple[str, int]]:
    """Name and item of every subject hierarchy item that holds scans: folders, patients, studies."""
    items = {item for node in scans() for item in _items_above(node)}
    return sorted((hierarchy().GetItemName(item), item) for item in items)


def _items_above(node: Any) -> Iterator[int]:
    """Subject hierarchy items that a node lies under, the nearest first, without that of the scene."""
    item = hierarchy().GetItemByDataNode(node)
    while item and (item := hierarchy().GetItemParent(item)) != hierarchy().GetSceneItemID():
        yield item
