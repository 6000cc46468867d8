"""The benchmarks run, at tiny sizes, and tell what they should."""

import json
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn

import DWISuperResLib as dsr
from DWISuperResLib.evaluation.scorer import Scorer
from Testing.benchmarks import __main__ as benchmarks
from Testing.benchmarks import (
    blocks,
    ceilings,
    evaluation,
    gpu,
    harness,
    held_out,
    memory,
    super_resolution,
    training,
    whole_scan,
)  # fmt: skip
from Testing.conftest import oracle


def test_ratios_come_from_neighbouring_runs():
    result = harness.Result("task", "peer", [1.0, 2.0], [3.0, 8.0])
    assert result.ratios == [3.0, 4.0]


def test_operations_and_traffic_of_a_convolution():
    network = _Taking(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    x = torch.rand(2, 3, 10, 12)
    assert ceilings.operations(network, x, 2) == 2 * 2 * 10 * 12 * 9 * 3 * 8
    elements = 2 * 10 * 12 * (3 + 8) + 9 * 3 * 8
    assert ceilings.traffic(network, x, 2, None) == 4 * elements
    assert ceilings.traffic(network, x, 2, torch.bfloat16) == 2 * elements


class _Taking(nn.Module):
    """A layer that is called as our networks are."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, scale):
        return self.layer(x)


def test_paper_network_agrees_with_the_reference_pipeline(tmp_path):
    oracle("fastai")
    speed, agreement = super_resolution.against_fastai((26, 30, 1), 14, tmp_path, repeats=1)
    assert len(speed.ratios) == 1
    assert agreement.ours[0] < 5e-3  # so small a slice is all border; the limit holds for whole ones


def test_share_of_the_ceiling_is_one_at_most():
    result = super_resolution.against_ceiling("default network", (24, 20), 1)
    assert 0 < result.ratios[0] < 1.2


def test_blocks_are_compared_with_the_ceiling_and_with_plain_pytorch():
    results = blocks.main(["--quick", "--repeats", "1"])
    assert [result.goal for result in results] == [0.6, 3, 0.6, 3]
    assert all(result.ratios[0] > 0 for result in results)


@pytest.mark.parametrize("architecture", ["recnn", "srcnn"])
def test_plain_pytorch_computes_the_same(architecture):
    network = blocks.network_of(architecture, blocks.SMALL[architecture], torch.device("cpu"))
    x = torch.rand(2, 1, 8, 9, 10)
    torch.testing.assert_close(blocks.plain_of(network)(x), network(x, x.shape[2:]), rtol=1e-5, atol=1e-5)


def test_whole_scan_runs_both_commands():
    (result,) = whole_scan.main(["--quick", "--repeats", "1"])
    if result.skipped:
        oracle("mrtrix3")
    assert len(result.ours) == len(result.theirs) == 1


def test_an_evaluation_is_timed_as_one_command():
    (result,) = evaluation.main(["--quick", "--repeats", "1"])
    assert result.ours[0] > 0


def test_training_steps_are_compared_with_plain_pytorch_and_with_the_ceiling():
    results = training.main(["--quick", "--repeats", "1"])
    assert [result.goal for result in results] == [8, 0.5, 1, 5, 0.5, 1]
    assert all(result.ratios[0] > 0 for result in results)


def test_the_machine_is_named():
    assert f"{harness.cores()} cores" in harness.machine()


def test_without_a_card_the_script_runs_small_and_says_why(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a graphics card")
    results = gpu.main(["--quick", "--repeats", "1", "--no-scan"])
    assert results == []
    said = capsys.readouterr().out
    assert "No figure for a graphics card" in said
    assert "slices/s" in said
    assert "failed" not in said


@pytest.mark.parametrize("b0_volumes", [1, 4])
@pytest.mark.parametrize("scale", [2, 3])
def test_noise_floor_is_the_noise_that_truncation_removes(b0_volumes, scale):
    """Of white noise, truncation keeps 1 / scale²; the signal, here the same everywhere, adds nothing."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(20, 3))
    bvecs = np.concatenate((np.zeros((b0_volumes, 3)), directions / np.linalg.norm(directions, axis=1, keepdims=True)))
    bvals = np.array([0.0] * b0_volumes + [1000.0] * 20)
    # A signal that is quadratic in the direction, so that the fit misses none of it.
    clean = np.where(bvals == 0, 1000, 300 + 200 * bvecs[:, 0] ** 2)
    sigma = 12.0
    signal = (clean + rng.normal(scale=sigma, size=(36, 30, 12, len(bvals)))).astype(np.float32)
    dwi = dsr.DWI(signal, np.eye(4), bvals, bvecs)
    scorer = Scorer(dwi, np.ones(dwi.spatial_shape), regions=("brain",))
    floor = held_out.noise_floor(scorer, str(scale), "kspace")
    assert floor["rmse"] == pytest.approx(sigma * np.sqrt(1 - 1 / scale**2), rel=0.02)
    assert 0 < floor["fa"] < 0.2
    # Thick slices tell as many numbers as there are of them.
    thick = held_out.noise_floor(scorer, f"1x1x{scale}", "profile")
    assert thick["rmse"] == pytest.approx(sigma * np.sqrt(1 - 1 / scale), rel=0.02)


def test_held_out_compares_floor_network_and_repeats(tmp_path, capsys):
    scan = dsr.phantom(shape=(24, 24, 4))
    twice = replace(
        scan,
        signal=np.concatenate((scan.signal, 1.1 * scan.signal), axis=3),
        bvals=np.tile(scan.bvals, 2),
        bvecs=np.tile(scan.bvecs, (2, 1)),
    )
    dsr.write_dwi(twice, tmp_path / "scan.nii.gz")
    row, repeated = held_out.main(["--scales", "2", f"{tmp_path / 'scan.nii.gz'}=default"])
    assert (row["scan"], row["scale"]) == ("scan", "2")
    assert row["rmse_change"] == pytest.approx(100 * (row["rmse"] / row["rmse_best"] - 1))
    for key, share in row["recovered"].items():
        recoverable = row[f"{key}_best"] - row["floor"][key]
        # A phantom is smooth: cubic interpolation takes more noise from its FA than truncation does.
        assert np.isnan(share) == (recoverable <= 0)
        assert np.isnan(share) or row[key] == pytest.approx(row[f"{key}_best"] - share * recoverable)
    assert repeated["repeats"]["fa"] == pytest.approx(0, abs=0.01)  # FA does not depend on the scale of the signal
    assert repeated["repeats"]["rmse"] > 0
    names = [line.split(" |")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert names == ["| scan", "| scan, noise alone", "| scan, recovered", "| scan, repeats"]


def test_memory_is_measured_where_the_system_allows(tmp_path, capsys):
    results = memory.main(["--quick", "--repeats", "1", "--plot", str(tmp_path / "cost.png")])
    if not results[0].skipped:
        assert (tmp_path / "cost.png").stat().st_size > 1000
        assert all(result.ratios[0] >= 1 for result in results[:3])


def test_one_command_gathers_all_in_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_scan, "main", lambda argv: [harness.Result("a", "b", [1.0], [2.0])])
    benchmarks.main(["whole_scan", "--quick", "--json", str(tmp_path / "all.json")])
    content = json.loads((tmp_path / "all.json").read_text())
    assert content["results"][0]["ratios"] == [2.0]
    assert content["machine"]["packages"]["torch"] == version("torch")


def test_unknown_names_are_refused():
    with pytest.raises(SystemExit):
        benchmarks.main(["nonsense"])
