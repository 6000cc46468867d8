"""The study of scales: four trainings that differ in factors and samples, each tested on every factor."""

import csv

import numpy as np
import pytest

from DWISuperResLib import io, training
from DWISuperResLib.errors import InputError
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate
from DWISuperResLib.studies.scales import TESTED, TRAINED, ScaleOptions, conclusions, run_scale_study, table
from DWISuperResLib.studies.scoring import open_case

QUICK = {"layers": 2, "filters": 2, "batch": 2, "test_slices": 12, "test_volumes": 2}


def run(scans, output, **options):
    held_out = {"held_out": [str(scans / "sub-1.nii.gz")]}
    return run_scale_study(ScaleOptions(data=[str(scans)], output=output, **{**held_out, **QUICK, **options}))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for n in range(2):
        dwi = phantom((30, 36, 26), (5.0, 5.0, 5.0), seed=n, supersampling=1, shells=((0, 1), (1000, 2)))
        io.write_dwi(dwi, root / f"sub-{n}.nii.gz")
    return root


def rows_of(output):
    with (output / "scores.tsv").open() as file:
        return {(row["trained on"], row["tested on"]): row for row in csv.DictReader(file, delimiter="\t")}


def test_every_training_is_tested_on_every_factor_beside_interpolation(scans, tmp_path, monkeypatch):
    trained = []
    train = training.train
    monkeypatch.setattr(training, "train", lambda config: trained.append(config) or train(config))
    report = run(scans, tmp_path, steps=2, methods=["bspline", "nearest"])
    assert [config.served for config in trained] == [((2, 2, 2),), ((3, 3, 3),), *[((2, 2, 2), (3, 3, 3))] * 2]
    assert [config.schedule.epochs * config.schedule.steps_per_epoch for config in trained] == [2, 2, 2, 4]
    alike = [config.model_dump(exclude={"scales", "schedule", "name", "output"}) for config in trained]
    assert all(other == alike[0] for other in alike)
    rows = rows_of(tmp_path)
    assert rows.keys() == {(name, factors) for name in ("bspline", "nearest", *TRAINED) for factors in TESTED}
    page = report.read_text(encoding="utf-8")
    assert "x2, x3, double samples: PSNR" in page
    assert page.count("<svg") == 1
    run(scans, tmp_path, steps=2, methods=["bspline", "nearest"])
    assert len(trained) == 4
    with pytest.raises(InputError, match="another layers"):
        run(scans, tmp_path, steps=2, methods=["bspline", "nearest"], layers=3)


def test_the_scores_are_those_of_the_definition(scans, tmp_path):
    """PSNR = 20 log10(largest / RMSE) in the brain, of the scan lowered by each factor and interpolated back."""
    run(scans, tmp_path, steps=1, tested=["2x2.5x2", "1x1x3"], methods=["bspline"])
    rows = rows_of(tmp_path)
    case = open_case(scans / "sub-1.nii.gz", 12).of_volumes(2)
    assert case.dwi.bvals.tolist() == [0, 1000]
    for scale in ("2x2.5x2", "1x1x3"):
        low = degrade(case.dwi, scale, model="gaussian", axis=2)
        back = interpolate(low, Scale.between(low.spatial_shape, case.dwi.spatial_shape), method="bspline")
        reference = case.dwi.signal[case.mask]
        error = np.sqrt(np.mean((back.signal[case.mask] - reference).astype(float) ** 2))
        assert float(rows["bspline", scale]["PSNR"]) == pytest.approx(20 * np.log10(reference.max() / error), rel=1e-3)


def test_the_table_has_the_papers_form_and_conclusions_compare():
    values = {"x2": (38, 30), "x3": (33, 35), "x2, x3": (37.5, 34.5), "bspline": (34, 31)}
    rows = [
        {"trained on": name, "tested on": factors, "scan": "mean", "PSNR": value, "SSIM": value / 40}
        for name, pair in values.items()
        for factors, value in zip(("2x2x2", "3x3x3"), pair, strict=True)
    ]
    lines = table(rows)
    assert [line["tested on"] for line in lines] == ["2x2x2", "3x3x3"]
    assert lines[1]["x2, x3: PSNR"] == 34.5
    assert list(lines[0])[1:3] == ["x2: PSNR", "x2: SSIM"]
    sentences = conclusions(rows)
    assert "x2: PSNR 34.00 dB on average, best of 4 at 1 of 2." in sentences
    assert "At 2x2x2, beside the network trained on it alone: -0.50 dB (x2, x3)." in sentences


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tested": ["2x2"]}, "three factors from 1 to 5"),
        ({"tested": ["2x2x9"]}, "three factors from 1 to 5"),
        ({"methods": ["none"]}, "interpolation is 'none'"),
        ({"patch": 16}, "patches of at least 24"),
        ({"minutes": 0.01}, "too few"),
        ({"layers": 1}, "layers is"),
    ],
)
def test_what_cannot_be_run_is_said(scans, tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        run(scans, tmp_path, **changes)
