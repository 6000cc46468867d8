"""Tensor fits and masks against closed forms, DIPY, MRtrix3 and NumPy."""

import dataclasses
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.segment.mask import median_otsu
from dipy.segment.threshold import otsu
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from DWISuperResLib.io import read_dwi
from DWISuperResLib.microstructure import angular_error, brain_mask, compute_maps, map_names, maps, tensor
from DWISuperResLib.microstructure.masks import median_filtered, otsu_threshold
from DWISuperResLib.phantoms import phantom, phantom_truth
from Testing.conftest import oracle

SCANS = (
    "siemens_b15_dti20",
    "philips_vand15",
    "canon10_axial",
    "siemens_xa30_dwi2trx",
    "uih_dir16",
    "siemens_decub_hfs",
)
FITS = ("ols", "wls", "iwls")
KINDS = {"numpy": np.asarray, "torch": torch.from_numpy}
"""Arrays that the models take: one implementation for both."""


def directions(n, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def table(shells=((0, 2), (1000, 15), (2500, 20)), seed=0):
    """b-values and directions; b0 has a direction too where its b-value is small but not zero."""
    bvals = np.concatenate([np.full(n, float(b)) for b, n in shells])
    return bvals, directions(len(bvals), seed) * (bvals > 0)[:, None]


def tensors_of(eigenvalues, rotations):
    """(V, 6) tensors with the given eigenvalues along rotated axes."""
    r = rotations.as_matrix()
    full = np.einsum("vik,vk,vjk->vij", r, np.broadcast_to(eigenvalues, r.shape[:2]), r)
    return full[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]


def signals_of(tensors, bvals, bvecs, s0=1000.0):
    """(V, N) signals of tensors, the exponent written out term by term."""
    x, y, z = bvecs.T
    xx, yy, zz, xy, xz, yz = tensors.T[..., None]
    adc = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
    return s0 * np.exp(-bvals * adc)


def as_dwi(signals, bvals, bvecs, affine=None):
    return DWI(np.asarray(signals)[:, None, None], np.eye(4) if affine is None else affine, bvals, bvecs)


@pytest.fixture(scope="session")
def scan(shared_data):
    """Reads a development scan by name, with its mask; once."""
    known = {}

    def read(name):
        if name not in known:
            dwi = read_dwi(shared_data / name / f"{name}.nii.gz")
            known[name] = dwi, brain_mask(dwi)
        return known[name]

    return read


# Tensor fits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("b0", [0.0, 1.25, 5.0])
def test_every_fit_recovers_the_tensor_of_a_noise_free_signal(method, b0, kind):
    rng = np.random.default_rng(1)
    truth = tensors_of(rng.uniform(2e-4, 2.5e-3, (50, 3)), Rotation.random(50, rng=rng))
    bvals, bvecs = table(((b0, 1), (1000, 12), (2500, 20)))
    fitted = tensor.fit_tensor(KINDS[kind](signals_of(truth, bvals, bvecs)), bvals, bvecs, method)
    np.testing.assert_allclose(np.asarray(fitted), truth, atol=1e-12)


@pytest.mark.parametrize("fit", FITS)
def test_maps_of_arrays_of_numpy_and_torch_are_the_same(fit):
    bvals, bvecs = table()
    rng = np.random.default_rng(11)
    signals = (500 * np.exp(-bvals * rng.uniform(1e-4, 2e-3, (300, 1))) + rng.normal(0, 20, (300, len(bvals)))).clip(0)
    names = frozenset(("fa", "md", "ad", "rd", "direction"))
    model = tensor.TensorMaps(bvals, bvecs, names, tensor.TensorOptions(fit))
    first, second = (model(make(np.ascontiguousarray(signals.T, np.float32))) for make in KINDS.values())
    assert set(first) == names
    for name in names - {"direction"}:
        np.testing.assert_allclose(first[name], second[name].numpy(), rtol=1e-4, atol=1e-8, err_msg=name)
    clear = first["fa"] > 0.1
    assert angular_error(first["direction"], second["direction"].numpy())[clear].max() < 0.01


@pytest.mark.parametrize("fit", FITS)
def test_maps_of_a_prolate_tensor_equal_their_closed_forms(fit):
    axial, radial = 1.7e-3, 0.3e-3
    bvals, bvecs = table()
    truth = tensors_of([axial, radial, radial], Rotation.random(20, rng=np.random.default_rng(2)))
    maps = compute_maps(as_dwi(signals_of(truth, bvals, bvecs), bvals, bvecs), ("fa", "md", "ad", "rd"), fit=fit)
    fa = (axial - radial) / np.sqrt(axial**2 + 2 * radial**2)
    for name, expected in {"fa": fa, "md": (axial + 2 * radial) / 3, "ad": axial, "rd": radial}.items():
        np.testing.assert_allclose(maps[name], expected, rtol=1e-5, err_msg=name)
        assert maps[name].dtype == np.float32


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_fa_and_md_do_not_depend_on_the_frame(seed):
    rng = np.random.default_rng(seed)
    bvals, bvecs = table()
    signals = 1000 * np.exp(-bvals * rng.uniform(1e-4, 2e-3, (6, len(bvals))))
    turned = bvecs @ Rotation.random(rng=rng).as_matrix().T
    first = compute_maps(as_dwi(signals, bvals, bvecs), ("fa", "md"))
    second = compute_maps(as_dwi(signals, bvals, turned), ("fa", "md"))
    np.testing.assert_allclose(second["fa"], first["fa"], atol=2e-5)
    np.testing.assert_allclose(second["md"], first["md"], rtol=2e-5)


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("fit", ["wls", "ols"])
def test_maps_equal_dipy_on_real_scans(scan, name, fit):
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    dwi, mask = scan(name)
    some = np.zeros_like(mask)
    some[:, :, :: max(1, mask.shape[2] // 6)] = True
    some &= mask
    gradients = gradient_table(dwi.bvals, bvecs=dwi.bvecs, b0_threshold=50)
    # DIPY's floor for signals is absolute; the power of ten brings the scan's b0 next to 500.
    signal = dwi.signal[some] / 10.0 ** round(np.log10(dwi.foreground_b0() / 500))
    expected = TensorModel(gradients, fit_method=fit.upper()).fit(signal)
    maps = compute_maps(dwi, ("fa", "md", "ad", "rd"), fit=fit, mask=some)
    assert np.abs(maps["fa"][some] - expected.fa).max() < 1e-4
    for quantity in ("md", "ad", "rd"):
        np.testing.assert_allclose(maps[quantity][some], getattr(expected, quantity), rtol=1e-3, atol=1e-7)
    assert not maps["fa"][~some].any()


@pytest.fixture(scope="session")
def mrtrix(shared_data, scan, tmp_path_factory):
    """Runs MRtrix3's tensor fit on a development scan: a reader of its FA and principal direction."""
    oracle("mrtrix3")

    def fit(name):
        folder = tmp_path_factory.mktemp(name)
        dwi, mask = scan(name)
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), dwi.affine), folder / "mask.nii")
        source = shared_data / name / name
        common = ["-quiet", "-nthreads", "1", "-mask", folder / "mask.nii"]
        gradients = ["-fslgrad", f"{source}.bvec", f"{source}.bval"]
        subprocess.run(["dwi2tensor", *common, *gradients, f"{source}.nii.gz", folder / "tensor.mif"], check=True)
        outputs = ["-fa", folder / "fa.nii", "-num", "1", "-modulate", "none", "-vector", folder / "vector.nii"]
        subprocess.run(["tensor2metric", *common, *outputs, folder / "tensor.mif"], check=True)
        return {key: nib.load(folder / f"{key}.nii").get_fdata(dtype=np.float32) for key in ("fa", "vector")}

    return fit


