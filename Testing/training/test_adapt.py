"""Adaptation to the scan itself: what it is shown, that it helps, repeats, harms nothing it measures, can be ended."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import DWISuperResLib as dsr
from DWISuperResLib import networks
from DWISuperResLib.apps.cli import main
from DWISuperResLib.checkpoints import Card, Checkpoint
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.resampling.operators import slice_profile
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.training import adapt as adapting
from DWISuperResLib.training.adapt import adapt
from DWISuperResLib.training.cache import copied_scan, copy_scan

SHELLS = ((0, 1), (1000, 6))


@pytest.fixture(scope="module")
def fine():
    return dsr.phantom((44, 52, 24), (4.0, 4.0, 4.0), supersampling=1, snr=None, shells=SHELLS)


@pytest.fixture(scope="module")
def thick(fine):
    return dsr.degrade(fine, "1x1x4", model="profile", axis="k")


@pytest.fixture(scope="module")
def checkpoint():
    arguments = {"scales": [2, 3], "width": 8, "blocks": [1, 1], "neighbours": 1, "guidance": ["mean_dwi"]}
    torch.manual_seed(0)
    network = networks.build("sr_unet", **arguments)
    return Checkpoint(Card("small", "sr_unet", arguments, factors=(2, 3)), network.state_dict())


@pytest.fixture(scope="module")
def served():
    """One that serves the factor already."""
    arguments = {"scales": [[1, 4]], "width": 8, "blocks": [1, 1], "neighbours": 0, "band_limited": False}
    torch.manual_seed(0)
    network = networks.build("sr_unet", **arguments)
    return Checkpoint(Card("small", "sr_unet", arguments, factors=((1, 1, 4),)), network.state_dict())


def same(first, second):
    return all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def rms(first, second):
    return float(np.sqrt(np.square(first.signal - second.signal, dtype=np.float64).mean()))


def test_through_plane_lessons_are_slices_as_coarse_along_one_axis_as_they_are_thick(thick, checkpoint, tmp_path):
    plan = adapting._plan(thick, checkpoint.card, Scale.of(1, 1, 4), slices=2, seed=0)
    copy_scan(thick, tmp_path, "volume", 2)
    scan = copied_scan(tmp_path, tmp_path)
    lessons, held = adapting._lessons(scan, plan)
    positions = [set(part.scans[0].slices) for part in (lessons, held)]
    assert positions[1]
    assert not positions[0] & positions[1]
    whole = held.config.model_copy(update={"data": held.config.data.model_copy(update={"patch": None, "slabs": 1})})
    batches = adapting.Batches(held.scans, held.view, whole, None)
    found = set()
    for index in range(6):
        batch = batches[index]
        axis = int(np.argmin(np.array(batch["input"].shape[2:]) / batch["target"].shape[2:])) + 2
        target = np.moveaxis(batch["target"][:, 0].numpy(), axis - 1, -1)
        n, m = target.shape[-1], batch["input"].shape[axis]
        expected = target @ slice_profile(n, m, n / m).T
        np.testing.assert_allclose(np.moveaxis(batch["input"][:, 0].numpy(), axis - 1, -1), expected, atol=1e-5)
        images = scan.signal[:, sorted(positions[1])] * scan.normalisation.gains[:, None, None, None]
        sums = images.reshape(-1, *images.shape[2:])
        for image in batch["target"][:, 0].numpy():
            rows, columns = image.shape
            assert any(
                np.allclose(image, each[i : i + rows, j : j + columns], atol=1e-5)
                for each in sums
                for i in range(each.shape[0] - rows + 1)
                for j in range(each.shape[1] - columns + 1)
            )
        found.add(axis)
    assert found == {2, 3}


def test_a_scan_adapted_to_comes_nearer_to_the_truth_through_plane(fine, thick, checkpoint):
    adapted, told = adapt(thick, checkpoint, "1x1x4", steps=100, device="cpu")
    assert told.after < told.before
    assert adapted.card.served_text == "1x1x4"
    assert adapted.card.degradation["model"] == "profile"
    result = dsr.super_resolve(thick, adapted, "1x1x4", device="cpu", precision="fp32")
    error = rms(result, fine)
    for method in ("linear", "cubic", "bspline", "sinc"):
        assert error < rms(dsr.interpolate(thick, "1x1x4", method=method), fine)


def test_a_network_fine_tuned_does_better_on_slices_held_back_and_keeps_the_callers_randomness(thick, served):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    adapted, told = adapt(thick, served, "1x1x4", steps=30, device="cpu", axis="k")
    assert torch.equal(torch.rand(1), expected)
    assert told.after < told.before
    assert 0 < told.kept <= told.steps == 30
    assert adapted.card.factors == ((1, 1, 4),)
    assert adapted.card.training["adapted"]["steps"] == 30
    assert not same(adapted, served)


def test_what_a_time_budget_made_is_made_again_by_its_steps(thick, served):
    first, told = adapt(thick, served, "1x1x4", minutes=0.001, device="cpu", axis="k")
    assert told.steps >= 10
    again, retold = adapt(thick, served, "1x1x4", steps=told.steps, device="cpu", axis="k")
    assert same(first, again)
    assert replace(retold, minutes=told.minutes) == told
    assert not same(first, adapt(thick, served, "1x1x4", steps=told.steps, device="cpu", axis="k", seed=1)[0])


def test_where_nothing_helps_the_start_is_kept(thick, served, monkeypatch):
    monkeypatch.setattr(adapting, "FINE_TUNING", 100.0)
    adapted, told = adapt(thick, served, "1x1x4", steps=20, device="cpu", axis="k")
    assert told.kept == 0
    assert told.after == told.before
    assert same(adapted, served)


def test_fine_tuned_weights_are_pulled_back_to_where_they_started(thick, served, monkeypatch):

    def moved():
        adapted, _ = adapt(thick, served, "1x1x4", steps=20, device="cpu", axis="k")
        return sum(float((adapted.weights[n] - w).square().sum()) for n, w in served.weights.items()) ** 0.5

    free = moved()
    monkeypatch.setattr(adapting, "PULL", 0.5)
    assert 0 < moved() < 0.7 * free


def test_an_adaptation_reports_and_can_be_cancelled(thick, served):
    seen = []
    adapt(thick, served, "1x1x4", steps=4, device="cpu", axis="k", progress=lambda share, text: seen.append(share))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    with pytest.raises(Cancelled):
        adapt(thick, served, "1x1x4", steps=4, device="cpu", axis="k", cancel=lambda: len(seen) > 0)


@pytest.mark.parametrize(
    ("scale", "budget", "sentence"),
    [
        ("1x1x4", {}, "takes minutes or a number of steps"),
        ("1x1x4", {"minutes": 1, "steps": 1}, "takes minutes or a number of steps"),
        ("1x1x4", {"minutes": -1}, "expected a number above 0"),
        (2, {"steps": 1}, "the scale is 2x2x1, and in-plane adapted networks do worse"),
        ("1x1x2.5", {"steps": 1}, "whole through-plane factors"),
        ("2x2x2", {"steps": 1}, "the scale is 2x2x2"),
        ("1x1x5", {"steps": 1}, "cannot teach a distance of 3.2 mm"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_one_sentence(thick, checkpoint, scale, budget, sentence):
    with pytest.raises(InputError, match=sentence):
        adapt(thick, checkpoint, scale, device="cpu", **budget)


def test_a_network_that_serves_a_range_is_adapted_to_a_factor_within(fine):
    network = networks.build("recnn", layers=2, filters=4, dimensions=2)
    arguments, factors = {"layers": 2, "filters": 4, "dimensions": 2}, ((1, 1, 2), (1, 1, 3))
    card = Card("free", "recnn", arguments, factors, view=network.view.describe())
    low = dsr.degrade(fine, "1x1x2.5", model="profile", axis="k")
    back = Scale.between(low.spatial_shape, fine.spatial_shape)
    adapted, told = adapt(low, Checkpoint(card, network.state_dict()), back, steps=10, axis="k", device="cpu")
    assert adapted.card.factors == ((1, 1, 2.4),)
    assert told.after < told.before
    assert dsr.super_resolve(low, adapted, back, device="cpu", axis="k").spatial_shape == fine.spatial_shape


def test_other_networks_get_no_new_factors(thick, checkpoint):
    other = replace(checkpoint, card=replace(checkpoint.card, architecture="dynamic_unet", arguments={}))
    with pytest.raises(InputError, match="of an sr_unet alone"):
        adapt(thick, other, "1x1x4", steps=1)


def test_the_command_line_adapts_and_says_what_it_did(thick, served, tmp_path, capfd):
    from DWISuperResLib.checkpoints import save_checkpoint

    scan, network, out = (tmp_path / name for name in ("low.nii.gz", "small.safetensors", "out.nii.gz"))
    dsr.write_dwi(thick, scan)
    save_checkpoint(network, served.weights, served.card)
    shared = [
        "run",
        str(scan),
        str(out),
        "--scale",
        "1x1x4",
        "--checkpoint",
        str(network),
        "--axis",
        "k",
        "--device",
        "cpu",
    ]
    shared += ["--precision", "fp32", "--adapt-steps", "10", "--progress", "json"]
    assert main(shared) == 0
    (result,) = [line for line in map(json.loads, capfd.readouterr().out.splitlines()) if line["type"] == "result"]
    adapted, told = adapt(dsr.read_dwi(scan), served, "1x1x4", steps=10, device="cpu", axis="k")
    assert result["adapted"] | {"minutes": 0} == {**adapted.card.training["adapted"], "minutes": 0}
    assert result["adapted"]["kept"] == told.kept
    expected = dsr.super_resolve(dsr.read_dwi(scan), adapted, "1x1x4", device="cpu", precision="fp32", axis="k")
    np.testing.assert_allclose(dsr.read_dwi(out).signal, expected.signal, rtol=1e-4, atol=1e-2)
    assert main(["run", str(scan), str(out), "--method", "sinc", "--adapt", "1", "--overwrite"]) == 2
    assert "--adapt" in capfd.readouterr().err
