"""The layer study: one command from scans to table and page, runs that differ in the loss alone, resumable."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.losses import build_loss
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.studies import layers
from DWISuperResLib.studies.base import remember, write_table
from DWISuperResLib.studies.layer_page import conclusions
from DWISuperResLib.studies.scoring import add_noise, open_case, score_case

NETWORK = {"scales": [2, 3], "width": 4, "blocks": [1, 1], "neighbours": 0, "guidance": []}
SMALL = {
    "held_out": 0.5,
    "losses": ("L1", "abl3"),
    "weights": "untrained",
    "snr": (None, 10.0),
    "steps": 2,
    "arguments": NETWORK,
    "patch": 48,
    "batch": 1,
    "test_slices": 2,
    "accelerator": "cpu",
}


def run(scans, output, *, cancel=None, **changes):
    options = layers.LayerOptions(data=[str(scans)], output=output, **{**SMALL, **changes})
    return layers.run_layer_study(options, cancel=cancel)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    for n in range(2):
        dwi = phantom((48, 60, 4), (3.5, 3.5, 6.0), seed=n, supersampling=1, shells=((0, 1), (1000, 6)))
        (root / f"sub-{n}").mkdir()
        io.write_dwi(dwi, root / f"sub-{n}" / "dwi.nii.gz")
    return root


@pytest.fixture(scope="module")
def study(scans, tmp_path_factory):
    """A finished study, interrupted once on the way."""
    output = tmp_path_factory.mktemp("study") / "layers"
    stops = iter([False, False, True])
    with pytest.raises(Cancelled):
        run(scans, output, cancel=lambda: next(stops))
    finished = (output / "runs" / "x2-acquired-L1" / "x2-acquired-L1.safetensors").stat().st_mtime_ns
    page = run(scans, output)
    assert (output / "runs" / "x2-acquired-L1" / "x2-acquired-L1.safetensors").stat().st_mtime_ns == finished
    return output, page


def rows_of(output):
    with (output / "scores.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_run_is_in_the_table(study):
    output, _ = study
    found = {(row["loss"], row["snr"], row["scale"]) for row in rows_of(output)}
    fine = {(loss, snr, "2") for loss in ("sinc", *SMALL["losses"]) for snr in ("n/a", "10")}
    assert found == fine | {(loss, "n/a", "3") for loss in ("sinc", "L1")}
    for row in rows_of(output):
        for measure in ("DWI NRMSE", "DWI PSNR", "DWI SSIM", "FA MAE", "QA MAE", "DWI grid dB", "FA dB 2 px"):
            assert np.isfinite(float(row[measure])), (row["loss"], measure)


def test_runs_differ_in_the_loss_alone(study):
    output, _ = study
    configurations = []
    for loss in SMALL["losses"]:
        text = (output / "runs" / f"x2-acquired-{loss}" / "configuration.yaml").read_text(encoding="utf-8")
        configurations.append(re.sub(r"(?s)loss:.*?(?=\n\w)", "", text).replace(loss, "<loss>"))
    assert len(set(configurations)) == 1


def test_transfer_starts_from_the_trained_network(study):
    output, _ = study
    card = load_checkpoint(output / "runs" / "x3-acquired-L1" / "x3-acquired-L1.safetensors").card
    assert card.scales == (3,)
    assert card.training["start_from"].endswith("x2-acquired-L1.safetensors")


def test_untrained_layers_are_named(study):
    output, page = study
    taps = {row["loss"]: row["taps"] for row in rows_of(output)}
    assert taps["L1"] == "none"
    assert taps["abl3"] == "relu1_2 (untrained) + relu2_2 (untrained)"
    assert "relu1_1 on are untrained" in page.read_text(encoding="utf-8")


def test_the_page_stands_alone(study):
    text = study[1].read_text(encoding="utf-8")
    assert text.count("<svg") >= 5
    assert not re.search(r'(src|href)="(?!data:|#)', text)


def test_another_question_needs_another_folder(scans, study):
    with pytest.raises(InputError, match="another patch"):
        run(scans, study[0], patch=64)


def test_minutes_decide_the_steps(scans, tmp_path, monkeypatch):
    seconds = dict.fromkeys(layers.LOSSES, 0.5)
    measured = {"tap_weights": [1.0] * 5, "untrained_from": None, "seconds": seconds}
    monkeypatch.setattr(layers, "_measure", lambda *_: measured)
    monkeypatch.setattr(layers, "execute", lambda *_, **__: [])
    monkeypatch.setattr(layers, "_baseline", lambda *_: [])
    run(scans, tmp_path / "a", steps=None, minutes=30.0)
    # 4 runs at x2 and one of half length at x3 share 30 minutes less 5 starts.
    expected = (30 * 60 - 5 * 15) / (0.5 * (4 + 0.5))
    planned = json.loads((tmp_path / "a" / "study.json").read_text())["plan"]["steps"]
    assert planned == expected // 25 * 25
    with pytest.raises(InputError, match="give at least"):
        run(scans, tmp_path / "b", steps=None, minutes=1.5)


def test_equal_weights_make_equal_terms(scans, tmp_path):
    from DWISuperResLib.losses.vgg import PAPER_TAPS

    tree = {
        "scales": [2],
        "data": {
            "scans": [str(scans)],
            "validation": [],
            "cache": str(tmp_path),
            "slabs": 1,
            "patch": 48,
            "workers": 0,
        },
        "network": {"architecture": "sr_unet", "arguments": NETWORK},
    }
    planned = layers._measure(tree, "untrained")
    x, y = torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64)
    for name, tap, weight in zip(("Feat0", "Feat4"), (PAPER_TAPS[0], PAPER_TAPS[4]), (0, 4), strict=True):
        terms = layers.loss_terms(name, "untrained", planned["tap_weights"])
        _, parts = build_loss(terms)(x, y)
        assert terms[1]["tap_weights"][weight] == planned["tap_weights"][weight]
        # On other images the balance holds roughly.
        assert 20 < float(parts["feature"] / parts["l1"]) < 800, tap
    assert all(planned["seconds"][n] > 0 for n in layers.LOSSES)


def test_the_papers_vectors():
    weights = [92, 52, 46, 94, 108]
    paper = {
        "abl0": [92, 52, 46, 94, 108],
        "abl1": [92, 52, 46, 94, 0],
        "abl2": [92, 52, 46, 0, 0],
        "abl3": [92, 52, 0, 0, 0],
        "Feat0": [92, 0, 0, 0, 0],
        "Feat1": [0, 52, 0, 0, 0],
        "Feat2": [0, 0, 46, 0, 0],
        "Feat3": [0, 0, 0, 94, 0],
        "Feat4": [0, 0, 0, 0, 108],
    }
    for name, vector in paper.items():
        l1, feature = layers.loss_terms(name, "torchvision", weights)
        assert l1 == {"name": "l1"}
        assert feature["tap_weights"] == vector
        assert (feature["backbone"], feature["normalisation"]) == ("vgg16_bn", "none")
    assert layers.loss_terms("L1", "torchvision", weights) == [{"name": "l1"}]
    assert set(layers.LOSSES) == {"L1", *paper}


def test_noise_has_the_snr_asked_for():
    dwi = phantom((32, 40, 4), (4, 4, 6), snr=None, supersampling=1, shells=((0, 1), (1000, 6)))
    noisy = add_noise(dwi, 20.0, seed=3)
    bright = dwi.signal[..., 0] >= dwi.signal[..., 0].mean()
    level = dwi.signal[..., 0][bright].mean()
    spread = (noisy.signal - dwi.signal)[..., 0][bright].std()
    assert spread == pytest.approx(level / 20, rel=0.1)
    assert add_noise(dwi, None, seed=3) is dwi
    assert np.array_equal(add_noise(dwi, 20.0, seed=3).signal, noisy.signal)


def test_a_grid_in_the_result_is_scored(scans, tmp_path, monkeypatch):
    from DWISuperResLib.resampling import upsamplers as interpolation

    case = open_case(scans / "sub-0" / "dwi.nii.gz", 4)
    clean = score_case(case, None, 2, "kspace", 0, None, tmp_path)
    sinc = interpolation.interpolate

    def gridded(low, scale, **options):
        high = sinc(low, scale, **options)
        columns = np.arange(high.signal.shape[1])[None, :, None, None]
        high.signal[:] *= 1 + 0.2 * np.cos(np.pi * columns / 2)
        return high

    monkeypatch.setattr(interpolation, "interpolate", gridded)
    found = score_case(case, None, 2, "kspace", 0, None, tmp_path)
    assert clean["DWI grid periods"] == "none"
    assert "4" in found["DWI grid periods"].split(",")
    assert found["DWI dB 4 px"] > clean["DWI dB 4 px"] + 6
    assert found["DWI NRMSE"] > clean["DWI NRMSE"]


def test_conclusions_name_losses_with_grids():
    def row(loss, periods, excess):
        base = {"scan": "a", "scale": 2, "snr": None, "loss": loss, "FA MAE": 0.05, "DWI grid dB": excess}
        return {**base, "DWI grid periods": periods, "FA grid periods": "none", "QA grid periods": "none"}

    names = ("L1", "Feat0", "Feat1", "Feat2", "Feat3", "Feat4")
    rows = [row(name, "4,8" if n > 3 else "none", float(n)) for n, name in enumerate(names)]
    text = " ".join(conclusions(rows, "relu3_1"))
    assert "grids with Feat3 (DWI 4,8 px); Feat4 (DWI 4,8 px); none with L1, Feat0, Feat1, Feat2" in text
    assert "Layers from relu3_1 on are untrained" in text


def test_tables_and_plans_are_kept(tmp_path):
    write_table([{"a": 1, "b": 0.123456}, {"a": None, "c": float("nan")}], tmp_path / "t.tsv")
    assert (tmp_path / "t.tsv").read_text() == "a\tb\tc\n1\t0.1235\tn/a\nn/a\tn/a\tn/a\n"
    assert remember(tmp_path, {"x": (1, 2)}, lambda: {"steps": 3}) == {"steps": 3}
    assert remember(tmp_path, {"x": (1, 2)}, lambda: {"steps": 9}) == {"steps": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 50}, "multiple of 16"),
        ({"snr": (0.0,)}, "positive SNRs"),
        ({"losses": ("Feat9",)}, "expected some of L1"),
        ({"held_out": []}, "No scan is held out"),
    ],
)
def test_bad_options_are_one_sentence(scans, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(scans, tmp_path / "s", **options)
