"""Images brought onto other grids by header: nibabel's answer, closed forms, and no aliasing."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to

from DWISuperResLib.dwi import Volume
from DWISuperResLib.resampling.grid import regridded_affine
from DWISuperResLib.resampling.operators import apply_operators, operator
from DWISuperResLib.resampling.reslice import field_of_view, reslice
from Testing.conftest import oblique_affine

angles = st.tuples(*[st.floats(-0.6, 0.6)] * 3)
sizes = st.tuples(*[st.floats(0.8, 3.0)] * 3)
flips = st.tuples(*[st.sampled_from((-1, 1))] * 3)


def positions(affine, shape):
    """(X, Y, Z, 3) RAS of the centres of a grid's voxels."""
    return np.stack(np.indices(shape), -1) @ affine[:3, :3].T + affine[:3, 3]


def centred(affine, shape):
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def blob(affine, shape, fwhm=14.0):
    distance = np.sum((positions(affine, shape) - (1.5, -2.0, 1.0)) ** 2, axis=-1)
    return np.exp(-4 * np.log(2) * distance / fwhm**2)


@given(angles, angles, flips)
@settings(max_examples=10)
def test_it_samples_a_finer_grid_as_nibabel_does(first, second, flip):
    """Cubic B-spline of the image; nibabel's is zero beyond it, which spline coefficients feel some voxels inside."""
    shape, target = (26, 24, 22), (20, 22, 24)
    affine = centred(oblique_affine((2.0, 2.2, 2.5), first, flip), shape)
    grid = centred(oblique_affine((1.1, 1.0, 0.9), second), target)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = reslice(Volume(image, affine), grid, target)
    expected = resample_from_to(nib.Nifti1Image(image, affine), (target, grid), order=3).get_fdata()
    smaller = Volume(np.ones(np.array(shape) - 12), affine @ nib.affines.from_matvec(np.eye(3), [6, 6, 6]))
    inside = field_of_view(smaller, grid, target)
    assert inside.sum() > 1000
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3)


@given(angles, angles, sizes, flips)
@settings(max_examples=10)
def test_a_smooth_image_keeps_its_values_at_every_place_of_a_coarser_grid(first, second, size, flip):
    shape, target = (44, 40, 42), (13, 12, 11)
    affine = centred(oblique_affine((1.0, 1.1, 0.9), first, flip), shape)
    grid = centred(oblique_affine(size, second), target)
    found = reslice(Volume(blob(affine, shape), affine), grid, target)
    inside = field_of_view(
        Volume(np.ones(np.array(shape) - 6), affine @ nib.affines.from_matvec(np.eye(3), [3] * 3)), grid, target
    )
    # What the wider kernel takes away of the blob's own spectrum, and no more.
    np.testing.assert_allclose(found[inside], blob(grid, target)[inside], atol=0.01 + 0.002 * max(size) ** 2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_patterns_finer_than_the_grid_vanish(axis):
    """A wave of 2.5 mm on voxels of 0.5 mm; a grid of 3 mm would show it as one of 15 mm."""
    shape, target = (60, 60, 60), (10, 10, 10)
    affine = centred(np.diag([0.5, 0.5, 0.5, 1]), shape)
    grid = centred(np.diag([3.0, 3, 3, 1]), target)
    wave = np.cos(2 * np.pi * positions(affine, shape)[..., axis] / 2.5)
    sampled = np.cos(2 * np.pi * positions(grid, target)[..., axis] / 2.5)
    assert np.abs(sampled).max() > 0.9
    found = reslice(Volume(10 + wave, affine), grid, target)
    middle = (slice(2, -2),) * 3
    assert np.abs(found[middle] - 10).max() < 0.05


def test_over_one_field_of_view_it_is_the_library_s_own_operator():
    rng = np.random.default_rng(1)
    affine = oblique_affine((1.0, 1.2, 1.5))
    volume = Volume(rng.normal(size=(24, 18, 20)), affine)
    found = reslice(volume, regridded_affine(affine, (24, 18, 20), (8, 18, 10)), (8, 18, 10))
    operators = {0: operator(24, 8, "antialiased_lanczos"), 2: operator(20, 10, "antialiased_lanczos")}
    np.testing.assert_allclose(found, apply_operators(volume.image, operators), atol=1e-4)


@given(angles, angles, sizes, flips)
@settings(max_examples=15)
def test_the_field_of_view_is_that_of_the_voxels_cells(first, second, size, flip):
    shape, target = (9, 8, 7), (6, 7, 8)
    affine = centred(oblique_affine(size, first, flip), shape)
    grid = centred(oblique_affine((2.0, 1.5, 3.0), second), target)
    index = np.moveaxis(positions(grid, target) @ np.linalg.inv(affine)[:3, :3].T, -1, 0)
    index += np.linalg.inv(affine)[:3, 3].reshape(3, 1, 1, 1)
    margin = np.minimum(index + 0.5, np.array(shape).reshape(3, 1, 1, 1) - 0.5 - index).min(0)
    clear = np.abs(margin) > 1e-4
    found = field_of_view(Volume(np.ones(shape), affine), grid, target)
    np.testing.assert_array_equal(found[clear], (margin > 0)[clear])
    constant = reslice(Volume(np.full(shape, 2.0), affine), grid, target)
    np.testing.assert_allclose(constant, np.where(found, 2.0, 0.0), atol=1e-4)
