"""NRRD and NHDR: files as pynrrd and Slicer's tools write them, every space and axis order, hostile headers."""

import contextlib
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import nrrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from DWISuperResLib import io
from DWISuperResLib.errors import InputError
from Testing.conftest import oblique_affine, oracle

from .test_nifti import assert_same_scan, scans

SIGNS = {"right-anterior-superior": (1, 1, 1), "left-posterior-superior": (-1, -1, 1), "LAS": (-1, 1, 1)}


def by_pynrrd(dwi, path, *, space="left-posterior-superior", volume_axis=3, encoding="raw", dtype="<f4", header=None):
    """Write with an independent writer: an oblique measurement frame, directions given in it."""
    signs = np.array(SIGNS[space])
    frame = oblique_affine((1, 1, 1), (0.4, 0.2, -0.6))[:3, :3]  # columns: its axes in the file's world
    directions = np.insert((dwi.affine[:3, :3] * signs[:, None]).T, volume_axis, np.nan, axis=0)
    kinds = ["space"] * 3
    kinds.insert(volume_axis, "list")
    fields = {
        "space": space,
        "space directions": directions,
        "space origin": dwi.affine[:3, 3] * signs,
        "kinds": kinds,
        "measurement frame": frame.T,
        "encoding": encoding,
        "modality": "DWMRI",
        "DWMRI_b-value": repr(float(dwi.bvals.max())),
    }
    scale = np.sqrt(dwi.bvals / dwi.bvals.max())
    for n, g in enumerate((dwi.bvecs * signs) @ frame * scale[:, None]):  # frame^-1 = frame^T
        fields[f"DWMRI_gradient_{n:04d}"] = " ".join(f"{x:.17g}" for x in g)
    fields |= header or {}
    nrrd.write(str(path), np.moveaxis(dwi.signal, 3, volume_axis).astype(dtype), fields)


@pytest.fixture
def shells(small_dwi):
    """Integral signal, two shells."""
    bvals = np.where(np.arange(10) % 2, 2000.0, 700.0) * ~small_dwi.is_b0
    return replace(small_dwi, signal=np.rint(small_dwi.signal), bvals=bvals)


@pytest.mark.parametrize("space", SIGNS)
@pytest.mark.parametrize("volume_axis", range(4))
@pytest.mark.parametrize(("encoding", "dtype"), [("raw", ">i2"), ("gzip", "<f4")])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_every_space_axis_order_and_encoding(space, volume_axis, encoding, dtype, suffix, shells, tmp_path):
    path = tmp_path / f"scan{suffix}"
    by_pynrrd(shells, path, space=space, volume_axis=volume_axis, encoding=encoding, dtype=dtype)
    dwi = io.read_dwi(path)
    assert_same_scan(shells, dwi)
    assert dwi.signal.flags.f_contiguous


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dwi=scans(), suffix=st.sampled_from([".nrrd", ".nhdr"]))
def test_round_trip(dwi, suffix, tmp_path):
    io.write_dwi(dwi, tmp_path / f"scan{suffix}", overwrite=True)
    assert_same_scan(dwi, io.read_dwi(tmp_path / f"scan{suffix}"))


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_other_programs_see_the_same_file(suffix, shells, tmp_path):
    io.write_dwi(replace(shells, acquisition_axis=1), tmp_path / f"scan{suffix}")
    voxels, header = nrrd.read(str(tmp_path / f"scan{suffix}"))
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(voxels, shells.signal)
    assert header["space"] == "left-posterior-superior"
    assert header["kinds"] == ["space", "space", "space", "list"]
    lps = np.diag([-1, -1, 1])
    np.testing.assert_allclose(header["space directions"][:3].T, lps @ shells.affine[:3, :3], atol=1e-15)
    np.testing.assert_allclose(header["space origin"], lps @ shells.affine[:3, 3])
    np.testing.assert_array_equal(header["measurement frame"], np.eye(3))
    np.testing.assert_allclose(header["thicknesses"], [np.nan, shells.voxel_sizes[1], np.nan, np.nan])
    assert header["modality"] == "DWMRI"
    assert float(header["DWMRI_b-value"]) == 2000
    g = np.array([header[f"DWMRI_gradient_{n:04d}"].split() for n in range(10)], dtype=float)
    np.testing.assert_allclose(2000 * (g**2).sum(1), shells.bvals, rtol=1e-12)
    np.testing.assert_allclose(g, shells.bvecs @ lps * np.sqrt(shells.bvals / 2000)[:, None], atol=1e-12)


