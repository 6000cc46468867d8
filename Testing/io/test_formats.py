"""One entry in the registry makes a format: reading, writing and the commands know it."""

import json

import numpy as np
import pytest

from DWISuperResLib import io
from DWISuperResLib.apps import cli
from DWISuperResLib.resampling.upsamplers import interpolate

from .test_nifti import assert_same_scan


def read_scan(path, bval, bvec):
    table = np.loadtxt(path.with_suffix(".table"))
    return *read_image(path), table[:, 0], table[:, 1:]


def write_scan(dwi, files, path, compress):
    table, image = files
    np.savetxt(table, np.column_stack((dwi.bvals, dwi.bvecs)), "%.17g")
    write_image(dwi.signal, dwi.affine, [image], path, np.dtype("f4"))


def read_image(path):
    content = json.loads(path.read_text())
    return np.array(content["voxels"], np.float32), np.array(content["affine"])


def write_image(voxels, affine, files, path, dtype, acquisition_axis=None, compress=True):
    content = {"voxels": np.asarray(voxels, float).tolist(), "affine": np.asarray(affine).tolist()}
    files[-1].write_text(json.dumps(content))


def is_structural(path):
    return not path.with_suffix(".table").is_file()


@pytest.fixture
def toy(monkeypatch):
    kind = io.Format(read_scan, read_image, write_scan, write_image, is_structural, (".table",))
    monkeypatch.setitem(io.FORMATS, ".toy", kind)


@pytest.mark.usefixtures("toy")
def test_a_registered_format_is_read_and_written(small_dwi, tmp_path):
    io.write_dwi(small_dwi, tmp_path / "scan.toy")
    assert {file.name for file in tmp_path.iterdir()} == {"scan.toy", "scan.table"}
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.toy"))
    io.write_image(small_dwi.signal[..., 0], small_dwi.affine, tmp_path / "map.toy")
    np.testing.assert_array_equal(io.read_image(tmp_path / "map.toy")[0], small_dwi.signal[..., 0])
    io.write_volume(io.read_volume(tmp_path / "map.toy"), tmp_path / "t1.toy")
    np.testing.assert_array_equal(io.read_scan(tmp_path / "t1.toy").image, small_dwi.signal[..., 0])
    assert_same_scan(small_dwi, io.read_scan(tmp_path / "scan.toy"))


@pytest.mark.usefixtures("toy")
def test_commands_take_a_registered_format(small_dwi, tmp_path, capsys):
    io.write_dwi(small_dwi, tmp_path / "scan.toy")
    assert cli.main(["run", str(tmp_path / "scan.toy"), str(tmp_path / "up.toy"), "--method", "linear"]) == 0
    expected = interpolate(small_dwi, 2, method="linear")
    np.testing.assert_allclose(io.read_dwi(tmp_path / "up.toy").signal, expected.signal, rtol=1e-6)
    with pytest.raises(SystemExit):
        cli.main(["maps", "--help"])
    assert "toy" in capsys.readouterr().out.split("--format")[1].split("--")[0]


def test_the_longest_suffix_that_fits_counts(monkeypatch):
    monkeypatch.setitem(io.FORMATS, ".gz", io.FORMATS[".nrrd"])
    assert io.image_suffix("scan.nii.gz") == ".nii.gz"
    assert io.image_suffix("scan.GZ") == ".gz"
