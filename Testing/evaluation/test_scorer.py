"""The scorer: a reference measured once, the same numbers for everybody, new metrics found by everybody."""

from dataclasses import replace

import numpy as np
import pytest

from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation import scorer as scoring
from DWISuperResLib.evaluation.evaluate import assess, evaluate
from DWISuperResLib.evaluation.report import write_report
from DWISuperResLib.evaluation.scorer import Scorer, maps_that_fit, volume_groups
from DWISuperResLib.metrics import METRICS, Metric
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.training import validated


@pytest.fixture(scope="module")
def scan():
    return phantom((30, 36, 4), (5.0, 5.0, 6.0), seed=1, shells=((0, 2), (1000, 12)))


def test_the_reference_is_fitted_once(scan, monkeypatch):
    fitted = []
    compute = scoring.compute_maps
    monkeypatch.setattr(scoring, "compute_maps", lambda dwi, *a, **k: fitted.append(dwi) or compute(dwi, *a, **k))
    scorer = Scorer(scan, groups=volume_groups(scan))
    brighter = replace(scan, signal=scan.signal * np.float32(1.1))
    for _ in range(2):
        scorer(brighter)
    assert [dwi is scan for dwi in fitted] == [True, False, False]
    fitted.clear()
    evaluate(scan, 2, (), methods=("nearest", "linear", "sinc"), distances=())
    assert sum(dwi is scan for dwi in fitted) == 1
    assert len(fitted) == 4
    fitted.clear()
    assess(scan, brighter, distances=()).comparison(("fa", "qa"))
    assert [dwi is scan for dwi in fitted] == [True, False]


def test_a_metric_registered_once_is_scored_reported_and_monitored(scan, tmp_path, monkeypatch):
    tree = {"data": {"scans": ["x"]}, "validation": {"monitor": "largest"}}
    with pytest.raises(InputError, match="largest"):
        validated(tree)
    toy = Metric("largest", "worst error", lambda pair: float(np.abs(pair.error).max()), of=("signal", "map"))
    monkeypatch.setitem(METRICS, "largest", toy)
    evaluation = evaluate(scan, 2, (), methods=("nearest", "sinc"), distances=())
    inside = evaluation.mask
    difference = evaluation.candidates[1].maps["fa"] - evaluation.reference.maps["fa"]
    assert evaluation.score("sinc", "fa", "largest") == pytest.approx(np.abs(difference[inside]).max())
    assert "sinc\tinterpolation\tsignal\tlargest" in evaluation.as_tsv()
    page = write_report(evaluation, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>DWI worst error ↓</th>" in page
    assert "<th>FA worst error ↓</th>" in page
    assert f"{evaluation.score('sinc', 'fa', 'largest'):.4f}" in page
    assert validated(tree).validation.monitor == "largest"
    assert validated(tree | {"validation": {"monitor": "qa_largest"}}).validation.monitor == "qa_largest"


def test_maps_that_the_gradients_do_not_allow_are_told_apart(scan):
    few = replace(scan, signal=scan.signal[..., :6], bvals=scan.bvals[:6], bvecs=scan.bvecs[:6])
    assert maps_that_fit(scan, ("fa", "qa")) == ("fa", "qa")
    assert maps_that_fit(few, ("fa", "qa")) == ("qa",)
    scores = Scorer(few, maps=maps_that_fit(few, ("fa", "qa")))(few)
    assert np.isnan(scores.value("fa", "mae"))
    assert {row["region"] for row in scores.rows} == {"brain"}


def test_a_scan_of_another_table_is_compared_by_its_maps_alone(scan):
    halves = [replace(scan, signal=scan.signal[..., p], bvals=scan.bvals[p], bvecs=scan.bvecs[p])
              for p in (slice(0, 12), slice(0, 14))]  # fmt: skip
    assert Scorer(halves[0], maps=("fa",))(halves[1]).value("fa", "mae") > 0
    with pytest.raises(InputError, match="same gradient table"):
        Scorer(halves[0], maps=("fa",), groups=volume_groups(halves[0]))(halves[1])
