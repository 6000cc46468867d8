"""Nodes of the comparison: each has a role, by which a new run finds and updates it."""

from __future__ import annotations

import slicer

ROLE = "DWISuperRes.Role"
FOLDER = "DWISuperRes comparison"


def find(class_name: str, role: str):
    """The scene's node with a role, or None."""
    collection = slicer.mrmlScene.GetNodesByClass(class_name)
    collection.UnRegister(None)  # GetNodesByClass hands its reference over
    for index in range(collection.GetNumberOfItems()):
        node = collection.GetItemAsObject(index)
        if node.GetAttribute(ROLE) == role:
            return node
    return None


def find_or_add(class_name: str, role: str, name: str):
    """The scene's node with a role, created on first use inside the comparison's subject hierarchy folder."""
    node = find(class_name, role)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
        node.SetAttribute(ROLE, role)
        _file_under_folder(node)
    return node


def _file_under_folder(node) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    if not item:  # plots and views have none
        return
    scene_item = hierarchy.GetSceneItemID()
    folder = hierarchy.GetItemChildWithName(scene_item, FOLDER)
    hierarchy.SetItemParent(item, folder or hierarchy.CreateFolderItem(scene_item, FOLDER))
