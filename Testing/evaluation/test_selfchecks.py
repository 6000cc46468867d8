"""Self-checks: quiet on sound results, loud on each fault; noise and propagation against known truths."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d, rotate

from DWISuperResLib.checkpoints import Card
from DWISuperResLib.evaluation.selfchecks import (
    checks_and_warnings,
    domain_range,
    domain_statistics,
    fa_deviation,
    native_checks,
    noise_level,
    self_checks,
)
from DWISuperResLib.microstructure import brain_mask, compute_maps
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade, rician
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate

GRIDS = {"grid artefacts in signal", "grid artefacts in FA"}
SHAPE, VOXEL, SHELLS = (80, 96, 6), (2.0, 2.0, 5.0), ((0, 2), (1000, 20))


@pytest.fixture(scope="module")
def low():
    return degrade(phantom(SHAPE, VOXEL, shells=SHELLS, snr=25.0), 2)


@pytest.fixture(scope="module")
def high(low):
    return interpolate(low, 2)


@pytest.fixture(scope="module")
def card(low):
    other = degrade(phantom(SHAPE, VOXEL, shells=SHELLS, snr=20.0, seed=5), 2)
    ranges = domain_range([domain_statistics(low), domain_statistics(other)])
    return Card(
        "test",
        "sr_unet",
        {"scales": [2]},
        (2,),
        voxel_sizes={"in_plane": [3.0, 4.0], "slice": [4.0, 6.0]},
        bvals=(1000.0, 1000.0),
        snr=tuple(ranges.pop("snr")),
        statistics=ranges,
    )


def fired(checks):
    return {check.name.rsplit(" (", 1)[0] for check in checks if check.fired}


def test_a_sound_result_passes_every_check(low, high, card):
    checks = self_checks(low, high, card, uncertainty=np.full_like(high.signal, 1.0))
    assert fired(checks) == set()
    assert [check.name.split(" (")[0] for check in checks] == [
        "grid artefacts in signal",
        "grid artefacts in FA",
        "consistency with the input",
        "domain: in-plane voxel size",
        "domain: slice thickness",
        "domain: b-value",
        "domain: SNR",
        "domain: intensities",
        "domain: anatomy",
        "ensemble spread of the signal",
        "ensemble spread of FA",
    ]
    for check in checks:
        assert np.isfinite(list(map(float, (check.value, check.threshold)))).all()
        assert check.advice.endswith(".")
        assert set(asdict(check)) == {"name", "value", "threshold", "fired", "advice"}


@pytest.mark.parametrize("period", [2, 4, 8])
def test_grids_are_found_in_signal_and_fa(low, high, period):
    i, j = np.indices(high.spatial_shape[:2])
    wave = np.cos(2 * np.pi * i / period) * np.cos(2 * np.pi * j / period)
    gain = 1 + 0.08 * wave[:, :, None, None] * (np.arange(high.n_volumes) % 2)
    checks = self_checks(low, replace(high, signal=high.signal * gain.astype(np.float32)), None)
    assert fired(checks) >= GRIDS
    assert f"every {period} voxels" in checks[0].advice


@pytest.mark.parametrize(
    ("scale", "wave_axis"), [("1x1x3", 2), ("1x1x3", 0), ("2x2x2", 0), ("2x2x2", 1), ("2x2x2", 2), ("1.5", 0)]
)
def test_grids_are_found_along_every_axis_that_was_seen(scale, wave_axis):
    scan = phantom((40, 48, 16), (4.0, 4.0, 6.0), shells=SHELLS, snr=25.0)
    high = interpolate(scan, scale)
    assert not any(c.fired for c in self_checks(scan, high, None) if "grid" in c.name)
    # Stronger along x, so that it changes FA.
    wave = np.cos(np.pi * np.arange(high.spatial_shape[wave_axis]))
    wave = wave.reshape([-1 if a == wave_axis else 1 for a in range(4)])
    gain = (1 + 0.1 * wave * np.abs(high.bvecs[:, 0])).astype(np.float32)
    checks = self_checks(scan, replace(high, signal=high.signal * gain), None)
    # Where nothing was refined, the noise of neighbouring voxels hides it in FA.
    found = {"grid artefacts in signal"} if (scale, wave_axis) == ("1x1x3", 0) else GRIDS
    assert found <= fired(checks)
    assert "every 2 voxels" in checks[0].advice
    assert ("no multiple of the input's" in checks[0].advice) == (scale == "1.5")


@pytest.mark.parametrize("blurred_axis", [0, 1, 2])
def test_the_consistency_of_volumes_is_that_of_all_three_axes(blurred_axis):
    low = degrade(phantom((40, 48, 20), (4.0, 4.0, 5.0), shells=SHELLS, snr=25.0), "2x2x2")
    high = interpolate(low, "2x2x2")
    assert "consistency with the input" not in fired(self_checks(low, high, None))
    blurred = replace(high, signal=gaussian_filter1d(high.signal, 3.0, axis=blurred_axis))
    assert "consistency with the input" in fired(self_checks(low, blurred, None))


def test_a_matrix_that_is_no_multiple_is_checked_too():
    """39 voxels at x2 become 20, and back 39: the consistency is that of the very same grids."""
    scan = phantom((39, 47, 5), (4.0, 4.0, 6.0), shells=SHELLS, snr=25.0)
    low = degrade(scan, 2)
    high = interpolate(low, Scale.between(low.spatial_shape, scan.spatial_shape))
    check = next(c for c in self_checks(low, high, None) if c.name.startswith("consistency"))
    assert check.value < 0.1


def test_snr_is_that_of_the_noise_added(low):
    """One meaning everywhere: b0 of the foreground over the noise in one channel, as `degrade` adds it."""
    clean = phantom(SHAPE, VOXEL, shells=SHELLS, snr=None)
    for snr in (10.0, 30.0):
        assert domain_statistics(degrade(clean, 2, snr=snr))["snr"] == pytest.approx(snr, rel=0.15)


def test_consistency_is_measured_in_units_of_the_noise(low, high):
    noise = noise_level(low, brain_mask(low))
    shifted = replace(high, signal=high.signal + np.float32(3 * noise))
    check = next(c for c in self_checks(low, shifted, None) if c.name.startswith("consistency"))
    assert check.value == pytest.approx(3, rel=0.01)
    assert check.fired


def test_consistency_uses_the_degradation_of_the_card(low):
    area = degrade(phantom(SHAPE, VOXEL, shells=SHELLS, snr=25.0), 2, model="area")
    high = interpolate(area, 2, method="nearest")
    card = Card("test", "sr_unet", {"scales": [2]}, (2,), degradation={"model": "area"})
    check = next(c for c in self_checks(area, high, card) if c.name.startswith("consistency"))
    assert check.value == pytest.approx(0, abs=1e-4)


def test_consistency_takes_the_thickness_that_fits_of_those_trained_on():
    truth = phantom((40, 48, 24), (4.0, 4.0, 3.0), shells=SHELLS, snr=25.0)
    card = Card(
        "test", "sr_unet", {"scales": [[1, 2]]}, ((1, 1, 2),),
        degradation={"model": "profile", "fwhm": [0.8, 1.2], "gap": [0.0, 0.2]},
    )  # fmt: skip

    def consistency(low, high):
        return next(c for c in self_checks(low, high, card, axis=2) if c.name.startswith("consistency"))

    for thickness in (0.7, 1.15):
        low = degrade(truth, "1x1x2", model="profile", axis=2, fwhm=thickness * 6.0)
        check = consistency(low, truth)
        assert check.value < 0.1
        assert f"{thickness:.2f} of a voxel" in check.advice
        moved = replace(truth, signal=np.roll(truth.signal, 2, axis=2))
        assert consistency(low, moved).fired


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("domain: in-plane voxel size", lambda d: replace(d, affine=d.affine @ np.diag([0.25, 0.25, 1, 1]))),
        ("domain: slice thickness", lambda d: replace(d, affine=d.affine @ np.diag([1, 1, 4, 1]))),
        ("domain: b-value", lambda d: replace(d, bvals=d.bvals * 3)),
        ("domain: SNR", lambda d: replace(d, signal=rician(d.signal, 300.0, np.random.default_rng(0)))),
        ("domain: intensities", lambda d: replace(d, signal=(d.signal > 60) * np.maximum(2000 - d.signal, 0))),
        ("domain: anatomy", lambda d: replace(d, signal=d.signal * (np.arange(6) > 3)[None, None, :, None])),
    ],
)
def test_an_input_unlike_the_training_data_is_noticed(low, card, name, change):
    changed = change(low)
    checks = self_checks(changed, interpolate(changed, 2, axis=2), card, axis=2)
    assert name in fired(checks)


def test_checks_that_cannot_be_made_are_left_out(low):
    few = replace(low, signal=low.signal[..., :5], bvals=low.bvals[:5], bvecs=low.bvecs[:5])
    names = {c.name.split(" (")[0] for c in self_checks(few, interpolate(few, 2), None)}
    assert names == {"grid artefacts in signal", "consistency with the input"}


def test_a_head_too_small_for_grids_is_still_checked_otherwise(card):
    small = degrade(phantom((24, 24, 4), snr=25.0), 2)
    names = [check.name for check in self_checks(small, interpolate(small, 2), card)]
    assert not any("grid" in name for name in names)
    assert "consistency with the input (noise SD)" in names


def test_a_wild_ensemble_is_noticed(low, high):
    checks = self_checks(low, high, None, uncertainty=np.full_like(high.signal, 200.0))
    assert {"ensemble spread of the signal", "ensemble spread of FA"} <= fired(checks)


@pytest.mark.parametrize("sigma", [10.0, 30.0])
def test_noise_level_is_that_of_the_noise(sigma):
    clean = phantom((40, 48, 5), (4.0, 4.0, 5.0), shells=((0, 3), (1000, 30)), snr=None)
    noisy = replace(clean, signal=rician(clean.signal, sigma, np.random.default_rng(0)))
    mask = brain_mask(clean) & (compute_maps(clean, ("fa",))["fa"] < 0.3)
    assert noise_level(noisy, mask) == pytest.approx(sigma, rel=0.15)


def test_noise_level_on_repeated_measurements(shared_data):
    from DWISuperResLib.io import read_dwi

    scan = read_dwi(shared_data / "siemens_b15_dti20" / "siemens_b15_dti20.nii.gz")
    thin = replace(scan, signal=np.asfortranarray(scan.signal[:, :, 25:35]))
    mask = brain_mask(thin)
    difference = thin.signal[..., 1:21] - thin.signal[..., 22:42]
    measured = np.median(np.abs(difference[mask])) / 0.6745 / np.sqrt(2)
    assert noise_level(thin, mask) == pytest.approx(measured, rel=0.1)


def test_fa_deviation_equals_monte_carlo():
    scan = phantom((12, 14, 2), (10.0, 10.0, 20.0), shells=SHELLS, snr=None)
    inside = compute_maps(scan, ("fa",), mask=brain_mask(scan))["fa"] > 0.3
    signal = scan.signal[inside]
    deviation = np.full_like(signal, 4.0)
    rng = np.random.default_rng(0)
    draws = [
        compute_maps(
            replace(scan, signal=(signal + 4 * rng.standard_normal(signal.shape)).astype(np.float32)[:, None, None]),
            ("fa",),
        )["fa"][:, 0, 0]
        for _ in range(200)
    ]
    found = fa_deviation(signal, deviation, scan.bvals, scan.bvecs)
    np.testing.assert_allclose(found, np.std(draws, axis=0), rtol=0.3)
    assert np.median(found / np.std(draws, axis=0)) == pytest.approx(1, abs=0.05)


def test_domain_range_spans_its_scans():
    assert domain_range([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": [1.0, 3.0], "b": [2.0, 2.0]}


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_an_empty_result_is_judged_inconsistent_not_refused(low, high, card, value):
    empty = replace(high, signal=np.full_like(high.signal, value))
    assert "consistency with the input" in fired(self_checks(low, empty, card))


@pytest.mark.parametrize("exponent", [-8, -2, 5, 8])
def test_checks_do_not_depend_on_the_unit_of_the_intensities(low, high, card, exponent):
    factor = np.float32(10.0**exponent)
    deviation = np.full_like(high.signal, 1.0)
    expected = self_checks(low, high, card, uncertainty=deviation)
    scaled = (replace(scan, signal=scan.signal * factor) for scan in (low, high))
    for found, wanted in zip(self_checks(*scaled, card, uncertainty=deviation * factor), expected, strict=True):
        assert (found.name, found.fired) == (wanted.name, wanted.fired)
        assert found.value == pytest.approx(wanted.value, rel=1e-3, abs=1e-4), found.name


def test_an_interpolated_input_is_told_with_what_it_holds(low, high):
    assert fired(native_checks(low)) == set()
    (share, rotation), warnings = native_checks(high), checks_and_warnings(high, high, None)[1]
    assert (share.fired, rotation.fired) == (True, False)
    assert share.value == pytest.approx(0.5, abs=0.03)
    assert share.advice.startswith("This scan of 80 x 96 x 6 holds 4")
    assert share.advice.endswith("it was interpolated along i and j; --native takes it down first.")
    assert share.warning in warnings


def test_a_rotated_input_is_told(low):
    edged = interpolate(low, Scale.between(low.spatial_shape, (43, 51, 6)))  # k-space ends at 0.93, as filters have it
    share, rotation = native_checks(replace(edged, signal=rotate(edged.signal, 10, axes=(0, 1), reshape=False)))
    assert (share.fired, rotation.fired) == (False, True)
    assert "at an angle" in rotation.advice
