"""Scans larger than memory: the same commands, with large arrays in files, give the same bytes."""

import errno
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from DWISuperResLib import phantoms, scratch
from DWISuperResLib.apps import cli
from DWISuperResLib.checkpoints import Card, save_checkpoint
from DWISuperResLib.io import read_dwi, scan_outputs, write_dwi, write_image
from DWISuperResLib.networks import build
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import Iterative, interpolate

NETWORKS = {
    "slices": ("sr_unet", {"scales": [2], "width": 4, "blocks": [1], "neighbours": 1, "guidance": ["mean_b0"]}, (2,)),
    "blocks": ("recnn", {"layers": 2, "filters": 2, "block": 16}, ((1, 1, 2),)),
}
MASKED = ["--scale", "1x1x2", "--mask", "mask.nii.gz"]
UNCERTAIN = ["--uncertainty", "{}/sd.nii"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scan of float32, in whole numbers and interpolated before, in several formats; a mask; two networks."""
    place = tmp_path_factory.mktemp("inputs")
    scan = phantoms.phantom((24, 28, 5), (6, 6, 15), supersampling=1, shells=((0, 1), (1000, 8)))
    write_dwi(scan, place / "float.nii")
    write_dwi(scan, place / "packed.nii.gz")
    whole = replace(scan, signal=np.rint(scan.signal))
    write_dwi(whole, place / "whole.nii")
    write_dwi(whole, place / "whole.nrrd", compress=False)
    write_dwi(interpolate(scan, "2x2x1"), place / "filled.nii")
    mask = np.zeros(scan.spatial_shape, np.uint8)
    mask[4:20, 4:24, 2:4] = 1
    write_image(mask, scan.affine, place / "mask.nii.gz")
    for name, (architecture, arguments, factors) in NETWORKS.items():
        torch.manual_seed(0)
        network = build(architecture, **arguments)
        view = network.view.describe()
        card = Card(name, architecture, arguments, factors, view=view)
        save_checkpoint(place / f"{name}.safetensors", network.state_dict(), card)
    return place


@pytest.fixture
def all_are_large(monkeypatch):
    """Every array counts as large; the files that hold them, in the order they were made."""
    made = []

    def noted(file, start, shape, *access):
        made.append((file.name, tuple(shape)))
        return original(file, start, shape, *access)

    original = scratch.mapped
    monkeypatch.setattr(scratch, "mapped", noted)
    monkeypatch.setattr("DWISuperResLib.io.streams.mapped", noted)
    monkeypatch.setattr("DWISuperResLib.io.mapped", noted)

    def enable():
        monkeypatch.setattr(scratch, "LARGEST_IN_MEMORY", 0)
        return made

    return enable


def run(folder, output, *arguments):
    paths = [str(folder / a) if (folder / a).is_file() else a for a in arguments]
    device = ["--device", "cpu", "--precision", "fp32"] if "--checkpoint" in arguments else []
    return cli.main(["run", paths[0], str(output), *paths[1:], *device, "--progress", "none"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("output", "arguments"),
    [
        ("sr.nii.gz", ["float.nii", "--checkpoint", "slices.safetensors", "--consistent", *UNCERTAIN]),
        ("sr.nii", ["whole.nrrd", "--checkpoint", "slices.safetensors", "--axis", "j"]),
        ("sr.nrrd", ["packed.nii.gz", "--checkpoint", "blocks.safetensors", *MASKED]),
        ("sr.nhdr", ["filled.nii", "--method", "nearest", "--native"]),
        ("sr.nii", ["whole.nii", "--method", "nearest"]),
    ],
)  # fmt: skip
def test_results_are_the_same_to_the_last_bit(output, arguments, folder, all_are_large, tmp_path):
    def written(name):
        place = tmp_path / name
        place.mkdir()
        assert run(folder, place / output, *(a.replace("{}", str(place)) for a in arguments)) == 0
        return contents(place)

    expected = written("memory")
    made = all_are_large()
    assert written("files") == expected
    assert len(made) >= 2, made  # the scan and the result


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody replace a mapped file")
def test_a_file_that_holds_what_is_needed_is_mapped_and_may_be_replaced(folder, all_are_large, tmp_path):
    scan = read_dwi(folder / "float.nii")
    write_dwi(scan, tmp_path / "scan.nii")
    made = all_are_large()
    assert run(folder, tmp_path / "scan.nii", str(tmp_path / "scan.nii"), "--method", "sinc", "--overwrite") == 0
    assert made[0] == (str(tmp_path / "scan.nii"), scan.signal.shape)
    np.testing.assert_array_equal(read_dwi(tmp_path / "scan.nii").signal, interpolate(scan, 2).signal)
    assert sorted(contents(tmp_path)) == ["scan.bval", "scan.bvec", "scan.nii"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_large_result_is_put_together_in_its_file(whole, folder, all_are_large, tmp_path):
    """Unless whole numbers turn out to be enough, for which the file is written anew."""
    scan = read_dwi(folder / ("whole.nii" if whole else "float.nii"))
    write_dwi(scan, tmp_path / "expected.nii")
    all_are_large()
    with scan_outputs([tmp_path / "scan.nii"]) as write:
        signal = write.room(tmp_path / "scan.nii", scan.signal.shape, scan.affine)
        (file,) = tmp_path.glob(".scan.nii.*.tmp")
        assert scratch.lies_in(signal, file)
        signal[:] = scan.signal
        write(tmp_path / "scan.nii", replace(scan, signal=signal))
        assert scratch.lies_in(signal, file) is not whole
        np.testing.assert_array_equal(signal, scan.signal)
    assert (tmp_path / "scan.nii").read_bytes() == (tmp_path / "expected.nii").read_bytes()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="stands in for the system's reservation")
@pytest.mark.parametrize(("fits", "output"), [(0, "sr.nii"), (1, "sr.nii"), (1, "sr.nii.gz")])
def test_a_disk_without_room_is_told_before_anything_is_computed(
    fits, output, folder, all_are_large, tmp_path, monkeypatch, capfd
):
    taken = []
    original = os.posix_fallocate

    def reserve(file, start, size):
        taken.append(size)
        if len(taken) > fits:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, start, size)

    all_are_large()
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    monkeypatch.setattr("DWISuperResLib.inference.canvas.Canvas.fill", None)
    assert run(folder, tmp_path / output, "whole.nii", "--checkpoint", "slices.safetensors") == 1
    (sentence,) = capfd.readouterr().err.strip().splitlines()
    assert f"needs {taken[-1] / 1e9:.1f} GB in {tmp_path}" in sentence
    assert "nothing was written: free space" in sentence
    assert contents(tmp_path) == {}


def test_upsamplers_of_single_volumes_put_the_result_into_a_file(small_dwi, all_are_large, tmp_path):
    made = all_are_large()
    with scratch.large_arrays_in(tmp_path):
        result = Iterative(lambda volume, shape, step: np.full(shape, volume.max()))(small_dwi, Scale.of(1, 1, 2))
    assert made[0][1] == result.signal.shape == (12, 10, 8, 10)
    np.testing.assert_array_equal(result.signal[3, 2, 1], small_dwi.signal.max(axis=(0, 1, 2)))


def test_arrays_outside_of_a_command_and_small_ones_stay_in_memory(monkeypatch, tmp_path):
    def never(*arguments, **options):
        raise AssertionError("a file was made")

    monkeypatch.setattr(scratch.tempfile, "TemporaryFile", never)
    with scratch.large_arrays_in(tmp_path):
        assert scratch.signal_array((4, 5, 6, 7)).sum() == 0
    monkeypatch.setattr(scratch, "LARGEST_IN_MEMORY", 0)
    assert scratch.signal_array((4, 5, 6, 7)).sum() == 0


def test_room_is_taken_where_the_system_has_no_call_for_it(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(scratch, "LARGEST_IN_MEMORY", 0)
    shape = (256, 256, 3, 2)
    with scratch.large_arrays_in(tmp_path):
        array = scratch.signal_array(shape)
        array[..., 1] = 1
    assert array.sum() == np.prod(shape) / 2
    with open(tmp_path / "room", "w+b") as file:
        scratch.reserve(file, 3_000_001, tmp_path)
        assert os.fstat(file.fileno()).st_size == 3_000_001
