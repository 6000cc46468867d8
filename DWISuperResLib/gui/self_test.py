"""Scenarios that the module's own test runs inside Slicer, and the test suite in its host: real nodes, real child."""

from __future__ import annotations

import time
import unittest

import numpy as np
import slicer
import slicer.util

from .. import mrml
from ..checkpoints import read_card, shipped_checkpoints
from ..dwi import DWI
from ..errors import InputError, MissingDependencyError
from ..phantoms import phantom
from .model_card import scale_text


def small_phantom() -> DWI:
    """32 × 36 × 6 voxels of 5 × 5 × 6 mm, 2 b0 and 12 directions."""
    return phantom((32, 36, 6), (5.0, 5.0, 6.0), snr=None, supersampling=1, shells=((0, 2), (1000, 12)))


def check_nodes() -> None:
    """A scan becomes a node and is the same scan again, vector by vector."""
    dwi = small_phantom()
    back = mrml.dwi_from_node(mrml.add_dwi_node(dwi, "phantom"))
    np.testing.assert_array_equal(back.signal, dwi.signal)
    np.testing.assert_allclose(back.affine, dwi.affine, atol=1e-9)
    for own, expected in zip(back.bvecs, dwi.bvecs, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-12)


def check_panel(widget) -> None:
    """The panel follows the parameters and the parameters the panel."""
    panel = widget.panel
    node = mrml.add_dwi_node(small_phantom(), "phantom")
    panel.ui.inputSelector.setCurrentNode(node)
    assert panel.parameters.inputVolume is node
    assert "32 × 36 × 6 voxels" in panel.ui.inputInfoLabel.text, panel.ui.inputInfoLabel.text
    panel.parameters.ensemble = True
    assert panel.ui.ensembleCheckBox.checked
    panel.ui.ensembleCheckBox.checked = False
    assert not panel.parameters.ensemble
    slicer.mrmlScene.Clear(0)
    assert panel.parameters is None or panel.parameters.inputVolume is None


def check_comparison(logic) -> None:
    """Simulate, compare, compare again: differences that are there, in the same nodes; and refusals in words."""
    reference = mrml.add_dwi_node(small_phantom(), "phantom")
    low = _or_skip(lambda: logic.simulateLowResolution(reference, scale=2))
    assert low.GetImageData().GetDimensions() == (16, 18, 6)
    assert str(mrml.scale_between(low, reference)) == "2x2x1"
    nodes = logic.compare(reference, low)
    difference = slicer.util.arrayFromVolume(nodes["fa_difference"])
    assert 0.001 < np.nanmean(np.abs(difference)) < 0.5, np.nanmean(np.abs(difference))
    again = logic.compare(reference, low)
    assert {name: node.GetID() for name, node in again.items()} == {name: node.GetID() for name, node in nodes.items()}
    mrml.show_map("qa", "bland_altman")
    for arguments in ((reference, reference), (reference, None)):
        try:
            logic.compare(*arguments)
        except InputError:
            continue
        raise AssertionError(f"{arguments} should have been refused")


def check_super_resolution(logic, checkpoint: str | None = None) -> None:
    """Super-resolve in the child process: the grid, the gradients and the place are right; then cancel one midway."""
    if checkpoint is None:
        names = [name for name in shipped_checkpoints() if read_card(name).task == "super-resolution"]
        if not names:
            raise unittest.SkipTest("no checkpoint ships with this copy")
        checkpoint = names[0]
    factors = read_card(checkpoint).factors[0]
    scale = scale_text(factors, 2)
    node = mrml.add_dwi_node(small_phantom(), "phantom")
    out = _or_skip(lambda: logic.superResolve(node, checkpoint=checkpoint, scale=scale, device="cpu"))
    assert out.GetImageData().GetDimensions() == tuple(
        round(n * factor) for n, factor in zip((32, 36, 6), factors, strict=True)
    )
    assert str(mrml.scale_between(node, out)) == "x".join(f"{factor:g}" for factor in factors)
    for first, second in zip(mrml.gradient_table(node), mrml.gradient_table(out), strict=True):
        np.testing.assert_array_equal(first, second)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    job = logic.process(node, checkpoint=checkpoint, scale=scale, device="cpu", waitForCompletion=False)
    time.sleep(0.2)
    logic.cancel()
    assert job.state == "cancelled"
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def _or_skip(compute):
    """Tests install nothing, so what needs packages that are not there is skipped."""
    try:
        return compute()
    except MissingDependencyError as error:
        raise unittest.SkipTest(str(error)) from error
