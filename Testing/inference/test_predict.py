"""Inference in slices and in blocks: geometry, batching, memory, cancelling, ensemble, consistency."""

import tracemalloc
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

import DWISuperResLib as dsr
from DWISuperResLib import networks
from DWISuperResLib.checkpoints import files as checkpoints
from DWISuperResLib.errors import Cancelled, InputError, ProcessingError
from DWISuperResLib.evaluation.scorer import Scorer
from DWISuperResLib.inference import predict as engine
from DWISuperResLib.inference.native import at_native
from DWISuperResLib.inference.options import InferenceOptions
from DWISuperResLib.inference.projection import Projection
from DWISuperResLib.networks.sr_unet import resized
from DWISuperResLib.networks.views import BlockView, SliceView, Tile
from DWISuperResLib.resampling import grid
from DWISuperResLib.resampling.degradation import fitting_width
from DWISuperResLib.resampling.grid import regridded_mask
from DWISuperResLib.resampling.native import to_native
from DWISuperResLib.resampling.operators import apply_operators, operator
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import quick_upsamplers


def checkpoint_of(seed=0, scales=(2, 3), factors=None, **arguments):
    arguments = {
        "scales": list(scales),
        "width": 4,
        "blocks": [1, 1],
        "neighbours": 1,
        "guidance": ["q_smooth"],
    } | arguments
    torch.manual_seed(seed)
    network = networks.build("sr_unet", **arguments)
    for parameter in network.parameters():  # the last layers start at zero: make every layer count
        nn.init.normal_(parameter, std=0.1)
    card = checkpoints.Card(name="test", architecture="sr_unet", arguments=arguments, factors=tuple(factors or scales))
    return checkpoints.Checkpoint(card, network.state_dict())


def options(**more):
    return {"device": "cpu", "precision": "fp32"} | more


@pytest.mark.parametrize("axis", ["i", "j", "k"])
@pytest.mark.parametrize("scale", [2, 3])
def test_result_lies_on_the_refined_grid_with_the_same_table(small_dwi, scale, axis):
    result = dsr.super_resolve(small_dwi, checkpoint_of(), scale, **options(axis=axis))
    expected = dsr.interpolate(small_dwi, scale, axis=axis)
    grid.check_same_grid(result, expected)
    np.testing.assert_array_equal(result.bvecs, small_dwi.bvecs)
    assert not np.allclose(result.signal, expected.signal, rtol=1e-3)


@pytest.mark.parametrize("axis", ["i", "j", "k"])
def test_a_network_that_adds_nothing_gives_the_mirrored_sinc_interpolation(small_dwi, axis):
    checkpoint = checkpoint_of()
    weights = {k: torch.zeros_like(v) if k.startswith("tails") else v for k, v in checkpoint.weights.items()}
    result = dsr.super_resolve(small_dwi, replace(checkpoint, weights=weights), 2, **options(axis=axis))
    plane = [a for a in range(3) if a != "ijk".index(axis)]
    mirrored = np.pad(
        small_dwi.signal, [(0, n if a in plane else 0) for a, n in enumerate(small_dwi.signal.shape)], "symmetric"
    )
    expected = dsr.interpolate(replace(small_dwi, signal=mirrored), 2, axis=axis).signal
    expected = expected[tuple(slice(n) for n in result.spatial_shape)].clip(0)
    np.testing.assert_allclose(result.signal, expected, rtol=1e-4, atol=1e-2)


def test_result_does_not_depend_on_batch_size_and_repeats(small_dwi):
    results = [
        dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(batch_size=size)).signal for size in (1, 7, 64, 64)
    ]
    for other in results[1:3]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(results[2], results[3])


def test_out_of_memory_halves_the_batch_and_goes_on(small_dwi, monkeypatch):
    expected = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options()).signal
    sizes = []
    from DWISuperResLib.networks.sr_unet import SRUNet

    forward = SRUNet.forward

    def scarce(self, x, scale):
        sizes.append(len(x))
        if len(x) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes.")
        return forward(self, x, scale)

    monkeypatch.setattr(SRUNet, "forward", scarce)
    result = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(batch_size=16)).signal
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-3)
    assert sizes[0] > 3  # a batch of 16, or of a share of it on each thread
    # Each of up to four threads may try a size or two before it knows; were it forgotten, ten attempts would fail.
    assert sum(size > 3 for size in sizes) <= 8

    monkeypatch.setattr(SRUNet, "forward", lambda self, x, scale: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ProcessingError, match="single slice or block does not fit"):
        dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options())


