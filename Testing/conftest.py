"""What tests share: the oracles that answers are compared with, real scans among them, and small scans."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib.dwi import DWI

collect_ignore_glob = ["slicer_host/*.py"]  # no tests; without slicer-core it cannot be imported

SCANS = Path(os.environ.get("DWISUPERRES_SHARED", Path(__file__).parents[2] / "shared")) / "data"
MRTRIX = ("mrgrid", "mrinfo", "dwi2tensor", "tensor2metric")


def _modules(*names: str) -> str | None:
    return names[0] if all(find_spec(name) for name in names) else None


def _slicer() -> str | None:
    """Started, so that `slicer.i18n` and its kin are there when a test file imports what needs them."""
    if (found := _modules("slicer", "PySide6")) is None:
        return None
    from Testing.slicer_host import start

    start()
    return found


ORACLES = {
    "mrtrix3": (lambda: all(map(shutil.which, MRTRIX)) and shutil.which(MRTRIX[0]), f"MRtrix3 ({', '.join(MRTRIX)})"),
    "chromium": (
        lambda: next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
        ),
        "Chromium (Debian package chromium)",
    ),
    "fastai": (lambda: _modules("fastai"), "fastai (pip install dwi-superres[test])"),
    "lpips": (lambda: _modules("lpips"), "lpips (pip install dwi-superres[test])"),
    "slicer": (_slicer, "slicer-core and PySide6 (pip install dwi-superres[slicer])"),
    "scans": (
        lambda: str(SCANS) if SCANS.is_dir() else None,
        f"the development data in {SCANS} (set DWISUPERRES_SHARED to its parent)",
    ),
}
"""By name: how it is found, and what to install where it is not."""

_required = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-oracles",
        action="store_true",
        help=f"fail, rather than skip, where an oracle is missing: {', '.join(ORACLES)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    global _required
    _required = config.getoption("--require-oracles")


def oracle(name: str) -> str:
    """Path or module of an oracle; without it the test, or the file, skips, or fails with --require-oracles.

    Every test that compares with something not everybody has begins with this.
    """
    find, what = ORACLES[name]
    found = find()
    if found:
        return found
    if _required:
        pytest.fail(f"--require-oracles: needs {what}", pytrace=False)
    pytest.skip(f"needs {what}", allow_module_level=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the development scans."""
    return Path(oracle("scans"))


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
