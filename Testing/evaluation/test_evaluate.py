"""Degrade and compare: scores against their definitions, and nothing lost on the way to the files."""

import csv
import hashlib
import json
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch

from DWISuperResLib.checkpoints import Card, save_checkpoint
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.evaluation.compare import compare
from DWISuperResLib.evaluation.evaluate import COLUMNS, Evaluation, assess, evaluate, volume_groups
from DWISuperResLib.networks import build
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.provenance import signal_hash
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate


@pytest.fixture(scope="module")
def scan():
    return phantom((39, 46, 5), (4.0, 4.0, 6.0), seed=1)


@pytest.fixture(scope="module")
def do_nothing(tmp_path_factory):
    """A checkpoint whose network adds nothing to the sinc interpolation."""
    arguments = {"scales": [2], "width": 8, "blocks": [1, 1], "neighbours": 0, "guidance": []}
    weights = {
        k: torch.zeros_like(v) if "tails" in k else v for k, v in build("sr_unet", **arguments).state_dict().items()
    }
    path = tmp_path_factory.mktemp("checkpoint") / "nothing.safetensors"
    save_checkpoint(path, weights, Card("nothing", "sr_unet", arguments, (2,)))
    return path


@pytest.fixture(scope="module")
def evaluation(scan, do_nothing) -> Evaluation:
    return evaluate(
        scan, 2, (do_nothing,), methods=("nearest", "sinc"), distances=("ssfd",), device="cpu", precision="fp32"
    )


def restored(scan, method):
    """Degraded, and back on its own grid."""
    low = degrade(scan, 2)
    return interpolate(low, Scale.between(low.spatial_shape, scan.spatial_shape), method=method)


def test_signal_scores_follow_their_definition_on_the_original_grid(scan, evaluation):
    up = restored(scan, "sinc")
    assert up.spatial_shape == scan.spatial_shape == (39, 46, 5)
    error = up.signal[..., ~scan.is_b0] - scan.signal[..., ~scan.is_b0]
    mask = evaluation.mask
    for shell, members in volume_groups(scan).items():
        if shell != "b0":
            weighted = np.flatnonzero(~scan.is_b0)
            chosen = np.isin(weighted, members)
            expected = np.sqrt(np.mean(error[..., chosen][mask].astype(float) ** 2))
            found = evaluation.score("sinc", "signal", "rmse", volumes=shell)
            assert found == pytest.approx(expected, rel=1e-4)


def test_a_network_that_adds_nothing_scores_as_sinc(evaluation):
    for quantity, metric in (("fa", "mae"), ("qa", "rmse"), ("md", "bias")):
        expected = evaluation.score("sinc", quantity, metric)
        assert evaluation.score("nothing", quantity, metric) == pytest.approx(expected, rel=2e-2, abs=1e-6)


def test_map_scores_equal_those_of_compare(scan, evaluation):
    statistics = compare(scan, restored(scan, "nearest"), ("fa", "md", "qa"), mask=evaluation.mask).statistics
    for row in statistics:
        if row["region"] == "brain":
            for metric in ("mae", "rmse", "bias", "correlation", "loa_lower", "loa_upper"):
                assert evaluation.score("nearest", row["map"], metric) == pytest.approx(row[metric], rel=1e-4, abs=1e-9)


def test_classes_of_fa_part_the_brain(evaluation):
    rows = [r for r in evaluation.scores if (r["method"], r["quantity"], r["metric"]) == ("sinc", "fa", "bias")]
    brain = next(r for r in rows if r["region"] == "brain")
    classes = [r for r in rows if r["region"] != "brain"]
    assert sum(r["voxels"] for r in classes) == brain["voxels"] == evaluation.mask.sum()
    pooled = sum(r["value"] * r["voxels"] for r in classes) / brain["voxels"]
    assert pooled == pytest.approx(brain["value"], abs=1e-6)


def test_a_scan_against_itself_has_no_error(scan):
    result = assess(scan, scan, names=("a", "b"), distances=("ssfd",))
    for row in result.scores:
        if row["metric"] in ("mae", "rmse", "bias", "nrmse", "mean_deg"):
            assert row["value"] == pytest.approx(0, abs=1e-9 if row["metric"] != "mean_deg" else 1e-3)
    assert result.score("b", "signal", "ssim", volumes="b0") == pytest.approx(1, abs=1e-6)
    assert result.score("b", "deep distance", "ssfd", volumes="weighted") == 0


