"""A tiny BIDS data set of the numerical phantom."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from DWISuperResLib.io import write_dwi
from DWISuperResLib.phantoms import phantom

pytest.importorskip("bids", reason="needs pybids")
pytest.importorskip("distributed", reason="needs dask[distributed]")


@pytest.fixture(scope="session")
def tiny_scan():
    """24 x 20 x 4 of 10 mm: a whole head in few voxels."""
    return phantom((24, 20, 4), (8, 10, 30), supersampling=1, shells=((0, 1), (1000, 8)))


@pytest.fixture
def make_dataset(tmp_path, tiny_scan) -> Callable[..., Path]:
    """Writes scans at the given places, "sub-01/dwi/sub-01_dwi", their tables beside them."""

    def make(*stems: str) -> Path:
        root = tmp_path / "bids"
        root.mkdir()
        (root / "dataset_description.json").write_text(json.dumps({"Name": "Tiny", "BIDSVersion": "1.10.0"}))
        for stem in stems:
            (root / stem).parent.mkdir(parents=True, exist_ok=True)
            write_dwi(tiny_scan, root / f"{stem}.nii.gz")
        return root

    return make


@pytest.fixture(scope="session")
def scheduler():
    """Address of two workers of one thread."""
    from DWISuperResLib.apps.cohort.workers import local_workers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        with local_workers(2, "cpu") as address:
            yield address
