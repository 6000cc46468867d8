"""Uncertainty beside errors of a known law; the reference's noise beside what a truncation is known to leave of it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from DWISuperResLib.dwi import DWI
from DWISuperResLib.evaluation.plots import reliability_figure
from DWISuperResLib.evaluation.reliability import MULTIPLES, NORMAL, measure_reliability
from DWISuperResLib.evaluation.selfchecks import noise_level
from DWISuperResLib.inference.predict import super_resolve_with_uncertainty
from DWISuperResLib.io import read_dwi
from DWISuperResLib.microstructure import brain_mask
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.upsamplers import interpolate

SHAPE = (32, 36, 8)
BRAIN = np.ones(SHAPE, bool)


def scan(signal):
    count = signal.shape[3]
    bvecs = np.eye(3)[np.arange(count) % 3]
    return DWI(signal, np.diag([2.0, 2, 4, 1]), np.full(count, 1000.0), bvecs, 2)


@pytest.mark.parametrize(("factor", "noise"), [(0.5, 0.0), (1.0, 8.0), (4.0, 8.0)])
def test_the_factor_of_known_errors_is_found_and_makes_them_normal(factor, noise):
    rng = np.random.default_rng(1)
    said = rng.lognormal(1.5, 0.6, (*SHAPE, 6)).astype(np.float32)
    reference = scan(np.full(said.shape, 500.0))
    left = noise * np.sqrt(1 - 1 / 4)  # of the noise of a scan that is lowered by 2 x 2
    errors = factor * said * rng.normal(size=said.shape) + left * rng.normal(size=said.shape)
    result = replace(reference, signal=reference.signal + errors)
    found = measure_reliability(reference, result, said, BRAIN, noise, (16, 18, 8))
    assert found.factor == pytest.approx(factor, rel=0.05)
    assert found.noise == pytest.approx(left)
    np.testing.assert_allclose(found.calibrated, norm.cdf(MULTIPLES) - norm.cdf(-np.array(MULTIPLES)), atol=0.01)
    assert (factor > 1) == (found.coverage[1] < 0.66)
    assert list(found.uncertainty) == sorted(found.uncertainty)
    assert found.error[-1] == pytest.approx(np.hypot(factor * found.uncertainty[-1], left), rel=0.05)


def test_the_table_of_the_normal_distribution():
    np.testing.assert_allclose(NORMAL, norm.cdf(MULTIPLES) - norm.cdf(-np.array(MULTIPLES)), atol=6e-4)


def test_noise_that_a_truncation_takes_is_no_error_of_the_network():
    rng = np.random.default_rng(2)
    reference = scan(1000 + 7 * rng.normal(size=(*SHAPE, 6)))
    low = degrade(reference, 2)
    restored = interpolate(low, 2, method="sinc")
    said = rng.uniform(1, 2, restored.signal.shape).astype(np.float32)
    found = measure_reliability(reference, restored, said, BRAIN, 7.0, low.spatial_shape)
    assert np.sqrt(np.mean(np.square(found.error))) == pytest.approx(found.noise, rel=0.02)
    assert found.factor < 0.7


def test_without_uncertainty_there_is_nothing_to_compare():
    reference = scan(np.full((*SHAPE, 6), 500.0))
    assert measure_reliability(reference, reference, np.zeros((*SHAPE, 6), np.float32), BRAIN, 1.0, SHAPE) is None


def test_the_figure_draws_what_was_found():
    rng = np.random.default_rng(3)
    reference = scan(np.full((*SHAPE, 6), 500.0))
    said = rng.uniform(1, 2, (*SHAPE, 6)).astype(np.float32)
    result = replace(reference, signal=reference.signal + 2.5 * said * rng.normal(size=said.shape))
    found = measure_reliability(reference, result, said, BRAIN, 1.0, (16, 18, 8))
    svg = reliability_figure(found)
    assert svg.count(f"{found.factor:.2f} times that") == 2
    assert "normal distribution" in svg


def test_a_network_that_never_saw_the_scanner_errs_as_its_calibrated_uncertainty_says(shared_data):
    """The scan's volumes repeat: half of their difference is its noise, whatever the tensor leaves unexplained."""
    dwi = read_dwi(shared_data / "siemens_b15_dti20/siemens_b15_dti20.nii.gz")
    brain = brain_mask(dwi)
    noise = noise_level(dwi, brain)
    repeats = (dwi.signal[..., 1:21] - dwi.signal[..., 22:42])[brain]
    assert noise == pytest.approx(float(repeats.std()) / np.sqrt(2), rel=0.03)
    middle, volumes = slice(29, 33), slice(0, 8)
    signal = np.asfortranarray(dwi.signal[:, :, middle, volumes])
    part = replace(dwi, signal=signal, bvals=dwi.bvals[volumes], bvecs=dwi.bvecs[volumes], acquisition_axis=2)
    low = degrade(part, 2, axis=2)
    result, spread = super_resolve_with_uncertainty(low, "without_b15", 2, axis=2, device="cpu", precision="fp32")
    found = measure_reliability(part, result, spread, brain[:, :, middle], noise, low.spatial_shape)
    np.testing.assert_allclose(found.calibrated, NORMAL, atol=0.03)
    assert np.mean(found.error[-5:]) > 1.05 * np.mean(found.error[:5])  # larger where the uncertainty is
