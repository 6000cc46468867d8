"""The metric study: rank correlation against scipy, every version measured, readers, resumable."""

import csv
import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import spearmanr

from DWISuperResLib import io
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.metrics.rank import rank_correlation, reader_agreement
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.studies import STUDIES, metrics
from DWISuperResLib.studies.metrics import (
    TARGETS,
    MetricOptions,
    correlate,
    plan_versions,
    read_readers,
    run_metric_study,
)

SMALL = {
    "scales": (2,),
    "snr": (10.0,),
    "checkpoints": (),
    "distances": ("ssfd", "lpips_alex"),
    "weights": {"ssfd": "untrained", "lpips_alex": "untrained"},
    "slices": 2,
}


def run(data, output, *, cancel=None, **changes):
    return run_metric_study(MetricOptions(data=data, output=output, **{**SMALL, **changes}), cancel=cancel)


def test_rank_correlation_is_the_mean_of_scipys_over_groups():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, (3, 20)).astype(float)  # with ties
    y = x + rng.normal(0, 4, x.shape) + [[0], [100], [-50]]
    found = rank_correlation(x, y, resamples=500)
    expected = [spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(found.by_group, expected, rtol=1e-12)
    assert found.rho == pytest.approx(np.mean(expected))
    assert found.low < found.rho < found.high
    np.testing.assert_array_equal(rank_correlation(x, y, resamples=500)[:3], found[:3])


def test_the_interval_covers_the_true_correlation():
    """Pearson r of a bivariate normal has Spearman 6/pi asin(r/2); a 95 % interval covers it about 95 times in 100."""
    rng, r, hits = np.random.default_rng(1), 0.6, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(100):
        x = rng.normal(size=60)
        found = rank_correlation(x, r * x + np.sqrt(1 - r * r) * rng.normal(size=60), seed=seed, resamples=400)
        hits += found.low <= truth <= found.high
    assert 86 <= hits <= 100


def test_constants_tell_nothing_and_bad_shapes_are_refused():
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).rho == 0
    for x, y in (([1, 2], [1, 2]), ([1, 2, 3], [1, 2, 3, 4]), ([1, 2, np.nan], [1, 2, 3])):
        with pytest.raises(InputError):
            rank_correlation(x, y)


