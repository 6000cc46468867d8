"""Guides: what networks see of them, and which are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import DWISuperResLib as dsr
from DWISuperResLib import networks
from DWISuperResLib.apps.cli import main
from DWISuperResLib.checkpoints import Card, Checkpoint, load_checkpoint, read_card, save_checkpoint
from DWISuperResLib.checkpoints.card import describe
from DWISuperResLib.dwi import Volume
from DWISuperResLib.errors import InputError
from DWISuperResLib.inference.guides import check_place, placed
from DWISuperResLib.io import read_dwi, read_volume
from DWISuperResLib.networks.views import BlockView, SliceView
from DWISuperResLib.resampling.grid import Frame, regridded_affine
from DWISuperResLib.resampling.reslice import reslice

ARGUMENTS = {"scales": [2], "width": 4, "blocks": [1, 1], "neighbours": 1, "guidance": ["mean_b0"], "guide": True}
CPU = {"device": "cpu", "precision": "fp32"}
PAIRS = {
    "philips_elitionx_s2mb2": "philips_elitionx_t1",
    "uih_dir16_rot_a": "uih_subjA_t1",
    "uih_dir16": "uih_subjB_t1",
    "siemens_xa30_ap": "siemens_xa30_t1",
    "siemens_xa30_dwi2trx": "siemens_xa30_t1",
    "siemens_decub_hfs": "siemens_decub_hfs_t1",
}


@pytest.fixture(scope="module")
def scan():
    return dsr.phantom((32, 36, 8), (6.0, 5.0, 12.0), supersampling=1, shells=((0, 1), (1000, 6)), snr=40)


@pytest.fixture(scope="module")
def guide(scan):
    """Another contrast on a finer grid of another field of view."""
    fine = dsr.interpolate(scan, "2x2x3", method="linear")
    image = np.sqrt(np.maximum(fine.signal[3:-3, 2:-2, 1:, 0] * 7, 0))
    affine = fine.affine.copy()
    affine[:3, 3] += fine.affine[:3, :3] @ (3, 2, 1)
    return Volume(image, affine)


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A checkpoint of `sr_unet` whose every weight counts."""
    torch.manual_seed(0)
    network = networks.build("sr_unet", **ARGUMENTS)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("checkpoint") / "guided.safetensors"
    save_checkpoint(path, network.state_dict(), Card("guided", "sr_unet", ARGUMENTS, (2,)))
    return path


def test_the_card_tells_and_other_cards_are_as_before(guided):
    card = read_card(guided)
    assert card.guided
    assert card.view == {"kind": "slice", "neighbours": 1, "guidance": ["mean_b0"], "guide": True}
    assert load_checkpoint(guided).network().view.channels == 1 + 2 + 1 + 1
    assert "Guide" in describe(card)
    default = read_card("default")
    assert not default.guided
    assert "guide" not in default.view
    assert "guide" not in BlockView().describe()
    assert BlockView(guide=True).channels == 2
    with pytest.raises(InputError, match="guide is 1; expected true or false"):
        SliceView(guide=1)


class Recorder(nn.Module):
    """Keeps the last channel of what it is shown, where it was shown, and answers with the first."""

    def __init__(self, view):
        super().__init__()
        self.view, self.seen = view, []

    def forward(self, x, size):
        self.seen.append(x[:, -1].clone())
        return nn.functional.interpolate(x[:, :1], tuple(size))


@pytest.mark.parametrize("axis", ["i", "k"])
def test_slices_show_the_guide_on_the_coarse_grid(scan, guide, axis, monkeypatch):
    network = Recorder(SliceView(guide=True))
    monkeypatch.setattr(Checkpoint, "network", lambda self: network)
    card = Card("recorder", "sr_unet", {}, (2,))
    dsr.super_resolve(scan, Checkpoint(card, {}), 2, guide=guide, axis=axis, unchecked_guide=True, batch_size=7, **CPU)
    level = guide.image[guide.image >= guide.image.mean()].mean()
    frame = Frame.of(scan.affine, "ijk".index(axis))
    expected = frame.view(reslice(guide, scan.affine, scan.spatial_shape) / level)
    for shown in network.seen:
        assert shown.shape[1:] == expected.shape[1:]
        assert len(shown) <= 7  # fewer where threads share the batch
        assert torch.equal(shown, shown[:1].expand_as(shown))
    slices = torch.stack([shown[0] for shown in network.seen]).numpy()
    inside = [s for s in expected if s.any()]
    for one in slices:
        assert min(np.abs(one - other).max() for other in inside) < 1e-5


