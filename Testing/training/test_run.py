"""Training: configurations are checked, runs resume bit for bit, two processes equal one, schedules are fastai's."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.losses import build_loss
from DWISuperResLib.networks import build
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.train import main
from DWISuperResLib.training import load_configuration, train, validated
from DWISuperResLib.training.configuration import Configuration, Schedule
from DWISuperResLib.training.module import Training, learning_rates
from Testing.conftest import oracle

EXAMPLES = sorted((Path(__file__).parents[2] / "Resources" / "Configurations").glob("*.yaml"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Three small phantom scans of three subjects."""
    root = tmp_path_factory.mktemp("cohort")
    for n in range(3):
        dwi = phantom((24, 30, 4), (6.0, 6.0, 6.0), seed=n, supersampling=1, shells=((0, 2), (1000, 7)))
        (root / f"sub-{n}").mkdir()
        io.write_dwi(dwi, root / f"sub-{n}" / "dwi.nii.gz")
    return root


def tree(scans: Path, output: Path, **changes) -> dict:
    """A configuration of seconds."""
    base = {
        "output": str(output),
        "data": {
            "scans": [str(scans)],
            "validation": [str(scans / "sub-2")],
            "cache": str(scans / "cache"),
            "slabs": 2,
            "patches": 2,
            "patch": 24,
            "workers": 0,
        },
        "network": {"architecture": "sr_unet", "arguments": {"width": 8, "scales": [2]}},
        "schedule": {"epochs": 2, "steps_per_epoch": 3, "ema": 0.9, "warmup": 0.1},
        "validation": {"slices": 1, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            base.setdefault(section, {})[name] = value
        else:
            base[section] = value
    return base


def config(scans: Path, output: Path, **changes) -> Configuration:
    return validated(tree(scans, output, **changes))


# Configuration


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_valid_and_their_networks_and_losses_exist(path):
    example = load_configuration(path, ["data.scans=[a.nii.gz]"])
    for term in example.loss:
        if "weights" not in term:
            build_loss([term])
    if example.network.start_from is None:
        with torch.device("meta"):
            build(example.network.architecture, **example.network.arguments)


def test_there_are_examples():
    assert {"default", "paper", "denoise", "finetune_x3"} <= {path.stem for path in EXAMPLES}


def test_overrides_reach_every_depth(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"data": {"scans": ["x"]}, "loss": [{"name": "l1"}]}))
    overrides = ["schedule.epochs=7", "scales=[2, 3]", "loss.0.weight=2.5", "network.arguments.width=8", "name=a"]
    result = load_configuration(path, overrides)
    assert (result.schedule.epochs, result.scales, result.loss[0]["weight"]) == (7, ((2, 2, 1), (3, 3, 1)), 2.5)
    assert (result.network.arguments, result.name) == ({"width": 8}, "a")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("schedule.epoch=3", "schedule.epoch"),
        ("schedule.epochs=none", "schedule.epochs"),
        ("schedule.learning_rate=-1", "learning_rate"),
        ("scales=[7]", "scales.0"),
        ("scales=[1]", "above 1, up to 5"),
        ("task=denoising", r"scales must be \[1\]"),
        ("data.scans=[]", "data.scans"),
        ("degradation.noise=[5, 1]", "low, high"),
        ("degradation.models={fourier: 1}", "fourier"),
        ("data.patch=4", "data.patch"),
        ("schedule.freeze_epochs=99", "freeze_epochs"),
        ("loss=[]", "loss"),
        ("epochs", "key=value"),
        ("loss.3.weight=1", "index below 1"),
        ("name.first=1", "no keys"),
        ("machine.precision=fp8", "precision"),
        ("name=[", "YAML"),
    ],
)
def test_bad_configuration_is_one_sentence(tmp_path, override, says):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "n", "data": {"scans": ["x"]}, "loss": [{"name": "l1"}]}))
    with pytest.raises(InputError, match=says) as caught:
        load_configuration(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", None])
def test_unreadable_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        load_configuration(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network__architecture": "alexnet"}, "alexnet"),
        ({"loss": [{"name": "l3"}]}, "l3"),
        ({"scales": [3]}, "makes images 2 times as large"),
        ({"schedule__freeze_epochs": 1}, "no encoder"),
        ({"network__imagenet": "download"}, "no ImageNet"),
        ({"network__start_from": "nowhere.safetensors"}, "nowhere"),
        ({"data__validation": [], "schedule__patience": 2}, "held out"),
        ({"loss": [{"name": "fa"}], "data__volumes": 5}, "six directions"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(scans, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        train(config(scans, tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "last.ckpt").exists()


def test_a_broken_scan_is_named_before_training(scans, tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"not an image")
    (tmp_path / "broken.bval").write_text("0\n")
    (tmp_path / "broken.bvec").write_text("0\n0\n0\n")
    with pytest.raises(InputError, match=r"broken\.nii\.gz"):
        train(config(scans, tmp_path / "out", data__scans=[str(tmp_path / "broken.nii.gz")]))


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err


# Schedules


def test_schedule_is_fastais_fine_tune():
    oracle("fastai")
    from fastai.callback.schedule import combined_cos

    schedule = Schedule(
        epochs=105, freeze_epochs=5, learning_rate=1e-4, shape="one-cycle", warmup=0.3, encoder_ratio=100
    )
    for along in np.linspace(0, 0.999, 25):
        rates, momentum = learning_rates(schedule, along * 5 / 105, 3)
        peak = combined_cos(0.99, 1 / 25, 1, 1e-5)(along)
        np.testing.assert_allclose(rates, np.array([1e-5, 1e-5, 1e-4]) * peak, rtol=1e-4)
        assert momentum == pytest.approx(combined_cos(0.99, 0.95, 0.85, 0.95)(along))
        rates, momentum = learning_rates(schedule, (5 + 100 * along) / 105, 3)
        peak = combined_cos(0.3, 1 / 5, 1, 1e-5)(along)
        np.testing.assert_allclose(rates, np.array([5e-7, 5e-6, 5e-5]) * peak, rtol=1e-4)
        assert momentum == pytest.approx(combined_cos(0.3, 0.95, 0.85, 0.95)(along))


def test_cosine_warms_up_and_ends_low():
    schedule = Schedule(learning_rate=1.0, warmup=0.1, final=0.01)
    rates = [learning_rates(schedule, d, 1)[0][0] for d in np.linspace(0, 1, 101)]
    assert rates[0] < 0.01
    assert np.argmax(rates) == 10
    assert max(rates) == pytest.approx(1)
    assert rates[55] == pytest.approx((1 + 0.01) / 2)
    assert rates[-1] == pytest.approx(0.01)


# Runs


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).weights


def test_run_trains_reports_and_exports_a_complete_card(scans, tmp_path, capsys):
    exported = train(config(scans, tmp_path / "out", schedule__learning_rate=1e-2, validation__images=True))
    card = load_checkpoint(exported).card
    assert card.scales == (2,)
    assert card.voxel_sizes == {"in_plane": [12.0, 12.0], "slice": [6.0, 6.0]}
    assert card.bvals == (0.0, 1000.0)
    assert card.degradation["model"] == "kspace"
    assert card.snr[0] > 0
    assert "b0 spread" in card.statistics
    assert len(card.training["scans"]) == 2
    assert len(card.training["held_out"]) == 1
    for name in ("psnr", "ssim", "nrmse", "fa_error", "qa_error"):
        assert f"val/{name}" in card.scores
        assert f"classical/{name}" in card.scores
    assert capsys.readouterr().out.count("best interpolation") == 2
    rows = (tmp_path / "out" / "csv" / "version_0" / "metrics.csv").read_text()
    assert "val/fa_error" in rows
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    shown = {"slice: reference, sinc, network", "FA error: sinc, network", "QA error: sinc, network"}
    assert {tag.replace("_", " ") for tag in events.Tags()["images"]} == {tag.replace("_", " ") for tag in shown}
    fresh = build("sr_unet", width=8, scales=[2]).state_dict()
    assert not torch.equal(fresh["tails.2.last.weight"], weights_of(exported)["tails.2.last.weight"])
    with pytest.raises(InputError, match="already"):
        train(config(scans, tmp_path / "out"))


def test_an_interrupted_run_continues_bit_for_bit(scans, tmp_path, monkeypatch):
    changes = {"schedule__epochs": 3, "network__architecture": "sr_unet"}
    whole = train(config(scans, tmp_path / "whole", **changes))

    class Interrupted(Exception):
        pass

    begin = Training.on_train_epoch_start

    def stop_at_third(self):
        if self.current_epoch == 2:
            raise Interrupted
        begin(self)

    parts = config(scans, tmp_path / "parts", **changes)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "on_train_epoch_start", stop_at_third)
        with pytest.raises(Interrupted):
            train(parts)
    resumed = train(config(scans, tmp_path / "parts", resume=True, **changes))
    first, second = (torch.load(p.parent / "last.ckpt", weights_only=True) for p in (whole, resumed))
    assert first["global_step"] == second["global_step"] == 9
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(first[part][k], second[part][k]) for k in first[part])
    moments = [c["optimizer_states"][0]["state"] for c in (first, second)]
    assert all(torch.equal(moments[0][n]["exp_avg_sq"], moments[1][n]["exp_avg_sq"]) for n in moments[0])
    assert all(torch.equal(a, b) for a, b in zip(*(weights_of(p).values() for p in (whole, resumed)), strict=True))
    with pytest.raises(InputError, match=r"schedule\.learning_rate was"):
        train(config(scans, tmp_path / "parts", resume=True, schedule__learning_rate=1.0, **changes))


@pytest.mark.timeout(600)
def test_two_processes_equal_one_that_accumulates(scans, tmp_path):
    single = train(config(scans, tmp_path / "one", schedule__accumulate=2))
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tree(scans, tmp_path / "two")))
    command = [sys.executable, "-m", "DWISuperResLib.train", "--config", str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "machine.devices=2", "machine.strategy=ddp"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr
    double = tmp_path / "two" / "model.safetensors"
    scores = [load_checkpoint(p).card.scores for p in (single, double)]
    assert scores[0]["val/nrmse"] == pytest.approx(scores[1]["val/nrmse"], rel=1e-4)
    first, second = weights_of(single), weights_of(double)
    for name, value in first.items():
        # Adam moves a weight as far for a gradient that is next to nothing, and so mostly rounding.
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=3e-5)