@pytest.mark.parametrize("name", ["uih_dir16", "philips_vand15", "siemens_xa30_dwi2trx"])
def test_iwls_equals_mrtrix(scan, mrtrix, name):
    expected = mrtrix(name)
    dwi, mask = scan(name)
    ours = compute_maps(dwi, ("fa",), fit="iwls", mask=mask)["fa"]
    # Zeros leave the normal equations singular in a few voxels, where MRtrix3's own result is rounding error or NaN.
    measured = mask & (dwi.signal.min(-1) > 0)
    assert measured.sum() > 0.98 * mask.sum()
    assert np.abs(ours - expected["fa"])[measured].max() < 1e-3
    # Directions are compared in RAS, through the readers: a wrong frame or flip shows here.
    clear = measured & (expected["fa"] > 0.3) & (expected["fa"] < 0.9)
    angles = angular_error(
        compute_maps(dwi, ("direction",), mask=clear, fit="iwls")["direction"][clear], expected["vector"][clear]
    )
    # (MRtrix3 ranks by magnitude, so tensors of mostly negative eigenvalues differ.)
    assert np.percentile(angles, 99) < 0.01


@pytest.mark.parametrize("fit", FITS)
def test_voxels_without_usable_signal_give_finite_maps(fit):
    bvals, bvecs = table()
    rng = np.random.default_rng(4)
    signals = rng.uniform(0, 2, (400, len(bvals))).round() * rng.integers(0, 3, (400, 1)) * 100
    signals[:10] = 0
    signals[10:20] = -5
    maps = compute_maps(as_dwi(signals, bvals, bvecs), map_names(), fit=fit)
    assert all(np.isfinite(values).all() for values in maps.values())
    assert np.abs(maps["fa"][:20]).max() < 1e-3
    if fit != "iwls":
        assert maps["fa"].max() <= 1 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_elimination_equals_lapack_and_reports_how_determined_systems_are(kind):
    rng = np.random.default_rng(5)
    factors = rng.normal(size=(30, 9, 7))
    matrices = factors.transpose(0, 2, 1) @ factors
    right = rng.normal(size=(30, 7))
    rows, columns = np.triu_indices(7)
    upper = KINDS[kind](np.ascontiguousarray(matrices[:, rows, columns].T))
    solution, determined = map(np.asarray, tensor._solve_symmetric(upper, KINDS[kind](right.T.copy())))
    np.testing.assert_allclose(solution.T, np.linalg.solve(matrices, right[..., None])[..., 0], rtol=1e-8)
    # The share of the last element that elimination leaves is 1 / (A_nn (A^-1)_nn).
    last = 1 / (matrices[:, 6, 6] * np.linalg.inv(matrices)[:, 6, 6])
    assert (determined <= last * (1 + 1e-9)).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["any", "prolate", "oblate", "isotropic", "negative"]))