def test_unweighted_volume_without_direction_becomes_b_zero(shells, tmp_path):
    bvecs = shells.bvecs * (shells.bvals > 0)[:, None]
    io.write_dwi(replace(shells, bvals=np.maximum(shells.bvals, 5), bvecs=bvecs), tmp_path / "scan.nrrd")
    np.testing.assert_allclose(io.read_dwi(tmp_path / "scan.nrrd").bvals, shells.bvals, rtol=1e-12)


def test_vectors_longer_than_one_are_relative_to_the_longest(shells, tmp_path):
    keys = {f"DWMRI_gradient_{n:04d}": "0 0 0" for n in range(8)} | {
        "DWMRI_b-value": "3000",
        "DWMRI_gradient_0008": "0 2 0",
        "DWMRI_gradient_0009": "0 0 1",
    }
    by_pynrrd(shells, tmp_path / "scan.nrrd", header=keys)
    np.testing.assert_allclose(io.read_dwi(tmp_path / "scan.nrrd").bvals, [0] * 8 + [3000, 750])


def edit(path, *changes):
    """Change the text of a header."""
    content = path.read_bytes()
    end = content.find(b"\n\n") + 1 or len(content)
    head = content[:end].decode()
    for old, new in changes:
        assert old in head
        head = head.replace(old, new)
    path.write_bytes(head.encode() + content[end:])


def test_repeats(shells, tmp_path):
    """DWMRI_NEX says that a gradient stands for several consecutive volumes."""
    bvals, bvecs = shells.bvals.copy(), shells.bvecs.copy()
    bvals[4:7], bvecs[4:7] = bvals[4], bvecs[4]
    repeated = replace(shells, bvals=bvals, bvecs=bvecs)
    io.write_dwi(repeated, tmp_path / "scan.nrrd")
    lines = [b"DWMRI_gradient_0005", b"DWMRI_gradient_0006"]
    content = (tmp_path / "scan.nrrd").read_bytes()
    head, data = content.split(b"\n\n", 1)
    kept = [line for line in head.split(b"\n") if not line.startswith(tuple(lines))]
    (tmp_path / "scan.nrrd").write_bytes(b"\n".join([*kept, b"DWMRI_NEX_0004:=3"]) + b"\n\n" + data)
    assert_same_scan(repeated, io.read_dwi(tmp_path / "scan.nrrd"))


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_byteskip_minus_one_counts_from_the_end(encoding, shells, tmp_path):
    """A header whose data file is a NIfTI image."""
    image = nib.Nifti1Image(shells.signal, shells.affine)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    name = "voxels.nii" + (".gz" if encoding == "gzip" else "")
    nib.save(image, tmp_path / name)
    io.write_dwi(shells, tmp_path / "scan.nhdr")
    edit(
        tmp_path / "scan.nhdr",
        ("data file: scan.raw.gz", f"byteskip: -1\ndata file: {name}"),
        ("encoding: gzip", f"encoding: {encoding}"),
        ("type: short", "type: float"),
    )
    assert_same_scan(shells, io.read_dwi(tmp_path / "scan.nhdr"))


def test_windows_line_ends_and_header_without_end(shells, tmp_path):
    io.write_dwi(shells, tmp_path / "scan.nhdr")
    text = (tmp_path / "scan.nhdr").read_text().rstrip()
    (tmp_path / "scan.nhdr").write_bytes(text.replace("\n", "\r\n").encode())
    assert_same_scan(shells, io.read_dwi(tmp_path / "scan.nhdr"))


def test_slicer_pair(shared_data):
    folder = shared_data / "formats" / "slicer_nrrd"
    first, second = (io.read_dwi(folder / f"test_small_dataset1{suffix}") for suffix in (".nrrd", ".nii.gz"))
    np.testing.assert_array_equal(first.signal, second.signal)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-6)
    np.testing.assert_allclose(first.bvecs, second.bvecs, atol=2e-6)  # the NIfTI's table has six digits
    # Its b-values are those of the vectors' own lengths, 0.14 % above what Slicer makes of the longest (see below).
    np.testing.assert_allclose(first.bvals, second.bvals, rtol=1.5e-3)