def test_blocks_show_the_guide_on_the_fine_grid(scan, guide, monkeypatch):
    network = Recorder(BlockView(512, 0, guide=True))
    monkeypatch.setattr(Checkpoint, "network", lambda self: network)
    checkpoint = Checkpoint(Card("recorder", "sr_unet", {}, ((2, 2, 3),)), {})
    result = dsr.super_resolve(scan, checkpoint, "2x2x3", guide=guide, unchecked_guide=True, **CPU)
    affine = regridded_affine(scan.affine, scan.spatial_shape, result.spatial_shape)
    np.testing.assert_allclose(affine, result.affine)
    level = guide.image[guide.image >= guide.image.mean()].mean()
    expected = Frame.of(scan.affine, 2).view(reslice(guide, affine, result.spatial_shape) / level)
    np.testing.assert_allclose(network.seen[0][0], expected, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_recnn_is_shown_the_guide_on_the_fine_grid(scan, guide, dimensions, monkeypatch):
    """A network that answers with its guide gives it back, on the result's grid."""
    network = networks.build("recnn", layers=2, filters=1, dimensions=dimensions, guide=True)
    assert network.view.channels == 2
    monkeypatch.setattr(type(network), "forward", lambda self, x, size: x[:, -1:])
    monkeypatch.setattr(Checkpoint, "network", lambda self: network)
    checkpoint = Checkpoint(Card("recnn", "recnn", {}, (2,)), {})
    result = dsr.super_resolve(
        scan, checkpoint, 2, guide=guide, unchecked_guide=True, mask=np.ones(scan.spatial_shape), **CPU
    )
    expected = placed(guide, scan, result.spatial_shape, unchecked=True).clip(0)
    np.testing.assert_allclose(
        result.signal / result.signal.max((0, 1, 2)), np.stack([expected] * 7, -1) / expected.max(), atol=1e-4
    )


def test_the_guide_changes_the_result_and_its_unit_does_not(scan, guide, guided):
    first = dsr.super_resolve(scan, guided, 2, guide=guide, **CPU)
    scaled = dsr.super_resolve(scan, guided, 2, guide=replace(guide, image=guide.image * 1000), **CPU)
    blank = replace(guide, image=np.ones_like(guide.image))
    other = dsr.super_resolve(scan, guided, 2, guide=blank, unchecked_guide=True, **CPU)
    np.testing.assert_allclose(scaled.signal, first.signal, rtol=1e-3, atol=1e-3 * first.signal.max())
    assert np.abs(other.signal - first.signal).max() > 0.01 * first.signal.max()


def test_missing_and_unwanted_guides_are_named(scan, guide, guided):
    with pytest.raises(InputError, match="'guided' was trained with a guide: give an image"):
        dsr.super_resolve(scan, guided, 2, **CPU)
    with pytest.raises(InputError, match="'default' takes no guide"):
        dsr.super_resolve(scan, "default", 2, guide=guide, **CPU)
    for checkpoints, given, message in (
        ((guided,), None, "trained with a guide"),
        (("default",), guide, "takes no guide"),
        ((), guide, "none is evaluated"),
    ):
        with pytest.raises(InputError, match=message):
            dsr.evaluate(scan, 2, checkpoints, guide=given, methods=("sinc",), distances=(), **CPU)


def test_evaluation_gives_the_guide_to_guided_checkpoints_alone(scan, guide, guided):
    both = dsr.evaluate(scan, 2, ("default", guided), guide=guide, methods=("sinc",), distances=(), **CPU)
    assert [candidate.name for candidate in both.candidates] == ["sinc", "default", "guided"]
    assert len(both.conditions["guide, sha256"]) == 64


def moved(guide, turn=None, shift=(0, 0, 0)):
    """The guide with another header: turned about its middle, and shifted in mm."""
    turn = np.eye(3) if turn is None else np.asarray(turn)
    middle = guide.affine[:3, :3] @ ((np.array(guide.spatial_shape) - 1) / 2) + guide.affine[:3, 3]
    change = np.eye(4)
    change[:3, :3] = turn
    change[:3, 3] = middle - turn @ middle + shift
    return Volume(guide.image, change @ guide.affine)


def test_guides_that_miss_the_brain_or_hold_nothing_are_refused(scan, guide):
    with pytest.raises(InputError, match=r"covers \d+ % of the scan's brain; expected at least 90 %"):
        check_place(moved(guide, shift=(0, 70, 0)), scan)
    with pytest.raises(InputError, match="covers 0 %"):
        check_place(moved(guide, shift=(0, 0, 500)), scan)
    with pytest.raises(InputError, match="no positive signal"):
        placed(replace(guide, image=-guide.image), scan, scan.spatial_shape)


WRONG = {
    "shifted to the side": {"shift": (20, 0, 0)},
    "shifted to the front": {"shift": (0, 20, 0)},
    "shifted upwards": {"shift": (0, 0, 20)},
    "front and back exchanged": {"turn": np.diag([1, -1, 1])},
    "upside down": {"turn": np.diag([1, 1, -1])},
    "lying on its side": {"turn": [[0, 1, 0], [1, 0, 0], [0, 0, 1]]},
}


@pytest.mark.parametrize("pair", PAIRS.items(), ids=lambda pair: pair[0])
def test_the_guide_of_the_session_passes_and_at_a_wrong_place_it_is_refused(pair, shared_data):
    (path,) = (shared_data / pair[0]).glob("*.nii.gz")
    dwi, guide = read_dwi(path), read_volume(shared_data / f"structural/{pair[1]}.nii.gz")
    check_place(guide, dwi)
    with pytest.raises(InputError, match="guide"):
        check_place(moved(guide, shift=(0, -20, 0)), dwi)


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG.keys())
def test_wrong_places_of_a_real_guide_are_refused(change, shared_data):
    (path,) = (shared_data / "siemens_xa30_ap").glob("*.nii.gz")
    dwi, guide = read_dwi(path), read_volume(shared_data / "structural/siemens_xa30_t1.nii.gz")
    with pytest.raises(InputError, match="guide"):
        check_place(moved(guide, **change), dwi)


def test_the_command_line_takes_a_guide(scan, guide, guided, tmp_path, capfd):
    dsr.write_dwi(scan, tmp_path / "scan.nii.gz")
    dsr.write_volume(guide, tmp_path / "t1.nii.gz")
    command = [
        "run",
        str(tmp_path / "scan.nii.gz"),
        str(tmp_path / "sr.nii.gz"),
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    quiet = ["--progress", "none"]
    assert main([*command, "--guide", str(tmp_path / "t1.nii.gz"), "--checkpoint", str(guided), *quiet]) == 0
    expected = dsr.super_resolve(scan, guided, 2, guide=guide, **CPU)
    np.testing.assert_allclose(read_dwi(tmp_path / "sr.nii.gz").signal, expected.signal, rtol=1e-4, atol=1e-2)
    assert main([*command, "--guide", str(tmp_path / "t1.nii.gz"), "--method", "sinc", "--overwrite", *quiet]) == 2
    assert "--guide and --method exclude one another" in capfd.readouterr().err
    assert (
        main([*command, "--guide", str(tmp_path / "scan.nii.gz"), "--checkpoint", str(guided), "--overwrite", *quiet])
        == 2
    )
    assert "one volume" in capfd.readouterr().err
