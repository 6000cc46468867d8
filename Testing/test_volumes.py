"""Structural images: what a DWI is to the doors, a Volume is, too."""

import json

import nibabel as nib
import numpy as np
import pytest

import DWISuperResLib as dsr
from DWISuperResLib.apps.cli import main
from DWISuperResLib.dwi import DWI, Volume
from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation.report import write_report
from DWISuperResLib.evaluation.selfchecks import self_checks
from DWISuperResLib.inference.predict import super_resolve_with_uncertainty
from DWISuperResLib.io import is_structural, read_scan
from DWISuperResLib.io.cohort import find_scans
from DWISuperResLib.networks.views import Assembler, Normalisation, SliceView
from Testing.conftest import oblique_affine

QUIET = ["--progress", "none"]


@pytest.fixture(scope="module")
def head() -> Volume:
    """An image of the phantom's first volume, on an oblique grid whose slices lie along its first axis."""
    scan = dsr.phantom((48, 52, 4), (4, 4, 8), supersampling=1, shells=((0, 1), (1000, 6)), snr=60)
    affine = oblique_affine((8.0, 4.0, 4.0))
    return Volume(np.moveaxis(scan.signal[..., 0], 2, 0), affine, acquisition_axis=0)


@pytest.fixture
def head_file(head, tmp_path):
    dsr.write_volume(head, tmp_path / "t1.nii.gz")
    return tmp_path / "t1.nii.gz"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((np.ones((4, 4)), np.eye(4)), r"shape \(4, 4\); expected three axes"),
        ((np.full((2, 2, 2), np.nan), np.eye(4)), "8 values that are not finite"),
        ((np.ones((2, 2, 2)), np.diag([1, 1, 0, 1])), "affine is singular"),
        ((np.ones((2, 2, 2)), np.eye(4), 3), "acquisition_axis is 3"),
    ],
)
def test_it_is_checked_as_a_dwi_is(fields, message):
    with pytest.raises(InputError, match=message):
        Volume(*fields)


@pytest.mark.parametrize("name", ["t1.nii", "t1.nii.gz", "t1.nrrd", "t1.nhdr"])
@pytest.mark.parametrize("whole", [True, False])
def test_files_keep_every_bit_and_have_three_axes(name, whole, head, tmp_path):
    image = np.rint(head.image) if whole else head.image
    dsr.write_volume(Volume(image, head.affine, 0), tmp_path / name)
    again = dsr.read_volume(tmp_path / name)
    np.testing.assert_array_equal(again.image, image)
    np.testing.assert_allclose(again.affine, head.affine, atol=1e-12)
    assert again.acquisition_axis == 0
    assert not list(tmp_path.glob("*.bv*"))
    if ".nii" in name:
        stored = nib.load(tmp_path / name)
        assert stored.ndim == 3
        np.testing.assert_array_equal(stored.get_fdata(dtype=np.float32), image)


def test_what_has_gradients_is_no_volume(head, small_dwi, tmp_path):
    dsr.write_volume(head, tmp_path / "t1.nii.gz")
    (tmp_path / "bvals").write_text("0 1000 1000\n")
    (tmp_path / "bvecs").write_text("0 1 0\n0 0 1\n0 0 0\n")
    assert is_structural(tmp_path / "t1.nii.gz")  # the tables are those of another image in the folder
    dsr.write_dwi(head.series, tmp_path / "b0.nii.gz")
    assert not is_structural(tmp_path / "b0.nii.gz")
    assert isinstance(read_scan(tmp_path / "b0.nii.gz"), DWI)
    dsr.write_dwi(small_dwi, tmp_path / "dwi.nrrd")
    assert isinstance(read_scan(tmp_path / "dwi.nrrd"), DWI)
    assert isinstance(read_scan(tmp_path / "t1.nii.gz"), Volume)


def test_four_axes_without_gradients_stay_an_error(small_dwi, tmp_path):
    nib.save(nib.Nifti1Image(small_dwi.signal, small_dwi.affine), tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match=r"no b-values beside it: expected scan\.bval.*one volume is read as structur"):
        read_scan(tmp_path / "scan.nii.gz")


