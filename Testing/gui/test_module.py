"""The module as a whole: the scenarios of DWISuperResTest with the real child and a tiny checkpoint; its picture."""

import dataclasses
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer
import slicer.util

import DWISuperResLib as dsr
from DWISuperResLib import mrml
from DWISuperResLib.errors import InputError, ProcessingError
from Testing.slicer_host import NoDependencies, start

ROOT = Path(__file__).parents[2]


@pytest.fixture
def host():
    host = start()
    host.new_scene()
    yield host
    host.new_scene()


logics = []
"""Made by a test; their children end with it."""


@pytest.fixture
def module(host, monkeypatch, tmp_path):
    """The module file, with temporary folders in a path with a space and an umlaut."""
    folder = tmp_path / "vorläufige Dateien"
    folder.mkdir()
    monkeypatch.setattr(slicer.app, "temporaryPath", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    logics.clear()
    yield host.load_module()
    for logic in logics:
        logic.close()
    assert not list(folder.iterdir())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network of a few weights, in a path with a space and an umlaut."""
    import torch

    from DWISuperResLib.checkpoints import Card, save_checkpoint
    from DWISuperResLib.networks import build

    torch.manual_seed(0)
    arguments = {"scales": [2, 3], "width": 4, "blocks": [1], "neighbours": 0}
    weights = build("sr_unet", **arguments).state_dict()
    path = tmp_path_factory.mktemp("Modelle ü") / "tiny network.safetensors"
    save_checkpoint(path, weights, Card("tiny", "sr_unet", arguments, (2, 3)))
    return str(path)


def make_logic(module, python=sys.executable):
    logics.append(module.DWISuperResLogic(python=python, dependencies=NoDependencies()))
    return logics[-1]


def launcher(tmp_path, limits):
    """Python in a shell that limits what it may use."""
    path = tmp_path / "limited python"
    path.write_text(f'#!/bin/sh\n{limits}\nexec "{sys.executable}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_a_guide_reaches_the_network_with_its_transform(module, tmp_path):
    import torch

    from DWISuperResLib.checkpoints import Card, save_checkpoint
    from DWISuperResLib.networks import build

    torch.manual_seed(0)
    arguments = {"scales": [2], "width": 4, "blocks": [1], "neighbours": 0, "guide": True}
    network = build("sr_unet", **arguments)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "guided.safetensors"
    save_checkpoint(path, network.state_dict(), Card("guided", "sr_unet", arguments, (2,)))
    dwi = dsr.phantom((24, 28, 4), (8, 8, 20), supersampling=1, shells=((0, 1), (1000, 6)))
    guide = dsr.Volume(np.sqrt(dwi.signal[..., 0]), dwi.affine)
    node = mrml.add_dwi_node(dwi, "scan")
    # The image is stored elsewhere; a transform brings it back.
    move = np.eye(4)
    move[:3, 3] = 30, -40, 50
    image = slicer.util.addVolumeFromArray(np.ascontiguousarray(guide.image.T), np.linalg.inv(move) @ dwi.affine, "T1w")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    logic = make_logic(module)
    with pytest.raises(InputError, match="guide"):
        logic.process(node, checkpoint=str(path), guide=image, device="cpu", precision="fp32")
    image.SetAndObserveTransformNodeID(transform.GetID())
    output = logic.process(node, checkpoint=str(path), guide=image, device="cpu", precision="fp32")
    expected = dsr.super_resolve(dwi, path, 2, guide=guide, device="cpu", precision="fp32")
    np.testing.assert_allclose(mrml.dwi_from_node(output).signal, expected.signal, rtol=1e-3, atol=0.5)


def test_scenario_nodes(module):
    from DWISuperResLib.gui import self_test

    self_test.check_nodes()


def test_scenario_panel(module):
    from DWISuperResLib.gui import self_test

    self_test.check_panel(module.DWISuperResWidget())


def test_scenario_super_resolution(module, checkpoint):
    from DWISuperResLib.gui import self_test

    self_test.check_super_resolution(make_logic(module), checkpoint)


def test_scenario_comparison(module):
    from DWISuperResLib.gui import self_test

    self_test.check_comparison(make_logic(module))


def test_slicers_own_test_runs_these_scenarios(module):
    from DWISuperResLib.gui import self_test

    names = {name for name in dir(module.DWISuperResTest) if name.startswith("test_")}
    assert names == {name.replace("check_", "test_") for name in dir(self_test) if name.startswith("check_")}


def test_console_as_documented(module, checkpoint, small_dwi, tmp_path):
    """The documented lines, against the library in this process; what else the child prints does not matter."""
    DWISuperRes, dwiNode = module, mrml.add_dwi_node(small_dwi, "scan")
    python = launcher(tmp_path, "echo 'WARNING: {no JSON'; echo '[1, 2]'")
    logic = make_logic(DWISuperRes, python)
    out = logic.superResolve(dwiNode, checkpoint=checkpoint, scale=3)
    assert "out = logic.superResolve(dwiNode, checkpoint=" in module.DWISuperResLogic.__doc__
    expected = dsr.super_resolve(small_dwi, checkpoint, 3, device="cpu")
    result = mrml.dwi_from_node(out)
    np.testing.assert_allclose(result.signal, expected.signal, rtol=1e-4, atol=0.5)
    np.testing.assert_allclose(result.affine, expected.affine, atol=1e-9)
    np.testing.assert_array_equal(result.bvecs, mrml.dwi_from_node(dwiNode).bvecs)


def test_a_simulated_scan_of_odd_matrix_comes_back_to_the_originals_grid(module, checkpoint, small_dwi):
    odd = dataclasses.replace(small_dwi, signal=np.asfortranarray(small_dwi.signal[:11, :9]), affine=np.eye(4))
    original, logic = mrml.add_dwi_node(odd, "scan"), make_logic(module)
    low = logic.simulateLowResolution(original, scale=2)
    assert low.GetImageData().GetDimensions() == (6, 5, 4)
    out = logic.superResolve(low, checkpoint=checkpoint, scale=2)
    assert out.GetImageData().GetDimensions() == (11, 9, 4)
    np.testing.assert_allclose(mrml.ijk_to_ras(out), mrml.ijk_to_ras(original), atol=1e-9)


def test_a_checkpoint_that_is_none(module, small_dwi, tmp_path):
    path = tmp_path / "no model.safetensors"
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        make_logic(module).superResolve(mrml.add_dwi_node(small_dwi, "scan"), checkpoint=str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_killed_from_outside(module, checkpoint, small_dwi):
    job = make_logic(module).process(
        mrml.add_dwi_node(small_dwi, "scan"), checkpoint=checkpoint, device="cpu", waitForCompletion=False
    )
    os.kill(logics[-1]._child._child._process.pid, signal.SIGKILL)
    with pytest.raises(ProcessingError, match="ended by the system"):
        job.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="limits resources by the shell's ulimit")
def test_out_of_memory(module, checkpoint, small_dwi, tmp_path, host):
    """The child may have 400 MB: too little for PyTorch, whichever way it fails."""
    logic = make_logic(module, launcher(tmp_path, "ulimit -v 400000"))
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises((InputError, ProcessingError)) as caught:
        logic.superResolve(mrml.add_dwi_node(small_dwi, "scan"), checkpoint=checkpoint)
    assert "\n" not in str(caught.value)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes + 2  # the scan and its display


@pytest.mark.skipif(sys.platform != "linux", reason="limits resources by the shell's ulimit")
def test_full_disk(module, tmp_path):
    """No file of the child may grow over 64 kB, as little as a full disk leaves."""
    noise = np.random.default_rng(0).integers(1, 4000, (40, 40, 10, 8)).astype(np.float32)
    bvecs = np.concatenate([np.zeros((2, 3)), np.tile(np.eye(3), (2, 1))])
    dwi = dsr.DWI(noise, np.eye(4), np.array([0, 0] + [1000] * 6), bvecs)
    logic = make_logic(module, launcher(tmp_path, "ulimit -f 64"))
    with pytest.raises(ProcessingError, match=r"output\.nrrd"):
        logic.simulateLowResolution(mrml.add_dwi_node(dwi, "scan"), scale=2)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(module, small_dwi, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.setattr(slicer.app, "temporaryPath", str(locked))
    with pytest.raises(ProcessingError, match="No temporary folder"):
        make_logic(module).superResolve(mrml.add_dwi_node(small_dwi, "scan"))


def test_works_without_main_window(module, host, monkeypatch):
    """As `Slicer --no-main-window`: no layout manager, no window, and no layout node in the scene."""
    monkeypatch.setattr(host, "main_window", None)
    widget = module.DWISuperResWidget()
    assert widget.panel is not None
    assert not mrml.show_comparison_layout()
    widget.cleanup()


class Parent:
    """What Slicer hands to a module's class."""

    path = str(ROOT / "DWISuperRes/DWISuperRes.py")


def test_module_metadata(module):
    parent = Parent()
    module.DWISuperRes(parent)
    assert parent.categories == ["Diffusion"]
    assert parent.helpText
    assert not parent.icon.isNull()
    assert "startupCompleted()" in slicer.app.slots


def test_sample_data(module, host):
    slicer.app.slots.clear()
    module.DWISuperRes(Parent())
    for _ in range(2):  # Slicer's own registers a source once; the host's stand-in need not
        slicer.modules.sampleDataSources = {}
        slicer.app.slots["startupCompleted()"]()
    (sample,) = slicer.modules.sampleDataSources["DWISuperRes"]
    assert slicer.modules.sampleDataSourceCategories["DWISuperRes"]["title"] == "DWI super-resolution"
    assert Path(sample.thumbnailFileName).is_file()
    (node,) = sample.customDownloader(sample)
    assert node.IsA("vtkMRMLDiffusionWeightedVolumeNode")
    assert mrml.describe(node).endswith("30 directions")


def test_look_of_the_panel(module, host):
    """Nothing is cut off at a usual width; the README's picture is made by Testing.slicer_host.picture."""
    from DWISuperResLib.gui.self_test import small_phantom

    widget = module.DWISuperResWidget()
    reference = mrml.add_dwi_node(small_phantom(), "DWI phantom")
    widget.panel.parameters.inputVolume = widget.panel.parameters.referenceVolume = reference
    for name in ("checkpointComboBox", "scaleComboBox", "batchComboBox", "degradationComboBox"):  # of any length
        getattr(widget.panel.ui, name).addItem("a long name " * 9)
    widget.parent.show()
    assert widget.parent.layout().minimumSize().width() <= 440
    height = widget.parent.layout().heightForWidth(440)
    widget.parent.resize(440, height)
    host.application.processEvents()
    picture = widget.parent.grab().toImage()
    for name in ("cardLabel", "inputInfoLabel"):
        label = getattr(widget.panel.ui, name)
        assert label.height >= label.heightForWidth(label.width), f"{name} is cut off"
    widget.cleanup()
    assert (picture.width(), picture.height()) == (440, height)
    grey = np.frombuffer(picture.convertToFormat(picture.Format.Format_Grayscale8).constBits(), np.uint8)
    assert 0.01 < (grey < 100).mean() < 0.3  # text is there, and no black hole


@pytest.fixture
def update():
    """Resources/Translations/update.py."""
    path = ROOT / "Resources/Translations/update.py"
    spec = importlib.util.spec_from_file_location("update_translations", path)
    update = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update)
    return update