@pytest.mark.parametrize("name", ["WIP_dti_ax_601", "Repeated_WIP_dti_ax_601"])
def test_nhdr_pair(name, shared_data):
    folder = shared_data / "formats" / "fsl_nhdr_pairs"
    first, second = (io.read_dwi(folder / f"{name}{suffix}") for suffix in (".nhdr", ".nii.gz"))
    slope = nib.load(folder / f"{name}.nii.gz").dataobj.slope  # NRRD has no scaling
    np.testing.assert_allclose(first.signal * slope, second.signal, rtol=1e-6)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-6)
    np.testing.assert_allclose(first.bvecs, second.bvecs, atol=1e-6)
    np.testing.assert_allclose(first.bvals, second.bvals)


def test_ras_file(shared_data):
    dwi = io.read_dwi(shared_data / "formats" / "tosh_7006.nrrd")
    np.testing.assert_allclose(dwi.affine[:, 3], [96, -73.6678, -32.8149, 1])
    np.testing.assert_allclose(dwi.voxel_sizes, 3)
    np.testing.assert_allclose(dwi.bvals, [0] + [1500] * 12, rtol=1e-6)
    # Gradient (0.445, 0, 0.895) in a frame whose first axis is (-1, 0, 0).
    np.testing.assert_allclose(dwi.bvecs[2], [-0.44522047, 0, 0.89542103], atol=1e-7)
    assert dwi.acquisition_axis == 2


def test_fewer_than_seven_volumes_are_refused(small_dwi, tmp_path):
    six = replace(small_dwi, signal=small_dwi.signal[..., :6], bvals=small_dwi.bvals[:6], bvecs=small_dwi.bvecs[:6])
    for suffix in (".nrrd", ".nhdr"):
        with pytest.raises(InputError, match="6 volumes, and 3D Slicer loses the gradients"):
            io.write_dwi(six, tmp_path / f"scan{suffix}")
    assert not any(tmp_path.iterdir())


BAD_HEADERS = {
    "magic": (("NRRD0005", "NRRX0005"), "header that is not NRRD"),
    "future": (("NRRD0005", "NRRD0009"), "header that is not NRRD"),
    "no colon": (("encoding: gzip", "encoding gzip"), "header that is not NRRD"),
    "twice": (("encoding: gzip", "encoding: gzip\nencoding: gzip"), "Duplicate header field"),
    "no space": (("space: left-posterior-superior\n", ""), "lacks the field 'space'"),
    "another space": (("space: left-posterior-superior", "space: scanner-xyz"), "in the space 'scanner-xyz'"),
    "type": (("type: short", "type: block"), "type 'block'"),
    "endian": (("endian: little", "endian: middle"), "byte order 'middle'"),
    "dimension": (("dimension: 4", "dimension: 3"), "number of its axes"),
    "words": (("sizes: 12 10 4 10", "sizes: a b c d"), "header that is not NRRD"),
    "enormous": (("sizes: 12 10 4 10", "sizes: 99999999 99999999 99999999 10"), "promises 99999999 x"),
    "beyond int64": (("sizes: 12 10 4 10", "sizes: 99999999999999999999 1 1 10"), "promises -"),
    "negative": (("sizes: 12 10 4 10", "sizes: -12 -10 4 10"), "promises -12 x"),
    "volumes": (("sizes: 12 10 4 10", "sizes: 12 10 5 8"), "8 volumes; expected 10"),
    "two lists": (("(0", "none (0"), "header that is not NRRD|number of its axes|axes"),
    "encoding": (("encoding: gzip", "encoding: bzip2"), "encoding 'bzip2'"),
    "not gzip": (("encoding: gzip", "encoding: gzip\nbyteskip: 100000000"), "ends before its voxels begin"),
    "skip": (("encoding: gzip", "encoding: gzip\nbyteskip: -5"), "skips lines or"),
    "lines": (("encoding: gzip", "encoding: gzip\nline skip: 5"), "skips lines or"),
    "frame": (("measurement frame: (1,0,0) (0,1,0) (0,0,1)", "measurement frame: (1,0,0)"), "measurement frame"),
    "no b-value": (("DWMRI_b-value", "other"), "no DWMRI_gradient and DWMRI_b-value keys"),
    "b-value": (("DWMRI_b-value:=2000.0", "DWMRI_b-value:=many"), "not numbers"),
    "infinite b": (("DWMRI_b-value:=2000.0", "DWMRI_b-value:=inf"), "three finite numbers"),
    "gradient": (("DWMRI_gradient_0003:=", "DWMRI_gradient_0003:=1 "), "not numbers|three finite numbers"),
    "missing": (("DWMRI_gradient_0003", "DWMRI_gradient_0033"), "gradient 4 .* where gradient 3 comes next"),
    "repeat": (("modality:=", "DWMRI_NEX_0002:=9999999999\nmodality:="), r"gradient 2 \(9999999999 times\)"),
    "repeat of none": (("modality:=", "DWMRI_NEX_0099:=2\nmodality:="), r"repeats the gradients \[99\]"),
    "zero gradient": (
        ("measurement frame: (1,0,0) (0,1,0) (0,0,1)", "measurement frame: (0,0,0) (0,0,0) (0,0,0)"),
        "measurement frame whose vectors lie in one plane",
    ),
    "flat frame": (
        ("measurement frame: (1,0,0) (0,1,0) (0,0,1)", "measurement frame: (1,0,0) (0,1,0) (1,1,0)"),
        "measurement frame whose vectors lie in one plane",
    ),
    "lost slice": (("sizes: 12 10 4 10", "sizes: 12 10 3 10"), "holds more voxels than the 12 x 10 x 3 x 10"),
    "singular": (("none", "(1,1,1)"), "4 of them of space"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_refused_by_name(name, shells, tmp_path):
    io.write_dwi(shells, tmp_path / "scan.nrrd")
    change, message = BAD_HEADERS[name]
    edit(tmp_path / "scan.nrrd", change)
    with pytest.raises(InputError, match=message) as caught:
        io.read_dwi(tmp_path / "scan.nrrd")
    assert str(tmp_path / "scan.nrrd") in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../other.raw.gz",
        "folder/../../other.raw.gz",
        "..\\other.raw.gz",
        "C:\\other.raw.gz",
        "\\\\host\\x",
    ],
)
def test_detached_voxels_stay_in_the_folder(name, shells, tmp_path):
    (tmp_path / "inner").mkdir()
    io.write_dwi(shells, tmp_path / "inner" / "scan.nhdr")
    (tmp_path / "inner" / "scan.raw.gz").rename(tmp_path / "other.raw.gz")
    edit(tmp_path / "inner" / "scan.nhdr", ("scan.raw.gz", name))
    with pytest.raises(InputError, match="outside of its folder"):
        io.read_dwi(tmp_path / "inner" / "scan.nhdr")