def test_a_folder_is_searched_for_dwi_only(head_file, tmp_path):
    dsr.write_volume(dsr.read_volume(head_file), tmp_path / "flair.nrrd")
    assert find_scans([str(head_file)]) == [head_file]
    for searched in (tmp_path, tmp_path / "*.nii.gz"):
        with pytest.raises(InputError, match="holds no DWI"):
            find_scans([str(searched)])


@pytest.mark.parametrize("scale", [2, "3x1x1", "1x2.5x2"])
def test_it_is_degraded_and_interpolated_as_a_series_of_one(head, scale):
    low = dsr.degrade(head, scale, snr=30, seed=1)
    as_series = dsr.degrade(head.series, scale, snr=30, seed=1)
    assert isinstance(low, Volume)
    np.testing.assert_array_equal(low.image, as_series.signal[..., 0])
    np.testing.assert_array_equal(low.affine, as_series.affine)
    up = dsr.interpolate(low, scale)
    np.testing.assert_array_equal(up.image, dsr.interpolate(as_series, scale).signal[..., 0])


def test_networks_see_the_image_itself_for_the_mean_b0_and_the_mean_dwi(head):
    view = SliceView(0, ("mean_b0", "mean_dwi"))
    series = head.series
    normalisation = Normalisation.measure(series.signal, "volume")
    import torch

    slab = torch.from_numpy(series.signal[3].transpose(2, 0, 1)[:, None].copy())
    shown = Assembler(view, series.bvals, series.bvecs, normalisation).show(slab, [0])
    for guidance in (1, 2):
        np.testing.assert_array_equal(shown[:, guidance], shown[:, 0])
    assert float(shown.max()) > 0


def test_it_is_super_resolved_with_every_option(head):
    low = dsr.degrade(head, 2)
    result, spread = super_resolve_with_uncertainty(low, "default", 2, device="cpu", consistent=True)
    assert isinstance(result, Volume)
    assert result.image.shape == head.image.shape
    assert spread.shape == (*head.image.shape, 1)
    assert spread.max() > 0
    # Consistent: degraded again, the result is its input.
    np.testing.assert_allclose(dsr.degrade(result, 2).image, low.image, atol=1e-3 * low.image.max())
    checks = self_checks(low, result, dsr.load_checkpoint("default").card, spread)
    names = " ".join(check.name for check in checks)
    assert "grid artefacts in signal" in names
    assert "consistency" in names
    assert "ensemble spread of the signal" in names
    assert "FA" not in names
    assert any("without diffusion weighting" in check.name for check in checks if check.fired)
    assert all(np.isfinite(check.value) for check in checks)


def test_only_its_signal_is_evaluated(head, tmp_path):
    evaluation = dsr.evaluate(head, 2, ("default",), methods=("nearest", "sinc"), distances=(), device="cpu")
    assert {row["quantity"] for row in evaluation.scores} == {"signal"}
    low = dsr.degrade(head, 2)
    for method in ("nearest", "sinc"):
        inside = evaluation.mask
        error = dsr.interpolate(low, 2, method=method).image[inside] - head.image[inside]
        nrmse = np.sqrt((error.astype(float) ** 2).mean()) / head.image[inside].mean()
        assert evaluation.score(method, "signal", "nrmse", volumes="image") == pytest.approx(nrmse, rel=1e-4)
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "signal error (NRMSE)" in page
    assert "FA" not in page.split("<h2>")[0]


def test_the_command_line_takes_it(head_file, tmp_path, capfd):
    low, up, spread = (tmp_path / f"{name}.nii.gz" for name in ("low", "up", "spread"))
    assert main(["degrade", str(head_file), str(low), *QUIET]) == 0
    command = ["run", str(low), str(up), "--uncertainty", str(spread), "--device", "cpu", "--consistent"]
    assert main([*command, "--progress", "json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert any("diffusion weighting" in warning for warning in result["warnings"])
    for path in (low, up, spread):
        assert nib.load(path).ndim == 3
    assert not list(tmp_path.glob("*.bv*"))
    assert main(["evaluate", str(head_file), str(tmp_path / "out"), "--methods", "sinc", *QUIET]) == 0
    assert "image" in (tmp_path / "out/scores.tsv").read_text()
    assert main(["maps", str(head_file), str(tmp_path / "maps"), *QUIET]) == 2
    assert "no b-values beside it" in capfd.readouterr().err
