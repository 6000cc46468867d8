"""The report: what it reads, whom it calls an outlier, and that its page needs nothing but itself."""

import json
import re

import numpy as np
import pytest

from DWISuperResLib.apps.cohort.group import modified_z_scores, read_results, with_outliers, write_group_report
from DWISuperResLib.apps.cohort.participant import TABLE, write_table
from DWISuperResLib.apps.cohort.scan import SECTION, Record
from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation.change import BINS


@pytest.fixture
def output(tmp_path):
    """Ten results, one of them odd, and a failure."""
    for n in range(10):
        bias = 0.2 if n == 7 else 0.001 * n
        changes = {"fa": {"before": 0.3, "after": 0.3 + bias, "bias": bias, "mae": 0.02, "correlation": None,
                          "counts": [1] * BINS}}  # fmt: skip
        check = {"name": "domain: <anatomy>", "value": 2.0, "threshold": 1.4, "fired": n == 3, "advice": "Look & see."}
        facts = {"key": "k", "files": {}, "warnings": [], "checks": [check], "changes": changes, "seconds": 1.5,
                 "version": "1", "scale": "2", "checkpoint": {"name": "default"},
                 "options": {"precision": "fp32"}}  # fmt: skip
        folder = tmp_path / f"sub-{n:02d}" / "ses-1" / "dwi"
        folder.mkdir(parents=True)
        text = json.dumps({"Description": "", SECTION: facts})
        (folder / f"sub-{n:02d}_ses-1_desc-superres_dwi.json").write_text(text)
    lost = Record("99", "", "sub-99/dwi/sub-99_desc-superres", "failed", error="The table <x> is cut.")
    again = Record("00", "1", "sub-00/ses-1/dwi/sub-00_ses-1_desc-superres", "failed", error="Later.")
    write_table(tmp_path / TABLE, [lost, again])
    return tmp_path


def test_every_result_and_failure_is_read_once(output):
    results = read_results(output)
    assert [r.participant for r in results] == [f"{n:02d}" for n in range(10)] + ["99"]
    assert [r.status for r in results] == ["done"] * 10 + ["failed"]
    assert [r.session for r in results] == ["1"] * 10 + [""]
    assert [r.participant for r in read_results(output, ["sub-03", "99"])] == ["03", "99"]
    with pytest.raises(InputError, match="no result of participant 55"):
        read_results(output, ["55"])


def test_outliers_by_the_modified_z_score(output):
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0, np.nan])
    np.testing.assert_allclose(modified_z_scores(values)[4], 0.6745 * 97)  # median 3, MAD 1
    assert np.isnan(modified_z_scores(values)[5])
    assert not modified_z_scores(np.ones(9)).any()
    assert [r.participant for r in with_outliers(read_results(output)) if r.outlier] == ["07"]
    assert not any(r.outlier for r in with_outliers(read_results(output)[4:9]))  # too few to tell


def test_the_page_says_it_all_and_needs_nothing_else(output):
    page, table = write_group_report(output)
    text = page.read_text()
    assert "10 of 11 scans are super-resolved; 1 failed." in text
    assert "Scans with a self-check that warns: 1; that stand out from the others: 1." in text
    assert "The table &lt;x&gt; is cut." in text
    assert "Look &amp; see." in text
    assert len(re.findall(r"<tr data-kinds=", text)) == 11
    assert text.count("<svg") == 1
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|url\((?!#)""", text)
    rows = [line.split("\t") for line in table.read_text().splitlines()]
    assert len(rows) == 12
    assert rows[8][rows[0].index("fa_bias")] == "0.2"
    assert "FA bias 0.2" in rows[8][rows[0].index("outlier")]
    with pytest.raises(InputError, match="already exists"):
        write_group_report(output)
    write_group_report(output, overwrite=True)


def test_mixtures_are_told(output):
    sidecar = output / "sub-04/ses-1/dwi/sub-04_ses-1_desc-superres_dwi.json"
    sidecar.write_text(sidecar.read_text().replace("fp32", "bf16").replace('"scale": "2"', '"scale": "3"'))
    text = write_group_report(output)[0].read_text()
    assert "Results of several scales are mixed" in text
    assert "several values of --precision" in text
