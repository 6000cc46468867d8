"""Cohorts: a folder yields its DWI, and no subject is on both sides of a division."""

import pytest

from DWISuperResLib import io
from DWISuperResLib.errors import InputError
from DWISuperResLib.io.cohort import divide, find_scans, subject_of


@pytest.fixture
def cohort(tmp_path):
    for subject in "abcde":
        for session in "12":
            folder = tmp_path / f"sub-{subject}" / f"ses-{session}"
            folder.mkdir(parents=True)
            for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "T1w.nii.gz"):
                (folder / name).touch()
    return tmp_path


def test_a_folder_yields_its_dwi_only(cohort, small_dwi):
    io.write_dwi(small_dwi, cohort / "scan.nrrd")
    found = find_scans([str(cohort)])
    assert len(found) == 11
    assert not any("T1w" in path.name for path in found)
    assert len(find_scans([str(cohort / "sub-a*")])) == 2
    with pytest.raises(InputError, match="no DWI"):
        find_scans([str(cohort / "sub-z")])


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.4, 0.99])
def test_fractions_hold_out_whole_subjects(cohort, fraction):
    training, held_out = divide([str(cohort)], held_out=fraction)
    assert len(training) + len(held_out) == 10
    expected = {0.0: 0, 0.01: 1, 0.4: 2, 0.99: 4}[fraction]
    subjects = [{subject_of(p) for p in side} for side in (training, held_out)]
    assert len(subjects[1]) == expected
    assert not subjects[0] & subjects[1]
    assert divide([str(cohort)], held_out=fraction)[1] == held_out


def test_lists_that_split_a_subject_are_refused(cohort):
    scans = [str(cohort)]
    with pytest.raises(InputError, match="sub-a"):
        divide(scans, held_out=[str(cohort / "sub-a" / "ses-1")])
    training, held_out = divide(scans, held_out=[str(cohort / "sub-a")], exclude=[str(cohort / "sub-b")])
    assert len(training) == 6
    assert len(held_out) == 2
    with pytest.raises(InputError, match="ses-1"):
        divide(scans, held_out=[str(cohort / "sub-a")], subject="ses-[0-9]")
    with pytest.raises(InputError, match="left for training"):
        divide(scans, held_out=[str(cohort)])