def test_an_error_that_is_not_about_memory_is_not_hidden(small_dwi, monkeypatch):
    from DWISuperResLib.networks.sr_unet import SRUNet

    monkeypatch.setattr(SRUNet, "forward", lambda *a: (_ for _ in ()).throw(RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options())


def test_cancel_stops_between_batches(small_dwi):
    fractions = []
    with pytest.raises(Cancelled):
        dsr.super_resolve(
            small_dwi,
            checkpoint_of(),
            2,
            **options(
                batch_size=1,
                progress=lambda fraction, message: fractions.append(fraction),
                cancel=lambda: len(fractions) >= 3,
            ),
        )
    assert len(fractions) == 3
    assert max(fractions) < 1


def test_progress_runs_from_0_to_1(small_dwi):
    seen = []
    dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(progress=lambda f, m: seen.append(f)))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_slices_outside_the_mask_are_interpolated_and_the_others_do_not_change(small_dwi):
    mask = np.zeros(small_dwi.spatial_shape, bool)
    mask[4, 4, 1:3] = True
    whole = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(mask=np.ones_like(mask))).signal
    masked = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(mask=mask)).signal
    np.testing.assert_allclose(masked[:, :, 1:3], whole[:, :, 1:3], rtol=1e-6)
    sinc = dsr.interpolate(small_dwi, 2).signal
    np.testing.assert_allclose(masked[:, :, [0, 3]], sinc[:, :, [0, 3]], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("model", ["kspace", "area", "gaussian", "paper"])
def test_consistent_results_degrade_to_the_input(small_dwi, model):
    checkpoint = checkpoint_of()
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, degradation={"model": model}))
    result = dsr.super_resolve(small_dwi, checkpoint, 2, **options(consistent=True))
    again = dsr.degrade(result, 2, model=model)
    np.testing.assert_allclose(again.signal, small_dwi.signal, rtol=2e-4, atol=2e-4 * small_dwi.signal.max())
    free = dsr.degrade(dsr.super_resolve(small_dwi, checkpoint, 2, **options()), 2, model=model)
    assert np.abs(free.signal - small_dwi.signal).max() > 1


def test_projection_takes_thick_slices_along_the_slice_axis_alone(small_dwi):
    low = dsr.degrade(small_dwi, "2x1x2", model="profile", axis="k")
    coarse, fine = low.spatial_shape, small_dwi.spatial_shape
    project = Projection(coarse, fine, {"model": "profile"}, slices=2, device=torch.device("cpu"))
    blank = np.zeros((*fine, 1), np.float32)
    blank[..., 0] = project(blank[..., 0], low.signal[..., 3])
    again = dsr.degrade(dsr.DWI(blank, small_dwi.affine, [0], np.zeros((1, 3))), "2x1x2", model="profile", axis="k")
    np.testing.assert_allclose(again.signal[..., 0], low.signal[..., 3], rtol=1e-4)
    turned = dsr.degrade(small_dwi, "2x1x2", model="profile", axis="i")
    assert np.abs(turned.signal - low.signal).max() > 1


