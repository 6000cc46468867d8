"""The study of guides: two trainings that differ in the guide alone, four tests, resumed, a table and a page."""

import csv
import json

import numpy as np
import pytest

from DWISuperResLib import io, training
from DWISuperResLib.dwi import Volume
from DWISuperResLib.errors import InputError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.upsamplers import interpolate
from DWISuperResLib.studies import layers
from DWISuperResLib.studies.guidance import GuidanceOptions, run_guidance_study

NETWORK = {"scales": [2], "width": 4, "blocks": [1], "neighbours": 0, "guidance": []}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for n in range(2):
        dwi = phantom((24, 30, 4), (6.0, 6.0, 14.0), seed=n, snr=40, supersampling=1, shells=((0, 1), (1000, 6)))
        fine = interpolate(dwi, 2, method="linear")
        io.write_dwi(dwi, root / f"sub-{n}.nii.gz")
        io.write_volume(Volume(np.sqrt(np.maximum(fine.signal[..., 0], 0)), fine.affine), root / f"sub-{n}_T1w.nrrd")
    return root


def options(scans, output, **changes):
    asked = {
        "held_out": [str(scans / "sub-1.nii.gz")], "guides": ["{name}_T1w.nrrd"], "arguments": NETWORK, "steps": 3,
        "patch": 16, "test_slices": 3,
    }  # fmt: skip
    return GuidanceOptions(data=[str(scans)], output=output, **asked | changes)


def test_the_trainings_differ_in_the_guide_alone_and_every_guide_is_tested(scans, tmp_path, monkeypatch):
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda config: trained.append(config) or train(config))
    report = run_guidance_study(options(scans, tmp_path))
    without, guided = (config.model_dump(exclude={"name", "output"}) for config in trained)
    assert guided["data"].pop("guide") == "{name}_T1w.nrrd"
    assert without["data"].pop("guide") is None
    assert guided["network"]["arguments"].pop("guide") is True
    assert guided == without
    with (tmp_path / "scores.tsv").open() as file:
        rows = {(row["network"], row["guide"]): row for row in csv.DictReader(file, delimiter="\t")}
    assert list(rows) == [
        ("sinc", "none"), ("without", "none"), ("with", "right"), ("with", "blank"), ("with", "shifted"),
    ]  # fmt: skip
    measured = json.loads((tmp_path / "runs/with/scores.json").read_text(encoding="utf-8"))
    assert len({row["DWI NRMSE"] for row in measured}) == 3  # all three were shown; after few steps they do little
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "FA MAE: " in page
    run_guidance_study(options(scans, tmp_path))
    assert len(trained) == 2
    with pytest.raises(InputError, match="another shift"):
        run_guidance_study(options(scans, tmp_path, shift=5.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guides": []}, "expected one pattern"),
        ({"guides": ["a=b", "c"]}, "expected one pattern"),
        ({"architecture": "unet", "arguments": None}, "expected sr_unet or recnn"),
        ({"guides": ["{name}_T2w.nrrd"]}, "is nothing; expected one file"),
        ({"steps": None, "minutes": 0.1}, "too few"),
    ],
)
def test_what_cannot_be_run_is_said(scans, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run_guidance_study(options(scans, tmp_path, **changes))


def test_a_study_of_structural_images_scores_their_signal(scans, tmp_path):
    """The layer study, with the smallest loss of all: no maps, no weighted volumes."""
    images = [str(scans / f"sub-{n}_T1w.nrrd") for n in range(2)]
    asked = {"losses": ["L1"], "weights": "untrained", "snr": [None], "patch": 48, "steps": 1, "test_slices": 3}
    arguments = {**NETWORK, "scales": [2, 3], "band_limited": False}
    report = layers.run_layer_study(
        layers.LayerOptions(data=images, held_out=images[1:], output=tmp_path, arguments=arguments, **asked)
    )
    with (tmp_path / "scores.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert all(float(row["DWI NRMSE"]) > 0 and row["FA MAE"] == "n/a" for row in rows)
    assert "no gradients" not in report.read_text(encoding="utf-8")
