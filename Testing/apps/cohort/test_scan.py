"""One scan of a cohort: what is written, when it is done again, what becomes of faults."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib import compute_maps, read_dwi, super_resolve
from DWISuperResLib.apps.cohort.layout import find_scans
from DWISuperResLib.apps.cohort.scan import Job, process, read_sidecar, result_path
from DWISuperResLib.inference.options import InferenceOptions
from DWISuperResLib.io import output_files, read_image

CPU = InferenceOptions(device="cpu", precision="fp32")


@pytest.fixture
def dataset(make_dataset):
    """A scan whose tables lie in the root."""
    root = make_dataset("sub-01/ses-1/dwi/sub-01_ses-1_dwi")
    for suffix in (".bval", ".bvec"):
        (root / f"sub-01/ses-1/dwi/sub-01_ses-1_dwi{suffix}").rename(root / f"dwi{suffix}")
    return root


@pytest.fixture
def job(tmp_path):
    return Job(str(tmp_path / "out"), inference=CPU, maps=("fa", "md"))


def times(job):
    return {path.name: path.stat().st_mtime_ns for path in Path(job.output).rglob("*") if path.is_file()}


def test_the_result_is_what_the_library_computes(dataset, job):
    (scan,) = find_scans(dataset)
    record = process(scan, job)
    assert (record.status, record.error) == ("done", "")
    stem = Path(job.output) / "sub-01/ses-1/dwi/sub-01_ses-1_desc-superres"
    names = ("_dwi.bval", "_dwi.bvec", "_dwi.json", "_dwi.nii.gz")
    assert {path.name for path in stem.parent.iterdir()} == {
        *(stem.name + name for name in names),
        *(f"{stem.name}_model-tensor_param-{name}_dwimap.nii.gz" for name in ("fa", "md")),
        f"{stem.name}Brain_mask.nii.gz",
    }
    low = read_dwi(scan.path, bval=scan.bval, bvec=scan.bvec)
    high = super_resolve(low, "default", 2, device="cpu", precision="fp32")
    written = read_dwi(f"{stem}_dwi.nii.gz")
    np.testing.assert_array_equal(written.signal, high.signal)
    np.testing.assert_allclose(written.bvecs, high.bvecs, atol=1e-6)
    mask, _ = read_image(f"{stem}Brain_mask.nii.gz")
    fa, affine = read_image(f"{stem}_model-tensor_param-fa_dwimap.nii.gz")
    np.testing.assert_array_equal(fa, compute_maps(high, ("fa",), mask=mask)["fa"])
    np.testing.assert_allclose(affine, high.affine, atol=1e-4)
    facts = read_sidecar(Path(f"{stem}_dwi.json"))
    assert facts["inputs"].keys() == {Path(scan.path).name, "dwi.bval", "dwi.bvec"}
    assert facts["changes"]["fa"]["after"] == pytest.approx(fa[mask > 0].mean(), rel=1e-5)
    assert sum(facts["changes"]["fa"]["counts"]) == np.count_nonzero(mask)
    assert json.loads(Path(f"{stem}_dwi.json").read_text())["Sources"] == [f"bids:raw:{scan.source}"]


def test_what_is_done_is_skipped_until_an_input_or_an_option_changes(dataset, job):
    (scan,) = find_scans(dataset)
    assert process(scan, job).status == "done"
    before = times(job)
    assert process(scan, job).status == "skipped"
    assert process(scan, replace(job, inference=replace(CPU, batch_size=1))).status == "skipped"
    assert times(job) == before
    for changed in (replace(job, scale="3"), replace(job, inference=replace(CPU, consistent=True))):
        assert "already exists" in process(scan, changed).error
    assert times(job) == before
    table = Path(scan.bval)
    table.write_text(table.read_text().replace("1000", "1001"))
    assert process(scan, job).status == "failed"
    assert process(scan, replace(job, overwrite=True)).status == "done"
    assert process(scan, job).status == "skipped"
    fewer = replace(job, maps=("fa",), overwrite=True)
    assert process(scan, fewer).status == "done"
    assert not [name for name in times(job) if "param-md" in name]


def test_what_a_killed_run_left_is_done_again(dataset, job):
    (scan,) = find_scans(dataset)
    assert process(scan, job).status == "done"
    sidecar = result_path(job.output, scan.stem)
    whole = {path.name: path.read_bytes() for path in sidecar.parent.iterdir() if path.suffix != ".json"}
    sidecar.unlink()  # it is moved last, so it is what is missing
    stem = sidecar.name.removesuffix("_dwi.json")
    (sidecar.parent / f"{stem}_dwi.bvec").unlink()
    (sidecar.parent / f".{stem}_dwi.json.4711-1f2e3d4c.tmp").write_text("{")
    assert process(scan, job).status == "done"
    assert {path.name: path.read_bytes() for path in sidecar.parent.iterdir() if path.suffix != ".json"} == whole
    (sidecar.parent / f"{stem}_dwi.nii.gz").write_bytes(b"cut")
    assert process(scan, job).status == "done"
    assert process(scan, job).status == "skipped"


def test_faults_become_a_sentence(dataset, job, monkeypatch):
    (scan,) = find_scans(dataset)
    lost = process(replace(scan, bvec=str(dataset / "absent.bvec")), job)
    assert (lost.status, lost.kind) == ("failed", "InputError")
    assert "absent.bvec cannot be read" in lost.error
    Path(scan.path).write_bytes(b"no image")
    assert process(scan, job).kind == "InputError"
    monkeypatch.setattr("DWISuperResLib.apps.cohort.scan.file_hash", lambda path: 1 / 0)
    assert "ZeroDivisionError" in process(scan, job).error
    assert not Path(job.output).exists() or not times(job)


def test_a_table_too_small_for_a_map_costs_that_map_alone(make_dataset, job, tiny_scan, tmp_path):
    from DWISuperResLib.io import write_dwi

    root = make_dataset()
    few = [0, 1, 2, 3]
    scan = replace(tiny_scan, signal=tiny_scan.signal[..., few], bvals=tiny_scan.bvals[few], bvecs=tiny_scan.bvecs[few])
    (root / "sub-01/dwi").mkdir(parents=True)
    write_dwi(scan, root / "sub-01/dwi/sub-01_dwi.nii.gz")
    record = process(find_scans(root)[0], replace(job, maps=("fa", "qa")))
    assert record.status == "done"
    assert any("too small for fa" in warning for warning in record.warnings)
    assert [p.name for p in Path(job.output).rglob("*dwimap*")] == [
        "sub-01_desc-superres_model-gqi_param-qa_dwimap.nii.gz"
    ]
    assert process(find_scans(root)[0], replace(job, maps=("fa", "qa"))).status == "skipped"


def test_the_same_data_in_another_place_is_the_same(dataset, job, tmp_path):
    (scan,) = find_scans(dataset)
    process(scan, job)
    moved = tmp_path / "moved"
    shutil.move(dataset, moved)
    assert process(find_scans(moved)[0], job).status == "skipped"


def test_a_scan_that_another_worker_still_writes_is_waited_for(dataset, job):
    """As after a scheduler's restart, when the worker that it forgot has not ended yet."""
    (scan,) = find_scans(dataset)
    sidecar = result_path(job.output, scan.stem)
    sidecar.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with suppress(RuntimeError), output_files([sidecar]):
            waiting = pool.submit(process, scan, job)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=3)
            raise RuntimeError("given up")
        assert waiting.result().status == "done"
    assert process(scan, job).status == "skipped"