def test_reader_agreement_by_hand():
    scores = np.array([[1, 2, 3, 4, np.nan], [1, 2, 4, 3, 5], [4, 3, 2, 1, 0.0]])
    left_out, pairwise = reader_agreement(scores)
    # Pairs on shared images: (0,1) 0.8; (0,2) -1; (1,2) -0.9.
    assert pairwise == pytest.approx((0.8 - 1 - 0.9) / 3)
    own = [spearmanr(scores[0, :4], (scores[1] + scores[2])[:4] / 2).statistic]
    others = [(scores[0, :4] + scores[2, :4]) / 2, (scores[0, :4] + scores[1, :4]) / 2]
    own.append(spearmanr(scores[1], [*others[0], scores[2, 4]]).statistic)
    own.append(spearmanr(scores[2], [*others[1], scores[1, 4]]).statistic)
    assert left_out == pytest.approx(np.mean(own))
    assert np.isnan(reader_agreement([[1, 2, 3]])).all()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study of two phantoms, interrupted once on the way."""
    root = tmp_path_factory.mktemp("metrics")
    for n in range(2):
        dwi = phantom((48, 60, 4), (3.5, 3.5, 6.0), seed=n, supersampling=1, shells=((0, 1), (1000, 6)))
        io.write_dwi(dwi, root / f"scan{n}.nii.gz")
    data = [str(root / "scan*.nii.gz")]
    output = root / "study"
    stops = iter([False, False, True])
    with pytest.raises(Cancelled):
        run(data, output, cancel=lambda: next(stops))
    done = sorted((output / "runs").rglob("*.json"))
    assert len(done) == 2
    stamps = [path.stat().st_mtime_ns for path in done]
    page = run(data, output)
    assert [path.stat().st_mtime_ns for path in done] == stamps
    return data, output, page


def test_the_study_needs_no_lightning(study, tmp_path):
    """Only training does: here importing it, or what configures it, is an error."""
    data, _, _ = study
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("lightning", "pydantic", "tensorboard", "monai")))
from pathlib import Path
from DWISuperResLib.studies import STUDIES
study = STUDIES.find("metrics")
small = {{**{SMALL!r}, "distances": ("ssfd",), "snr": ()}}
study.run(study.options(data={data[:1]!r}, output=Path({str(tmp_path)!r}), **small))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").is_file()


def test_studies_are_found_by_name_with_typed_options():
    assert {"layers", "metrics", "untrained", "guidance", "scales", "transfer"} == set(STUDIES)
    for study in STUDIES.values():
        flags = [field for field in dataclasses.fields(study.options) if "help" in field.metadata]
        assert {"data", "output", "seed"} <= {field.name for field in flags}
    with pytest.raises(InputError, match="expected one of guidance"):
        STUDIES.find("colours")


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_version_of_every_scan_is_measured(study):
    _, output, _ = study
    rows = table(output / "scores.tsv")
    versions = plan_versions((2,), (10.0,), (), 0)
    assert {(r["scan"], r["version"]) for r in rows} == {(s, v) for s in ("scan0", "scan1") for v in versions}
    assert {"x2 sinc", "x2 sinc SNR 10", "x2 paper cubic", "SNR 10", "blur 1.5 px", "grid 2 px"} <= set(versions)
    for row in rows:
        for name in ("PSNR", "NRMSE", "ssfd", "lpips_alex", *TARGETS):
            assert np.isfinite(float(row[name])), (row["version"], name)
    by_version = {r["version"]: r for r in rows if r["scan"] == "scan0"}
    assert float(by_version["blur 2.5 px"]["FA error"]) > float(by_version["blur 1.5 px"]["FA error"])
    assert float(by_version["grid 2 px"]["FA error"]) > 0.005  # every volume has its own phase
    assert float(by_version["gain 1.05"]["FA error"]) < 1e-3  # a gain leaves FA as it is
    assert float(by_version["gain 1.05"]["ssfd"]) < 1e-3 * float(by_version["x2 nearest"]["ssfd"])


def test_correlations_say_which_weights_and_agree_with_scipy(study):
    _, output, _ = study
    rows, found = table(output / "scores.tsv"), table(output / "correlations.tsv")
    stored = [json.loads(path.read_text()) for path in (output / "runs").rglob("*.json")]
    assert len(stored) == len(rows)
    for target, metric, sign in (("FA error", "PSNR", -1), ("direction error", "lpips_alex", 1)):
        expected = np.mean(
            [
                spearmanr(*np.array([[sign * r[metric], r[target]] for r in stored if r["scan"] == scan]).T).statistic
                for scan in ("scan0", "scan1")
            ]
        )
        row = next(r for r in found if (r["target"], r["metric"]) == (target, metric))
        assert float(row["rho"]) == pytest.approx(expected, abs=1e-3)
        assert float(row["low"]) <= float(row["rho"]) <= float(row["high"])
    assert {r["weights"] for r in found if r["metric"] == "ssfd"} == {"untrained (seed 42)"}
    whole = json.loads((output / "correlations.json").read_text())
    assert len(whole["correlations"]) == len(found)


def test_the_page_is_self_contained(study):
    _, _, page = study
    text = page.read_text(encoding="utf-8")
    assert "foretold best by" in text
    assert "Untrained, wholly or in their deeper layers: ssfd, lpips_alex" in text
    assert text.count("<svg") == 4
    assert not re.search(r'(?:src|href)="(?!#|data:)', text)


def test_reader_scores_join_the_table(study, tmp_path):
    data, output, _ = study
    stored = [json.loads(path.read_text()) for path in (output / "runs").rglob("*.json")]
    images = [(r["scan"], r["version"], r["lpips_alex"]) for r in stored]
    order = np.argsort(np.argsort([-v for *_, v in images]))
    with (tmp_path / "readers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["scan", "version", "reader", "score"])
        for (scan, version, _), rank in zip(images, order, strict=True):
            writer.writerows([(scan, version, "A", rank), (scan, version, "B", 2 * rank + 1)])
    run(data, output, readers=str(tmp_path / "readers.csv"))
    found = {r["metric"]: r for r in table(output / "correlations.tsv") if r["target"] == "reader score"}
    assert float(found["lpips_alex"]["rho"]) == pytest.approx(1)
    assert float(found["readers: each with the others' mean"]["rho"]) == pytest.approx(1)
    assert float(found["readers: pairs"]["rho"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,version,score\nscan0,x2 sinc,3\n", "columns"),
        ("scan,version,reader,score\nscan0,x2 sinc,A,good\n", "columns"),
        ("scan,version,reader,score\nscan0,x9 magic,A,3\n", "not in the study"),
        ("scan,version,reader,score\n", "no scores"),
    ],
)
def test_bad_reader_tables_are_one_sentence(tmp_path, text, message):
    path = tmp_path / "readers.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_readers(path, [{"scan": "scan0", "version": "x2 sinc"}])


def test_a_folder_of_another_study_is_refused(study):
    data, output, _ = study
    with pytest.raises(InputError, match="seed"):
        run(data, output, seed=1)


def test_scans_without_a_metric_do_not_enter_its_correlation():
    rng = np.random.default_rng(0)
    rows = []
    for scan in ("a", "b"):
        for n in range(6):
            errors = dict(zip(TARGETS, rng.random(3), strict=True))
            value = errors["FA error"] if scan == "a" else float("nan")
            rows.append({"scan": scan, "version": str(n), "SSIM": -value, "PSNR": 1.0, **errors})
    found = {(r["target"], r["metric"]): r for r in correlate(rows)}
    assert found["FA error", "SSIM"]["rho"] == pytest.approx(1)
    assert found["FA error", "SSIM"]["scans"] == 1
    assert found["FA error", "PSNR"]["scans"] == 2


def test_scans_of_one_file_name_are_told_apart(tmp_path):
    files = [tmp_path / folder / "dwi.nii.gz" for folder in ("sub-1", "sub-2")]
    assert metrics._scan_names(files) == {"sub-1-dwi": files[0], "sub-2-dwi": files[1]}
    assert list(metrics._scan_names(files[:1])) == ["dwi"]
    with pytest.raises(InputError, match="rename"):
        metrics._scan_names([*files, tmp_path / "other" / "sub-2" / "dwi.nii"])


def test_images_are_kept_for_readers(study, tmp_path, monkeypatch):
    data, _, _ = study
    few = {"x2 linear": 1, "x2 sinc": 1, "SNR 10": 1, "blur 1.5 px": 1}
    plan = metrics.plan_versions
    monkeypatch.setattr(metrics, "plan_versions", lambda *a: {k: v for k, v in plan(*a).items() if k in few})
    run(data[:1], tmp_path, keep_images=True)
    image = io.read_dwi(tmp_path / "images" / "scan0" / "x2_sinc.nii.gz")
    assert image.signal.shape == (48, 60, 2, 7)