def test_a_compiled_network_trains_as_it_does_without(scans, tmp_path, monkeypatch):
    asked = []

    def compiled(network, **options):
        asked.append(options)
        original(network, **options)

    original = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    plain = load_checkpoint(train(config(scans, tmp_path / "plain"))).weights
    assert not asked
    # Compiling itself takes a minute and a C++ compiler; what is around it stays as it is.
    with torch.compiler.set_stance("force_eager"):
        found = load_checkpoint(train(config(scans, tmp_path / "compiled", machine__compile=True))).weights
    assert asked == [{"dynamic": False}]
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert found.keys() == plain.keys()


def test_fine_tuning_starts_from_the_checkpoint(scans, tmp_path):
    x2 = train(config(scans, tmp_path / "x2"))
    changes = {"network": {"start_from": str(x2)}, "scales": [3]}
    still = {"schedule__learning_rate": 1e-12, "schedule__weight_decay": 0.0, "schedule__ema": None}
    x3 = train(config(scans, tmp_path / "x3", **changes, **still))
    before, after = weights_of(x2), weights_of(x3)
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)
    card = load_checkpoint(x3).card
    assert card.scales == (3,)
    assert card.arguments == {"width": 8, "scales": [2, 3]}
    with pytest.raises(InputError, match="arguments"):
        train(config(scans, tmp_path / "bad", network__start_from=str(x2), network__arguments={"width": 12}))


