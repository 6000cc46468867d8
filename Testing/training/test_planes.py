"""Factors along any axes, trained: by networks of slices in planes that hold the slice axis, by networks of blocks."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.networks import register
from DWISuperResLib.networks.views import BlockView, SliceView
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.grid import Frame
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate
from DWISuperResLib.training import train, validated
from DWISuperResLib.training.cache import divided, open_scan
from DWISuperResLib.training.patches import Batches, DWIData
from DWISuperResLib.training.run import tried_factors
from DWISuperResLib.training.validation import classical, prepare

STILL = {"flips": False, "rotations": False, "intensity": [1, 1], "contrast": [1, 1]}


@register("toy_block")
class ToyBlock(nn.Module):
    """A block's interpolation and a residual of two convolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.view = BlockView(16, 4)
        self.first, self.last = nn.Conv3d(1, width, 3, padding=1), nn.Conv3d(width, 1, 3, padding=1)

    def forward(self, x, size):
        return x[:, :1] + self.last(functional.relu(self.first(x)))


@register("toy_slice")
class ToySlice(nn.Module):
    """A slice's interpolation to any size and a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.view = SliceView(1)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, size):
        x = functional.interpolate(x, tuple(size), mode="bilinear")
        return x[:, :1] + self.last(functional.relu(self.first(x)))


@pytest.fixture(scope="module")
def dwi():
    return phantom((24, 36, 12), (6.0, 5.0, 7.0), supersampling=1, shells=((0, 1), (1000, 6)))


@pytest.fixture(scope="module")
def folder(dwi, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for n in range(2):
        io.write_dwi(dwi, folder / f"sub-{n}_dwi.nii.gz")
    return folder


def tree(folder, output, **sections):
    data = {"scans": [str(folder)], "validation": [str(folder / "sub-1_dwi.nii.gz")], "cache": str(folder / "cache")}
    return {
        "output": str(output),
        "data": {**data, "slabs": 2, "patches": 1, "patch": 24, "workers": 0},
        "schedule": {"epochs": 1, "steps_per_epoch": 4, "ema": None},
        "validation": {"slices": 4, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
        **sections,
    }


def test_a_network_of_blocks_trains_is_saved_and_serves_its_factors(dwi, folder, tmp_path):
    scales = ["2x2x2", "2x2.5x2", "1x1x2"]
    exported = train(validated(tree(folder, tmp_path / "out", scales=scales, network={"architecture": "toy_block"})))
    checkpoint = load_checkpoint(exported)
    card = checkpoint.card
    assert card.format_version == 2
    assert card.view == BlockView(16, 4).describe()
    assert card.view["kind"] == "block"
    assert card.factors == ((1, 1, 2), (2, 2, 2), (2, 2.5, 2))
    assert card.voxel_sizes == {"in_plane": [5.0, 12.5], "slice": [14.0, 14.0]}
    untrained = ToyBlock()
    assert not torch.equal(untrained.first.weight, checkpoint.weights["first.weight"])
    for scale in scales:
        low = degrade(dwi, scale, axis=2)
        result = super_resolve(low, checkpoint, scale, axis=2, device="cpu", precision="fp32")
        assert result.spatial_shape == Scale.parse(scale, low).fine_shape(low.spatial_shape)
        # A few steps from its interpolation, it is near to it.
        wanted = interpolate(low, Scale.between(low.spatial_shape, result.spatial_shape), method="bspline")
        assert np.corrcoef(result.signal.ravel(), wanted.signal.ravel())[0, 1] > 0.9
    with pytest.raises(ValueError, match="serves scales"):
        super_resolve(dwi, checkpoint, "3x3x3", device="cpu")


@pytest.mark.parametrize("model", ["kspace", "profile"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_through_plane_batches_are_slices_of_the_degraded_scan(dwi, tmp_path, axis, model):
    """Whatever the slice axis, a factor across slices is one across those acquired, as the card says."""
    acquired = dataclasses.replace(dwi, acquisition_axis=axis, affine=np.diag([5.0, 5.0, 5.0, 1.0]))
    io.write_dwi(acquired, tmp_path / "scan.nrrd")
    config = validated(
        {
            "data": {"scans": ["x"], "slabs": 1, "patches": 1, "patch": None, "axes": "all"},
            "augmentation": STILL,
            "degradation": {"models": {model: 1}, "fwhm": [1, 1], "gap": [0.2, 0.2]},
            "scales": ["1x1x2"],
        }
    )
    scan = dataclasses.replace(open_scan(tmp_path / "scan.nrrd", tmp_path, "volume"), axis=axis, stacked=axis)
    factors = [Fraction(2) if a == axis else Fraction(1) for a in range(3)]
    assert scan.scale((1, 1, 2)).factors == tuple(factors)
    planes = scan.planes((1, 1, 2), config.data)
    assert planes == [a for a in range(3) if a != axis]
    gap = {"gap": 0.2 * 2 * 5} if model == "profile" and acquired.spatial_shape[axis] % 2 == 0 else {}
    low = degrade(acquired, Scale.of(*factors), model=model, axis=axis, **gap)
    for plane in planes:
        view = scan.stacked_along(plane)
        dataset = Batches([view], SliceView(0), config, 99)
        frame = Frame.of(acquired.affine, plane)
        coarse, fine = frame.view(low.signal), frame.view(acquired.signal)
        gains = scan.normalisation.gains[:, None, None]
        for index in range(3):
            batch = dataset[index]
            matches = [
                z
                for z in range(fine.shape[1])
                if np.allclose(batch["target"][:, 0], fine[:, z] * gains, atol=1e-5)
                and np.allclose(batch["input"][:, 0], coarse[:, z] * gains, atol=1e-4)
            ]
            assert len(matches) >= 1
    # As acquired, slices do not show what is to be refined.
    assert Batches([scan, *map(scan.stacked_along, planes)], SliceView(0), config, None)._alike((1, 1, 2))
    assert scan.stacked not in planes


def test_validation_through_plane_starts_from_the_degraded_scan(dwi, folder):
    config = validated(tree(folder, folder / "none", scales=["1x1x2"], augmentation=STILL))
    data = DWIData(config, SliceView(1), None, divided(config))
    data.prepare_data()
    data.setup("fit")
    assert [scan.stacked for scan in data.scans] == [0, 1]
    case = data.case(0)
    low = Frame.of(dwi.affine, 0).view(degrade(dwi, "1x1x2", axis=2).signal)
    shown = case.coarse.signal.transpose(3, 2, 1, 0)
    for position in range(shown.shape[1]):
        assert any(np.allclose(shown[:, position], low[:, z], atol=1e-2) for z in range(low.shape[1]))
    assert classical(case, "sinc").spatial_shape == case.reference.spatial_shape


def test_a_network_of_slices_trains_in_plane_and_through_plane(dwi, folder, tmp_path):
    scales = [2, "1x1x2"]
    exported = train(validated(tree(folder, tmp_path / "out", scales=scales, network={"architecture": "toy_slice"})))
    checkpoint = load_checkpoint(exported)
    assert checkpoint.card.factors == ((1, 1, 2), (2, 2, 1))
    assert checkpoint.card.voxel_sizes == {"in_plane": [5.0, 12.0], "slice": [7.0, 14.0]}
    for scale in ("2x2x1", "1x1x2"):
        low = degrade(dwi, scale, axis=2)
        result = super_resolve(low, checkpoint, scale, axis=2, device="cpu", precision="fp32")
        assert result.spatial_shape == dwi.spatial_shape


def test_factors_that_slices_cannot_show_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="2x2x2 refines all three"):
        train(validated(tree(folder, tmp_path, scales=["2x2x2"], network={"architecture": "toy_slice"})))
    with pytest.raises(ValueError, match="choose one of its scales"):
        train(validated(tree(folder, tmp_path, scales=["1x1x2"], network={"architecture": "sr_unet"})))


def test_networks_are_tried_on_the_images_they_will_get():
    assert tried_factors((2, 2, 1), 2) == [(2, 2)]
    assert tried_factors((1, 1, 3), 2) == [(1, 3), (3, 1)]
    assert tried_factors((2, 1, 3), 2) == [(2, 3), (3, 2)]
    assert tried_factors((2, 2.5, 3), 3) == [(3, 2, 2.5)]


def test_scans_stored_otherwise_do_not_share_a_batch(dwi, folder, tmp_path):
    """In-plane factors that differ refine rows of one and columns of the other."""
    turned = dataclasses.replace(
        dwi, signal=dwi.signal.transpose(1, 0, 2, 3), affine=dwi.affine[:, [1, 0, 2, 3]], acquisition_axis=2
    )
    io.write_dwi(turned, tmp_path / "turned.nii.gz")
    scans = [open_scan(path, tmp_path, "volume") for path in (folder / "sub-0_dwi.nii.gz", tmp_path / "turned.nii.gz")]
    config = validated(
        {"data": {"scans": ["x"], "slabs": 4, "patches": 1, "patch": 16}, "scales": ["2x1x1"], "augmentation": STILL}
    )
    dataset = Batches(scans, SliceView(0), config, None)
    shapes = {tuple(dataset[n]["input"].shape) for n in range(20)}
    assert shapes == {(4, 1, 16, 8), (4, 1, 8, 16)}


def test_a_single_step_of_validation_is_the_same_every_time(folder):
    config = validated(tree(folder, folder / "none", scales=["2x2x1"], degradation={"noise": [5, 5]}))
    scan = open_scan(folder / "sub-0_dwi.nii.gz", folder / "cache", "volume")
    cases = [prepare(scan, (2, 2, 1), config, SliceView(0), seed=3) for _ in range(2)]
    np.testing.assert_array_equal(cases[0].coarse.signal, cases[1].coarse.signal)