@pytest.mark.parametrize("thickness", [0.64, 0.8])
def test_consistent_slices_are_of_the_thickness_that_fits_best(small_dwi, thickness):
    noise = np.random.default_rng(0).normal(scale=50, size=(*small_dwi.spatial_shape[:2], 12, small_dwi.n_volumes))
    fine = replace(small_dwi, signal=np.asfortranarray(small_dwi.signal[:, :, [0, 1, 2, 3] * 3] + noise, np.float32))
    distance = 2 * float(fine.voxel_sizes[2])
    low = dsr.degrade(fine, "1x1x2", model="profile", axis="k", fwhm=thickness * distance)
    drawn = {"model": "profile", "fwhm": [0.8, 1.0], "gap": [0.0, 0.2]}
    width = fitting_width(low.signal, fine.signal, drawn, 2)
    assert width == pytest.approx(thickness, abs=0.01)
    # What is right already stays.
    project = Projection(low.spatial_shape, fine.spatial_shape, drawn, 2, torch.device("cpu"), width)
    np.testing.assert_allclose(project(fine.signal[..., 3], low.signal[..., 3]), fine.signal[..., 3], rtol=0.01, atol=3)
    # Where slices that touch are none of those trained on, the result is consistent with one of these.
    drawn["gap"] = [0.1, 0.2]
    checkpoint = checkpoint_of(scales=((1, 2),), factors=((1, 1, 2),))
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, degradation=drawn))
    result = dsr.super_resolve(low, checkpoint, "1x1x2", **options(consistent=True, axis="k"))
    width = fitting_width(low.signal, result.signal, drawn, 2)
    again = dsr.degrade(result, "1x1x2", model="profile", axis="k", fwhm=width * distance)
    np.testing.assert_allclose(again.signal, low.signal, rtol=2e-3, atol=2e-3 * low.signal.max())


def test_ensemble_commutes_with_flips_and_transposition(small_dwi):
    square = replace(small_dwi, signal=small_dwi.signal[:10])
    kwargs = options(ensemble=True)
    result = dsr.super_resolve(square, checkpoint_of(guidance=[]), 2, **kwargs).signal
    for move in (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a.swapaxes(0, 1)):
        moved = dsr.super_resolve(replace(square, signal=move(square.signal)), checkpoint_of(guidance=[]), 2, **kwargs)
        np.testing.assert_allclose(moved.signal, move(result), rtol=1e-4, atol=1e-2)


def test_uncertainty_is_the_spread_of_the_ensemble(small_dwi):
    result, spread = engine.super_resolve_with_uncertainty(small_dwi, checkpoint_of(), 2, **options())
    np.testing.assert_allclose(
        result.signal, dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(ensemble=True)).signal
    )
    assert spread.shape == result.signal.shape
    assert spread.max() > 0
    assert spread.min() >= 0


class LinearUpsampler(nn.Module):
    """Symmetric under the ensemble: its spread must be zero."""

    view = SliceView()

    def forward(self, x, size):
        return resized(x, size)


def test_a_symmetric_network_has_no_uncertainty(small_dwi, monkeypatch):
    checkpoint = checkpoint_of()
    monkeypatch.setattr(checkpoints.Checkpoint, "network", lambda self: LinearUpsampler())
    _, spread = engine.super_resolve_with_uncertainty(small_dwi, checkpoint, 2, **options())
    assert spread.max() < 1e-3 * small_dwi.signal.max()