def test_a_frozen_encoder_trains_batch_norm_alone():
    plan = {
        "data": {"scans": ["x"]},
        "network": {"architecture": "dynamic_unet"},
        "schedule": {"epochs": 2, "steps_per_epoch": 1, "freeze_epochs": 1},
    }
    network = build("dynamic_unet")
    module = Training(validated(plan), network, build_loss([{"name": "l1"}]))
    module._frozen = True
    optimizer = module.configure_optimizers()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.on_before_optimizer_step(optimizer)
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert "encoder.bn1.weight" in trained
    assert "encoder.layer4.0.bn1.bias" in trained
    assert not any(name.startswith("encoder") and "conv" in name for name in trained)
    assert {n for n, _ in network.named_parameters() if not n.startswith("encoder")} <= trained
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


def test_early_stopping_and_time_budget_end_a_run(scans, tmp_path):
    stopped = train(
        config(scans, tmp_path / "a", schedule__epochs=30, schedule__steps_per_epoch=1, schedule__patience=1,
               schedule__learning_rate=1e-9, schedule__ema=None)
    )  # fmt: skip
    assert torch.load(stopped.parent / "last.ckpt", weights_only=True)["global_step"] < 10
    timed = train(config(scans, tmp_path / "b", schedule__steps_per_epoch=10**6, schedule__max_minutes=0.03))
    assert 0 < torch.load(timed.parent / "last.ckpt", weights_only=True)["global_step"] < 10**6


