"""The study of transfer: networks of two data sets, each tested on both, and again after few scans of the other."""

import csv

import pytest

from DWISuperResLib import io, training
from DWISuperResLib.errors import InputError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.studies.transfer import TransferOptions, averages, conclusions, run_transfer_study

QUICK = {"layers": 2, "filters": 2, "batch": 2, "test_slices": 12, "test_volumes": 2, "steps": 2, "fine_share": 0.5}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for n, (name, b) in enumerate((("a0", 1000), ("a1", 1000), ("b0", 2000), ("b1", 2000), ("b2", 2000))):
        dwi = phantom((28, 30, 26), (5.0, 5.0, 5.0), seed=n, supersampling=1, shells=((0, 1), (b, 1)))
        io.write_dwi(dwi, root / f"sub-{name}.nii.gz")
    return root


def run(scans, output, **changes):
    options = {
        "data": [str(scans / "sub-a*")],
        "other": [str(scans / "sub-b*")],
        "held_out": [str(scans / "sub-a1.nii.gz")],
        "other_held_out": [str(scans / "sub-b1.nii.gz"), str(scans / "sub-b2.nii.gz")],
    }
    return run_transfer_study(TransferOptions(output=output, **{**options, **QUICK, **changes}))


def test_networks_are_trained_on_either_set_and_go_on_with_few_scans_of_the_other(scans, tmp_path, monkeypatch):
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda config: trained.append(config) or train(config))
    report = run(scans, tmp_path, methods=["bspline"])
    assert [config.network.architecture for config in trained] == ["srcnn"] * 4 + ["recnn"] * 4
    own, going_on = trained[4:6], trained[6:]
    assert [[path[-11:-7] for path in config.data.scans] for config in own] == [["b-a0"], ["b-b0"]]
    assert [[path[-11:-7] for path in config.data.scans] for config in going_on] == [["b-b0"], ["b-a0"]]
    for before, after in zip(own, going_on, strict=True):
        assert after.network.start_from == str(before.output / f"{before.name}.safetensors")
        assert after.schedule.epochs * after.schedule.steps_per_epoch == 1
    with (tmp_path / "scores.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    found = {(row["method"], row["trained on"], row["tested on"]) for row in rows}
    for network in ("SRCNN3D", "ReCNN"):
        assert {t for t in found if t[0] == network} == {
            *((network, trained_on, tested) for trained_on in "AB" for tested in "AB"),
            (network, "A, then 1 of B", "B"),
            (network, "B, then 1 of A", "A"),
        }
    assert {t for t in found if t[0] == "bspline"} == {("bspline", "none", "A"), ("bspline", "none", "B")}
    # Of two scans held out, each and their mean.
    splines = [row["scan"] for row in rows if (row["method"], row["tested on"]) == ("bspline", "B")]
    assert splines == ["sub-b1", "sub-b2", "mean"]
    assert "ReCNN on B: PSNR" in report.read_text(encoding="utf-8")


def test_averages_and_conclusions_are_of_the_mean():
    rows = [
        {"method": method, "trained on": trained, "tested on": "B", "scan": scan, "PSNR": value, "SSIM": 0.9}
        for method, trained, values in (
            ("bspline", "none", (30.0, 31.0)),
            ("lrtv", "none", (31.0, 32.0)),
            ("ReCNN", "A", (33.0, 34.0)),
            ("ReCNN", "B", (35.0, 36.0)),
            ("ReCNN", "A, then 1 of B", (34.0, 35.5)),
        )
        for scan, value in zip(("one", "mean"), values, strict=True)
    ]
    averaged = averages(rows)
    assert [row["scan"] for row in averaged] == ["mean"] * 5
    (sentence,) = conclusions(averaged)
    assert sentence == (
        "ReCNN on B: PSNR 36.00 dB trained on it, 34.00 dB trained on A, "
        "35.50 dB after going on with few of its scans; lrtv 32.00 dB."
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"other": []}, "no second data set"),
        ({"other": ["{scans}/sub-a*"]}, "in both data sets"),
        ({"few": 0}, "at least one scan"),
        ({"scale": "2"}, "three factors"),
    ],
)
def test_what_cannot_be_run_is_said(scans, tmp_path, changes, says):
    if changes.get("other"):
        changes = {"other": [str(scans / "sub-a*")], "other_held_out": [str(scans / "sub-a1.nii.gz")]}
    with pytest.raises(InputError, match=says):
        run(scans, tmp_path, **changes)