def test_bf16_stays_close_to_fp32(small_dwi):
    exact = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options()).signal
    rounded = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(precision="bf16")).signal
    assert np.sqrt(np.mean((rounded - exact) ** 2)) < 0.01 * exact.mean()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scale": 4}, "serves scales 2, 3, not 4x4x1"),
        ({"scale": "1x1x2"}, "serves scales 2, 3, not 1x1x2"),
        ({"precision": "int8"}, "precision is 'int8'; expected auto"),
        ({"device": "nosuch"}, "device 'nosuch' cannot be used here"),
        ({"batch_size": 0}, "expected at least 1"),
        ({"mask": np.ones((2, 2, 2), bool)}, "mask has matrix"),
        ({"axis": "x"}, "slice axis is 'x'"),
        ({"checkpoint": "nosuch"}, "No checkpoint 'nosuch'"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(small_dwi, change, sentence):
    with pytest.raises(InputError, match=sentence):
        dsr.super_resolve(small_dwi, **({"checkpoint": checkpoint_of()} | options() | change))


def stored_as(dwi, orientation):
    """The same scan with its voxel axes in another order and direction; gradients stay in the scanner's frame."""
    image = nib.Nifti1Image(dwi.signal, dwi.affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(dwi.affine), nib.orientations.axcodes2ornt(orientation))
    turned = image.as_reoriented(change)
    axis = int(change[2, 0])
    return replace(dwi, signal=np.asarray(turned.dataobj), affine=turned.affine, acquisition_axis=axis)


@pytest.mark.parametrize("orientation", ["LAS", "RAS", "PSR", "SRP", "LPS"])
def test_results_do_not_depend_on_how_the_scan_is_stored(small_dwi, orientation):
    dwi = replace(small_dwi, acquisition_axis=2)
    expected = stored_as(dsr.super_resolve(dwi, checkpoint_of(), 2, **options()), orientation)
    result = dsr.super_resolve(stored_as(dwi, orientation), checkpoint_of(), 2, **options())
    grid.check_same_grid(result, expected)
    np.testing.assert_allclose(result.signal, expected.signal, rtol=1e-6, atol=1e-6 * expected.signal.max())


@pytest.mark.parametrize("orientation", ["LAS", "PSR", "SRP"])
def test_thin_slices_do_not_depend_on_how_the_thick_ones_are_stored(small_dwi, orientation):
    """Nor does the plane that the network is shown them in, of the two that hold the slice axis."""
    dwi, checkpoint = replace(small_dwi, acquisition_axis=2), checkpoint_of(scales=((1, 2),), factors=((1, 1, 2),))
    expected = stored_as(dsr.super_resolve(dwi, checkpoint, "1x1x2", **options(axis="k")), orientation)
    turned = stored_as(dwi, orientation)
    scale = Scale.of_slices(1, 1, 2, axis=turned.acquisition_axis)
    result = dsr.super_resolve(turned, checkpoint, scale, **options(axis=turned.acquisition_axis))
    grid.check_same_grid(result, expected)
    np.testing.assert_allclose(result.signal, expected.signal, rtol=1e-6, atol=1e-6 * expected.signal.max())


def write_as_fsl(dwi, folder):
    """NIfTI by nibabel; tables along the voxel axes, the first backwards where the determinant is positive: FSL."""
    axes = dwi.affine[:3, :3] / dwi.voxel_sizes
    directions = np.linalg.solve(axes, dwi.bvecs.T)
    if np.linalg.det(axes) > 0:
        directions[0] *= -1
    image = nib.Nifti1Image(dwi.signal, dwi.affine)
    image.header.set_dim_info(slice=dwi.acquisition_axis)
    nib.save(image, folder / "scan.nii")
    np.savetxt(folder / "scan.bval", dwi.bvals[None], fmt="%g")
    np.savetxt(folder / "scan.bvec", directions, fmt="%.12f")
    return folder / "scan.nii"


def middle_of(dwi, sides=(28, 28, 3)):
    """A box around the brain's middle."""
    box = []
    for axis, side in enumerate(sides):
        length = dwi.spatial_shape[axis]
        start = max(0, min(length // 2 - side // 2, length - side))
        box.append(slice(start, start + side))
    affine = dwi.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    return replace(dwi, signal=dwi.signal[tuple(box)], affine=affine, acquisition_axis=2)


@pytest.mark.parametrize("orientation", ["RAS", "PSR", "SRP"])
@pytest.mark.parametrize("name", ["siemens_prisma_dti_roll", "canon10_axial"])
def test_real_scans_give_one_result_however_their_files_are_stored(shared_data, tmp_path, name, orientation):
    """The shipped checkpoint's signal and FA, from files that nibabel wrote, FSL's tables beside them."""
    dwi = middle_of(dsr.read_dwi(shared_data / name / f"{name}.nii.gz"))
    expected = dsr.super_resolve(dwi, "default", 2, **options())
    turned = dsr.read_dwi(write_as_fsl(stored_as(dwi, orientation), tmp_path))
    result = dsr.super_resolve(turned, "default", 2, **options())
    there = stored_as(expected, orientation)
    grid.check_same_grid(result, there)
    np.testing.assert_allclose(result.signal, there.signal, rtol=0, atol=1e-6 * there.signal.max())
    fa, wanted = (dsr.compute_maps(scan, ("fa",))["fa"] for scan in (result, expected))
    wanted = stored_as(replace(expected, signal=wanted[..., None], bvals=[0], bvecs=[[0, 0, 0]]), orientation)
    # Sums run in the order in which a file stores its voxels, and FA is a few times as sensitive as the signal.
    np.testing.assert_allclose(fa, wanted.signal[..., 0], rtol=0, atol=5e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_the_shipped_through_plane_network_makes_thick_slices_thin(small_dwi, factor):
    result = dsr.super_resolve(small_dwi, "through_plane", f"1x1x{factor}", **options(axis="k"))
    grid.check_same_grid(result, dsr.interpolate(small_dwi, f"1x1x{factor}"))
    with pytest.raises(InputError, match="serves scales 1x1x2, 1x1x3, not 2x2x1"):
        dsr.super_resolve(small_dwi, "through_plane", 2, **options(axis="k"))


def test_the_shipped_through_plane_network_beats_every_interpolation_on_a_scanner_left_out(shared_data):
    """UIH, 4.2 mm from 8.4 mm: signal and FA in the brain."""
    trained_on = dsr.load_checkpoint("through_plane").card.training
    assert not any("uih" in name for name in trained_on["scans"] + trained_on["simulated"])
    dwi = dsr.read_dwi(shared_data / "uih_dir16" / "uih_dir16.nii.gz")
    scorer = Scorer(dwi, dsr.brain_mask(dwi), maps=("fa",), regions=("brain",))
    low = dsr.degrade(dwi, "1x1x2", model="profile", axis="k")

    def errors(result):
        difference = (result.signal - dwi.signal)[scorer.mask]
        return np.array([np.sqrt(np.mean(difference**2)), scorer(result).value("fa", "mae")])

    found = errors(dsr.super_resolve(low, "through_plane", "1x1x2", **options(axis="k")))
    for method in quick_upsamplers():
        assert (found < 0.97 * errors(dsr.interpolate(low, "1x1x2", method=method))).all()


@pytest.mark.parametrize("exponent", [-8, -3, 1, 8])
def test_results_scale_with_the_intensities(small_dwi, exponent):
    expected = dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options()).signal
    scaled = replace(small_dwi, signal=small_dwi.signal * 10.0**exponent)
    result = dsr.super_resolve(scaled, checkpoint_of(), 2, **options()).signal / 10.0**exponent
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * expected.max())


def test_a_volume_of_negative_mean_is_refused_before_any_work(small_dwi):
    signal = small_dwi.signal.copy()
    signal[..., 4] -= 2 * signal[..., 4].max()
    with pytest.raises(InputError, match=r"Volumes \[4\] have no positive signal"):
        dsr.super_resolve(replace(small_dwi, signal=signal), checkpoint_of(), 2, **options())


@pytest.mark.parametrize("shape", [(11, 9, 4), (12, 7, 3)])
def test_a_network_makes_a_grid_that_is_no_multiple(small_dwi, shape):
    """An odd matrix, degraded, comes back on its own grid: exactly, where the network adds nothing."""
    dwi = replace(small_dwi, signal=np.asfortranarray(small_dwi.signal[: shape[0], : shape[1], : shape[2]]))
    low = dsr.degrade(dwi, 2)
    back = Scale.between(low.spatial_shape, shape)
    checkpoint = checkpoint_of()
    result = dsr.super_resolve(low, checkpoint, back, **options())
    grid.check_same_grid(result, dwi)
    weights = {k: torch.zeros_like(v) if k.startswith("tails") else v for k, v in checkpoint.weights.items()}
    plain = dsr.super_resolve(low, replace(checkpoint, weights=weights), back, **options())
    operators = {
        a: operator(n, m, "mirrored_sinc") for a, (n, m) in enumerate(zip(low.spatial_shape, shape, strict=True))
    }
    expected = np.stack([apply_operators(v, operators) for v in np.moveaxis(low.signal, 3, 0)], axis=-1)
    np.testing.assert_allclose(plain.signal, expected.clip(0), rtol=1e-4, atol=1e-2)


# Blocks

SCALES = ((2, 2, 2), (1, 1, 3), (2, 2.5, 2), (1.6, 1.6, 2))


def blocks_of(architecture="recnn", factors=SCALES, **arguments):
    """A network with a reach of 3 voxels whose every layer counts."""
    small = {"recnn": {"layers": 3, "filters": 3}, "srcnn": {"kernels": [3, 1, 5], "filters": [3, 2]}}
    arguments = small[architecture] | arguments
    torch.manual_seed(0)
    network = networks.build(architecture, **arguments)
    card = checkpoints.Card("block", architecture, arguments, factors, view=network.view.describe())
    return checkpoints.Checkpoint(card, network.state_dict())


@pytest.mark.parametrize("guidance", [(), ("mean_b0",)])
@pytest.mark.parametrize("architecture", ["recnn", "srcnn"])
@pytest.mark.parametrize("scale", ["2x2x2", "1x1x3", "2x2.5x2", "1.25mm"])
def test_blocks_give_what_the_whole_volume_gives(small_dwi, scale, architecture, guidance):
    """The whole: one block that holds the volume, all of its border the volume's own."""
    results = []
    for arguments in ({"block": 512, "overlap": 0}, {"block": 16}, {"block": 20}, {"block": 20, "overlap": 9}):
        checkpoint = blocks_of(architecture, guidance=list(guidance), **arguments)
        results.append(dsr.super_resolve(small_dwi, checkpoint, scale, **options()))
    grid.check_same_grid(results[0], dsr.interpolate(small_dwi, scale))
    for other in results[1:]:
        np.testing.assert_allclose(other.signal, results[0].signal, rtol=1e-4, atol=1e-4 * results[0].signal.max())


@pytest.mark.parametrize("model", ["kspace", "area", "gaussian", "paper"])
@pytest.mark.parametrize("scale", ["2x2x2", "2x2.5x2"])
def test_consistent_blocks_degrade_to_the_input_along_three_axes(small_dwi, scale, model):
    checkpoint = blocks_of(block=16)
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, degradation={"model": model}))
    for consistent, least, most in ((True, 0, 1e-3), (False, 1e-2, np.inf)):
        result = dsr.super_resolve(small_dwi, checkpoint, scale, **options(consistent=consistent))
        back = Scale.between(small_dwi.spatial_shape, result.spatial_shape)
        again = dsr.degrade(result, back, model=model)
        assert least <= np.abs(again.signal - small_dwi.signal).max() / small_dwi.signal.max() <= most


