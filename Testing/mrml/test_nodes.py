"""MRML nodes against real MRML: round trips of scans, gradients one by one, display, pictures, scenes."""

from fractions import Fraction

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util

from DWISuperResLib import mrml
from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.mrml import layout
from DWISuperResLib.resampling import grid
from DWISuperResLib.resampling.scale import Scale
from Testing.conftest import oblique_affine
from Testing.slicer_host import start


@pytest.fixture
def scene():
    host = start()
    yield host.new_scene()
    host.new_scene()


GRIDS = {
    "axial": oblique_affine(angles=(0, 0, 0)),
    "oblique": oblique_affine(),
    "mirrored": oblique_affine(flips=(-1, 1, 1)),
    "mirrored twice": oblique_affine(angles=(1.0, 0.4, -0.7), flips=(-1, -1, 1)),
    "upside down": oblique_affine(angles=(0.1, 3.0, 0.2), flips=(1, 1, -1)),
    "sagittal": oblique_affine(voxel_sizes=(5, 2, 2), angles=(1.5, 1.4, 0)),
}


def dwi_on(affine, seed=0, dtype=np.float32) -> DWI:
    rng = np.random.default_rng(seed)
    bvecs = rng.normal(size=(9, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[0] = 0
    signal = rng.integers(0, 3000, (6, 5, 4, 9)).astype(dtype)
    return DWI(np.asfortranarray(signal), affine, np.array([0, *[1000.0] * 5, *[2500.0] * 3]), bvecs)


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_node_round_trip(scene, affine):
    dwi = dwi_on(affine)
    back = mrml.dwi_from_node(mrml.add_dwi_node(dwi, "scan"))
    np.testing.assert_array_equal(back.signal, dwi.signal)
    np.testing.assert_array_equal(back.affine, dwi.affine)
    np.testing.assert_array_equal(back.bvals, dwi.bvals)
    for own, expected in zip(back.bvecs, dwi.bvecs, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-15)


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_file_round_trip_keeps_gradients(scene, affine, tmp_path):
    """What Slicer writes for the child, and the child's library reads, is the scan; and the way back."""
    from DWISuperResLib.io import read_dwi, write_dwi

    dwi = dwi_on(affine)
    node = mrml.add_dwi_node(dwi, "scan")
    mrml.write_dwi_nrrd(node, tmp_path / "out ü.nrrd")
    read = read_dwi(tmp_path / "out ü.nrrd")
    np.testing.assert_array_equal(read.signal, dwi.signal)
    np.testing.assert_allclose(read.affine, dwi.affine, atol=1e-9)
    np.testing.assert_allclose(read.bvals, dwi.bvals, rtol=1e-9)
    np.testing.assert_allclose(read.bvecs, dwi.bvecs, atol=1e-9)
    write_dwi(dwi, tmp_path / "back.nrrd", compress=False)
    assert b"encoding: raw" in (tmp_path / "back.nrrd").read_bytes()
    back = mrml.read_dwi_nrrd(tmp_path / "back.nrrd", node, name="back")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(back), slicer.util.arrayFromVolume(node))
    np.testing.assert_allclose(mrml.ijk_to_ras(back), dwi.affine, atol=1e-9)
    np.testing.assert_array_equal(mrml.gradient_table(back)[0], mrml.gradient_table(node)[0])
    np.testing.assert_array_equal(mrml.gradient_table(back)[1], mrml.gradient_table(node)[1])


@pytest.mark.parametrize("affine", GRIDS.values(), ids=GRIDS)
def test_an_image_lies_on_a_scan_as_views_show_both(scene, affine):
    """Under transforms of their own; the scan is given to the library without its own."""
    image = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    node = slicer.util.addVolumeFromArray(np.ascontiguousarray(image.T), affine, "T1w")
    scan = mrml.add_dwi_node(dwi_on(np.eye(4)), "scan")
    back = mrml.volume_from_node(node, scan)
    np.testing.assert_array_equal(back.image, image)
    np.testing.assert_allclose(back.affine, affine, atol=1e-12)
    of_image, of_scan = oblique_affine((1, 1, 1), (0.1, 0.2, 0)), oblique_affine((1, 1, 1), (0, -0.1, 0.3))
    for moved, matrix in ((node, of_image), (scan, of_scan)):
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        moved.SetAndObserveTransformNodeID(transform.GetID())
    expected = np.linalg.inv(of_scan) @ of_image @ affine
    np.testing.assert_allclose(mrml.volume_from_node(node, scan).affine, expected, atol=1e-9)
    with pytest.raises(InputError, match="9 components"):
        mrml.volume_from_node(scan, scan)


def test_measurement_frame_turns_gradients(scene):
    node = mrml.add_dwi_node(dwi_on(np.eye(4)), "scan")
    _, before = mrml.gradient_table(node)
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    node.SetMeasurementFrameMatrix(slicer.util.vtkMatrixFromArray(quarter))
    _, after = mrml.gradient_table(node)
    np.testing.assert_allclose(after[:, 0], -before[:, 1], atol=1e-15)
    np.testing.assert_allclose(after[:, 1], before[:, 0], atol=1e-15)


def test_files_as_slicer_reads_them(scene, shared_data, tmp_path):
    """Slicer's own reader and the library's agree on every NRRD; the library's node agrees on every NIfTI."""
    from DWISuperResLib.io import read_dwi

    files = sorted((shared_data / "formats").rglob("*.nrrd")) + sorted((shared_data / "formats").rglob("*.nhdr"))
    files += [p for p in (shared_data / "formats").rglob("*.nii.gz") if p.with_name(p.name[:-7] + ".bval").is_file()]
    assert len(files) >= 7
    for path in files:
        dwi = read_dwi(path)
        back = mrml.dwi_from_node(mrml.add_dwi_node(dwi, path.name))
        np.testing.assert_array_equal(back.signal, dwi.signal, err_msg=str(path))
        np.testing.assert_allclose(back.bvecs, dwi.bvecs, atol=1e-12, err_msg=str(path))
        if path.suffix == ".nrrd":
            node = slicer.vtkMRMLDiffusionWeightedVolumeNode()
            storage = slicer.vtkMRMLNRRDStorageNode()
            storage.SetFileName(str(path))
            assert storage.ReadData(node), path
            bvals, bvecs = mrml.gradient_table(node)
            np.testing.assert_allclose(bvals, dwi.bvals, rtol=1e-9, atol=1e-9, err_msg=str(path))
            np.testing.assert_allclose(bvecs, dwi.bvecs, atol=1e-6, err_msg=str(path))
            np.testing.assert_allclose(mrml.ijk_to_ras(node), dwi.affine, atol=1e-6, err_msg=str(path))
        slicer.mrmlScene.Clear(0)


def test_short_scans_are_refused(scene, tmp_path):
    dwi = dwi_on(np.eye(4))
    short = DWI(dwi.signal[..., :6], dwi.affine, dwi.bvals[:6], dwi.bvecs[:6])
    with pytest.raises(InputError, match="6 volumes"):
        mrml.write_dwi_nrrd(mrml.add_dwi_node(short, "short"), tmp_path / "short.nrrd")


def test_missing_and_foreign_results(scene, tmp_path):
    node = mrml.add_dwi_node(dwi_on(np.eye(4)), "scan")
    (tmp_path / "garbage.nrrd").write_bytes(b"NRRD0005\ngarbage")
    nodes = scene.GetNumberOfNodes()
    for name in ("absent.nrrd", "garbage.nrrd"):
        with pytest.raises(ProcessingError, match="9 volumes"):
            mrml.read_dwi_nrrd(tmp_path / name, node, name="result")
    assert scene.GetNumberOfNodes() == nodes
    with pytest.raises(ProcessingError, match="could not be written"):
        mrml.write_dwi_nrrd(node, tmp_path / "no folder" / "scan.nrrd")


def test_result_overwrites_a_node_and_keeps_its_window(scene, tmp_path):
    node = mrml.add_dwi_node(dwi_on(np.eye(4)), "scan")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(100, 900)
    node.GetDisplayNode().SetDiffusionComponent(3)
    mrml.write_dwi_nrrd(node, tmp_path / "a.nrrd")
    result = mrml.read_dwi_nrrd(tmp_path / "a.nrrd", node, name="result")
    assert result.GetDisplayNode().GetWindowLevelMax() == 900
    assert result.GetDisplayNode().GetDiffusionComponent() == 3
    count = scene.GetNumberOfNodesByClass("vtkMRMLDiffusionWeightedVolumeNode")
    assert mrml.read_dwi_nrrd(tmp_path / "a.nrrd", node, result) is result
    assert scene.GetNumberOfNodesByClass("vtkMRMLDiffusionWeightedVolumeNode") == count


def test_result_lies_beside_its_source(scene, tmp_path):
    node = mrml.add_dwi_node(dwi_on(np.eye(4)), "scan")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, node)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetAndObserveTransformNodeID(transform.GetID())
    mrml.write_dwi_nrrd(node, tmp_path / "a.nrrd")
    result = mrml.read_dwi_nrrd(tmp_path / "a.nrrd", node, name="result")
    item = hierarchy.GetItemByDataNode(result)
    assert result.GetTransformNodeID() == transform.GetID()
    assert item
    assert hierarchy.GetItemParent(item) == study


