"""Iterative upsamplers against closed forms, their own objective, and images that they should bring back."""

from dataclasses import replace

import numpy as np
import pytest

from DWISuperResLib.errors import Cancelled
from DWISuperResLib.resampling.iterative import degrading, low_rank_tv, lrtv_objective, non_local_upsampling
from DWISuperResLib.resampling.operators import apply_operators, operator
from DWISuperResLib.resampling.upsamplers import UPSAMPLERS, interpolate, quick_upsamplers

FINE = (32, 36, 20)
COARSE = {"twice": (16, 18, 10), "in-plane": (16, 18, 20), "through-plane": (32, 36, 5), "fractional": (13, 14, 20)}


@pytest.fixture(scope="module")
def plain():
    """Piecewise constant, from 0 to 1."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in FINE), indexing="ij")
    image = 0.2 * (x**2 + y**2 + z**2 < 0.8) + 0.3 * ((x - 0.3) ** 2 + (y - 0.5) ** 2 < 0.05)
    image += 0.5 * ((np.abs(x) < 0.4) & (np.abs(y + 0.2) < 0.3) & (np.abs(z) < 0.5))
    return (image / image.max()).astype(np.float32)


def lowered(image, shape, model="kspace"):
    return apply_operators(image, degrading(shape, image.shape, model))


def scaled(volume):
    return (volume - volume.min()) / np.ptp(volume)


def rms(values):
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


@pytest.mark.parametrize("shape", COARSE.values(), ids=COARSE)
def test_the_objective_of_lrtv_never_rises(plain, shape):
    noisy = plain + np.random.default_rng(0).normal(0, 0.02, plain.shape).astype(np.float32)
    for image in (plain, noisy):
        coarse, estimates = lowered(image, shape), []
        low_rank_tv(coarse, FINE, watch=estimates.append)
        values = [lrtv_objective(estimate, scaled(coarse)) for estimate in estimates]
        assert len(values) > 20
        assert (np.diff(values) < 1e-7 * values[0]).all()  # float32 has seven digits
        assert values[-1] < 0.95 * values[0]


def test_lrtv_of_a_rank_one_image_is_shrunk_as_its_closed_form():
    # All three unfoldings of u v^T have its one singular value s; |x - t|^2 + w s_x is least at s - w / 2.
    u, v, weight = np.linspace(0, 1, 12), np.linspace(1, 0, 9), 0.5
    image = np.outer(u, v)[..., None].astype(np.float32)
    size = np.linalg.norm(image)
    found = low_rank_tv(image, image.shape, low_rank=weight, total_variation=0, tolerance=1e-7, iterations=1000)
    np.testing.assert_allclose(found, image * (1 - weight / 2 / size), atol=1e-4)


def test_lrtv_of_a_step_moves_its_levels_as_their_closed_form():
    # |x - t|^2 + w TV(x): a level of n samples beside one jump moves by w / (2 n) towards the other.
    weight, step = 0.2, np.repeat([0.0, 1.0], [4, 8]).astype(np.float32)[:, None, None]
    found = low_rank_tv(step, step.shape, low_rank=0, total_variation=weight, tolerance=1e-7, iterations=1000)
    np.testing.assert_allclose(found.ravel(), np.repeat([weight / 8, 1 - weight / 16], [4, 8]), atol=1e-4)


@pytest.mark.parametrize("model", ["kspace", "area", "gaussian", "profile"])
@pytest.mark.parametrize("shape", COARSE.values(), ids=COARSE)
def test_lrtv_of_next_to_no_weight_degrades_to_the_data(plain, shape, model):
    coarse = lowered(plain, shape, model)
    found = low_rank_tv(coarse, FINE, model=model, low_rank=1e-8, total_variation=1e-8)
    assert rms(lowered(found, shape, model) - coarse) < 1e-6


@pytest.mark.parametrize("shape", COARSE.values(), ids=COARSE)
def test_non_local_upsampling_keeps_the_means_after_every_step(plain, shape):
    coarse = lowered(plain, shape)
    seen = []
    non_local_upsampling(coarse, FINE, watch=seen.append)
    assert len(seen) > 5
    for estimate in seen:
        assert np.abs(lowered(estimate, shape, "area") - scaled(coarse)).max() < 1e-6


@pytest.mark.parametrize(("method", "model", "margin"), [("lrtv", "kspace", 0.5), ("nmu", "area", 0.2)])
def test_a_piecewise_constant_image_comes_back_better_than_from_any_interpolation(plain, method, model, margin):
    coarse = lowered(plain, COARSE["twice"], model)
    solve = {"lrtv": low_rank_tv, "nmu": non_local_upsampling}[method]
    error = rms(solve(coarse, FINE) - plain)
    for kernel in quick_upsamplers():
        operators = {axis: operator(n, 2 * n, kernel) for axis, n in enumerate(coarse.shape)}
        assert error < (1 - margin) * rms(apply_operators(coarse, operators) - plain)


@pytest.mark.parametrize("method", ["lrtv", "nmu"])
def test_volumes_are_solved_one_by_one_in_any_unit(small_dwi, method):
    together = interpolate(small_dwi, 2, method=method)
    assert together.spatial_shape == (24, 20, 4)
    for n in (0, 7):
        alone = replace(
            small_dwi,
            signal=3 * small_dwi.signal[..., n : n + 1] - 40,
            bvals=small_dwi.bvals[n : n + 1],
            bvecs=small_dwi.bvecs[n : n + 1],
        )
        found = interpolate(alone, 2, method=method).signal[..., 0]
        np.testing.assert_allclose(found, 3 * together.signal[..., n] - 40, atol=2e-3 * np.ptp(alone.signal))
    np.testing.assert_array_equal(together.signal, interpolate(small_dwi, 2, method=method).signal)


@pytest.mark.parametrize("method", ["lrtv", "nmu"])
def test_iterations_report_and_can_be_cancelled(small_dwi, method):
    seen = []
    interpolate(small_dwi, 2, method=method, progress=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert len(seen) > 3 * small_dwi.n_volumes
    asked = []
    with pytest.raises(Cancelled):
        interpolate(small_dwi, 2, method=method, cancel=lambda: asked.append(1) or len(asked) > 3)
    assert len(asked) == 4


def test_an_empty_volume_stays_empty_and_a_scale_of_one_changes_nothing(small_dwi):
    for method in ("lrtv", "nmu"):
        empty = replace(small_dwi, signal=np.full_like(small_dwi.signal[..., :1], 7.0), bvals=[0], bvecs=[[0, 0, 0]])
        np.testing.assert_allclose(interpolate(empty, 2, method=method).signal, 7.0, rtol=1e-5)
        assert interpolate(small_dwi, 1, method=method) is small_dwi


def test_what_iterates_is_left_to_be_named():
    assert set(UPSAMPLERS) - set(quick_upsamplers()) == {"lrtv", "nmu"}
