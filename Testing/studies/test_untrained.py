"""The study of untrained perceptual losses: every run once, resumed without training again, a table and a page."""

import csv

import pytest

from DWISuperResLib import io, training
from DWISuperResLib.errors import Cancelled, InputError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.studies.untrained import LOSSES, MEASURES, UntrainedOptions, conclusions, run_untrained_study

NETWORK = {"residual": {"blocks": 1, "width": 8}}


def run(scans, output, *, cancel=None, **options):
    return run_untrained_study(UntrainedOptions(data=[str(scans)], output=output, **options), cancel=cancel)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for n in range(2):
        dwi = phantom((24, 30, 3), (6.0, 6.0, 8.0), seed=n, snr=None, supersampling=1, shells=((0, 1), (1000, 6)))
        io.write_dwi(dwi, root / f"sub-{n}.nii.gz")
    return root


def test_every_run_is_trained_once_and_scored_beside_the_noisy_scan(scans, tmp_path, monkeypatch):
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda config: trained.append(config) or train(config))
    options = {"held_out": [str(scans / "sub-1.nii.gz")], "noise": [10.0], "networks": NETWORK, "steps": 50}
    options |= {"patch": 24, "test_slices": 2, "learning_rate": 3e-3, "upl": {"depth": 3}}
    calls = []

    def cancel():
        calls.append(1)
        return len(calls) > 2

    with pytest.raises(Cancelled):
        run(scans, tmp_path, cancel=cancel, **options)
    assert len(trained) == 2
    report = run(scans, tmp_path, **options)
    assert [config.loss[0]["name"] for config in trained] == ["l1", "ssim", "untrained"]
    first, *others = (config.model_dump(exclude={"loss", "name", "output"}) for config in trained)
    assert all(other == first for other in others)
    with (tmp_path / "scores.tsv").open() as file:
        rows = {row["loss"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert rows.keys() == {"noisy", *LOSSES}
    assert float(rows["L1"]["DWI PSNR"]) > float(rows["noisy"]["DWI PSNR"])
    page = report.read_text()
    assert page.count("<svg") == 2
    assert "best of 1 combinations" in page
    with pytest.raises(InputError, match="another noise"):
        run(scans, tmp_path, **options | {"noise": [5.0]})
    run(scans, tmp_path, **options)
    assert len(trained) == 3


def test_conclusions_count_the_best_loss():
    rows = [
        {"noise %": p, "network": "dncnn", "loss": loss, **dict.fromkeys(MEASURES, value)}
        for p in (1, 5)
        for loss, value in (("L1", 1.0), ("SSIM", 2.0), ("uPL", 3.0))
    ]
    sentences = conclusions(rows)
    assert "PSNR: best of 2 combinations of network and noise: L1 0, SSIM 0, uPL 2" in sentences[0]
    assert "FA MAE: best of 2 combinations of network and noise: L1 2, SSIM 0, uPL 0" in sentences[2]


@pytest.mark.parametrize(
    ("changes", "says"), [({"noise": [0]}, "percentages"), ({"held_out": 0.0}, "held out"), ({"minutes": 0.1}, "few")]
)
def test_what_cannot_be_run_is_said(scans, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run(scans, tmp_path, **{"networks": NETWORK, "patch": 24, **changes})
