"""Training with guides: which file belongs to a scan, its copy, the channel in batches, a checkpoint that needs it."""

import dataclasses

import numpy as np
import pytest
import torch

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.dwi import Volume
from DWISuperResLib.errors import InputError
from DWISuperResLib.inference.guides import placed
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.io.cohort import find_guide
from DWISuperResLib.networks.views import BlockView, SliceView
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.grid import Frame
from DWISuperResLib.resampling.operators import apply_operators, operator
from DWISuperResLib.resampling.upsamplers import interpolate
from DWISuperResLib.training import train, validated
from DWISuperResLib.training.cache import open_scan
from DWISuperResLib.training.patches import Batches
from DWISuperResLib.training.validation import predict, prepare

STILL = {"flips": False, "rotations": False, "intensity": [1, 1], "contrast": [1, 1]}
PATTERN = "../anat/{name}_T1w.nii.gz"
NETWORK = {"scales": [2], "width": 4, "blocks": [1], "neighbours": 0, "guidance": [], "guide": True}


def guide_of(dwi):
    fine = interpolate(dwi, "1x1x2", method="linear")
    return Volume(np.sqrt(np.maximum(fine.signal[..., 0], 0)), fine.affine)


@pytest.fixture(scope="module")
def dwi():
    return phantom((24, 36, 6), (6.0, 5.0, 14.0), supersampling=1, shells=((0, 1), (1000, 6)))


