"""Grid arithmetic, degradation and interpolation against closed forms, SciPy, PyTorch and nibabel."""

import subprocess
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy import ndimage
from scipy.signal import freqz, remez

from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.resampling import grid
from DWISuperResLib.resampling.degradation import DEGRADATIONS, degrade, fitting_width
from DWISuperResLib.resampling.operators import SLICE_EDGE, gaussian, operator, slice_profile
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate, quick_upsamplers
from Testing.conftest import oblique_affine, oracle

FACTORS = st.fractions(1, 5, max_denominator=8)
angles = st.tuples(*[st.floats(-3, 3)] * 3)
sizes = st.tuples(*[st.floats(0.5, 6)] * 3)
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)
shapes = st.tuples(*[st.integers(1, 30)] * 3)


@given(angles, sizes, flips, shapes, st.tuples(FACTORS, FACTORS, FACTORS))
def test_field_of_view_stays_to_a_nanometre(turn, voxels, mirror, shape, factors):
    affine, scale = oblique_affine(voxels, turn, mirror), Scale(factors)
    for change, new_shape in ((scale.refine, scale.fine_shape(shape)), (scale.coarsen, scale.coarse_shape(shape))):
        bounds = grid.ras_bounds(change(affine, shape), new_shape)
        np.testing.assert_allclose(bounds, grid.ras_bounds(affine, shape), atol=1e-9)
    fine = scale.fine_shape(shape)
    back = Scale.between(shape, fine)
    assert back.coarse_shape(fine) == shape
    np.testing.assert_allclose(back.coarsen(scale.refine(affine, shape), fine), affine, atol=1e-9)


@given(angles, st.integers(1, 5), st.integers(0, 2))
def test_a_coarse_voxel_is_centred_on_the_fine_voxels_it_covers(turn, factor, axis):
    affine, shape = oblique_affine((2, 3, 4), turn), (7, 5, 6)
    scale = Scale.in_plane(factor, axis)
    covered = np.stack(np.meshgrid(*(np.arange(int(f)) for f in scale.factors), indexing="ij"), -1).reshape(-1, 3)
    fine = scale.refine(affine, shape)
    np.testing.assert_allclose(apply_affine(fine, covered).mean(0), apply_affine(affine, (0, 0, 0)), atol=1e-9)


@pytest.mark.parametrize("kernel", quick_upsamplers())
@pytest.mark.parametrize("model", DEGRADATIONS)
@pytest.mark.parametrize(
    "lengths", [(240, 120), (360, 120), (480, 120), (600, 120), (300, 120), (241, 120), (363, 150)]
)
def test_a_ramp_survives_down_and_up_without_shift(model, kernel, lengths):
    n, coarse = lengths
    # Up and down again, so that the periodic methods see no jump; measured away from the turning points.
    ramp = np.minimum(np.arange(n), n - 1 - np.arange(n)).astype(float)
    result = operator(coarse, n, kernel) @ DEGRADATIONS[model].matrix(n, coarse, None) @ ramp
    for inside in (slice(n // 8, 3 * n // 8), slice(5 * n // 8, 7 * n // 8)):
        shift = result[inside] - ramp[inside]
        if kernel == "nearest":  # steps: right on average over the cells
            shift = shift.mean()
        # Lanczos weights reproduce a constant exactly but a slope only to about 1 % of a coarse voxel.
        # Cells that are no multiple of each other leave a ripple of another hundredth or two.
        allowed = {"lanczos": 0.04 * n / coarse, "nearest": 0.13 * n / coarse}.get(kernel, 0.06 if n % coarse else 0.04)
        assert np.abs(shift).max() < allowed


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 2**31))
def test_degrade_then_sinc_is_the_identity_on_band_limited_images(n, more, seed):
    coarse, m = np.random.default_rng(seed).normal(size=n), n + more
    for kernel in ("sinc", "mirrored_sinc"):
        fine = operator(n, m, kernel) @ coarse
        np.testing.assert_allclose(operator(n, m, kernel) @ (operator(m, n, kernel) @ fine), fine, atol=1e-8)