def test_eigenvalues_equal_numpy(seed, kind):
    rng = np.random.default_rng(seed)
    a, b, c = np.sort(rng.uniform(1e-4, 3e-3, 3))
    values = {
        "any": [a, b, c],
        "prolate": [a, a, c],
        "oblate": [a, c, c],
        "isotropic": [b, b, b],
        "negative": [-a, b, c],
    }
    elements = tensors_of(values[kind], Rotation.random(8, rng=rng))
    ours = tensor.eigenvalues(elements.T.copy())
    full = elements[:, [0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(-1, 3, 3)
    np.testing.assert_allclose(ours, np.linalg.eigvalsh(full)[:, ::-1].T, atol=1e-10)
    for make in KINDS.values():
        found = np.asarray(tensor.principal_direction(make(elements.T.copy()), make(ours[0])))
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-9)
        stretched = np.einsum("vij,vj->vi", full, found)  # an eigenvector even where the eigenvalue is not single
        np.testing.assert_allclose(stretched, ours[0][:, None] * found, atol=1e-8)


def test_principal_direction_is_the_fibre_direction_in_ras():
    fibres = directions(40, seed=6)
    truth = np.stack([0.3e-3 * np.eye(3) + 1.4e-3 * np.outer(f, f) for f in fibres])
    bvals, bvecs = table()
    elements = truth[:, [0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    dwi = as_dwi(signals_of(elements, bvals, bvecs), bvals, bvecs)
    maps = compute_maps(dwi, ("direction", "fa"))
    found = maps["direction"][:, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    assert angular_error(found, -fibres).max() < 0.01
    np.testing.assert_array_equal(maps["fa"], compute_maps(dwi, ("fa",))["fa"])
    mask = np.zeros(dwi.spatial_shape, dtype=bool)
    assert not compute_maps(dwi, ("direction",), mask=mask)["direction"].any()


def test_angular_error_ignores_signs_and_keeps_small_angles():
    degrees = np.array([0.0, 1e-3, 30.0, 60.0, 90.0, 120.0, 180.0])
    turned = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0 * degrees], 1).astype(np.float32)
    expected = [0, 1e-3, 30, 60, 90, 60, 0]
    np.testing.assert_allclose(angular_error(np.array([1.0, 0, 0], np.float32), turned), expected, atol=1e-5)


@pytest.mark.parametrize("method", FITS)
def test_gradients_through_the_fit_and_fa_are_right(method):
    bvals, bvecs = table(((0, 1), (1000, 8)))
    rng = np.random.default_rng(7)
    signal = torch.from_numpy(np.exp(-bvals * rng.uniform(3e-4, 2e-3, (3, len(bvals))))).requires_grad_()

    def anisotropy(signal):
        fitted = tensor.fit_tensor(signal, bvals, bvecs, method)
        return tensor.fractional_anisotropy(fitted), 1e3 * tensor.mean_diffusivity(fitted)

    assert torch.autograd.gradcheck(anisotropy, (signal,))


@pytest.mark.parametrize("method", FITS)
def test_gradients_stay_finite_where_signals_are_zero_equal_or_negative(method):
    bvals, bvecs = table(((0, 1), (1000, 8)))
    signal = torch.stack([torch.zeros(9), torch.ones(9), -torch.ones(9), torch.eye(9)[0], torch.rand(9)])
    signal.requires_grad_()
    tensor.fractional_anisotropy(tensor.fit_tensor(signal, bvals, bvecs, method)).sum().backward()
    assert torch.isfinite(signal.grad).all()
    assert signal.grad[4].abs().sum() > 0


def test_differentiable_fa_equals_the_map():
    bvals, bvecs = table()
    rng = np.random.default_rng(8)
    signals = 800 * np.exp(-bvals * rng.uniform(4e-4, 1.2e-3, (4, 5, len(bvals))))
    fa = tensor.fractional_anisotropy(tensor.fit_tensor(torch.from_numpy(signals), bvals, bvecs))
    mapped = compute_maps(as_dwi(signals.reshape(20, -1), bvals, bvecs), ("fa",))["fa"]
    assert fa.shape == (4, 5)
    np.testing.assert_allclose(fa.reshape(-1), mapped.reshape(-1), atol=1e-5)


# What a table, a mask or a name must be


@pytest.mark.parametrize(
    "shells",
    [((0, 1), (1000, 5)), ((1000, 30),), ((0, 6),)],
    ids=["five directions", "no b0 and one shell", "b0 alone"],
)
def test_tables_too_small_for_a_tensor_are_refused(shells):
    bvals, bvecs = table(shells)
    dwi = as_dwi(np.ones((2, len(bvals))), bvals, bvecs)
    with pytest.raises(InputError, match="tensor cannot be fitted"):
        compute_maps(dwi, ("fa",))


def test_directions_on_one_cone_are_refused():
    angles = np.arange(12) * np.pi / 6
    bvecs = np.concatenate(
        [np.zeros((1, 3)), np.stack([0.6 * np.cos(angles), 0.6 * np.sin(angles), 0 * angles + 0.8], 1)]
    )
    assert not tensor.determines_tensor(np.array([0.0] + [1000.0] * 12), bvecs)


def test_two_shells_without_b0_are_enough():
    bvals, bvecs = table(((500, 10), (1500, 12)))
    truth = tensors_of([1.5e-3, 5e-4, 2e-4], Rotation.random(3, rng=np.random.default_rng(9)))
    fitted = tensor.fit_tensor(torch.from_numpy(signals_of(truth, bvals, bvecs)), bvals, bvecs)
    np.testing.assert_allclose(fitted.numpy(), truth, atol=1e-12)


def test_unknown_names_and_wrong_masks_are_refused(small_dwi):
    for arguments in ({"maps": ("fa", "nope")}, {"fit": "nlls"}, {"mask": np.ones((3, 3, 3))}, {"qa_scale": "biggest"}):
        with pytest.raises(InputError):
            compute_maps(small_dwi, **arguments)


# Whole volumes


def test_maps_do_not_depend_on_memory_order_mask_or_views(small_dwi):
    maps = compute_maps(small_dwi, map_names())
    mask = np.zeros(small_dwi.spatial_shape, dtype=bool)
    mask[2:9, 3:, 1:] = True
    cropped = dataclasses.replace(small_dwi, signal=small_dwi.signal[2:9, 3:, 1:])
    for other, inside in (
        (
            compute_maps(dataclasses.replace(small_dwi, signal=np.ascontiguousarray(small_dwi.signal)), map_names()),
            np.s_[:],
        ),
        (compute_maps(small_dwi, map_names(), mask=mask), np.s_[2:9, 3:, 1:]),
    ):
        for name in map_names():
            np.testing.assert_allclose(other[name][inside], maps[name][inside], rtol=1e-4, atol=1e-8)
    for name, values in compute_maps(cropped, map_names()).items():
        np.testing.assert_allclose(values, maps[name][2:9, 3:, 1:], rtol=1e-4, atol=1e-8)


def test_the_memory_of_maps_does_not_grow_with_the_scan(monkeypatch):
    monkeypatch.setattr(maps, "MAX_THREADS", 2)
    bvals, bvecs = table()

    def working_memory(shape):
        dwi = DWI(np.full((*shape, len(bvals)), 100, dtype=np.float32, order="F"), np.eye(4), bvals, bvecs)
        tracemalloc.start()
        found = compute_maps(dwi, ("fa", "qa"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A voxel's place in the mask and in the list of voxels grow with the scan, by 10 bytes each.
        return peak - sum(values.nbytes for values in found.values()) - 10 * np.prod(shape)

    small = working_memory((40, 40, 20))
    assert working_memory((40, 40, 60)) < 1.1 * small


def test_maps_and_mask_load_neither_torch_nor_dipy():
    code = (
        "import sys, numpy as np\n"
        "from DWISuperResLib import brain_mask, compute_maps\n"
        "from DWISuperResLib.phantoms import phantom\n"
        "dwi = phantom((24, 24, 6), (8, 8, 15), supersampling=1, shells=((0, 1), (1000, 6)))\n"
        "maps = compute_maps(dwi, ('fa', 'qa', 'gfa'), mask=brain_mask(dwi))\n"
        "assert all(values.any() for values in maps.values())\n"
        "print([name for name in ('torch', 'dipy', 'matplotlib') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Masks


@pytest.mark.parametrize("name", SCANS)
def test_masks_of_real_scans_are_whole_brains(scan, name):
    dwi, mask = scan(name)
    millilitres = mask.sum() * abs(np.linalg.det(dwi.affine[:3, :3])) / 1000
    assert mask.dtype == bool
    assert 900 < millilitres < 1700
    assert ndimage.label(mask)[1] == 1
    _, thresholded = median_otsu(dwi.signal[..., dwi.is_b0].mean(-1), median_radius=1, numpass=1)
    labels, _ = ndimage.label(thresholded)
    assert mask[labels == np.bincount(labels.ravel())[1:].argmax() + 1].all()
    centre = np.argwhere(mask).mean(0).round().astype(int)
    assert mask[tuple(slice(c - 1, c + 2) for c in centre)].all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), shape=st.tuples(*[st.integers(1, 7)] * 3), whole=st.booleans())
def test_the_median_is_that_of_scipy(seed, shape, whole):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 4, shape).astype(np.float32) if whole else rng.random(shape, np.float32)
    np.testing.assert_array_equal(median_filtered(image), ndimage.median_filter(image, size=3))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_threshold_is_that_of_dipy(seed):
    rng = np.random.default_rng(seed)
    image = np.where(rng.random(500) < rng.random(), rng.gamma(2, 30, 500), rng.normal(600, 100, 500))
    assert otsu_threshold(image.astype(np.float32)) == otsu(image.astype(np.float32))


def test_mask_covers_the_phantom_on_thick_and_fine_grids_in_any_orientation():
    for shape, size in (
        ((60, 72, 16), (3.0, 3.0, 8.0)),
        ((110, 130, 20), (1.5, 1.5, 7.0)),
        ((150, 180, 8), (1, 1, 15)),
    ):
        dwi = phantom(shape, size, supersampling=1, shells=((0, 1), (1000, 6)))
        truth = phantom_truth(shape, size, supersampling=1).mask
        mask = brain_mask(dwi)
        assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    turned = dataclasses.replace(
        dwi, signal=dwi.signal.transpose(2, 0, 1, 3)[:, ::-1], affine=dwi.affine[:, [2, 0, 1, 3]]
    )
    agreement = brain_mask(turned)[:, ::-1].transpose(1, 2, 0) == mask
    assert agreement.mean() > 0.98


def test_mask_without_b0_uses_the_weighted_volumes_and_a_flat_image_is_all_mask(small_dwi):
    weighted = dataclasses.replace(
        small_dwi, signal=small_dwi.signal[..., 2:], bvals=small_dwi.bvals[2:], bvecs=small_dwi.bvecs[2:]
    )
    assert brain_mask(weighted).any()
    flat = dataclasses.replace(small_dwi, signal=np.full_like(small_dwi.signal, 7))
    assert brain_mask(flat).all()


@pytest.mark.parametrize("fit", ["wls", "ols", "iwls"])
@pytest.mark.parametrize("exponent", range(-8, 9, 2))
def test_maps_and_mask_do_not_depend_on_the_unit_of_the_intensities(exponent, fit):
    """Zeros, which every real scan has some of, included: the floor under the logarithm goes with the scan."""
    dwi = phantom((24, 24, 6), (8.0, 8.0, 16.0), shells=((0, 1), (1000, 12)), supersampling=1, snr=20.0)
    signal = dwi.signal.copy()
    if fit != "iwls":  # zeros leave its normal equations next to singular, so rounding alone changes the fourth digit
        signal[np.random.default_rng(0).random(signal.shape) < 0.01] = 0
    dwi = dataclasses.replace(dwi, signal=signal)
    scaled = dataclasses.replace(dwi, signal=signal * np.float32(10.0**exponent))
    mask = brain_mask(dwi)
    np.testing.assert_array_equal(brain_mask(scaled), mask)
    names = ("fa", "md", "qa", "iso", "gfa")
    expected = compute_maps(dwi, names, mask=mask, fit=fit)
    for name, found in compute_maps(scaled, names, mask=mask, fit=fit).items():
        found = found / np.float32(10.0**exponent) if name in ("qa", "iso") else found
        np.testing.assert_allclose(found, expected[name], rtol=2e-5, atol=2e-5 * np.abs(expected[name]).max())


def test_the_floor_of_usual_scans_is_dipys():
    """A b0 of some hundreds leaves signals as they are, so zeros count as in DIPY."""
    from dipy.core.gradients import gradient_table
    from dipy.reconst.dti import TensorModel

    dwi = phantom((16, 16, 4), (12.0, 12.0, 24.0), shells=((0, 1), (1000, 12)), supersampling=1, snr=20.0)
    signal = dwi.signal * np.float32(400 / dwi.foreground_b0())
    signal[np.random.default_rng(0).random(signal.shape) < 0.01] = 0
    dwi = dataclasses.replace(dwi, signal=signal)
    mask = brain_mask(dwi)
    table = gradient_table(dwi.bvals, bvecs=dwi.bvecs)
    expected = TensorModel(table, fit_method="WLS").fit(signal.astype(float), mask=mask).fa
    np.testing.assert_allclose(compute_maps(dwi, ("fa",), mask=mask)["fa"], expected, atol=1e-4)