@pytest.fixture(scope="module")
def folder(dwi, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for part in ("dwi", "anat"):
        (folder / part).mkdir()
    for n in range(2):
        io.write_dwi(dwi, folder / f"dwi/sub-{n}.nii.gz")
        io.write_volume(guide_of(dwi), folder / f"anat/sub-{n}_T1w.nii.gz")
    return folder


@pytest.fixture(scope="module")
def scan(folder):
    return open_scan(folder / "dwi/sub-0.nii.gz", folder / "cache", "volume", PATTERN)


def test_a_guide_is_found_by_pattern_or_by_name(folder):
    path = folder / "dwi/sub-1.nii.gz"
    wanted = (folder / "anat/sub-1_T1w.nii.gz").resolve()
    for guides in (PATTERN, "../anat/{name}_*", {str(path): str(wanted)}, {"sub-1.nii.gz": str(wanted)}):
        assert find_guide(path, guides) == wanted
    assert find_guide(path, None) is None
    for guides, message in (
        ("../anat/*_T1w.nii.gz", "is sub-0_T1w.nii.gz, sub-1_T1w.nii.gz; expected one"),
        ("{name}_T2w.nii", "is nothing; expected one file"),
        ({"sub-0.nii.gz": str(wanted)}, "an entry of its own"),
        ({"sub-1.nii.gz": "no such file"}, "is nothing"),
    ):
        with pytest.raises(InputError, match=message):
            find_guide(path, guides)


def test_the_copy_is_the_guide_on_the_scan_s_grid_and_another_guide_is_another_copy(dwi, folder, scan, tmp_path):
    expected = Frame.of(dwi.affine, scan.axis).view(placed(guide_of(dwi), dwi, dwi.spatial_shape))
    np.testing.assert_allclose(scan.guide, expected, atol=1e-5)
    assert isinstance(np.load(scan.folder / "guide.npy", mmap_mode="r"), np.memmap)
    path = folder / "dwi/sub-0.nii.gz"
    assert open_scan(path, folder / "cache", "volume").folder != scan.folder
    other = open_scan(path, folder / "cache", "volume", {path.name: str(folder / "anat/sub-1_T1w.nii.gz")})
    assert other.folder != scan.folder
    wrong = guide_of(dwi)
    shifted = wrong.affine.copy()
    shifted[1, 3] += 60
    io.write_volume(dataclasses.replace(wrong, affine=shifted), tmp_path / "wrong.nii.gz")
    with pytest.raises(InputError, match=r"wrong\.nii\.gz, the guide of .*sub-0\.nii\.gz: The guide"):
        open_scan(path, tmp_path, "volume", {path.name: str(tmp_path / "wrong.nii.gz")})


def drawn(scan, view, scale, **data):
    data = {"scans": ["x"], "slabs": 1, "patches": 1, "patch": None, **data}
    return Batches([scan], view, validated({"data": data, "augmentation": STILL, "scales": [scale]}), None)


@pytest.mark.parametrize("scale", [2, 3])
def test_batches_of_slices_show_the_guide_lowered_to_the_coarse_grid(scan, scale):
    low = apply_operators(
        scan.guide, {a: operator(n, n // scale, "antialiased_lanczos") for a, n in enumerate(scan.extent) if a}
    )
    found = set()
    for index in range(6):
        batch = drawn(scan, SliceView(guide=True), scale)[index]
        assert batch["input"].shape[1] == 2
        shown = batch["input"][0, -1].numpy()
        (match,) = [n for n, slice_ in enumerate(low) if np.abs(slice_ - shown).max() < 1e-4]
        found.add(match)
    assert len(found) > 1


def test_batches_of_blocks_show_the_guide_on_the_fine_grid(scan):
    view = BlockView(16, 4, guide=True)
    batch = drawn(scan, view, "2x2x2")[0]
    np.testing.assert_allclose(batch["input"][0, -1], scan.guide, atol=1e-5)
    shown = drawn(scan, view, "2x2x2", patch=16, slabs=2)[1]["input"][:, -1].numpy()
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(scan.guide), shown.shape[1:])
    for one in shown:
        assert np.abs(windows - one).max(axis=(-3, -2, -1)).min() < 1e-5


@pytest.mark.parametrize("view", [SliceView(guide=True), BlockView(16, 4, guide=True)], ids=["slices", "blocks"])
def test_validation_shows_the_guide_at_its_place(scan, view):
    data = {"scans": ["x"]}
    config = validated({"data": data, "scales": [2], "validation": {"slices": 3}})
    case = prepare(scan, (2, 2, 1), config, view, seed=0)

    def network(x, size):
        return torch.nn.functional.interpolate(x[:, -1:], tuple(size))

    shown = predict(network, case, view, torch.device("cpu"))
    image = shown.signal[..., 0] * float(scan.normalisation.gains[0])
    slices = [case.reference.signal[:, :, k, 0].T for k in range(3)]
    positions = [next(n for n in range(scan.extent[0]) if np.allclose(scan.signal[0, n], one)) for one in slices]
    expected = scan.guide[positions]
    if view.dimensions == 2:
        rows, columns = expected.shape[1:]
        halved = {a: operator(n, n // 2, "antialiased_lanczos") for a, n in ((1, rows), (2, columns))}
        expected = apply_operators(expected, halved).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(image, expected.transpose(2, 1, 0).clip(0), atol=1e-4)


def test_a_guided_network_is_trained_and_asks_for_its_guide(dwi, folder, tmp_path):
    tree = {
        "output": str(tmp_path / "run"),
        "data": {
            "scans": [str(folder / "dwi")], "validation": [str(folder / "dwi/sub-1.nii.gz")], "guide": PATTERN,
            "cache": str(folder / "cache"), "slabs": 1, "patches": 2, "patch": 16, "workers": 0,
        },
        "network": {"arguments": NETWORK},
        "schedule": {"epochs": 1, "steps_per_epoch": 3, "ema": None},
        "validation": {"slices": 2, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
    }  # fmt: skip
    checkpoint = load_checkpoint(train(validated(tree)))
    assert checkpoint.card.guided
    assert checkpoint.card.training["guides"] == ["sub-0_T1w.nii.gz"]
    low = degrade(dwi, 2)
    result = super_resolve(low, checkpoint, 2, guide=guide_of(dwi), device="cpu")
    assert result.spatial_shape == dwi.spatial_shape
    with pytest.raises(InputError, match="trained with a guide"):
        super_resolve(low, checkpoint, 2, device="cpu")
    without = {**tree, "output": str(tmp_path / "a"), "data": {**tree["data"], "guide": None}}
    with pytest.raises(InputError, match=r"data\.guide names no images"):
        train(validated(without))
    plain = {**tree, "output": str(tmp_path / "b"), "network": {"arguments": {**NETWORK, "guide": False}}}
    with pytest.raises(InputError, match="the network is shown none"):
        train(validated(plain))


def test_structural_images_are_trained_on(dwi, folder, tmp_path):
    images = [str(folder / f"anat/sub-{n}_T1w.nii.gz") for n in range(2)]
    tree = {
        "output": str(tmp_path / "run"),
        "data": {"scans": images, "validation": images[1:], "slabs": 1, "patches": 2, "patch": 16, "workers": 0},
        "network": {"arguments": {**NETWORK, "guide": False}},
        "schedule": {"epochs": 1, "steps_per_epoch": 3, "ema": None},
        "validation": {"slices": 2, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
    }
    checkpoint = load_checkpoint(train(validated(tree)))
    card = checkpoint.card
    assert card.bvals == (0, 0)
    assert {"b0 spread", "brain volume"} <= set(card.statistics)
    assert "val/nrmse" in card.scores
    assert "val/fa_error" not in card.scores
    low = degrade(io.read_volume(images[1]), 2)
    assert super_resolve(low, checkpoint, 2, axis=2, device="cpu").spatial_shape == guide_of(dwi).spatial_shape
