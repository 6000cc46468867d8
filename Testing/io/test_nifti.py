"""NIfTI with FSL tables: directions against MRtrix3, voxels against nibabel, hostile files, sizes and memory."""

import contextlib
import gzip
import itertools
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from DWISuperResLib import io
from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from DWISuperResLib.io import streams
from Testing.conftest import oblique_affine, oracle

any_file = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def mrtrix_gradients(image: Path, bval: Path, bvec: Path) -> np.ndarray:
    """(N, 4) unit directions in scanner RAS and b-values, as MRtrix3 understands the files."""
    table = image.parent / "gradients.b"
    options = ["-quiet", "-force", "-bvalue_scaling", "false", "-fslgrad", bvec, bval, "-export_grad_mrtrix", table]
    subprocess.run(["mrinfo", *map(str, options), str(image)], check=True, capture_output=True)
    gradients = np.atleast_2d(np.loadtxt(table))
    lengths = np.linalg.norm(gradients[:, :3], axis=1, keepdims=True)
    gradients[:, :3] /= np.where(lengths > 0, lengths, 1)
    return gradients


def all_affines():
    """Every axis order and flip, square to the scanner and oblique."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            for angles in ((0, 0, 0), (0.2, -0.3, 0.15)):
                affine = oblique_affine((2.0, 2.25, 3.5), angles, origin=(-81.3, 95.7, -43.1))
                affine[:3, :3] = affine[:3, :3][:, order] * flips
                yield pytest.param(affine, id=f"{order}{flips}{'oblique' if any(angles) else ''}".replace(" ", ""))


def scan(affine, signal=None, bvals=None, seed=0) -> DWI:
    rng = np.random.default_rng(seed)
    signal = rng.integers(0, 3000, (3, 4, 2, 7)).astype(np.float32) if signal is None else signal
    bvals = np.array([0.0, *rng.uniform(500, 3000, signal.shape[3] - 1)]) if bvals is None else bvals
    bvecs = rng.normal(size=(signal.shape[3], 3))
    return DWI(signal, affine, bvals, bvecs / np.linalg.norm(bvecs, axis=1, keepdims=True))


@st.composite
def scans(draw) -> DWI:
    """Any signal (integral or not), grid and table that both formats can hold."""
    shape = (*draw(st.tuples(*[st.integers(1, 4)] * 3)), draw(st.integers(7, 9)))
    values = draw(
        st.sampled_from(
            [
                st.integers(-(2**15), 2**15 - 1),
                st.integers(0, 2**16 - 1),
                st.integers(-1, 2**16),
                st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
            ]
        )
    )
    signal = draw(arrays(np.float32, shape, elements=values))
    turn = st.floats(-np.pi, np.pi)
    affine = oblique_affine(
        draw(st.tuples(*[st.floats(0.3, 6)] * 3)),
        draw(st.tuples(turn, turn, turn)),
        draw(st.tuples(*[st.sampled_from([1, -1])] * 3)),
        draw(st.tuples(*[st.floats(-300, 300)] * 3)),
    )
    bvals = draw(arrays(np.float64, shape[3], elements=st.sampled_from([0.0, 5.0, 995.0, 1000.0]) | st.floats(1, 2e4)))
    dwi = scan(affine, signal, bvals, draw(st.integers(0, 99)))
    return replace(dwi, acquisition_axis=draw(st.sampled_from([None, 0, 1, 2])))


def assert_same_scan(first: DWI, second: DWI):
    """Signal to the bit, everything else far below 1e-6."""
    np.testing.assert_array_equal(first.signal.view(np.int32), second.signal.view(np.int32))
    np.testing.assert_allclose(second.affine, first.affine, rtol=0, atol=1e-9)
    np.testing.assert_allclose(second.bvecs, first.bvecs, rtol=0, atol=1e-9)
    np.testing.assert_allclose(second.bvals, first.bvals, rtol=1e-9)
    assert first.acquisition_axis == second.acquisition_axis


@pytest.mark.parametrize("affine", list(all_affines()))
def test_directions_are_those_of_mrtrix(affine, tmp_path):
    oracle("mrtrix3")
    dwi = scan(affine)
    io.write_dwi(dwi, tmp_path / "scan.nii")
    gradients = mrtrix_gradients(tmp_path / "scan.nii", tmp_path / "scan.bval", tmp_path / "scan.bvec")
    np.testing.assert_allclose(gradients[1:, :3], dwi.bvecs[1:], atol=1e-6)
    np.testing.assert_allclose(gradients[:, 3], dwi.bvals, rtol=1e-6)
    assert_same_scan(dwi, io.read_dwi(tmp_path / "scan.nii"))


def real_scans(shared_data):
    scans = [
        path for path in sorted(shared_data.rglob("*.nii.gz")) if path.with_name(f"{path.name[:-7]}.bval").is_file()
    ]
    assert scans
    return scans


def test_directions_of_real_scans_are_those_of_mrtrix(shared_data, tmp_path):
    oracle("mrtrix3")
    images = real_scans(shared_data)
    for image in images:
        copy = tmp_path / image.name
        copy.symlink_to(image)
        bval, bvec = (image.with_name(image.name.replace("nii.gz", kind)) for kind in ("bval", "bvec"))
        dwi = io.read_dwi(image)
        gradients = mrtrix_gradients(copy, bval, bvec)
        # MRtrix3 does not renormalise the six digits of a table; b0 directions are of no consequence.
        weighted = ~dwi.is_b0
        np.testing.assert_allclose(gradients[weighted, :3], dwi.bvecs[weighted], atol=1e-6, err_msg=image.name)
        np.testing.assert_allclose(gradients[:, 3], dwi.bvals, rtol=1e-6, err_msg=image.name)


def test_voxels_of_real_scans_are_those_of_nibabel(shared_data):
    for image in real_scans(shared_data):
        reference, dwi = nib.load(image), io.read_dwi(image)
        np.testing.assert_array_equal(dwi.signal, reference.get_fdata(dtype=np.float32), err_msg=image.name)
        np.testing.assert_allclose(dwi.affine, reference.affine, rtol=1e-15)
        assert dwi.acquisition_axis == reference.header.get_dim_info()[2]
        assert dwi.signal.flags.f_contiguous


@any_file
@given(dwi=scans(), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_round_trip(dwi, suffix, tmp_path):
    io.write_dwi(dwi, tmp_path / f"scan{suffix}", overwrite=True)
    assert_same_scan(dwi, io.read_dwi(tmp_path / f"scan{suffix}"))


@any_file
@given(dwi=scans(), kinds=st.permutations([".nii.gz", ".nrrd", ".nhdr"]))
def test_round_trip_through_every_format(dwi, kinds, tmp_path):
    result = dwi
    for kind in kinds:
        io.write_dwi(result, tmp_path / f"scan{kind}", overwrite=True)
        result = io.read_dwi(tmp_path / f"scan{kind}")
    assert_same_scan(dwi, result)


def test_sheared_affine_keeps_directions(tmp_path):
    affine = oblique_affine()
    affine[:3, 1] += 0.3 * affine[:3, 0]
    dwi = scan(affine)
    io.write_dwi(dwi, tmp_path / "scan.nii")
    assert_same_scan(dwi, io.read_dwi(tmp_path / "scan.nii"))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (7.0, np.int16),
        (-32768.0, np.int16),
        (40000.0, np.uint16),
        (65536.0, np.float32),
        (0.5, np.float32),
        (-0.0, np.float32),
    ],
)
def test_integers_only_where_lossless(value, dtype, tmp_path, small_dwi):
    signal = np.full_like(small_dwi.signal, 3)
    signal[0, 0, 0, -1] = value
    io.write_dwi(replace(small_dwi, signal=signal), tmp_path / "scan.nii")
    image = nib.load(tmp_path / "scan.nii")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), signal)


def test_other_programs_see_the_same_file(tmp_path, small_dwi):
    dwi = replace(small_dwi, acquisition_axis=1)
    io.write_dwi(dwi, tmp_path / "scan.nii.gz")
    image = nib.load(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), dwi.signal)
    np.testing.assert_allclose(image.get_sform(), dwi.affine, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), dwi.affine, atol=1e-4)
    assert image.header.get_dim_info()[2] == 1
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert subprocess.run(["gzip", "-t", tmp_path / "scan.nii.gz"]).returncode == 0


def test_affine_note_is_ignored_once_another_program_moved_the_image(tmp_path):
    dwi = scan(oblique_affine(origin=(-80.1234567, 3.3, 4.4)))
    io.write_dwi(dwi, tmp_path / "scan.nii")
    image = nib.load(tmp_path / "scan.nii")
    assert any(b"DWISuperRes affine" in e.get_content() for e in image.header.extensions)
    moved = dwi.affine.copy()
    moved[0, 3] += 1
    image.set_sform(moved)
    nib.save(image, tmp_path / "moved.nii")
    read = io.read_dwi(tmp_path / "moved.nii", bval=tmp_path / "scan.bval", bvec=tmp_path / "scan.bvec")
    np.testing.assert_allclose(read.affine, moved, atol=1e-5)


@pytest.mark.parametrize("stored", [">i2", "<u1", "<i4", ">f4", "<f8", "<u2"])
@pytest.mark.parametrize("scaling", [(1, 0), (0.37, -12.5)])
def test_types_byte_orders_and_scaling(stored, scaling, tmp_path):
    values = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(stored)
    header = nib.Nifti1Header(endianness=stored[0])
    image = nib.Nifti1Image(values, oblique_affine(), header)
    image.header.set_data_dtype(stored)
    nib.save(image, tmp_path / "map.nii")
    content = bytearray((tmp_path / "map.nii").read_bytes())
    order = ">" if content[:4] == b"\0\0\1\x5c" else "<"
    content[112:120] = np.array(scaling, f"{order}f4").tobytes()
    (tmp_path / "map.nii").write_bytes(content)
    voxels, _ = io.read_image(tmp_path / "map.nii")
    np.testing.assert_allclose(voxels, nib.load(tmp_path / "map.nii").get_fdata(), rtol=1e-6)


def test_nifti2_and_vector_images(tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    x, y, z, n = small_dwi.signal.shape
    image = nib.Nifti2Image(small_dwi.signal.reshape(x, y, z, 1, n), small_dwi.affine)
    nib.save(image, tmp_path / "scan.nii")
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.nii"))


def rows(values) -> list[str]:
    return [" ".join(repr(float(v)) for v in row) for row in values]


@pytest.mark.parametrize(
    "layout",
    {
        "3 x N": "\n".join,
        "trailing blanks": lambda lines: "".join(f" {line}  \t\n" for line in lines) + "\n\n",
        "Windows": lambda lines: "\r\n".join(lines) + "\r\n",
        "old Macintosh": "\r".join,
        "commas": lambda lines: "\n".join(line.replace(" ", ", ") + "," for line in lines),
        "tabs": lambda lines: "\n".join(line.replace(" ", "\t") for line in lines),
        "byte order mark": lambda lines: "\ufeff" + "\n".join(lines),
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_table_layouts(layout, transposed, tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    for kind in ("bval", "bvec"):
        table = np.loadtxt(tmp_path / f"scan.{kind}", ndmin=2)
        text = layout[1](rows(table.T if transposed else table))
        (tmp_path / f"scan.{kind}").write_bytes(text.encode("utf-8"))
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.nii"))


def test_three_volumes_are_read_as_fsl_writes_them(tmp_path):
    dwi = scan(np.diag([-2.0, 2, 2, 1]), np.ones((2, 2, 2, 3)), np.array([1000.0, 1000, 1000]))
    io.write_dwi(dwi, tmp_path / "scan.nii")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "scan.bvec").T, dwi.bvecs * (-1, 1, 1))
    assert_same_scan(dwi, io.read_dwi(tmp_path / "scan.nii"))


@pytest.mark.parametrize("transposed", [False, True])
def test_three_volumes_whose_rows_alone_are_unit_vectors_are_read_by_rows(transposed, tmp_path):
    dwi = scan(np.diag([-2.0, 2, 2, 1]), np.ones((2, 2, 2, 3)), np.array([1000.0, 1000, 1000]))
    io.write_dwi(dwi, tmp_path / "scan.nii")
    table = np.loadtxt(tmp_path / "scan.bvec")
    np.savetxt(tmp_path / "scan.bvec", table.T if transposed else table, "%.17g")
    assert_same_scan(dwi, io.read_dwi(tmp_path / "scan.nii"))


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("mm", 1), ("micron", 1e3), ("unknown", 1)])
def test_units_of_length_become_millimetres(unit, factor, tmp_path):
    affine = oblique_affine()
    stored = affine.copy()
    stored[:3] *= factor
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), stored)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "map.nii")
    np.testing.assert_allclose(io.read_image(tmp_path / "map.nii")[1], affine, rtol=1e-6)


@pytest.mark.parametrize(
    ("bvals", "words"),
    [([0, 1, 2], "multiply its b-values by 1000"), ([5, 3e6], "beyond any scanner"), ([0, 1e9], "beyond any scanner")],
)
def test_b_values_in_other_units_are_told(bvals, words):
    assert words in io.b_value_warning(np.array(bvals, dtype=float))
    for usual in ([0, 0], [0, 5, 1000], [0, 40000]):
        assert io.b_value_warning(np.array(usual, dtype=float)) is None


def test_places_that_cannot_be_looked_up(tmp_path, small_dwi, monkeypatch):
    with pytest.raises(InputError, match="File name too long"):
        io.read_dwi(tmp_path / f"{'x' * 300}.nii")
    io.write_dwi(small_dwi, tmp_path / "scan.nii")

    def refuse(path, *arguments):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(streams, "open", refuse, raising=False)
    with pytest.raises(InputError, match=r"scan\.bval may not be read; change its permissions"):
        io.read_dwi(tmp_path / "scan.nii")


@pytest.mark.parametrize("names", [("scan.bval", "scan.bvec"), ("scan.bvals", "scan.bvecs"), ("bvals", "bvecs")])
def test_tables_found_beside_the_image(names, tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "first.nii.gz")
    for kind, name in zip(("bval", "bvec", "nii.gz"), (*names, "scan.nii.gz"), strict=True):
        (tmp_path / f"first.{kind}").rename(tmp_path / name)
    assert_same_scan(small_dwi, io.read_dwi(str(tmp_path / "scan.nii.gz")))


def test_directions_of_other_lengths_and_missing_ones(tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    table = np.loadtxt(tmp_path / "scan.bvec")
    table[:, 3] *= 2
    table[:, 0] = np.nan
    np.savetxt(tmp_path / "scan.bvec", table, "%.17g")
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.nii"))
    table[:, 4] = 0
    np.savetxt(tmp_path / "scan.bvec", table)
    with pytest.raises(InputError, match=r"scan\.nii: Volumes \[4\] have b > 50"):
        io.read_dwi(tmp_path / "scan.nii")


def damage(path: Path, offset: int, values, dtype):
    content = bytearray(path.read_bytes())
    new = np.array(values, dtype).tobytes()
    content[offset : offset + len(new)] = new
    path.write_bytes(content)


BAD_FILES = {
    "no table": (lambda p: (p / "scan.bval").unlink(), r"no b-values beside it: expected scan\.bval"),
    "short table": (lambda p: (p / "scan.bval").write_text("0 1000"), r"has 10 volumes, but .*scan\.bval has 2"),
    "ragged table": (
        lambda p: (p / "scan.bvec").write_text("1 0\n0 1 2\n3 4"),
        r"scan\.bvec has rows of \[2, 3\] numbers",
    ),
    "wide table": (lambda p: (p / "scan.bvec").write_text("1 0\n0 1"), r"scan\.bvec has 2 rows and 2 columns"),
    "words": (lambda p: (p / "scan.bval").write_text("zero one"), r"scan\.bval is not a table of numbers"),
    "binary table": (lambda p: (p / "scan.bval").write_bytes(b"\xff\xfe\x00"), r"scan\.bval is not a table of numbers"),
    "empty table": (lambda p: (p / "scan.bvec").write_text("\n"), r"scan\.bvec holds no numbers"),
    "huge table": (lambda p: (p / "scan.bval").write_bytes(b"1 " * (1 << 24)), r"larger than 16 MB"),
    "negative b": (lambda p: (p / "scan.bval").write_text("-1 " * 10), r"scan\.nii: .*negative b-value"),
    "no image": (lambda p: (p / "scan.nii").unlink(), r"scan\.nii does not exist"),
    "empty image": (lambda p: (p / "scan.nii").write_bytes(b""), "not a NIfTI file"),
    "not an image": (lambda p: (p / "scan.nii").write_bytes(bytes(1000)), "not a NIfTI file"),
    "header alone": (lambda p: (p / "scan.nii").write_bytes((p / "scan.nii").read_bytes()[:352]), "beyond its end"),
    "cut short": (
        lambda p: (p / "scan.nii").write_bytes((p / "scan.nii").read_bytes()[:-1]),
        "promises 12 x 10 x 4 x 10",
    ),
    "enormous": (lambda p: damage(p / "scan.nii", 42, [32767] * 3, "<i2"), "promises 32767 x 32767 x 32767 x 10"),
    "eight axes": (lambda p: damage(p / "scan.nii", 40, 8, "<i2"), "says that it has 8 axes"),
    "lost slice": (
        lambda p: damage(p / "scan.nii", 46, 3, "<i2"),
        "holds more voxels than the 12 x 10 x 3 x 10 that its header promises",
    ),
    "one NaN": (
        lambda p: (p / "scan.bvec").write_text((p / "scan.bvec").read_text().rsplit(" ", 1)[0] + " nan\n"),
        r"scan\.bvec has directions that are not three finite numbers at volumes \[9\]",
    ),
    "negative size": (lambda p: damage(p / "scan.nii", 42, -4, "<i2"), "dimensions"),
    "too many axes": (lambda p: damage(p / "scan.nii", 40, [5, 12, 2, 2, 2, 5], "<i2"), "dimensions"),
    "complex": (lambda p: damage(p / "scan.nii", 70, 32, "<i2"), "type complex64; expected integers or real"),
    "unknown type": (lambda p: damage(p / "scan.nii", 70, 999, "<i2"), "unknown type"),
    "offset": (lambda p: damage(p / "scan.nii", 108, 1e12, "<f4"), "begin at byte 1e"),
    "offset NaN": (lambda p: damage(p / "scan.nii", 108, np.nan, "<f4"), "begin at byte nan"),
    "no orientation": (lambda p: damage(p / "scan.nii", 280, [0] * 12, "<f4"), r"scan\.nii: The affine is singular"),
    "NaN voxel": (lambda p: damage(p / "scan.nii", -4, np.nan, "<f4"), "promises|not finite"),
    "pair": (lambda p: damage(p / "scan.nii", 344, list(b"ni1"), "u1"), "not a NIfTI file of one piece"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_refused_by_name(name, tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    spoil, message = BAD_FILES[name]
    spoil(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        io.read_dwi(tmp_path / "scan.nii")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_gzip(tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii.gz")
    content = (tmp_path / "scan.nii.gz").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    wrong_checksum = bytearray(content)
    wrong_checksum[-8] ^= 0xFF
    for spoilt in (content[:-2000], content[:8], content[:-3], flipped, wrong_checksum):
        (tmp_path / "scan.nii.gz").write_bytes(spoilt)
        with pytest.raises(InputError, match=r"scan\.nii\.gz"):
            io.read_dwi(tmp_path / "scan.nii.gz")


def test_any_bytes_give_a_scan_or_one_sentence(tmp_path, small_dwi):
    """Random damage anywhere in the header never ends in another exception."""
    io.write_dwi(small_dwi, tmp_path / "scan.nii")
    content = (tmp_path / "scan.nii").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(content)
        for position in rng.integers(0, 352, rng.integers(1, 6)):
            spoilt[position] = rng.integers(256)
        (tmp_path / "scan.nii").write_bytes(spoilt)
        with contextlib.suppress(InputError):
            io.read_dwi(tmp_path / "scan.nii")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, 347), replacement=st.binary(min_size=1, max_size=8))
def test_any_change_of_the_header_gives_a_scan_or_one_sentence(offset, replacement, tmp_path, small_dwi):
    io.write_dwi(small_dwi, tmp_path / "scan.nii", overwrite=True)
    damage(tmp_path / "scan.nii", offset, list(replacement), "u1")
    with contextlib.suppress(InputError):
        io.read_dwi(tmp_path / "scan.nii")


def test_no_second_copy_in_memory(tmp_path):
    signal = np.asfortranarray(np.random.default_rng(0).random((64, 64, 32, 80), dtype=np.float32))
    dwi = scan(oblique_affine(), signal)
    tracemalloc.start()
    io.write_dwi(dwi, tmp_path / "scan.nii.gz")
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    io.read_dwi(tmp_path / "scan.nii.gz")
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert written < 0.5 * signal.nbytes  # a volume and the compressors' queues
    assert read < 1.2 * signal.nbytes


def test_without_isal_the_bits_are_the_same(tmp_path, small_dwi, monkeypatch):
    monkeypatch.setattr(streams, "igzip", gzip)
    monkeypatch.setattr(streams, "igzip_threaded", None)
    io.write_dwi(small_dwi, tmp_path / "scan.nii.gz")
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.nii.gz"))
    monkeypatch.undo()
    assert_same_scan(small_dwi, io.read_dwi(tmp_path / "scan.nii.gz"))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr"])
def test_maps_and_masks(suffix, tmp_path):
    rng = np.random.default_rng(0)
    affine = oblique_affine()
    for voxels in (rng.normal(size=(5, 4, 3)).astype(np.float32), rng.random((5, 4, 3)) > 0.5):
        io.write_image(voxels, affine, tmp_path / f"map{suffix}", overwrite=True)
        read, read_affine = io.read_image(tmp_path / f"map{suffix}")
        np.testing.assert_array_equal(read, voxels)
        np.testing.assert_allclose(read_affine, affine, atol=1e-12)
    io.write_image(np.ones((5, 4, 3, 2)), affine, tmp_path / f"many{suffix}")
    with pytest.raises(InputError, match="2 volumes"):
        io.read_image(tmp_path / f"many{suffix}")
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        io.write_image(np.ones((2, 2)), affine, tmp_path / f"flat{suffix}")


def test_a_scan_that_does_not_exist_is_not_blamed_on_its_tables(tmp_path):
    with pytest.raises(InputError, match=r"nosuch.nii.gz does not exist"):
        io.read_dwi(tmp_path / "nosuch.nii.gz")
