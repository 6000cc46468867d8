"""Comparison of two scans: differences, statistics and tissue classes against NumPy and SciPy."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.transform import Rotation

from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation.compare import compare
from DWISuperResLib.evaluation.report import write_comparison_report
from DWISuperResLib.microstructure import compute_maps, map_names
from Testing.microstructure.test_maps import signals_of, table, tensors_of


@pytest.fixture
def pair():
    """A reference with all tissue classes and a noisier test of the same grid; the mask is everything."""
    rng = np.random.default_rng(10)
    bvals, bvecs = table(((0, 2), (1000, 24)))
    eigenvalues = np.repeat([[3e-3] * 3, [8e-4] * 3, [1.1e-3, 7e-4, 6e-4], [1.7e-3, 3e-4, 3e-4]], 90, axis=0)
    signals = signals_of(tensors_of(eigenvalues, Rotation.random(360, rng=rng)), bvals, bvecs)
    signals = signals.reshape(10, 9, 4, -1)
    reference = DWI(signals + rng.normal(0, 5, signals.shape), np.diag([2.0, 2, 3, 1]), bvals, bvecs)
    test = dataclasses.replace(reference, signal=np.abs(signals * 1.1 + rng.normal(0, 30, signals.shape)))
    return reference, test, np.ones((10, 9, 4), dtype=bool)


def test_comparing_a_scan_with_itself_gives_zero(pair):
    reference, _, mask = pair
    result = compare(reference, reference, map_names(), mask=mask)
    assert result.maps == map_names()
    assert not any(values.any() for values in result.difference.values())
    for row in result.statistics:
        assert row["mae"] == row["rmse"] == row["bias"] == row["loa_upper"] == 0
        assert row["correlation"] == pytest.approx(1)


def test_statistics_equal_scipy_and_regions_divide_the_mask(pair):
    reference, test, mask = pair
    result = compare(reference, test, ("fa", "md", "qa"), mask=mask)
    regions = ["brain", "CSF-like", "FA < 0.2", "FA 0.2-0.4", "FA >= 0.6"]  # none of 0.4 to 0.6
    assert [(row["map"], row["region"]) for row in result.statistics] == [
        (name, region) for name in ("fa", "md", "qa") for region in regions
    ]
    rows = {(row["map"], row["region"]): row for row in result.statistics}
    assert sum(rows["fa", region]["n"] for region in regions[1:]) == rows["fa", "brain"]["n"] == mask.sum()
    assert rows["md", "CSF-like"]["reference_mean"] == pytest.approx(3e-3, rel=0.05)
    fa = compute_maps(reference, ("fa",))["fa"]
    inside = fa >= 0.6
    for name, region, where in (("fa", "brain", mask), ("qa", "FA >= 0.6", inside)):
        first, second = result.reference[name][where], result.test[name][where]
        error = (second - first).astype(float)
        row = rows[name, region]
        assert row["n"] == where.sum()
        assert row["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-5)
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-5)
        assert row["bias"] == pytest.approx(np.mean(error), rel=1e-4)
        assert row["correlation"] == pytest.approx(scipy.stats.pearsonr(first, second).statistic, rel=1e-4)
        limits = np.mean(error) + np.array([-1.96, 1.96]) * np.std(error, ddof=1)
        assert (row["loa_lower"], row["loa_upper"]) == pytest.approx(limits, rel=1e-4)
    np.testing.assert_array_equal(result.difference["fa"], result.test["fa"] - result.reference["fa"])


def test_qa_of_both_scans_has_one_scale(pair):
    reference, _, mask = pair
    brighter = dataclasses.replace(reference, signal=reference.signal * 1.5)
    result = compare(reference, brighter, ("qa", "iso", "fa"), mask=mask)
    assert result.reference["qa"].max() == pytest.approx(1)
    raw = compute_maps(reference, ("qa", "iso"))
    for name in ("qa", "iso"):
        np.testing.assert_allclose(result.test[name], 1.5 * result.reference[name], rtol=1e-4)
        np.testing.assert_allclose(result.reference[name], raw[name] * result.qa_scale, rtol=1e-4)
    np.testing.assert_allclose(result.difference["fa"], 0, atol=1e-4)
    alone = compare(reference, brighter, ("iso",), mask=mask)
    np.testing.assert_allclose(alone.reference["iso"], result.reference["iso"], rtol=1e-6)
    assert tuple(alone.reference) == ("iso",)


def test_grids_must_be_the_same(pair):
    reference, _, mask = pair
    padded = dataclasses.replace(
        reference, signal=np.pad(reference.signal, ((0, 2), (0, 1), (0, 0), (0, 0)), mode="edge")
    )
    with pytest.raises(InputError, match="same grid"):
        compare(reference, padded, mask=mask)
    with pytest.raises(InputError, match="mm apart"):
        compare(reference, dataclasses.replace(reference, affine=np.diag([2.0, 2, 3.3, 1])), mask=mask)


def test_a_region_is_the_same_in_statistics_scores_and_report(pair, tmp_path):
    """One rule: fluid has a row of its own and is in no class of FA, in every table."""
    reference, test, mask = pair
    evaluation = write_comparison_report(
        reference, test, tmp_path / "report.html", maps=("ad",), mask=mask, distances=()
    )
    statistics = compare(reference, test, ("fa", "ad"), mask=mask).statistics
    of_report = evaluation.comparison(("fa", "ad")).statistics
    assert of_report == statistics
    rows = {(row["map"], row["region"]): row for row in statistics}
    scored = {(r["quantity"], r["region"]): r for r in evaluation.scores if r["metric"] == "mae"}
    for region in ("brain", "CSF-like", "FA < 0.2", "FA >= 0.6"):
        assert scored["fa", region]["value"] == rows["fa", region]["mae"]
        assert scored["fa", region]["voxels"] == rows["fa", region]["n"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = page[page.index("Fractional anisotropy (FA)") :]
    cells = re.search(r"<td>FA &lt; 0.2</td><td class=\"text\">test</td><td>([^<]+)</td><td>([^<]+)</td>", table)
    assert cells.groups() == (str(rows["fa", "FA < 0.2"]["n"]), f"{rows['fa', 'FA < 0.2']['mae']:.4g}")
    fa, md = (compute_maps(reference, (name,))[name] for name in ("fa", "md"))
    assert rows["fa", "FA < 0.2"]["n"] == np.count_nonzero((fa < 0.2) & (md < 1.5e-3))
    assert rows["fa", "CSF-like"]["n"] == np.count_nonzero((fa < 0.2) & (md >= 1.5e-3)) > 0


def test_comparison_refuses_an_empty_mask_and_does_without_tissue_classes(pair):
    reference, test, mask = pair
    with pytest.raises(InputError, match="not empty"):
        compare(reference, test, mask=np.zeros_like(mask))
    few = [
        dataclasses.replace(d, signal=d.signal[..., :7], bvals=d.bvals[:7], bvecs=d.bvecs[:7])
        for d in (reference, test)
    ]
    result = compare(*few, ("qa",), mask=mask)
    assert [row["region"] for row in result.statistics] == ["brain"]
    with pytest.raises(InputError, match="tensor cannot be fitted"):
        compare(*few, mask=mask)