@given(st.integers(0, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_kspace_truncation_is_a_crop_of_the_fft_with_a_half_voxel_phase(half, scale, seed):
    n = 2 * half + 1  # an even grid's Nyquist sample is a convention; the identity above fixes ours
    fine = np.random.default_rng(seed).normal(size=n * scale)
    k = np.fft.fftfreq(n, 1 / n)
    kept = np.fft.fft(fine)[k.astype(int)] * np.exp(1j * np.pi * k * (scale - 1) / (n * scale)) / scale
    np.testing.assert_allclose(operator(n * scale, n, "sinc") @ fine, np.fft.ifft(kept).real, atol=1e-9)


@given(st.integers(24, 60), st.integers(1, 5), st.integers(0, 2**31))
@settings(deadline=None)
def test_bspline_and_linear_match_scipy(n, scale, seed):  # SciPy truncates its prefilter on shorter rows
    samples = np.random.default_rng(seed).normal(size=n)
    positions = (np.arange(n * scale) + 0.5) / scale - 0.5
    for method, order, tolerance in (("bspline", 3, 1e-9), ("linear", 1, 1e-12)):
        expected = ndimage.map_coordinates(samples, [positions], order=order, mode="reflect")
        np.testing.assert_allclose(operator(n, n * scale, method) @ samples, expected, atol=tolerance)


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_the_papers_decimation_matches_torch_bicubic(scale):
    image = torch.rand(1, 1, 12 * scale, 7 * scale, dtype=torch.float64, generator=torch.manual_seed(0))
    expected = torch.nn.functional.interpolate(image, (12, 7), mode="bicubic", align_corners=False, antialias=False)
    rows, columns = (torch.tensor(operator(n * scale, n, "opencv_cubic")) for n in (12, 7))
    torch.testing.assert_close(rows @ image @ columns.T, expected, atol=1e-9, rtol=0)


def test_area_is_the_block_mean():
    image = np.random.default_rng(1).normal(size=12)
    np.testing.assert_allclose(operator(12, 4, "area") @ image, image.reshape(4, 3).mean(1))


def test_gaussian_has_the_asked_width():
    fwhm, n = 4.0, 60
    weights = gaussian(n, n // 3, fwhm)[10]
    centre = weights @ np.arange(n)
    assert centre == pytest.approx(10 * 3 + 1)
    assert np.sqrt(weights @ (np.arange(n) - centre) ** 2) == pytest.approx(fwhm / 2.3548, rel=1e-3)


def half_maximum_width(values):
    """By linear interpolation between samples, of a single peak."""
    above = np.flatnonzero(values >= values.max() / 2)
    first, last = above[0], above[-1]
    left = first - (values[first] - values.max() / 2) / (values[first] - values[first - 1])
    return last + (values[last] - values.max() / 2) / (values[last] - values[last + 1]) - left


@pytest.mark.parametrize("edge", [0.0, 0.2, SLICE_EDGE])
@pytest.mark.parametrize("fwhm", [14.0, 20.0, 25.5])
def test_a_slice_profile_has_the_asked_width(fwhm, edge):
    # Row 5 weights points by where they lie in the slice: the profile, a sample a twentieth of the slices' distance.
    row = slice_profile(200, 10, fwhm, edge)[5]
    assert half_maximum_width(row) == pytest.approx(fwhm, abs=0.6 if edge == 0 else 0.05)
    assert row @ np.arange(200) == pytest.approx(5.5 * 20 - 0.5)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_box_profile_without_a_gap_is_the_mean_over_the_slice(n, more):
    np.testing.assert_allclose(
        slice_profile(n + more, n, (n + more) / n, 0.0), operator(n + more, n, "area"), atol=1e-9
    )


@given(st.integers(2, 40), st.integers(1, 40), st.floats(0, 0.9), st.integers(0, 2**31))
def test_thick_slices_keep_a_constant_and_without_gaps_the_mean(coarse, more, gap, seed):
    n = coarse + more
    matrix = slice_profile(n, coarse, n / coarse * (1 - gap))
    np.testing.assert_allclose(matrix @ np.ones(n), 1, atol=1e-9)
    assert matrix.min() > -1e-12
    image = np.random.default_rng(seed).normal(size=n)
    assert (slice_profile(n, coarse, n / coarse) @ image).mean() == pytest.approx(image.mean(), abs=1e-9)


@given(st.integers(2, 30), st.integers(1, 30), st.floats(0.3, 2.0), st.integers(0, 2**31))
def test_slices_see_a_mirror_at_the_border(coarse, more, width, seed):
    n, image = coarse + more, np.random.default_rng(seed).normal(size=coarse + more)
    fwhm = width * n / coarse
    mirrored = slice_profile(3 * n, 3 * coarse, fwhm) @ np.concatenate((image[::-1], image, image[::-1]))
    np.testing.assert_allclose(slice_profile(n, coarse, fwhm) @ image, mirrored[coarse : 2 * coarse], atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(width=st.floats(0.64, 1.2), factor=st.integers(2, 4), axis=st.integers(0, 2))
def test_the_thickness_of_slices_is_found(width, factor, axis):
    """Of slices that `degrade` made of an image that holds all frequencies, along any axis."""
    shape = [5, 4, 6]
    shape[axis] = 12 * factor
    fine = DWI(np.random.default_rng(0).random((*shape, 2)), np.eye(4), [0, 0], np.zeros((2, 3)), axis)
    scale = [factor if a == axis else 1 for a in range(3)]
    low = degrade(fine, scale, model="profile", axis=axis, fwhm=width * factor)
    drawn = {"model": "profile", "fwhm": [0.8, 1.2], "gap": [0.0, 0.2]}
    assert fitting_width(low.signal, fine.signal, drawn, axis) == pytest.approx(width, abs=0.01)
    # Not beyond what was drawn: gaps narrow slices, so that 0.9 is the widest here.
    narrow = drawn | {"fwhm": [0.8, 1.0], "gap": [0.1, 0.2]}
    assert fitting_width(low.signal, fine.signal, narrow, axis) == pytest.approx(min(width, 0.9), abs=0.01)


def test_a_blur_of_known_width_is_found_and_what_has_none_is_left_alone():
    fine = DWI(np.random.default_rng(0).random((16, 12, 3, 2)), np.eye(4), [0, 0], np.zeros((2, 3)), 2)
    low = degrade(fine, 2, model="gaussian", fwhm=0.9 * 2)
    drawn = {"model": "gaussian", "fwhm": [0.6, 1.4], "gap": [0.1, 0.2]}
    assert fitting_width(low.signal, fine.signal, drawn, 2) == pytest.approx(0.9, abs=0.01)
    assert fitting_width(low.signal, fine.signal, drawn | {"fwhm": [1.1, 1.1]}, 2) == 1.1
    for other in ({}, {"model": "kspace", "fwhm": [0.8, 1.2]}, {"model": "gaussian"}):
        assert fitting_width(low.signal, fine.signal, other, 2) is None
    for strange in ("wide", [1], [2, 1], [0, 1], ["a", "b"]):
        assert fitting_width(low.signal, fine.signal, {"model": "profile", "fwhm": strange}, 2) is None


def test_the_profiles_edge_is_that_of_an_optimal_linear_phase_pulse():
    """At small flip angles the profile is the pulse's spectrum: Parks and McClellan's, of bandwidth 4 / duration."""
    samples, product = 512, 4.0
    band, width = product / samples, SLICE_EDGE * product / samples
    pulse = remez(samples, [0, (band - width) / 2, (band + width) / 2, 0.5], [1, 0])
    frequencies, spectrum = freqz(pulse, worN=np.linspace(0, 2 * band, 400), fs=1)
    assert np.abs(np.abs(spectrum)[frequencies < (band - width) / 2] - 1).max() < 0.015
    assert np.abs(spectrum)[frequencies > (band + width) / 2].max() < 0.015
    ours = slice_profile(4000, 10, 200.0)[5, 2200:][:400] * 200  # half of it, 100 samples a half width
    theirs = np.interp(np.arange(400) + 0.5, frequencies / band * 200, np.abs(spectrum))
    assert np.abs(ours - theirs).max() < 0.07  # a box differs by 0.5


def test_thickness_and_gap_make_the_distance_of_slices(small_dwi):
    tall = replace(small_dwi, signal=np.repeat(small_dwi.signal, 3, axis=2))  # 12 slices of 2.5 mm
    one, other, both = (
        degrade(tall, "1x1x3", model="profile", **given).signal
        for given in ({"fwhm": 6}, {"gap": 1.5}, {"fwhm": 6, "gap": 1.5})
    )
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, both)
    assert not np.allclose(one, degrade(tall, "1x1x3", model="profile").signal)
    in_plane = degrade(tall, "2x2x3", model="profile").signal
    np.testing.assert_allclose(
        in_plane, degrade(degrade(tall, 2), "1x1x3", model="profile", axis="k").signal, rtol=1e-4
    )
    np.testing.assert_array_equal(degrade(tall, 2, model="profile").signal, degrade(tall, 2).signal)


@pytest.mark.parametrize("shape", [(12, 10, 4), (13, 11, 4), (5, 7, 3)])
@pytest.mark.parametrize("scale", [1, 2, "2.5", "1x1x3", "2x2.5x2", 5])
@pytest.mark.parametrize("axis", ["i", "k"])
def test_any_size_goes_down_and_up_to_where_it_was(small_dwi, shape, axis, scale):
    signal = np.resize(small_dwi.signal, (*shape, small_dwi.n_volumes))
    dwi = replace(small_dwi, signal=signal)
    low = degrade(dwi, scale, model="area", axis=axis)
    back = Scale.between(low.spatial_shape, shape)
    up = interpolate(low, back, method="nearest")
    grid.check_same_grid(dwi, up)
    for a, factor in enumerate(Scale.parse(scale, dwi, axis).factors):
        assert low.spatial_shape[a] == max(1, int(np.floor(shape[a] / factor + 0.5)))
    np.testing.assert_allclose(low.signal.mean((0, 1, 2)), dwi.signal.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(low.bvecs, dwi.bvecs)


def test_a_voxel_size_is_that_of_the_grid_asked_for(small_dwi):
    low = degrade(small_dwi, "4x4x5mm")
    assert low.spatial_shape == (6, 5, 2)
    np.testing.assert_allclose(low.voxel_sizes, (4, 4, 5))
    grid.check_same_grid(interpolate(low, "2x2x2.5mm"), small_dwi)
    with pytest.raises(InputError, match="no coarser than the scan's"):
        degrade(small_dwi, "2mm")


def test_an_odd_matrix_comes_back_by_the_voxel_size_that_the_refusal_names(small_dwi):
    odd = replace(small_dwi, signal=np.asfortranarray(small_dwi.signal[:11, :9]))
    low = degrade(odd, 2)
    with pytest.raises(InputError, match=r"scale 2x2x2\.5mm") as refusal:
        grid.check_same_grid(odd, interpolate(low, 2, axis="k"))
    scale = str(refusal.value).split("scale ")[-1].rstrip(".")
    grid.check_same_grid(odd, interpolate(low, scale))


@pytest.mark.parametrize(
    ("scale", "factors"),
    [
        (2, (2, 2, 1)),
        ("2.5", (2.5, 2.5, 1)),
        ("1x1x3", (1, 1, 3)),
        ("2x2.5x2", (2, 2.5, 2)),
        ((1, 2, 3), (1, 2, 3)),
        ("1.25mm", (1.6, 1.6, 2)),
        ("1x2x2.5mm", (2, 1, 1)),
    ],
)
def test_scales_as_users_write_them(small_dwi, scale, factors):
    assert [float(f) for f in Scale.parse(scale, small_dwi).factors] == pytest.approx(factors)


@pytest.mark.parametrize(
    "scale", [0, 0.5, 6, "6", "2x2", "x", "", "nan", "-2", "1e9", True, None, "1x1x1x1", "0mm", "3mm"]
)
def test_what_is_no_scale_is_refused_in_words(small_dwi, scale):
    with pytest.raises(InputError, match="scale"):
        Scale.parse(scale, small_dwi)


@pytest.mark.parametrize(
    ("scale", "option"),
    [("2x2x1", "2,2,1"), ("2.5x2.5x1", "2.5,2.5,1"), ("1x1x3", "1,1,3"), ("2x2.5x2", "2,2.5,2"), ("1.25mm", "1.25")],
)
def test_field_of_view_and_a_ramp_are_those_of_mrtrix(small_dwi, tmp_path, scale, option):
    oracle("mrtrix3")
    shape = (13, 10, 7)
    x, y, z = np.meshgrid(*map(np.arange, shape), indexing="ij")
    position = apply_affine(small_dwi.affine, np.stack((x, y, z), -1))
    ramp = (position @ (1.0, 2.0, -1.5) + 1000).astype(np.float32)
    nib.save(nib.Nifti1Image(ramp, small_dwi.affine), tmp_path / "ramp.nii")
    flag = "-voxel" if scale.endswith("mm") else "-scale"
    files = [str(tmp_path / name) for name in ("ramp.nii", "fine.nii")]
    subprocess.run(["mrgrid", "-quiet", files[0], "regrid", flag, option, "-interp", "linear", files[1]], check=True)
    theirs = nib.load(files[1])
    dwi = replace(small_dwi, signal=np.repeat(ramp[..., None], 10, axis=3))
    ours = interpolate(dwi, scale, method="linear")
    fine_voxel = np.linalg.norm(ours.affine[:3, :3], axis=0)
    bounds = [grid.ras_corners(a, s) for a, s in ((ours.affine, ours.spatial_shape), (theirs.affine, theirs.shape))]
    assert np.abs(np.subtract(*bounds)).max() <= fine_voxel.max() / 2 + 1e-3
    # Away from the border, both show the ramp's own value at each of their voxels.
    for signal, affine in ((ours.signal[..., 0], ours.affine), (theirs.get_fdata(), theirs.affine)):
        inner = np.stack(np.meshgrid(*(np.arange(n // 4, 3 * n // 4) for n in signal.shape), indexing="ij"), -1)
        expected = apply_affine(affine, inner) @ (1.0, 2.0, -1.5) + 1000
        np.testing.assert_allclose(signal[tuple(np.moveaxis(inner, -1, 0))], expected, atol=2e-3)


def test_noise_is_rician_with_the_asked_snr_and_repeats(small_dwi):
    flat = replace(small_dwi, signal=np.full((64, 64, 8, 10), 300.0))
    noisy = degrade(flat, 2, snr=20, seed=3)
    sigma = 300 / 20
    assert noisy.signal.std() == pytest.approx(sigma, rel=0.02)
    assert (noisy.signal.astype(float) ** 2).mean() == pytest.approx(300**2 + 2 * sigma**2, rel=1e-3)
    np.testing.assert_array_equal(noisy.signal, degrade(flat, 2, snr=20, seed=3).signal)
    assert not np.array_equal(noisy.signal, degrade(flat, 2, snr=20, seed=4).signal)


def test_slice_axis_comes_from_spacing_then_acquisition_then_k(small_dwi):
    assert grid.slice_axis(small_dwi) == 2
    thick = replace(small_dwi, affine=oblique_affine((2, 5, 2)))
    assert grid.slice_axis(thick) == 1
    isotropic = replace(small_dwi, affine=oblique_affine((2, 2, 2)), acquisition_axis=0)
    assert grid.slice_axis(isotropic) == 0
    assert grid.slice_axis(replace(isotropic, acquisition_axis=None)) == 2
    assert grid.slice_axis(isotropic, "j") == 1
    nearly = replace(small_dwi, affine=oblique_affine((2, 2.1, 2)), acquisition_axis=0)
    assert grid.slice_axis(nearly) == 0
    assert grid.slice_axis(replace(nearly, acquisition_axis=None)) == 1
    assert grid.slice_axis_is_assumed(replace(isotropic, acquisition_axis=None))
    assert not grid.slice_axis_is_assumed(isotropic)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d: interpolate(d, 6), "factors 6, 6, 1; expected three, each from 1 to 5"),
        (lambda d: interpolate(d, "2y"), "scale is '2y'; expected an in-plane factor"),
        (lambda d: interpolate(d, 2, method="spline"), "expected one of nearest, linear"),
        (lambda d: degrade(d, 2, model="blur"), "expected one of kspace, gaussian"),
        (lambda d: degrade(d, 2, fwhm=3.0), "fwhm has no meaning for the degradation 'kspace'"),
        (lambda d: degrade(d, 2, model="gaussian", fwhm=0.0), "expected a positive width"),
        (lambda d: degrade(d, 2, gap=1.0), "gap has no meaning for the degradation 'kspace'"),
        (lambda d: degrade(d, 2, model="profile", gap=1.0), "leaves the slices as they are"),
        (lambda d: degrade(d, "1x1x2", model="profile", gap=5.0), "expected 0 to less than the distance"),
        (lambda d: degrade(d, "1x1x2", model="profile", fwhm=-1.0), "expected a positive slice thickness"),
        (lambda d: degrade(d, "1x1x2", model="profile", fwhm=(1, 1, 1)), "expected one number, the slice thickness"),
        (
            lambda d: degrade(d, "1x1x2", model="profile", fwhm=3, gap=0.5),
            "lie 3.5 mm apart, but the scale makes it 5 mm",
        ),
        (lambda d: degrade(d, 2, snr=-1), "SNR is -1; expected a positive number"),
        (lambda d: grid.slice_axis(d, "z"), "slice axis is 'z'; expected i, j or k"),
        (lambda d: grid.check_same_grid(d, interpolate(d, 2)), "same grid"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(small_dwi, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(small_dwi)


def test_interpolation_reports_and_can_be_cancelled(small_dwi):
    seen = []
    interpolate(small_dwi, 2, progress=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    with pytest.raises(Cancelled):
        interpolate(small_dwi, 2, cancel=lambda: True)


@given(st.permutations([0, 1, 2]), flips)
@settings(max_examples=20, deadline=None)
def test_a_frame_shows_a_scan_the_same_way_however_it_is_stored(order, mirror):
    signal = np.random.default_rng(0).normal(size=(5, 6, 4, 2)).astype(np.float32)
    affine = oblique_affine((2, 2, 3), (0.2, -0.3, 0.1))
    expected = grid.Frame.of(affine, 2).view(signal)
    index = tuple(slice(None, None, step) for step in mirror)
    image = nib.Nifti1Image(signal[index], affine @ _flip(mirror, signal.shape))
    turned = image.as_reoriented(np.stack((np.argsort(order), np.ones(3)), axis=1))
    frame = grid.Frame.of(turned.affine, order.index(2))
    np.testing.assert_array_equal(frame.view(np.asanyarray(turned.dataobj)), expected)


def _flip(mirror, shape):
    matrix = np.diag([*mirror, 1.0])
    matrix[:3, 3] = [0 if step > 0 else n - 1 for step, n in zip(mirror, shape, strict=False)]
    return matrix