def test_description(scene, small_dwi):
    text = mrml.describe(mrml.add_dwi_node(small_dwi, "scan"))
    assert text == ("12 × 10 × 4 voxels of 2 × 2 × 2.5 mm; 10 volumes: 2 at b = 0, 8 at b = 1000 s/mm²; 8 directions")
    doubled = DWI(
        np.concatenate([small_dwi.signal] * 2, -1),
        small_dwi.affine,
        np.tile(small_dwi.bvals, 2),
        np.concatenate([small_dwi.bvecs, -small_dwi.bvecs]),
    )
    assert mrml.describe(mrml.add_dwi_node(doubled, "scan")).endswith("8 directions")
    with pytest.raises(InputError, match="no image"):
        mrml.describe(scene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "empty"))


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        ((6, 5, 4), (12, 10, 4)),
        ((6, 5, 4), (6, 15, 12)),
        ((41, 41, 3), (81, 81, 3)),  # an odd matrix at 2: each factor is 81/41
        ((6, 5, 4), (6, 5, 12)),  # thinner slices
        ((10, 10, 4), (25, 23, 5)),
        ((8, 7, 3), (40, 35, 15)),  # as far as the library goes
    ],
)
def test_scale_between_grids(scene, coarse, fine):
    """The factors that a computation really has are found again, whole or not, along any axis."""

    def node(shape, affine, name):
        dwi = dwi_on(affine)
        return mrml.add_dwi_node(DWI(np.ones((*shape, 9), np.float32), affine, dwi.bvals, dwi.bvecs), name)

    affine = oblique_affine(flips=(-1, 1, 1))
    finer = grid.regridded_affine(affine, coarse, fine)
    low, high = node(coarse, affine, "low"), node(fine, finer, "high")
    scale = mrml.scale_between(low, high)
    assert scale.factors == tuple(Fraction(m, n) for n, m in zip(coarse, fine, strict=True))
    dwi = mrml.dwi_from_node(low)
    again = Scale.parse(str(scale), dwi)  # as it is handed to the command line
    assert again.fine_shape(coarse) == fine
    np.testing.assert_allclose(again.refine(affine, coarse), finer, atol=1e-12)
    assert mrml.scale_between(high, low) is None
    assert mrml.scale_between(low, low) is None
    shifted = finer.copy()
    shifted[0, 3] += 0.5
    assert mrml.scale_between(low, node(fine, shifted, "moved")) is None


