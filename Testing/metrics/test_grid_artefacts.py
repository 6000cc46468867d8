"""Grid-artefact index: injected grids are reported with their amplitude; noise, edges and anatomy are not grids."""

import numpy as np
import pytest

from DWISuperResLib.errors import InputError
from DWISuperResLib.metrics.grid_artefacts import PERIODS, grid_artefact_index

SHAPE = (102, 112)
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
DIRECTIONS = {"rows": (1, 0), "columns": (0, 1), "diagonal": (1, 1), "antidiagonal": (1, -1)}


def sinusoid(period, direction, phase=0.0):
    a, b = DIRECTIONS[direction]
    return np.cos(2 * np.pi * (a * ROWS + b * COLUMNS) / period + phase)


def noise(slices, seed=0):
    return np.random.default_rng(seed).normal(size=(slices, *SHAPE))


def head(slices=12):
    """Smooth ellipses with sharp rims and texture: structure without any grid."""
    rng = np.random.default_rng(1)
    images = np.zeros((slices, *SHAPE))
    for s in range(slices):
        for _ in range(25):
            centre, radii = rng.uniform(25, 80, 2), rng.uniform(3, 30, 2)
            images[s] += rng.normal() * ((((np.stack((ROWS, COLUMNS), -1) - centre) / radii) ** 2).sum(-1) < 1)
        images[s] *= ((ROWS - 51) / 45) ** 2 + ((COLUMNS - 56) / 48) ** 2 < 1
    return images


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("period", PERIODS)
def test_amplitude_of_a_sinusoidal_grid(period, direction):
    found = grid_artefact_index(0.3 * sinusoid(period, direction) + 1e-4 * noise(1)[0])
    rms = 0.3 * (1 if period == 2 else 0.5**0.5)
    assert found.amplitude[period] == pytest.approx(rms, rel=0.02)
    assert found.periods_found == (period,)
    assert found.total_amplitude == pytest.approx(rms, rel=0.02)
    assert found.total_db == found.excess_db[period] > 30