@pytest.mark.parametrize("name", ["LIST", "slice%03d.raw 1 10 1"])
def test_voxels_in_many_files_are_refused(name, shells, tmp_path):
    io.write_dwi(shells, tmp_path / "scan.nhdr")
    edit(tmp_path / "scan.nhdr", ("scan.raw.gz", name))
    with pytest.raises(InputError, match="several files"):
        io.read_dwi(tmp_path / "scan.nhdr")


def test_missing_and_short_data(shells, tmp_path):
    io.write_dwi(shells, tmp_path / "scan.nhdr")
    data = tmp_path / "scan.raw.gz"
    data.write_bytes(data.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"scan\.raw\.gz"):
        io.read_dwi(tmp_path / "scan.nhdr")
    data.unlink()
    with pytest.raises(InputError, match=r"scan\.raw\.gz does not exist"):
        io.read_dwi(tmp_path / "scan.nhdr")


def test_plain_image_is_not_a_scan(tmp_path):
    io.write_image(np.ones((3, 4, 5)), np.eye(4), tmp_path / "map.nrrd")
    with pytest.raises(InputError, match="expected a NRRD of modality DWMRI"):
        io.read_dwi(tmp_path / "map.nrrd")
    with pytest.raises(InputError, match="holds its own gradient table"):
        io.read_dwi(tmp_path / "map.nrrd", bval="x.bval")


def test_header_without_end(tmp_path):
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0005\n" + b"#" * (1 << 23))
    with pytest.raises(InputError, match="no end of header"):
        io.read_dwi(tmp_path / "scan.nrrd")