def test_another_language(module, host, update, small_dwi, tmp_path, monkeypatch):
    """Texts are asked for under the contexts of the template, and what comes back is shown: here between guillemets."""
    asked = set()

    def translate(context, text):
        asked.add((context, text))
        return f"«{text}»"

    monkeypatch.setattr(slicer.app, "translate", translate)
    widget = module.DWISuperResWidget()
    scan = mrml.add_dwi_node(small_dwi, "scan")
    widget.panel.parameters.inputVolume = scan
    assert widget.panel.ui.inputInfoLabel.text.startswith("«12 × 10 × 4 voxels")
    assert "«2 at b = 0»" in widget.panel.ui.inputInfoLabel.text
    host.show_views()
    mrml.show_comparison_layout()
    labels = {view.GetLayoutLabel() for view in slicer.util.getNodesByClass("vtkMRMLAbstractViewNode")}
    assert labels >= {"«Ref»", "«Test»", "«Diff»", "«Agreement»", "«Histogram»", "«Statistics»"}
    checks = [{"name": "a", "value": 1.0, "threshold": 2.0, "fired": True, "advice": "b"}]
    assert mrml.update_self_checks(scan, checks).GetName() == "«scan self-checks»"
    widget.cleanup()
    job = make_logic(module).process(scan, waitForCompletion=False)
    job.cancel()
    assert str(job.error).startswith("«Cancelled")
    template = update.collect()
    assert {context for context, _ in asked} >= {"gui.parameters", "gui.job", "mrml.layout", "mrml.results"}
    assert not {text for context, text in asked if text not in template[context]}


def test_texts_for_translators_are_all_there(update):
    """The template lists what the sources say today; run Resources/Translations/update.py where this fails."""
    contexts = update.collect()
    assert update.TEMPLATE.read_text(encoding="utf-8") == update.template(contexts)
    assert "{scales} finer voxels" in contexts["gui.model_card"]  # as slicer.i18n.getContext names it
    assert "&Apply" in contexts["DWISuperRes"]


def test_entry_for_the_extensions_index():
    entry = json.loads((ROOT / "Resources/ExtensionsIndex/DWISuperRes.json").read_text())
    schema = {"$schema", "category", "scm_url"}  # required by schema 1.0.2; these may be there:
    optional = {"scm_revision", "build_dependencies", "build_subdirectory", "tier"}
    assert schema <= set(entry) <= schema | optional
    top = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'set(EXTENSION_CATEGORY "{entry["category"]}")' in top
    assert f'set(EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}")' in top
    assert entry["scm_url"].removesuffix(".git") in top
    assert set(entry["build_dependencies"]) == {"PyTorch"}
