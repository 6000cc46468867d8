"""The DWI object refuses what cannot be a diffusion-weighted volume and repairs nothing silently but rounding."""

from dataclasses import replace

import numpy as np
import pytest

from DWISuperResLib.dwi import shells
from DWISuperResLib.errors import InputError


def test_rounded_directions_become_unit_vectors_and_b0_has_none(small_dwi):
    rounded = np.round(small_dwi.bvecs, 3)
    rounded[0] = (1, 0, 0)
    dwi = replace(small_dwi, bvecs=rounded)
    lengths = np.linalg.norm(dwi.bvecs, axis=1)
    np.testing.assert_allclose(lengths, [0, 0] + [1] * 8, atol=1e-15)


def test_low_b_values_count_as_unweighted(small_dwi):
    bvals = small_dwi.bvals.copy()
    bvals[:2] = 1.25194, 5
    assert replace(small_dwi, bvals=bvals).is_b0.tolist() == [True, True] + [False] * 8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"signal": np.zeros((4, 4, 10), np.float32)}, r"shape \(4, 4, 10\); expected four axes"),
        ({"signal": np.full((2, 2, 2, 10), np.nan)}, "80 values that are not finite"),
        ({"affine": np.zeros((4, 4))}, "last row 0 0 0 1"),
        ({"affine": np.diag([1.0, 0, 1, 1])}, "singular"),
        ({"affine": np.full((4, 4), np.inf)}, "not a finite matrix"),
        ({"bvals": np.zeros(3)}, "10 volumes, b-values of shape"),
        ({"bvals": np.full(10, -1.0)}, "negative b-value"),
        ({"bvals": np.full(10, 1000.0)}, r"Volumes \[0, 1\] have b > 50 s/mm² but a zero gradient direction"),
        ({"bvecs": np.full((10, 3), 2.0)}, "not unit vectors"),
        ({"acquisition_axis": 3}, "expected 0, 1, 2 or None"),
    ],
)
def test_impossible_volumes_are_refused_in_one_sentence(small_dwi, change, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(small_dwi, **change)


def test_the_table_cannot_be_changed_behind_the_check(small_dwi):
    with pytest.raises(ValueError, match="read-only"):
        small_dwi.bvecs[3] = 0


def test_shells_are_found_by_gaps():
    members = shells(np.array([0, 995, 2010, 5, 1005, 1990, 0, 1000.0]))
    assert [m.tolist() for m in members] == [[1, 7, 4], [5, 2]]
    assert shells(np.zeros(3)) == []