def test_any_bytes_give_a_scan_or_one_sentence(shells, tmp_path):
    """Random damage anywhere in the header never ends in another exception."""
    io.write_dwi(shells, tmp_path / "scan.nrrd")
    content = (tmp_path / "scan.nrrd").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(content)
        for position in rng.integers(0, content.index(b"\n\n"), rng.integers(1, 4)):
            spoilt[position] = rng.integers(256)
        (tmp_path / "scan.nrrd").write_bytes(spoilt)
        with contextlib.suppress(InputError):
            io.read_dwi(tmp_path / "scan.nrrd")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    line=st.integers(0, 23),
    start=st.integers(0, 60),
    length=st.integers(0, 20),
    text=st.text(max_size=12) | st.sampled_from(["nan", "1e400", "-1", "(1,0,0)", "none", "\n", ":=", ": "]),
)
def test_any_change_of_a_header_line_gives_a_scan_or_one_sentence(line, start, length, text, shells, tmp_path):
    """Cut out part of a line and put any text in its place."""
    io.write_dwi(shells, tmp_path / "scan.nrrd", overwrite=True)
    head, data = (tmp_path / "scan.nrrd").read_bytes().split(b"\n\n", 1)
    lines = head.split(b"\n")
    spoilt = lines[line % len(lines)]
    lines[line % len(lines)] = spoilt[:start] + text.encode("utf-8", "surrogatepass") + spoilt[start + length :]
    (tmp_path / "scan.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + data)
    with contextlib.suppress(InputError):
        io.read_dwi(tmp_path / "scan.nrrd")


IN_SLICER = """
import sys
import numpy as np, slicer, vtk
from vtk.util.numpy_support import vtk_to_numpy

def array(get):
    matrix = vtk.vtkMatrix4x4()
    get(matrix)
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])

source, table, target = sys.argv[1:]
node, storage = slicer.vtkMRMLDiffusionWeightedVolumeNode(), slicer.vtkMRMLNRRDStorageNode()
storage.SetFileName(source)
assert storage.ReadData(node)
frame = array(node.GetMeasurementFrameMatrix)[:3, :3]
gradients, bvals = vtk_to_numpy(node.GetDiffusionGradients()), vtk_to_numpy(node.GetBValues())
np.savez(table, affine=array(node.GetIJKToRASMatrix), bvals=bvals, bvecs=gradients @ frame.T)
if target:
    storage.SetFileName(target)
    assert storage.WriteData(node)
"""


def in_slicer(source, table, target=""):
    """What Slicer's own reader makes of a file; written again at `target`."""
    oracle("slicer")
    command = [sys.executable, "-c", IN_SLICER, str(source), str(table), str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return np.load(table)


@pytest.mark.parametrize("name", ["slicer_nrrd/test_small_dataset1.nrrd", "tosh_7006.nrrd"])
def test_gradients_of_real_files_are_those_that_slicer_shows(name, shared_data, tmp_path):
    dwi = io.read_dwi(shared_data / "formats" / name)
    table = in_slicer(shared_data / "formats" / name, tmp_path / "table.npz")
    np.testing.assert_allclose(dwi.bvals, table["bvals"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dwi.affine, table["affine"], rtol=1e-9, atol=1e-9)
    lengths = np.linalg.norm(table["bvecs"], axis=1, keepdims=True)
    np.testing.assert_allclose(dwi.bvecs, table["bvecs"] / np.where(lengths > 0, lengths, 1), atol=1e-9)


@pytest.mark.parametrize("longest", [0.995, 1.0, 1.0021, 3.0])
def test_gradients_of_any_length_are_those_that_slicer_shows(longest, shells, tmp_path):
    """b = b_max (|g| / max |g|)^2, also where few digits make the lengths of unit vectors differ a little."""
    path = tmp_path / "scan.nrrd"
    keys = {f"DWMRI_gradient_{n:04d}": f"0 {longest * (1 - n / 2000):.4f} 0" for n in range(2, 10)}
    by_pynrrd(shells, path, header=keys)
    table = in_slicer(path, tmp_path / "table.npz")
    dwi = io.read_dwi(path)
    assert len(set(table["bvals"].round(6))) > 5
    np.testing.assert_allclose(dwi.bvals, table["bvals"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_slicer_reads_what_is_written_and_the_other_way_round(suffix, shells, tmp_path):
    io.write_dwi(shells, tmp_path / f"ours{suffix}")
    table = in_slicer(tmp_path / f"ours{suffix}", tmp_path / "table.npz", tmp_path / f"slicers{suffix}")
    np.testing.assert_allclose(table["affine"], shells.affine, atol=1e-9)
    np.testing.assert_allclose(table["bvals"], shells.bvals, rtol=1e-9)
    np.testing.assert_allclose(table["bvecs"], shells.bvecs, atol=1e-9)
    assert_same_scan(shells, io.read_dwi(tmp_path / f"slicers{suffix}"))