def test_label_map_and_segmentation_masks(scene, small_dwi):
    scan = mrml.add_dwi_node(small_dwi, "scan")
    inside = np.zeros(small_dwi.spatial_shape, bool)
    inside[2:9, 3:7, 1:3] = True
    label = slicer.util.addVolumeFromArray(
        inside.transpose(2, 1, 0).astype(np.uint8), small_dwi.affine, "label", "vtkMRMLLabelMapVolumeNode"
    )
    np.testing.assert_array_equal(mrml.mask_array(label, scan), inside)
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label, segmentation)
    segmentation.CreateDefaultDisplayNodes()
    nodes = scene.GetNumberOfNodes()
    np.testing.assert_array_equal(mrml.mask_array(segmentation, scan), inside)
    assert scene.GetNumberOfNodes() == nodes
    label.SetOrigin(0, 0, 0)
    with pytest.raises(InputError, match="grid"):
        mrml.mask_array(label, scan)
    empty = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    with pytest.raises(InputError):
        mrml.mask_array(empty, scan)


def comparison(tmp_path, scene, names=("fa", "qa"), offset=0.2):
    """Maps with known differences: +offset in the first half along x, -offset in the second; zero at the border."""
    dwi = DWI(np.ones((16, 12, 4, 7), np.float32), oblique_affine(angles=(0, 0, 0)), [0, *[1e3] * 6], unit(7))
    scan = mrml.add_dwi_node(dwi, "scan")
    reference = np.zeros((16, 12, 4), np.float32)
    reference[1:-1, 1:-1] = 0.5
    test = reference.copy()
    test[1:8, 1:-1] += offset
    test[8:-1, 1:-1] -= offset
    (tmp_path / "statistics.tsv").write_text("map\tregion\tn\tmae\nfa\tbrain\t560\t0.2\nqa\tbrain\t560\tnan\n")
    (tmp_path / "report.html").write_text("<html>Bericht</html>")
    maps = dict.fromkeys(names, (reference, test))
    nodes = mrml.update_comparison(maps, tmp_path / "statistics.tsv", tmp_path / "report.html", scan)
    return scan, nodes


