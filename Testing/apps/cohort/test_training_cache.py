"""Copies for training by workers: the same as the trainer's own, so that it writes none."""

import json
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib.apps.cohort.training_cache import copy_scans
from DWISuperResLib.errors import InputError
from DWISuperResLib.progress import Reporter
from DWISuperResLib.training.cache import open_scan


def test_workers_write_the_copies_that_training_opens(make_dataset, tmp_path, scheduler):
    root = make_dataset(*(f"sub-{n}/dwi/sub-{n}_dwi" for n in (1, 2)))
    config = tmp_path / "train.yaml"
    config.write_text(json.dumps({"data": {"scans": [str(root)], "validation": 0.5}, "output": str(tmp_path / "run")}))
    assert copy_scans(config, [], scheduler, Reporter()) == 2
    cache = tmp_path / "run" / "cache"
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    scan = open_scan(Path(root / "sub-1/dwi/sub-1_dwi.nii.gz").resolve(), cache, "volume", native=True)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == written
    assert scan.count == 9
    assert np.isfinite(scan.level)
    (root / "sub-2/dwi/sub-2_dwi.bvec").write_text("1 2 3\n")
    with pytest.raises(InputError, match=r"sub-2_dwi\.bvec"):
        copy_scans(config, [], scheduler, Reporter())