def test_a_loss_that_explodes_is_named(scans, tmp_path):
    changes = {"schedule__learning_rate": 1e30, "schedule__clip": None, "schedule__steps_per_epoch": 50}
    with pytest.raises(ProcessingError, match="learning_rate"):
        train(config(scans, tmp_path / "out", schedule__optimizer="sgd", **changes))


def test_something_is_left_of_patches_smaller_than_their_margins(scans, tmp_path):
    changes = {"scales": [5], "network__arguments": {"width": 8, "scales": [5]}, "data__margin": 3, "data__patch": 60}
    train(config(scans, tmp_path / "out", **changes, schedule__epochs=1))


def test_losses_across_volumes_train(scans, tmp_path):
    terms = [{"name": "l1"}, {"name": "fa", "weight": 0.1}, {"name": "log_ratio", "weight": 0.1}]
    exported = train(config(scans, tmp_path / "out", loss=terms, machine__precision="bf16"))
    assert [t["name"] for t in load_checkpoint(exported).card.loss["terms"]] == ["l1", "fa", "log_ratio"]


@pytest.mark.parametrize("architecture", ["dncnn", "residual", "swin_unetr"])
def test_denoisers_train(scans, tmp_path, architecture):
    arguments = {"dncnn": {"layers": 3, "width": 8}, "residual": {"blocks": 1, "width": 8}}.get(
        architecture, {"features": 12}
    )
    exported = train(
        config(
            scans,
            tmp_path / "out",
            task="denoising",
            scales=[1],
            degradation={"noise": [5, 5]},
            network={"architecture": architecture, "arguments": arguments},
            schedule__epochs=1,
        )
    )
    checkpoint = load_checkpoint(exported)
    assert checkpoint.card.task == "denoising"
    low, high = checkpoint.card.snr
    assert 1 / low**2 - 1 / high**2 > 0.0024  # noise of 5 % of b0 was added to what the network was shown
    with torch.inference_mode():
        assert checkpoint.network()(torch.rand(2, 1, 21, 18), (21, 18)).shape == (2, 1, 21, 18)