def test_blocks_fall_back_to_fewer_at_a_time_and_one_too_large_is_told(small_dwi, monkeypatch):
    from DWISuperResLib.networks.recnn import ReCNN

    checkpoint = blocks_of(block=16)
    expected = dsr.super_resolve(small_dwi, checkpoint, "2x2x2", **options()).signal
    sizes, forward = [], ReCNN.forward

    def scarce(self, x, size):
        sizes.append(len(x))
        if len(x) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 10 bytes.")
        return forward(self, x, size)

    monkeypatch.setattr(ReCNN, "forward", scarce)
    result = dsr.super_resolve(small_dwi, checkpoint, "2x2x2", **options(batch_size=8)).signal
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * expected.max())
    assert sizes[:4] == [8, 4, 2, 2]
    monkeypatch.setattr(ReCNN, "forward", lambda self, x, size: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ProcessingError, match="single slice or block does not fit"):
        dsr.super_resolve(small_dwi, checkpoint, "2x2x2", **options())


def test_blocks_can_be_cancelled_and_tell_their_progress(small_dwi):
    seen = []
    told = options(batch_size=1, progress=lambda f, m: seen.append(f))
    dsr.super_resolve(small_dwi, blocks_of(block=16), "2x2x2", **told)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(seen) > small_dwi.n_volumes
    asked = []
    stopped = options(batch_size=1, cancel=lambda: asked.append(0) or len(asked) > 3)
    with pytest.raises(Cancelled):
        dsr.super_resolve(small_dwi, blocks_of(block=16), "2x2x2", **stopped)
    assert len(asked) == 4