def unit(n):
    vectors = np.random.default_rng(1).normal(size=(n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    return vectors


def test_comparison_nodes(scene, tmp_path):
    scan, nodes = comparison(tmp_path, scene)
    assert set(nodes) == {f"{m}_{p}" for m in ("fa", "qa") for p in ("reference", "test", "difference")} | {
        "statistics",
        "report",
    }
    np.testing.assert_array_equal(mrml.ijk_to_ras(nodes["fa_test"]), mrml.ijk_to_ras(scan))
    difference = nodes["fa_difference"].GetDisplayNode()
    assert difference.GetWindowLevelMin() == -difference.GetWindowLevelMax() == pytest.approx(-0.2)
    assert difference.GetColorNodeID().endswith("DivergingBlueRed.txt")
    fa = nodes["fa_reference"].GetDisplayNode()
    assert (fa.GetWindowLevelMin(), fa.GetWindowLevelMax()) == (0, 1)
    transparent = slice_rgb(scene, nodes["fa_reference"])[..., 3] == 0
    assert 0.2 < transparent.mean() < 0.8  # nothing outside of the mask, rather than the colour of zero
    table = nodes["statistics"].GetTable()
    assert [table.GetColumnName(c) for c in range(4)] == ["map", "region", "n", "mae"]
    assert table.GetValueByName(0, "n").ToDouble() == 560
    assert mrml.statistics_rows()[1][:2] == ["fa", "brain"]


@pytest.mark.parametrize("part", ["reference", "test", "difference"])
def test_nothing_outside_of_the_mask(scene, tmp_path, part):
    """Transparent, that is black in a view, rather than the colour of zero; inside, everything is there."""
    _, nodes = comparison(tmp_path, scene)
    alpha = slice_rgb(scene, nodes[f"fa_{part}"])[..., 3]
    assert set(np.unique(alpha)) == {0, 255}
    assert (alpha > 0).mean() == pytest.approx(14 * 10 / (16 * 12), abs=0.01)  # of the columns and rows of the scan
    outside = np.isnan(slicer.util.arrayFromVolume(nodes["fa_difference"]))
    inside = slicer.util.arrayFromVolume(nodes["fa_reference"]) != 0
    assert (outside == ~inside).all()


def test_comparison_again_updates_the_same_nodes(scene, tmp_path):
    _, first = comparison(tmp_path, scene, ("fa", "qa", "md"))
    mrml.show_map("fa")
    ids = {name: node.GetID() for name, node in first.items()}
    count = scene.GetNumberOfNodes()
    _, second = comparison(tmp_path, scene, ("fa", "qa", "md"), offset=0.1)
    for chart in ("scatter", "bland_altman"):
        mrml.show_map("qa", chart)
    assert scene.GetNumberOfNodes() == count + 2  # the second scan and its display
    assert {name: node.GetID() for name, node in second.items()} == ids
    assert np.nanmax(slicer.util.arrayFromVolume(second["fa_difference"])) == pytest.approx(0.1)
    mrml.show_map("md")  # with legends
    _, third = comparison(tmp_path, scene, ("fa", "qa"))
    displays = slicer.util.getNodesByClass("vtkMRMLDisplayNode")
    assert all(display.GetDisplayableNode() is not None for display in displays)  # those of MD went with it
    assert "md_test" not in third
    assert "md_test" not in mrml.comparison_nodes()


def test_plots_hold_the_agreement(scene, tmp_path):
    comparison(tmp_path, scene)
    mrml.show_map("fa")
    nodes = {n.GetName(): n for n in slicer.util.getNodesByClass("vtkMRMLTableNode")}
    points = slicer.util.arrayFromTableColumn(nodes["Bland-Altman"], "difference")
    assert sorted(set(np.round(points, 5))) == [-0.2, 0.2]
    voxels = 14 * 10 * 4
    values = np.array([0.2, -0.2]).repeat(voxels // 2)
    limit = slicer.util.arrayFromTableColumn(nodes["Bland-Altman lines"], "upper")
    np.testing.assert_allclose(limit, values.mean() + 1.96 * values.std(ddof=1), rtol=1e-5)
    for part in ("reference", "test"):
        assert slicer.util.arrayFromTableColumn(nodes["Histogram"], part).sum() == voxels
    charts = {n.GetTitle(): n for n in slicer.util.getNodesByClass("vtkMRMLPlotChartNode")}
    assert set(charts) == {"FA: test against reference", "FA: Bland-Altman", "FA: distribution in the mask"}
    assert charts["FA: Bland-Altman"].GetNumberOfPlotSeriesNodes() == 4


def test_layout_shows_maps_in_linked_views(scene, tmp_path):
    assert not mrml.show_comparison_layout()  # without views, as with --no-main-window
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(scene)
    slice_logics = []
    assert mrml.show_comparison_layout()
    assert logic.GetLayoutNode().GetViewArrangement() == layout.LAYOUT_ID
    for tag in layout.SLICE_VIEWS.values():
        slice_logic = slicer.vtkMRMLSliceLogic()
        slice_logic.SetMRMLScene(scene)
        slice_logic.SetSliceNode(scene.GetSingletonNode(tag, "vtkMRMLSliceNode"))
        slice_logics.append(slice_logic)
    _, nodes = comparison(tmp_path, scene)
    mrml.show_map("qa", "bland_altman")
    for part, tag in layout.SLICE_VIEWS.items():
        composite = layout.composite_node(tag)
        assert composite.GetBackgroundVolumeID() == nodes[f"qa_{part}"].GetID()
        assert composite.GetLinkedControl()
    groups = {scene.GetSingletonNode(t, "vtkMRMLSliceNode").GetViewGroup() for t in layout.SLICE_VIEWS.values()}
    assert groups == {layout.VIEW_GROUP}
    agreement = scene.GetSingletonNode(layout.AGREEMENT_VIEW, "vtkMRMLPlotViewNode").GetPlotChartNode()
    assert agreement.GetTitle() == "QA: Bland-Altman"
    table_view = scene.GetSingletonNode(layout.TABLE_VIEW, "vtkMRMLTableViewNode")
    assert table_view.GetTableNode() is nodes["statistics"]


def slice_rgb(scene, volume, size=(160, 120)):
    """What a slice view shows, without OpenGL: (rows, columns, RGBA)."""
    from vtk.util.numpy_support import vtk_to_numpy

    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    logic.AddSliceNode(f"View{scene.GetNumberOfNodes()}")  # one that is nobody else's, or it stays empty
    logic.GetSliceNode().SetDimensions(*size, 1)
    logic.GetSliceNode().SetOrientationToAxial()
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    logic.FitSliceToAll(*size)
    logic.UpdatePipeline()
    producer = logic.GetImageDataConnection().GetProducer()
    producer.Update()
    image = producer.GetOutputDataObject(0)
    x, y, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(y, x, -1)


def test_difference_colours(scene, tmp_path):
    """Where the test is larger red, where smaller blue, white where equal: as the table's own ends and middle."""
    _, nodes = comparison(tmp_path, scene)
    reference = slicer.util.arrayFromVolume(nodes["fa_reference"])
    slicer.util.arrayFromVolume(nodes["fa_difference"])[:, :, 7] = 0  # a column without a difference
    assert reference[1, 1, 7]
    picture = slice_rgb(scene, nodes["fa_difference"])
    image = np.where(picture[..., 3:] > 0, picture[..., :3].astype(int), -1)
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    shown = {tuple(c): n for c, n in zip(colours, counts, strict=True)}
    table = nodes["fa_difference"].GetDisplayNode().GetColorNode().GetLookupTable()
    last = table.GetNumberOfTableValues() - 1
    blue, white, red = (tuple(round(255 * c) for c in table.GetTableValue(n)[:3]) for n in (0, (last + 1) // 2, last))
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert min(white) > 200
    assert shown[red] > 2000
    assert shown[blue] > 2000
    assert shown[white] > 500
    # The view looks from the feet: the patient's right, the high end of x, is at the left of the picture.
    columns = np.argwhere((image == red).all(-1))[:, 1], np.argwhere((image == blue).all(-1))[:, 1]
    first_half_is_left = oblique_affine(angles=(0, 0, 0))[0, 0] < 0  # of the voxels
    assert (columns[0].mean() < columns[1].mean()) == first_half_is_left


def test_scene_saved_and_loaded(scene, tmp_path, small_dwi):
    """A saved scene brings back scan, result and comparison, and a further comparison still updates its nodes."""
    scan, nodes = comparison(tmp_path, scene)
    ids = {name: node.GetID() for name, node in nodes.items()}
    folder = tmp_path / "scene"
    folder.mkdir()
    scene.SetURL(str(folder / "scene.mrml"))
    scene.SetRootDirectory(str(folder))
    for node in [scan, *nodes.values()]:
        node.AddDefaultStorageNode()
        if node.GetStorageNode() is None:
            continue  # a short text is saved in the scene file itself
        suffix = {"vtkMRMLTableNode": "tsv"}.get(node.GetClassName(), "nrrd")
        node.GetStorageNode().SetFileName(str(folder / f"{node.GetID()}.{suffix}"))
        assert node.GetStorageNode().WriteData(node)
    assert scene.Commit(str(folder / "scene.mrml"))
    values = slicer.util.arrayFromVolume(nodes["fa_difference"]).copy()
    bvecs = mrml.gradient_table(scan)[1]
    start().new_scene()
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Import()
    loaded = mrml.comparison_nodes()
    assert {name: node.GetID() for name, node in loaded.items()} == ids
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded["fa_difference"]), values)
    assert loaded["report"].GetText() == "<html>Bericht</html>"
    loaded_scan = scene.GetFirstNodeByClass("vtkMRMLDiffusionWeightedVolumeNode")
    np.testing.assert_allclose(mrml.gradient_table(loaded_scan)[1], bvecs, atol=1e-12)
    assert loaded["fa_difference"].GetDisplayNode().GetWindowLevelMin() == pytest.approx(-0.2)
    comparison(tmp_path, scene)
    assert {name: node.GetID() for name, node in mrml.comparison_nodes().items()} == ids