@pytest.mark.parametrize("period", PERIODS)
def test_amplitude_follows_a_checkerboard_in_noise(period):
    cells = (ROWS // (period / 2) + COLUMNS // (period / 2)) % 2
    amplitudes = [grid_artefact_index(scale * cells + 0.02 * noise(10)).amplitude[period] for scale in (0.0, 0.1, 0.2)]
    assert amplitudes[0] < 0.003
    assert amplitudes[2] == pytest.approx(2 * amplitudes[1], rel=0.05)
    # A checkerboard's rms is half its step; harmonics off the axes and diagonals are left out.
    assert 0.8 * 0.1 < amplitudes[2] <= 1.02 * 0.1


@pytest.mark.parametrize("period", PERIODS)
def test_grid_far_below_the_noise_is_found_when_slices_agree(period):
    grid = sinusoid(period, "rows") + sinusoid(period, "columns")
    assert grid_artefact_index(0.25 * grid + noise(20)).periods_found == (period,)


@pytest.mark.parametrize(("slices", "repeats"), [(1, 200), (8, 40)])
def test_white_noise_is_no_grid(slices, repeats):
    alarms = sum(len(grid_artefact_index(noise(slices, seed)).periods_found) for seed in range(repeats))
    assert alarms <= 0.01 * repeats * len(PERIODS)


@pytest.mark.parametrize("cutoff", [1 / 4, 1 / 8])
@pytest.mark.parametrize("below", [True, False])
def test_a_band_limit_at_a_grids_frequency_is_no_grid(cutoff, below):
    """What k-space truncation by 2 or 4 removes, and what it leaves."""
    height, width = 112, 96
    spectrum = np.fft.fft2(np.random.default_rng(0).normal(size=(20, height, width)))
    low = np.outer(*(np.abs(np.fft.fftfreq(n)) < cutoff for n in (height, width)))
    assert grid_artefact_index(np.fft.ifft2(spectrum * (low == below)).real).periods_found == ()


def test_structure_is_no_grid_and_does_not_hide_one():
    images = head()
    assert grid_artefact_index(images).periods_found == ()
    for period, strength in ((2, 0.1), (4, 0.15), (8, 0.4)):  # structure is strong at low frequencies
        grid = strength * (sinusoid(period, "rows") + sinusoid(period, "columns"))
        assert grid_artefact_index(images + images.std() * grid).periods_found == (period,)


def test_a_smooth_ramp_and_a_bright_axis_are_no_grid():
    images = 100 + ROWS + 0.01 * COLUMNS**2 + np.abs(COLUMNS - 50) + noise(4) * 0.01
    assert grid_artefact_index(images).periods_found == ()


def test_mask_decides_where_to_look():
    centre = (ROWS - 51) ** 2 + (COLUMNS - 56) ** 2 < 38**2
    grid = sinusoid(4, "columns")
    outside = grid_artefact_index(np.where(centre, 0, grid) + 0.01 * noise(6), centre)
    inside = grid_artefact_index(np.where(centre, grid, 7) + 0.01 * noise(6), centre)
    assert outside.periods_found == ()
    assert inside.periods_found == (4,)
    assert inside.amplitude[4] == pytest.approx(0.5**0.5, rel=0.05)


def test_each_slice_is_reported():
    images = 0.1 * noise(5)
    images[3] += sinusoid(8, "rows")
    found = grid_artefact_index(images)
    assert found.slice_excess_db.shape == (5, 4)
    assert found.slice_excess_db[:, 2].argmax() == 3


def test_units_cancel_in_the_excess():
    images = noise(3) + 0.3 * sinusoid(4, "rows")
    one, other = grid_artefact_index(images), grid_artefact_index(1000 * images + 5)
    assert other.excess_db == pytest.approx(one.excess_db, abs=1e-6)
    assert other.amplitude[4] == pytest.approx(1000 * one.amplitude[4])


def test_periods_too_long_for_the_image_are_not_a_number():
    found = grid_artefact_index(noise(2)[:, :40, :50])
    assert np.isnan(found.excess_db[16])
    assert np.isfinite(found.excess_db[8])
    assert 16 not in found.periods_found


def test_bad_input_is_one_sentence():
    with pytest.raises(InputError, match="finite"):
        grid_artefact_index(np.full((1, 32, 32), np.nan))
    with pytest.raises(InputError, match="must fit"):
        grid_artefact_index(np.zeros((2, 32, 32)), np.ones((3, 32, 32)))
    with pytest.raises(InputError, match="No slice"):
        grid_artefact_index(noise(2), np.zeros(SHAPE))
    with pytest.raises(InputError, match="No slice"):
        grid_artefact_index(np.full((2, 32, 32), 0.1))
    with pytest.raises(InputError, match="2 or more"):
        grid_artefact_index(noise(1), periods=(1,))


@pytest.mark.parametrize("shape", [(48, 60, 4), (78, 94, 4)])
def test_residuals_of_interpolation_are_no_grid(shape):
    from DWISuperResLib.phantoms import phantom
    from DWISuperResLib.resampling.degradation import degrade
    from DWISuperResLib.resampling.scale import Scale
    from DWISuperResLib.resampling.upsamplers import interpolate

    dwi = phantom(shape, (210 / shape[1], 210 / shape[1], 6), supersampling=1, shells=((0, 1), (1000, 6)))
    for scale in (2, 3):
        low = degrade(dwi, scale)
        high = interpolate(low, Scale.between(low.spatial_shape, shape))
        residual = (high.signal - dwi.signal).transpose(3, 2, 0, 1).reshape(-1, *shape[:2])
        assert grid_artefact_index(residual).periods_found == ()


@pytest.mark.parametrize("scan", ["siemens_b15_dti20", "canon10_axial", "siemens_decub_hfs"])
def test_scans_as_acquired_have_no_grid(shared_data, scan):
    import nibabel

    (path,) = (shared_data / scan).glob("*.nii*")
    volume = np.asarray(nibabel.load(path).dataobj[..., 0], dtype=np.float32)
    assert grid_artefact_index(np.moveaxis(volume, 2, 0)).periods_found == ()
