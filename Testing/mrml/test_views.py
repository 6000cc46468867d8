"""What the comparison's views show, by Slicer's own slice logic and legend manager: planes, colours, legends, picks."""

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util

from DWISuperResLib import mrml
from DWISuperResLib.dwi import DWI
from DWISuperResLib.mrml import nodes as node_module
from Testing.conftest import oblique_affine
from Testing.slicer_host import start

SHAPE = (20, 16, 10)


@pytest.fixture
def scene():
    host = start()
    yield host.new_scene()
    host.new_scene()


@pytest.fixture
def oblique():
    """A grid that is turned, and that lies from 46 to 110 mm: the plane at 0 mm, where a new view is, misses it."""
    affine = oblique_affine(voxel_sizes=(4.0, 4.0, 5.0), angles=(0.35, -0.25, 0.1))
    corners = np.array([[i, j, k, 1] for i in (0, 19) for j in (0, 15) for k in (0, 9)]) @ affine.T
    affine[2, 3] += 46 - corners[:, 2].min()
    return affine


def compare(tmp_path, affine, colours=None, transform=None):
    """A comparison on a grid: a block of tissue away from the middle of the scan, the test map higher by 0.1."""
    bvecs = np.random.default_rng(1).normal(size=(7, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    scan = mrml.add_dwi_node(DWI(np.ones((*SHAPE, 7), np.float32), affine, [0, *[1e3] * 6], bvecs), "scan")
    if transform is not None:
        scan.SetAndObserveTransformNodeID(transform.GetID())
    reference = np.zeros(SHAPE, np.float32)
    reference[4:16, 3:13, 6:9] = 0.5 + 0.2 * np.random.default_rng(0).random((12, 10, 3))
    test = np.where(reference > 0, reference + np.float32(0.1), 0)
    (tmp_path / "s.tsv").write_text("map\tmae\nfa\t0.1\n")
    (tmp_path / "r.html").write_text("<html></html>")
    maps = {"fa": (reference, test), "qa": (reference, test)}
    return mrml.update_comparison(maps, tmp_path / "s.tsv", tmp_path / "r.html", scan, colours)


def show(volume):
    """The layout with its views, turned to a volume and put through the mask, as the module does it."""
    manager = start().show_views()
    assert mrml.show_comparison_layout()
    mrml.show_map("fa")
    mrml.turn_views_to(volume, mrml.centre_of_mask())
    for tag in mrml.SLICE_VIEWS.values():
        manager.sliceWidget(tag).sliceLogic().FitSliceToAll()
    mrml.jump_views_to(mrml.centre_of_mask())
    return manager


@pytest.mark.parametrize("moved", [False, True], ids=["in place", "under a transform"])
def test_views_of_an_oblique_scan_cut_the_mask(scene, oblique, tmp_path, moved):
    transform = None
    if moved:
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[:3, 3] = 30, -20, 55
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    nodes = compare(tmp_path, oblique, transform=transform)
    manager = show(nodes["fa_reference"])
    for role, tag in mrml.SLICE_VIEWS.items():
        view = scene.GetSingletonNode(tag, "vtkMRMLSliceNode")
        plane = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())
        columns = oblique[:3, :3] / np.linalg.norm(oblique[:3, :3], axis=0)
        assert np.abs(columns.T @ plane[:3, 2]).max() == pytest.approx(1, abs=1e-6)  # across one voxel axis
        assert np.dot(plane[:3, 2], mrml.centre_of_mask() - plane[:3, 3]) == pytest.approx(0, abs=1e-6)
        drawn = manager.sliceWidget(tag).picture()[..., 3] > 0
        assert 0.05 < drawn.mean() < 0.9, role


def test_centre_is_a_voxel_of_the_mask(scene, oblique, tmp_path):
    """Also where the mask is hollow, as a shell of cortex is."""
    nodes = compare(tmp_path, oblique)
    array = slicer.util.arrayFromVolume(nodes["fa_difference"])
    array[6:9, 5:11, 6:14] = np.nan
    voxel = np.linalg.solve(oblique, np.append(mrml.centre_of_mask(), 1))[:3]
    np.testing.assert_allclose(voxel, voxel.round(), atol=1e-6)
    assert np.isfinite(array[tuple(voxel.round().astype(int)[::-1])])


def test_legends_are_drawn_in_views_that_a_layout_made(scene, oblique, tmp_path):
    """By Slicer's own displayable manager, which overlooks legends that are older than its view."""
    nodes = compare(tmp_path, oblique)
    manager = show(nodes["fa_reference"])
    titles = {role: manager.sliceWidget(tag).legend_titles() for role, tag in mrml.SLICE_VIEWS.items()}
    assert titles == {part: [f"FA {part}"] for part in mrml.SLICE_VIEWS}
    mrml.show_map("qa")
    titles = {role: manager.sliceWidget(tag).legend_titles() for role, tag in mrml.SLICE_VIEWS.items()}
    assert titles == {part: [f"QA {part}"] for part in mrml.SLICE_VIEWS}
    assert len(slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")) == 3


def test_colour_fa(scene, oblique, tmp_path):
    """Directions as colours in the views of reference and test, the difference of FA beside them."""
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[4:10, 3:13, 6:9] = 200, 0, 0
    colours[10:16, 3:13, 6:9] = 0, 0, 150
    nodes = compare(tmp_path, oblique, (colours, colours[::-1]))
    assert {"colour_fa_reference", "colour_fa_test"} <= set(nodes)
    assert set(mrml.map_names()) == {"fa", "qa", "colour_fa"}
    manager = show(nodes["fa_reference"])
    mrml.show_map("colour_fa")
    for part in ("reference", "test"):
        image = manager.sliceWidget(mrml.SLICE_VIEWS[part]).picture()[..., :3]
        assert ((image == (200, 0, 0)).all(-1)).sum() > 500
        assert ((image == (0, 0, 150)).all(-1)).sum() > 500
    assert manager.sliceWidget(mrml.SLICE_VIEWS["difference"]).legend_titles() == ["FA difference"]
    assert not manager.sliceWidget(mrml.SLICE_VIEWS["reference"]).legend_titles()
    compare(tmp_path, oblique)
    assert "colour_fa" not in mrml.map_names()  # of an earlier run


@pytest.mark.parametrize("chart", ["scatter", "bland_altman"])
def test_a_picked_point_is_found_in_the_images(scene, oblique, tmp_path, chart):
    nodes = compare(tmp_path, oblique)
    manager = show(nodes["fa_reference"])
    mrml.show_map("fa", chart)
    series = next(s for s in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode") if s.GetYColumnName() in
                  {"scatter": ("test",), "bland_altman": ("difference",)}[chart])  # fmt: skip
    row = 37
    table = series.GetTableNode().GetTable()
    position = mrml.picked_position(series, row)
    voxel = np.linalg.solve(oblique, np.append(position, 1))[:3].round().astype(int)
    values = [slicer.util.arrayFromVolume(nodes[f"fa_{p}"])[tuple(voxel[::-1])] for p in ("reference", "test")]
    x, y = (table.GetColumnByName(name).GetValue(row) for name in (series.GetXColumnName(), series.GetYColumnName()))
    expected = values if chart == "scatter" else [sum(values) / 2, values[1] - values[0]]
    assert (x, y) == pytest.approx(tuple(expected), abs=1e-6)
    mrml.jump_views_to(position)
    for tag in mrml.SLICE_VIEWS.values():
        plane = slicer.util.arrayFromVTKMatrix(scene.GetSingletonNode(tag, "vtkMRMLSliceNode").GetSliceToRAS())
        assert np.dot(plane[:3, 2], position - plane[:3, 3]) == pytest.approx(0, abs=1e-6)
    assert manager.plotViewCount == 2
    lines = next(s for s in slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode") if s.GetXColumnName() == "x")
    assert mrml.picked_position(lines, 0) is None
    assert mrml.picked_position(series, 10**6) is None


def test_test_over_reference_in_one_view(scene, oblique, tmp_path):
    nodes = compare(tmp_path, oblique)
    manager = show(nodes["fa_reference"])
    view = manager.sliceWidget(mrml.SLICE_VIEWS["reference"])
    reference, test = (
        manager.sliceWidget(mrml.SLICE_VIEWS[part]).picture().astype(int) for part in ("reference", "test")
    )
    mrml.lay_test_over_reference("fa", 1.0)
    np.testing.assert_allclose(view.picture(), test, atol=1)
    assert view.legend_titles() == ["FA reference"]  # not both, one over the other
    mrml.lay_test_over_reference("fa", 0.5)
    np.testing.assert_allclose(view.picture()[..., :3], (reference + test)[..., :3] / 2, atol=2)
    mrml.lay_test_over_reference("fa", 0.0)
    np.testing.assert_array_equal(view.picture(), reference)
    view.sliceLogic().GetSliceCompositeNode().SetForegroundVolumeID(nodes["qa_reference"].GetID())
    mrml.lay_test_over_reference("fa", 0.0)
    assert view.sliceLogic().GetSliceCompositeNode().GetForegroundVolumeID() == nodes["qa_reference"].GetID()


def scan(name, parent=None, source=None):
    node = mrml.add_dwi_node(DWI(np.ones((4, 4, 4, 7), np.float32), np.eye(4), [0] * 7, np.zeros((7, 3))), name)
    if parent:
        node_module.file_under(node, parent)
    if source is not None:
        node.SetNodeReferenceID(mrml.INPUT_REFERENCE, source.GetID())
    return node


def test_scans_of_the_scene_and_of_folders(scene):
    tree = node_module.hierarchy()
    study = tree.CreateFolderItem(tree.GetSceneItemID(), "study")
    session = tree.CreateFolderItem(study, "session")
    first, second, third = scan("first"), scan("second", study), scan("third", session)
    scan("first SR", source=first)
    assert mrml.scans() == [first, second, third]
    assert mrml.scans(study) == [second, third]
    assert mrml.scans(session) == [third]
    assert mrml.folders_with_scans() == [("session", session), ("study", study)]


def test_results_are_filed_under_the_scan(scene):
    tree, result = node_module.hierarchy(), scan("scan SR x2")
    result.CreateDefaultDisplayNodes()
    result.GetDisplayNode().SetDiffusionComponent(3)
    checks = [
        {"name": "grid (dB)", "value": 13.04, "threshold": 10.0, "fired": True, "advice": "Do not use it."},
        {"name": "consistency", "value": 0.5, "threshold": 2.0, "fired": False, "advice": "-"},
    ]
    table = mrml.update_self_checks(result, checks)
    assert table.GetName() == "scan SR x2 self-checks"
    assert [table.GetCellText(0, c) for c in range(5)] == ["grid (dB)", "13", "10", "warning", "Do not use it."]
    assert table.GetCellText(1, 3) == "passed"
    assert mrml.update_self_checks(result, checks[1:]) is table  # overwritten with the result
    assert table.GetNumberOfRows() == 1
    uncertainty = scan("u")
    slicer.util.arrayFromVolume(uncertainty)[0] = 0
    mrml.attach_uncertainty(result, uncertainty)
    assert uncertainty.GetName() == "scan SR x2 uncertainty"
    assert mrml.uncertainty_of(result) is uncertainty
    for node in (table, uncertainty):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == tree.GetItemByDataNode(result)
    assert uncertainty not in mrml.scans()  # a DWI volume, but none to super-resolve
    manager = start().show_views()
    mrml.show_comparison_layout()
    widget = manager.sliceWidget(mrml.SLICE_VIEWS["test"])
    view = widget.sliceLogic().GetSliceCompositeNode()
    view.SetBackgroundVolumeID(result.GetID())
    mrml.show_uncertainty_overlay(uncertainty, 0.5)
    assert (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) == (uncertainty.GetID(), 0.5)
    assert uncertainty.GetDisplayNode().GetDiffusionComponent() == 3  # that of the volume it lies over
    assert widget.legend_titles() == ["standard deviation (signal)"]
    mrml.show_uncertainty_overlay(uncertainty, 0.0)
    assert view.GetForegroundVolumeID() is None
    assert not widget.legend_titles()
