"""Scans simulated from structural volumes: where the head lies, what the signals obey, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from DWISuperResLib.errors import InputError
from DWISuperResLib.training.simulation import simulated_dwi


def head(shape=(40, 36, 32)):
    """A ball of two tissues off the volume's middle."""
    centre = np.array(shape) / 2 + np.array([2, -1, 1])
    away = np.sqrt(((np.indices(shape).T - centre) ** 2).sum(-1)).T
    return np.where(away < 6, 0.9, np.where(away < 12, 0.5, 0.0)).astype(np.float32), centre


OBLIQUE = np.array([[0.0, -0.8, -0.6, 30], [1.0, 0, 0, -20], [0, -0.6, 0.8, 5], [0, 0, 0, 1]])


@given(seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_the_head_stays_where_it_is_and_signals_are_those_of_a_tensor(seed):
    volume, centre = head()
    dwi = simulated_dwi([volume], OBLIQUE, seed, coarser=(1.0, 1.3), thickest=2)
    b0 = dwi.signal[..., 0].astype(float)
    inside = b0 > 0.3 * np.percentile(b0, 95)
    voxels = np.argwhere(inside).mean(0)
    wanted = (OBLIQUE @ [*centre, 1])[:3]
    assert np.linalg.norm((dwi.affine @ [*voxels, 1])[:3] - wanted) < 1.5  # mm; voxels are 1 to 2 mm
    b = dwi.bvals[1]
    assert np.allclose(np.linalg.norm(dwi.bvecs[1:], axis=1), 1)
    ratio = dwi.signal[inside][:, 1:].mean(0) / b0[inside].mean()
    # Eigenvalues lie between 0 (mean diffusivity x (1 - a)) and 2.0e-3 x 2.0 mm²/s; noise only raises magnitudes.
    assert (ratio < 1.05).all()
    assert (ratio > np.exp(-b * 2.0e-3 * 2.0)).all()


def test_the_seed_alone_decides():
    volume, _ = head()
    first, again, other = (simulated_dwi([volume], np.eye(4), seed) for seed in (3, 3, 4))
    assert np.array_equal(first.signal, again.signal)
    assert first.signal.shape != other.signal.shape or not np.array_equal(first.signal, other.signal)


def test_the_thick_axis_of_slices_stays_the_slice_axis():
    volume, _ = head((40, 40, 16))
    for seed in range(4):
        dwi = simulated_dwi([volume], np.diag([1, 1, 4.0, 1]), seed)
        assert dwi.acquisition_axis == 2
        assert dwi.voxel_sizes[2] == pytest.approx(4)
        assert (dwi.voxel_sizes[:2] <= 1.4 * 1.05).all()


def test_volumes_that_show_nothing_or_differ_are_refused():
    volume, _ = head()
    with pytest.raises(InputError, match="same grid"):
        simulated_dwi([volume, volume[1:]], np.eye(4), 0)
    with pytest.raises(InputError, match="same grid"):
        simulated_dwi([], np.eye(4), 0)
    with pytest.raises(InputError, match="shows nothing"):
        simulated_dwi([np.zeros_like(volume)], np.eye(4), 0)