def test_the_uncertainty_of_blocks_is_the_spread_over_their_eight_flips(small_dwi):
    checkpoint = blocks_of(block=512, overlap=0)
    # A residual so small that nothing is cut at zero.
    small = {k: 0.02 * v if k.startswith("layers.2") else v for k, v in checkpoint.weights.items()}
    checkpoint = replace(checkpoint, weights=small)
    result, spread = engine.super_resolve_with_uncertainty(small_dwi, checkpoint, "2x2x2", **options())
    members = []
    for flipped in np.ndindex(2, 2, 2):
        turn = tuple(slice(None, None, -1) if flip else slice(None) for flip in flipped)
        member = dsr.super_resolve(replace(small_dwi, signal=small_dwi.signal[turn]), checkpoint, "2x2x2", **options())
        members.append(member.signal[turn])
    assert min(member.min() for member in members) > 0
    scale = result.signal.max()
    np.testing.assert_allclose(result.signal, np.mean(members, axis=0), rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(spread, np.std(members, axis=0), rtol=1e-2, atol=1e-5 * scale)
    assert spread.max() > 1e-3 * scale
    zero = {k: torch.zeros_like(v) if k.startswith("layers.2") else v for k, v in checkpoint.weights.items()}
    for block in (512, 16):
        symmetric = replace(blocks_of(block=block, overlap=0), weights=zero)
        _, none = engine.super_resolve_with_uncertainty(small_dwi, symmetric, "2x2x2", **options())
        assert none.max() < 1e-5 * scale


def test_the_memory_of_a_block_follows_the_block_and_not_the_volume():
    """Of a volume of 32 MB: a block of 16³ voxels needs its share of the coarse grid and of the spline's tails."""
    low = np.ones((1, 200, 200, 200), np.float32)
    view = BlockView(16, 4)
    tile, fine = Tile((192, 192, 192), (208, 208, 208)), (400, 400, 400)
    view.slab(low, tile, fine)  # the matrices of the axes are kept from call to call
    tracemalloc.start()
    shown = view.slab(low, tile, fine)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown.shape == (1, 1, 16, 16, 16)
    assert peak < 2**20 < low.nbytes / 30


@pytest.mark.parametrize("volumes", [4, 10])
def test_blocks_of_few_volumes_at_a_time_are_in_memory(small_dwi, monkeypatch, volumes):
    """However many volumes there are, only a batch of blocks is held."""
    shown = []
    slab = BlockView.slab
    monkeypatch.setattr(BlockView, "slab", lambda self, low, *where: shown.append(len(low)) or slab(self, low, *where))
    part = replace(
        small_dwi,
        signal=small_dwi.signal[..., :volumes],
        bvals=small_dwi.bvals[:volumes],
        bvecs=small_dwi.bvecs[:volumes],
    )
    dsr.super_resolve(part, blocks_of(block=16), "2x2x2", **options(batch_size=2))
    assert set(shown) == {2}


def test_interpolated_slices_are_made_larger_by_any_factor(small_dwi):
    """A network of slices on the fine grid that adds nothing gives the spline of SciPy's; a trained range is served."""
    checkpoint = blocks_of(dimensions=2, factors=((1, 1, 1), (3, 3, 1.5)))
    assert checkpoint.card.view["kernel"] == "bspline"
    zero = {k: torch.zeros_like(v) if k.startswith("layers.2") else v for k, v in checkpoint.weights.items()}
    for scale in ("2x2x1", "1.5x3x1", "1x2.5x1.5"):
        result = dsr.super_resolve(small_dwi, replace(checkpoint, weights=zero), scale, **options(axis=2))
        expected = dsr.interpolate(small_dwi, scale, method="bspline", axis=2)
        grid.check_same_grid(result, expected)
        np.testing.assert_allclose(result.signal, expected.signal.clip(0), rtol=1e-4, atol=1e-2)
        one = dsr.super_resolve(small_dwi, checkpoint, scale, **options(axis=2, batch_size=1))
        eight = dsr.super_resolve(small_dwi, checkpoint, scale, **options(axis=2, ensemble=False))
        np.testing.assert_allclose(one.signal, eight.signal, rtol=1e-4, atol=1e-4 * one.signal.max())


def test_slices_refined_unlike_along_rows_and_columns_are_not_transposed():
    assert len(engine.symmetries((10, 12), (20, 24))) == 8
    assert len(engine.symmetries((10, 12), (20, 30))) == 4
    assert len(engine.symmetries((4, 10, 12), (8, 20, 24))) == 8


def test_the_ensemble_of_blocks_commutes_with_flips_and_the_mask_limits_the_work(small_dwi):
    checkpoint = blocks_of(block=16, overlap=8, guidance=["mean_b0"])
    result = dsr.super_resolve(small_dwi, checkpoint, "2x2x2", **options(ensemble=True)).signal
    moved = replace(small_dwi, signal=small_dwi.signal[::-1, :, ::-1])
    flipped = dsr.super_resolve(moved, checkpoint, "2x2x2", **options(ensemble=True)).signal
    np.testing.assert_allclose(flipped, result[::-1, :, ::-1], rtol=1e-3, atol=1e-3 * result.max())
    mask = np.zeros(small_dwi.spatial_shape, bool)
    mask[:3] = True
    part = dsr.super_resolve(small_dwi, checkpoint, "2x2x2", **options(mask=mask, ensemble=True)).signal
    np.testing.assert_allclose(part[:2], result[:2], rtol=1e-3, atol=1e-3 * result.max())
    sinc = dsr.interpolate(small_dwi, "2x2x2").signal
    np.testing.assert_allclose(part[-4:], sinc[-4:], rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def filled():
    """A scan that a scanner interpolated along i."""
    scan = dsr.phantom((40, 48, 4), (4, 4, 5), supersampling=1, shells=((0, 1), (1000, 8)))
    return dsr.interpolate(scan, Scale.of(2, 1, 1))


def test_native_takes_the_scan_and_its_mask_down_first(filled):
    native = to_native(filled)
    assert filled.spatial_shape[0] == 80
    assert native.spatial_shape[0] in (40, 42)
    mask = np.zeros(filled.spatial_shape, bool)
    mask[20:60, 10:40, 1:3] = True
    halved = regridded_mask(mask, native.spatial_shape)
    result = dsr.super_resolve(filled, checkpoint_of(), 2, **options(native=True, mask=mask))
    expected = dsr.super_resolve(native, checkpoint_of(), 2, **options(mask=halved, axis="k"))
    assert result.spatial_shape == (2 * native.spatial_shape[0], 96, 4)
    np.testing.assert_array_equal(result.signal, expected.signal)
    corners = [grid.ras_corners(dwi.affine, dwi.spatial_shape) for dwi in (result, filled)]
    np.testing.assert_allclose(*corners, rtol=0, atol=1e-9)


def test_native_leaves_a_full_scan_alone(small_dwi):
    results = [dsr.super_resolve(small_dwi, checkpoint_of(), 2, **options(native=n)).signal for n in (False, True)]
    np.testing.assert_array_equal(*results)


def test_native_keeps_the_slice_axis_that_larger_voxels_would_hide():
    scan = dsr.phantom((80, 48, 4), (2, 4, 5), supersampling=1, shells=((0, 1), (1000, 8)))
    low = dsr.degrade(scan, Scale.of(2.6, 1, 1))
    wide = replace(dsr.interpolate(low, Scale.between(low.spatial_shape, scan.spatial_shape)), acquisition_axis=None)
    native, chosen, _ = at_native(wide, InferenceOptions(native=True))
    assert grid.slice_axis(wide) == 2
    assert native.voxel_sizes[0] > native.voxel_sizes[2]
    assert (grid.slice_axis(native, chosen.axis), chosen.native) == (2, False)


def test_the_uncertainty_is_that_of_the_card(small_dwi):
    checkpoint = checkpoint_of()
    calibrated = replace(checkpoint, card=replace(checkpoint.card, uncertainty_factor=2.5))
    result, spread = engine.super_resolve_with_uncertainty(small_dwi, checkpoint, 2, **options())
    same, larger = engine.super_resolve_with_uncertainty(small_dwi, calibrated, 2, **options())
    np.testing.assert_array_equal(same.signal, result.signal)
    np.testing.assert_allclose(larger, 2.5 * spread, rtol=1e-5)
