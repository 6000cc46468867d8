"""Grid arithmetic, degradation and interpolation against closed forms, SciPy, PyTorch and nibabel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from scipy import ndimage

from DWISuperResLib.errors import InputError
from DWISuperResLib.resampling import degradation, grid
from DWISuperResLib.resampling import upsamplers as interpolation
from Testing.conftest import oblique_affine

SCALES = st.integers(1, 5)
angles = st.tuples(*[st.floats(-3, 3)] * 3)
sizes = st.tuples(*[st.floats(0.5, 6)] * 3)
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)


@given(angles, sizes, flips, st.tuples(*[st.integers(1, 30)] * 3), SCALES, st.integers(0, 2))
def test_field_of_view_stays_to_a_nanometre(turn, voxels, mirror, shape, scale, axis):
    affine = oblique_affine(voxels, turn, mirror)
    factors = grid.in_plane_factors(scale, axis)
    fine = grid.refined_affine(affine, factors)
    fine_shape = np.multiply(shape, factors).astype(int)
    np.testing.assert_allclose(grid.ras_bounds(fine, fine_shape), grid.ras_bounds(affine, shape), atol=1e-9)
    back = grid.refined_affine(fine, 1 / np.asarray(factors))
    np.testing.assert_allclose(back, affine, atol=1e-9)


@given(angles, SCALES, st.integers(0, 2))
def test_a_coarse_voxel_is_centred_on_the_fine_voxels_it_covers(turn, scale, axis):
    affine = oblique_affine((2, 3, 4), turn)
    factors = grid.in_plane_factors(scale, axis)
    covered = np.stack(np.meshgrid(*(np.arange(int(f)) for f in factors), indexing="ij"), -1).reshape(-1, 3)
    fine = grid.refined_affine(affine, factors)
    np.testing.assert_allclose(apply_affine(fine, covered).mean(0), apply_affine(affine, (0, 0, 0)), atol=1e-9)


@pytest.mark.parametrize("method", interpolation.METHODS)
@pytest.mark.parametrize("model", degradation.MODELS)
@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_a_ramp_survives_down_and_up_without_shift(model, method, scale):
    n = 120 * scale
    # Up and down again, so that the periodic methods see no jump; measured away from the turning points.
    ramp = np.minimum(np.arange(n), n - 1 - np.arange(n)).astype(float)
    result = interpolation.operator(n // scale, scale, method) @ degradation.operator(n, scale, model) @ ramp
    for inside in (slice(n // 8, 3 * n // 8), slice(5 * n // 8, 7 * n // 8)):
        shift = result[inside] - ramp[inside]
        if method == "nearest":  # steps: right on average over each cell
            shift = shift[: len(shift) // scale * scale].reshape(-1, scale).mean(1)
        # Lanczos weights reproduce a constant exactly but a slope only to about 1 % of a coarse voxel.
        assert np.abs(shift).max() < 0.04 * (scale if method == "lanczos" else 1)


@given(st.integers(1, 40), SCALES, st.integers(0, 2**31))
def test_degrade_then_sinc_is_the_identity_on_band_limited_images(n, scale, seed):
    coarse = np.random.default_rng(seed).normal(size=n)
    fine = interpolation.operator(n, scale, "sinc") @ coarse
    np.testing.assert_allclose(
        interpolation.operator(n, scale, "sinc") @ (degradation.operator(n * scale, scale, "kspace") @ fine),
        fine,
        atol=1e-9,
    )


@given(st.integers(0, 12), SCALES, st.integers(0, 2**31))
def test_kspace_truncation_is_a_crop_of_the_fft_with_a_half_voxel_phase(half, scale, seed):
    n = 2 * half + 1  # an even grid's Nyquist sample is a convention; the identity above fixes ours
    fine = np.random.default_rng(seed).normal(size=n * scale)
    k = np.fft.fftfreq(n, 1 / n)
    kept = np.fft.fft(fine)[k.astype(int)] * np.exp(1j * np.pi * k * (scale - 1) / (n * scale)) / scale
    np.testing.assert_allclose(
        degradation.operator(n * scale, scale, "kspace") @ fine, np.fft.ifft(kept).real, atol=1e-9
    )


@given(st.integers(24, 60), SCALES, st.integers(0, 2**31))
@settings(deadline=None)
def test_bspline_and_linear_match_scipy(n, scale, seed):  # SciPy truncates its prefilter on shorter rows
    samples = np.random.default_rng(seed).normal(size=n)
    positions = (np.arange(n * scale) + 0.5) / scale - 0.5
    for method, order, tolerance in (("bspline", 3, 1e-9), ("linear", 1, 1e-12)):
        expected = ndimage.map_coordinates(samples, [positions], order=order, mode="reflect")
        np.testing.assert_allclose(interpolation.operator(n, scale, method) @ samples, expected, atol=tolerance)


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_the_papers_decimation_matches_torch_bicubic(scale):
    image = torch.rand(1, 1, 12 * scale, 7 * scale, dtype=torch.float64, generator=torch.manual_seed(0))
    expected = torch.nn.functional.interpolate(image, (12, 7), mode="bicubic", align_corners=False, antialias=False)
    rows, columns = (torch.tensor(degradation.operator(n * scale, scale, "paper")) for n in (12, 7))
    torch.testing.assert_close(rows @ image @ columns.T, expected, atol=1e-9, rtol=0)


def test_area_is_the_block_mean():
    image = np.random.default_rng(1).normal(size=12)
    np.testing.assert_allclose(degradation.operator(12, 3, "area") @ image, image.reshape(4, 3).mean(1))


def test_gaussian_has_the_asked_width():
    fwhm, n = 4.0, 60
    weights = degradation.operator(n, 3, "gaussian", fwhm)[10]
    centre = weights @ np.arange(n)
    assert centre == pytest.approx(10 * 3 + 1)
    assert np.sqrt(weights @ (np.arange(n) - centre) ** 2) == pytest.approx(fwhm / 2.3548, rel=1e-3)


@pytest.mark.parametrize("shape", [(12, 10, 4), (13, 11, 4), (5, 7, 3)])
@pytest.mark.parametrize("axis", ["i", "j", "k"])
@pytest.mark.parametrize("scale", [1, 2, 3, 5])
def test_any_size_goes_down_and_up_and_is_cropped_to_where_it_was(small_dwi, shape, axis, scale):
    signal = np.resize(small_dwi.signal, (*shape, small_dwi.n_volumes))
    dwi = replace(small_dwi, signal=signal)
    low = degradation.degrade(dwi, scale, model="area", axis=axis)
    up = interpolation.interpolate(low, scale, method="nearest", axis=axis)
    assert all(n >= m for n, m in zip(up.spatial_shape, shape, strict=True))
    cropped = replace(up, signal=grid.crop(up.signal, shape))
    grid.check_same_grid(dwi, cropped)
    assert low.signal.shape["ijk".index(axis)] == shape["ijk".index(axis)]
    np.testing.assert_allclose(low.bvecs, dwi.bvecs)


def test_noise_is_rician_with_the_asked_snr_and_repeats(small_dwi):
    flat = replace(small_dwi, signal=np.full((64, 64, 8, 10), 300.0))
    noisy = degradation.degrade(flat, 2, snr=20, seed=3)
    sigma = 300 / 20
    assert noisy.signal.std() == pytest.approx(sigma, rel=0.02)
    assert (noisy.signal.astype(float) ** 2).mean() == pytest.approx(300**2 + 2 * sigma**2, rel=1e-3)
    np.testing.assert_array_equal(noisy.signal, degradation.degrade(flat, 2, snr=20, seed=3).signal)
    assert not np.array_equal(noisy.signal, degradation.degrade(flat, 2, snr=20, seed=4).signal)


def test_slice_axis_comes_from_spacing_then_acquisition_then_k(small_dwi):
    assert grid.slice_axis(small_dwi) == 2
    thick = replace(small_dwi, affine=oblique_affine((2, 5, 2)))
    assert grid.slice_axis(thick) == 1
    isotropic = replace(small_dwi, affine=oblique_affine((2, 2, 2)), acquisition_axis=0)
    assert grid.slice_axis(isotropic) == 0
    assert grid.slice_axis(replace(isotropic, acquisition_axis=None)) == 2
    assert grid.slice_axis(isotropic, "j") == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda d: interpolation.interpolate(d, 6), "scale is 6; expected a whole in-plane factor"),
        (lambda d: interpolation.interpolate(d, 1.5), "scale is 1.5"),
        (lambda d: interpolation.interpolate(d, 2, method="spline"), "expected one of nearest, linear"),
        (lambda d: degradation.degrade(d, 2, model="blur"), "expected one of kspace, gaussian"),
        (lambda d: degradation.degrade(d, 2, fwhm=3.0), "fwhm belongs to the gaussian model"),
        (lambda d: degradation.degrade(d, 2, model="gaussian", fwhm=0.0), "expected a positive number"),
        (lambda d: degradation.degrade(d, 2, snr=-1), "SNR is -1; expected a positive number"),
        (lambda d: grid.slice_axis(d, "z"), "slice axis is 'z'; expected i, j or k"),
        (lambda d: grid.check_same_grid(d, interpolation.interpolate(d, 2)), "same grid"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(small_dwi, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(small_dwi)
