"""Shared fixtures: where development data lie, and small deterministic scans."""

import os
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib.dwi import DWI


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the development scans; tests that ask for it skip where it is absent."""
    root = Path(os.environ.get("DWISUPERRES_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"needs the development data in {root}/data (set DWISUPERRES_SHARED to its parent)")
    return root / "data"


def oblique_affine(
    voxel_sizes=(2.0, 2.0, 2.5), angles=(0.2, -0.3, 0.1), flips=(1, 1, 1), origin=(-80.0, -100.0, -50.0)
):
    """Voxel -> RAS affine of a rotated, possibly mirrored grid."""
    a, b, c = angles
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rz @ ry @ rx @ np.diag(np.multiply(voxel_sizes, flips))
    affine[:3, 3] = origin
    return affine


@pytest.fixture
def small_dwi() -> DWI:
    """A 12 x 10 x 4 scan with two b0 and eight directions at b = 1000 on an oblique grid; smooth positive signal."""
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(10, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[:2] = 0
    bvals = np.array([0.0, 0.0] + [1000.0] * 8)
    x, y, z = np.meshgrid(np.arange(12), np.arange(10), np.arange(4), indexing="ij")
    base = 500 + 200 * np.sin(x / 3) * np.cos(y / 4) + 20 * z
    signal = np.stack([base * np.exp(-b * 7e-4 * (1 + 0.3 * g[0])) for b, g in zip(bvals, bvecs, strict=True)], axis=-1)
    return DWI(np.asfortranarray(signal, dtype=np.float32), oblique_affine(), bvals, bvecs)
