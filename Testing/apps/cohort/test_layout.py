"""Which scans a data set holds, and which tables they inherit: closed cases of the standard, and pybids."""

import json
import warnings
from pathlib import Path

import pytest

from DWISuperResLib.apps.cohort.layout import BidsScan, find_scans, prepare_output
from DWISuperResLib.errors import InputError


def place(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "bids"
    root.mkdir()
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    return root


def tables(root, **filters):
    found = {}
    for scan in find_scans(root, **filters):
        names = [name and Path(name).relative_to(root).as_posix() for name in (scan.bval, scan.bvec)]
        found[Path(scan.source).name] = (*names, scan.problem)
    return found


def test_the_nearest_table_applies(dataset):
    place(dataset, "dwi.bval", "dwi.bvec", "sub-01/sub-01_dwi.bval", "sub-01/ses-1/dwi/sub-01_ses-1_dwi.bvec")
    place(dataset, "sub-01/ses-1/dwi/sub-01_ses-1_dwi.nii.gz", "sub-02/dwi/sub-02_dwi.nii")
    assert tables(dataset) == {
        "sub-01_ses-1_dwi.nii.gz": ("sub-01/sub-01_dwi.bval", "sub-01/ses-1/dwi/sub-01_ses-1_dwi.bvec", ""),
        "sub-02_dwi.nii": ("dwi.bval", "dwi.bvec", ""),
    }


def test_a_table_of_another_run_or_acquisition_does_not_apply(dataset):
    """pybids 0.22 hands the second run's table to the first."""
    place(dataset, "acq-a_dwi.bval", "acq-b_dwi.bval", "dwi.bvec")
    place(dataset, *(f"sub-01/dwi/sub-01_run-{n}_dwi.nii.gz" for n in (1, 2)), "sub-01/dwi/sub-01_run-2_dwi.bval")
    place(dataset, "sub-02/dwi/sub-02_acq-b_dwi.nii.gz")
    found = {name: bval for name, (bval, _, _) in tables(dataset).items()}
    assert found == {
        "sub-01_run-1_dwi.nii.gz": None,
        "sub-01_run-2_dwi.nii.gz": "sub-01/dwi/sub-01_run-2_dwi.bval",
        "sub-02_acq-b_dwi.nii.gz": "acq-b_dwi.bval",
    }


def test_in_one_folder_the_table_with_more_entities_applies_and_two_alike_are_refused(dataset):
    place(dataset, "dwi.bval", "acq-a_dwi.bval", "dir-AP_dwi.bvec", "acq-a_dwi.bvec")
    place(dataset, "sub-01/dwi/sub-01_acq-a_dwi.nii.gz", "sub-01/dwi/sub-01_acq-a_dir-AP_dwi.nii.gz")
    found = tables(dataset)
    assert found["sub-01_acq-a_dwi.nii.gz"] == ("acq-a_dwi.bval", "acq-a_dwi.bvec", "")
    assert "both apply" in found["sub-01_acq-a_dir-AP_dwi.nii.gz"][2]


def test_pybids_agrees_where_each_folder_holds_one_table(dataset):
    from bids import BIDSLayout, BIDSLayoutIndexer

    place(dataset, "dwi.bvec", "sub-01/sub-01_dwi.bval", "sub-02/ses-1/dwi/sub-02_ses-1_dwi.bval", "dwi.bval")
    images = [f"sub-{n:02d}/ses-{m}/dwi/sub-{n:02d}_ses-{m}_dwi.nii.gz" for n in (1, 2, 3) for m in (1, 2)]
    place(dataset, *images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layout = BIDSLayout(str(dataset), indexer=BIDSLayoutIndexer(index_metadata=False))
    scans = find_scans(dataset)
    assert [scan.source for scan in scans] == images
    for scan in scans:
        assert (scan.bval, scan.bvec) == (layout.get_bval(scan.path), layout.get_bvec(scan.path))


def test_what_is_no_scan_is_left_out(dataset):
    kept = "sub-01/dwi/sub-01_part-mag_dwi.nii.gz"
    place(dataset, kept, "sub-01/dwi/sub-01_part-phase_dwi.nii.gz", "sub-01/dwi/sub-01_sbref.nii.gz")
    place(dataset, "sub-01/anat/sub-01_T1w.nii.gz", "sourcedata/sub-01/dwi/sub-01_dwi.nii.gz")
    place(dataset, "derivatives/x/sub-01/dwi/sub-01_desc-preproc_dwi.nii.gz", "code/sub-01_dwi.nii.gz")
    assert [scan.source for scan in find_scans(dataset)] == [kept]


def test_labels_choose_participants_and_sessions(dataset):
    images = [f"sub-{n}/ses-{m}/dwi/sub-{n}_ses-{m}_dwi.nii.gz" for n in ("01", "02", "011") for m in ("a", "b")]
    place(dataset, *images)

    def found(*labels, sessions=()):
        return [(scan.participant, scan.session) for scan in find_scans(dataset, labels, sessions)]

    assert found("sub-01") == [("01", "a"), ("01", "b")]
    assert found("011", "02", sessions=["ses-b"]) == [("011", "b"), ("02", "b")]
    with pytest.raises(InputError, match="no diffusion scan of participant 03"):
        found("01", "03")
    with pytest.raises(InputError, match="no diffusion scan of session c"):
        found(sessions=["c"])


def test_results_of_preprocessed_scans_keep_apart(dataset):
    place(dataset, *(f"sub-01/dwi/sub-01{e}_dwi.nii.gz" for e in ("", "_desc-preproc", "_space-T1w_desc-denoised")))
    stems = {Path(scan.stem).name for scan in find_scans(dataset)}
    assert stems == {
        "sub-01_desc-superres",
        "sub-01_desc-preprocSuperres",
        "sub-01_space-T1w_desc-denoisedSuperres",
    }


def test_a_scan_stored_twice_is_refused(dataset):
    place(dataset, "sub-01/dwi/sub-01_dwi.nii.gz", "sub-01/dwi/sub-01_dwi.nii")
    assert ["keep one" in scan.problem for scan in find_scans(dataset)] == [True, True]


def test_what_is_no_data_set_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match=r"no dataset_description\.json"):
        find_scans(tmp_path)
    with pytest.raises(InputError, match="no diffusion scan"):
        find_scans(dataset)
    (dataset / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read as a BIDS data set"):
        find_scans(dataset)


def test_the_output_is_described_once_and_is_never_the_input(dataset, tmp_path):
    output = tmp_path / "out"
    prepare_output(output, dataset)
    prepare_output(output, dataset)
    described = json.loads((output / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "DWISuperRes"
    with pytest.raises(InputError, match="is the input"):
        prepare_output(dataset, dataset)
    other = tmp_path / "raw"
    other.mkdir()
    (other / "dataset_description.json").write_text("{}")
    with pytest.raises(InputError, match="does not describe derivatives"):
        prepare_output(other, dataset)


def test_the_stem_of_a_result():
    assert BidsScan("/x", "sub-1/dwi/sub-1_run-2_dwi.nii", "1").stem == "sub-1/dwi/sub-1_run-2_desc-superres"
