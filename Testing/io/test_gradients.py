"""Gradient tables as people write them: any layout that means the same numbers, and any text at all."""

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from DWISuperResLib import io
from DWISuperResLib.errors import InputError
from DWISuperResLib.io.gradients import b_value_warning, read_directions, read_table

any_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
numbers = st.floats(-1e6, 1e6, width=32)


@st.composite
def layouts(draw):
    """A table (rows, columns), and a text that means it."""
    columns = draw(st.integers(1, 9))
    table = draw(st.lists(st.lists(numbers, min_size=columns, max_size=columns), min_size=1, max_size=5))
    between = draw(st.sampled_from([" ", "\t", ", ", ";", "  ", " \0"]))
    style = draw(st.sampled_from([repr, "{:.9e}".format, "{:+.17g}".format]))
    end = draw(st.sampled_from(["\n", "\r\n", " \n\n", " # s/mm²\n"]))
    start = draw(st.sampled_from(["", "\ufeff", "\n", "# table\n"]))
    return np.array(table), start + "".join(between.join(map(style, row)) + end for row in table)


@any_file
@given(layout=layouts())
def test_a_table_means_the_same_in_any_layout(layout, tmp_path):
    table, text = layout
    (tmp_path / "table").write_bytes(text.encode("utf-8"))
    np.testing.assert_allclose(read_table(tmp_path / "table"), table, rtol=1e-8)


@any_file
@given(rows=st.lists(st.tuples(numbers, numbers, numbers), min_size=4, max_size=12))
def test_directions_are_read_by_rows_and_by_columns(rows, tmp_path):
    vectors = np.array(rows)
    for name, table in (("rows", vectors), ("columns", vectors.T)):
        np.savetxt(tmp_path / name, table, fmt="%.17g")
        np.testing.assert_array_equal(read_directions(tmp_path / name), vectors)


@any_file
@given(bval=st.binary(max_size=80) | st.text(max_size=80), bvec=st.binary(max_size=200) | st.text(max_size=200))
@example(bval="0 1000 " * 5, bvec="nan 1\n" * 3)
@example(bval="1e400 " * 10, bvec="1 0 0\n" * 10)
def test_any_tables_give_a_scan_or_one_sentence_that_names_a_file(bval, bvec, small_dwi, tmp_path):
    if not (tmp_path / "scan.nii").exists():
        io.write_dwi(small_dwi, tmp_path / "scan.nii")
    for name, content in (("scan.bval", bval), ("scan.bvec", bvec)):
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (tmp_path / name).write_bytes(data)
    said = "scan."
    try:
        io.read_dwi(tmp_path / "scan.nii")
    except InputError as error:
        said = str(error)
    assert "scan." in said


@given(bvals=st.lists(st.floats(0, 1e12), min_size=1, max_size=6))
def test_a_warning_of_units_is_one_sentence_or_none(bvals):
    warning = b_value_warning(np.array(bvals))
    assert (warning is None) == (max(bvals) == 0 or 50 < max(bvals) <= 1e5)


@pytest.mark.parametrize("kind", ["image", "scan"])
@any_file
@given(data=st.binary(max_size=700))
@example(data=b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
@example(data=b"NRRD0005\n\n")
@example(data=b"\x5c\x01\0\0" + bytes(600))
def test_any_bytes_give_an_image_or_one_sentence(kind, data, tmp_path):
    (tmp_path / "scan.bval").write_text("0\n")
    (tmp_path / "scan.bvec").write_text("0\n0\n0\n")
    for suffix in ("nii", "nii.gz", "nrrd", "nhdr"):
        path = tmp_path / f"scan.{suffix}"
        path.write_bytes(data)
        with contextlib.suppress(InputError):
            io.read_image(path) if kind == "image" else io.read_dwi(path)