def test_a_rotated_gradient_table_shows_in_the_directions_only(scan):
    angle = np.radians(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    result = assess(scan, replace(scan, bvecs=scan.bvecs @ turn.T), distances=())
    assert result.score("test", "fa", "mae") < 0.02
    flat = np.abs(result.reference.direction[..., 2]) < 0.3
    first, second = (c.direction[flat & result.mask] for c in (result.reference, result.candidates[0]))
    found = np.degrees(np.arccos(np.clip(np.abs((first * second).sum(-1)), 0, 1)))
    assert np.median(found) == pytest.approx(20, abs=2)


def test_files_hold_every_score(evaluation, tmp_path):
    tsv, js = evaluation.write_scores(tmp_path)
    with open(tsv, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(evaluation.scores)
    for row, score in zip(rows, evaluation.scores, strict=True):
        assert float(row["value"]) == pytest.approx(score["value"], rel=1e-6)
        assert (row["data_range"] == "n/a") == (score["quantity"] not in ("signal", "deep distance"))
    stored = json.loads(js.read_text(encoding="utf-8"))
    assert len(stored["scores"]) == len(rows)
    assert stored["conditions"]["scale"] == "2"
    assert stored["conditions"]["factors along the voxel axes"] == "2x2x1"
    assert "ssfd" in stored["conditions"]["deep distances"]
    assert stored["self-checks"]["nothing"][0]["name"].startswith("grid artefacts in signal")
    assert stored["conditions"]["sha256"]["nothing"] == next(
        c.sha256 for c in evaluation.candidates if c.kind == "checkpoint"
    )
    assert stored["conditions"]["versions"]["torch"] == metadata.version("torch")


@pytest.mark.parametrize("scale", ["2.5", "1x1x2", "1.5x1x2"])
def test_any_scale_is_brought_back_onto_the_original_grid(scan, scale):
    kept = []
    found = evaluate(scan, scale, (), methods=("linear",), distances=(), keep=lambda kind, up: kept.append(up))
    assert [up.spatial_shape for up in kept] == [scan.spatial_shape]
    np.testing.assert_allclose(kept[0].affine, scan.affine, atol=1e-9)
    assert 0 < found.score("linear", "fa", "mae") < 0.5
    assert found.conditions["scale"] == scale


def test_a_small_scan_is_measured_without_deep_distances(do_nothing):
    found = evaluate(phantom((24, 24, 4)), 2, (do_nothing,), methods=("sinc",), device="cpu")
    assert found.score("sinc", "signal", "rmse", volumes="b0") > 0
    assert not [row for row in found.scores if row["quantity"] == "deep distance"]
    assert found.conditions["deep distances"] == {}


def test_hash_covers_signal_order_and_table(scan):
    digest = hashlib.sha256(np.asfortranarray(scan.signal).tobytes(order="F"))
    for array in (scan.affine, scan.bvals, scan.bvecs.round(5) + 0.0):
        digest.update(array.tobytes())
    assert signal_hash(scan) == digest.hexdigest()
    assert signal_hash(replace(scan, signal=np.ascontiguousarray(scan.signal))) == digest.hexdigest()
    assert signal_hash(replace(scan, bvals=scan.bvals * 1.001)) != digest.hexdigest()


def test_volumes_are_grouped_by_b_value(scan):
    bvals = np.array([5, 990, 1010, 0, 2005, 1995, 700])
    few = replace(scan, signal=scan.signal[..., :7], bvals=bvals, bvecs=np.tile([1.0, 0, 0], (7, 1)))
    groups = {name: members.tolist() for name, members in volume_groups(few).items()}
    assert groups == {"b0": [0, 3], "b700": [6], "b1000": [1, 2], "b2000": [4, 5]}


def test_two_checkpoints_of_one_name_stay_apart(scan, do_nothing):
    result = evaluate(scan, 2, (do_nothing, do_nothing), methods=(), distances=(), device="cpu", precision="fp32")
    assert [c.name for c in result.candidates] == ["nothing", "nothing (2)"]


def test_progress_rises_to_the_end_and_cancel_stops(scan):
    seen = []
    options = {"methods": ("nearest", "linear"), "distances": ()}
    evaluate(scan, 2, (), progress=lambda part, message: seen.append(part), **options)
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] < 1
    with pytest.raises(Cancelled):
        evaluate(scan, 2, (), cancel=lambda: True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1}, "nothing to evaluate"),
        ({"methods": ()}, "nothing to evaluate"),
        ({"methods": ("magic",)}, "magic"),
        ({"mask": np.zeros((39, 46, 5), bool)}, "brain marked"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(scan, options, message):
    with pytest.raises(InputError, match=message):
        evaluate(scan, **({"scale": 2, "checkpoints": (), "methods": ("nearest",), "distances": ()} | options))


def test_scans_of_different_tables_are_not_compared(scan):
    with pytest.raises(InputError, match="b-values differ"):
        assess(scan, replace(scan, bvals=scan.bvals * 1.2))


def test_the_reference_is_checked_and_taken_down_to_what_it_holds():
    scan = phantom((40, 48, 5), (4.0, 4.0, 6.0), shells=((0, 1), (1000, 8)), supersampling=1)
    filled = interpolate(scan, 2)
    asked = {"checkpoints": (), "methods": ("sinc",), "distances": ()}
    plain, native = evaluate(filled, 2, **asked), evaluate(filled, 2, native=True, **asked)
    assert [check.fired for check in plain.checks["reference"]] == [True, False]
    assert [check.fired for check in native.checks["reference"]] == [False, False]
    assert [e.conditions["reference at native resolution"] for e in (plain, native)] == [False, True]
    assert plain.mask.shape == (80, 96, 5)
    assert max(np.abs(np.subtract(native.mask.shape, scan.spatial_shape))) <= 2
    # What sinc has to restore of a scan that was filled by it is nothing: an error that says nothing of real detail.
    assert plain.score("sinc", "signal", "nrmse", volumes="b1000") < 0.5 * native.score(
        "sinc", "signal", "nrmse", volumes="b1000"
    )
