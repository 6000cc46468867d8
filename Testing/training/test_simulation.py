"""Scans simulated from structural volumes: where the head lies, what the signals obey, what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.dwi import Volume
from DWISuperResLib.errors import InputError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.training import train, validated
from DWISuperResLib.training.simulation import simulated_dwi


def head(shape=(40, 36, 32)):
    """A ball of two tissues off the volume's middle."""
    centre = np.array(shape) / 2 + np.array([2, -1, 1])
    away = np.sqrt(((np.indices(shape).T - centre) ** 2).sum(-1)).T
    return np.where(away < 6, 0.9, np.where(away < 12, 0.5, 0.0)).astype(np.float32), centre


OBLIQUE = np.array([[0.0, -0.8, -0.6, 30], [1.0, 0, 0, -20], [0, -0.6, 0.8, 5], [0, 0, 0, 1]])


def explained(volume, dwi, shift=(0, 0, 0)) -> float:
    """Share of the unweighted signal's variance that the tissue of the volume, shifted by voxels, explains."""
    voxels = np.indices(dwi.spatial_shape).reshape(3, -1)
    places = (np.linalg.inv(OBLIQUE) @ dwi.affine)[:3] @ np.vstack((voxels, np.ones(voxels.shape[1])))
    tissue = map_coordinates(volume, places + np.array(shift)[:, None], order=0)
    signal = dwi.signal[..., 0].ravel().astype(float)
    within = sum(((signal[tissue == t] - signal[tissue == t].mean()) ** 2).sum() for t in np.unique(tissue))
    return 1 - within / ((signal - signal.mean()) ** 2).sum()


@given(seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_the_head_stays_where_it_is_and_signals_are_those_of_a_tensor(seed):
    volume, _ = head()
    dwi = simulated_dwi([volume], OBLIQUE, seed, coarser=(1.0, 1.3), thickest=2)
    here = explained(volume, dwi)
    assert here > max(explained(volume, dwi, side * 2 * axis) for axis in np.eye(3) for side in (-1, 1))
    b0 = dwi.signal[..., 0].astype(float)
    inside = b0 > 0.3 * np.percentile(b0, 95)
    b = dwi.bvals[1]
    assert np.allclose(np.linalg.norm(dwi.bvecs[1:], axis=1), 1)
    ratio = dwi.signal[inside][:, 1:].mean(0) / b0[inside].mean()
    # Eigenvalues lie between 0 and 2.0e-3 x 2.0 mm²/s; noise only raises magnitudes.
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


def test_training_simulates_scans_of_structural_images_and_the_card_tells(tmp_path):
    for n in range(2):
        io.write_dwi(phantom((24, 30, 4), (6, 6, 6), seed=n, supersampling=1), tmp_path / f"sub-{n}.nii.gz")
    volume, _ = head()
    for name, affine in (("t1", np.eye(4)), ("t2", np.eye(4)), ("elsewhere", OBLIQUE)):
        io.write_volume(Volume(100 * volume, affine), tmp_path / f"{name}.nii.gz")
    t1, t2, elsewhere = (str(tmp_path / f"{name}.nii.gz") for name in ("t1", "t2", "elsewhere"))
    tree = {
        "output": str(tmp_path / "run"), "scales": [2],
        "data": {
            "scans": [str(tmp_path / "sub-0.nii.gz")], "validation": [str(tmp_path / "sub-1.nii.gz")],
            "structural": [t1, {"images": [t1, t2], "coarser": [1.5, 1.6]}],
            "slabs": 2, "patches": 1, "patch": 16, "workers": 0,
        },
        "network": {"arguments": {"scales": [2], "width": 4, "blocks": [1]}},
        "schedule": {"epochs": 1, "steps_per_epoch": 8, "ema": None},
        "validation": {"slices": 1, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
    }  # fmt: skip
    card = load_checkpoint(train(validated(tree))).card
    assert card.training["scans"] == ["sub-0.nii.gz"]
    assert card.training["structural"] == ["t1.nii.gz"]
    assert 2 <= card.voxel_sizes["in_plane"][0] <= 2.8
    assert card.voxel_sizes["in_plane"][1] == pytest.approx(12)
    assert len(list((tmp_path / "run/cache").glob("simulated-t1-*"))) == 4
    made = [json.loads(path.read_text()) for path in (tmp_path / "run/cache").glob("simulated-t1-*/scan.json")]
    fine = sorted(float(np.delete(np.linalg.norm(scan["affine"], axis=0)[:3], scan["axis"]).max()) for scan in made)
    assert fine[1] <= 1.41  # of whole voxels in a field of view, so the factors are not met exactly
    assert all(1.45 <= size <= 1.65 for size in fine[2:])
    tree["data"]["structural"] = [[t1, elsewhere]]
    with pytest.raises(InputError, match="another grid than"):
        train(validated({**tree, "output": str(tmp_path / "second")}))
