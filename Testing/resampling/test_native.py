"""The matrix that a scan holds: told of scans whose k-space is known, and left behind without loss.

The scans are made here as a scanner makes them, by NumPy's transform alone: complex k-space with white noise, filled,
filtered or cut, then the magnitude in whole numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import rotate

from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import read_dwi
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.grid import ras_corners
from DWISuperResLib.resampling.native import AxisSupport, Support, measure_support, to_native
from DWISuperResLib.resampling.upsamplers import interpolate
from Testing.conftest import oblique_affine

SHAPE, VOLUMES, SNR = (64, 72, 6), 13, 12.0
FULL = (*SHAPE,)


def unchanged(k_space):
    return k_space


def acquired(change=unchanged, shape=SHAPE, *, seed=0, snr=SNR):
    """A head of three tissues under a smooth phase, b0 and twelve weighted volumes."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 1.5) ** 2)
    tissue = np.where(radius < 0.4, 1.4, 1.0) * (radius < 1) * (1 + 0.2 * np.sin(9 * x) * np.cos(7 * y))
    phase = np.exp(1j * (1.5 * x + x * y + 0.7 * y**2))
    bvecs = rng.normal(size=(VOLUMES, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    signal = np.empty((*shape, VOLUMES), np.float32)
    for n in range(VOLUMES):
        weighting = 2.0 if n == 0 else np.exp(-0.3 * (bvecs[n] @ np.stack((x, y, z)).reshape(3, -1)) ** 2)
        image = 60 * snr / SNR * tissue * np.reshape(weighting, np.shape(x) if n else ()) * phase
        image = image + rng.normal(0, 60 / SNR, SHAPE) + 1j * rng.normal(0, 60 / SNR, SHAPE)
        k_space = change(np.fft.fftshift(np.fft.fftn(image)))
        pads = [(m // 2 - k // 2, m - k - (m // 2 - k // 2)) for k, m in zip(SHAPE, shape, strict=True)]
        filled = np.fft.ifftn(np.fft.ifftshift(np.pad(k_space, pads))) * np.prod(shape) / np.prod(SHAPE)
        signal[..., n] = np.rint(np.abs(filled))
    bvals = np.array([0.0] + [1000.0] * (VOLUMES - 1))
    return DWI(signal, oblique_affine(), bvals, np.where(bvals[:, None] > 0, bvecs, 0), 2)


def hamming(k_space):
    for axis in (0, 1):
        n = k_space.shape[axis]
        k = (np.arange(n) - n // 2) / (n / 2)
        window = 0.54 + 0.46 * np.cos(np.pi * k)
        k_space = k_space * window.reshape([-1 if a == axis else 1 for a in range(3)])
    return k_space


def filtered_edge(k_space):
    """As scanners have it: 9 dB down where k-space ends."""
    for axis in (0, 1):
        n = k_space.shape[axis]
        k = np.abs(np.arange(n) - n // 2) / (n / 2)
        k_space = k_space * (1 - 0.65 * np.clip((k - 0.8) / 0.2, 0, 1)).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
    return k_space


def partial_fourier(k_space):
    k_space = k_space.copy()
    k_space[:, : k_space.shape[1] // 4] = 0
    return k_space


def found(dwi):
    support = measure_support(dwi)
    return support.matrix, [axis.kind for axis in support.axes]


@pytest.mark.parametrize("seed", range(3))
def test_a_full_scan_is_full(seed):
    assert found(acquired(seed=seed)) == (SHAPE, ["full"] * 3)


@pytest.mark.parametrize("shape", [(80, 90, 6), (96, 108, 6), (128, 144, 6), (128, 72, 6), (97, 72, 6), (192, 216, 6)])
def test_zero_filling_is_told_to_two_samples(shape):
    support = measure_support(acquired(shape=shape))
    assert [axis.kind for axis in support.axes] == [
        "box" if n != m else "full" for n, m in zip(SHAPE, shape, strict=True)
    ]
    assert all(0 <= m - n <= 2 for n, m in zip(SHAPE, support.matrix, strict=True))


def test_partial_fourier_is_no_interpolation():
    """It takes half of the noise's power, 3 dB, beyond where one side of k-space ends."""
    assert found(acquired(partial_fourier)) == (SHAPE, ["full"] * 3)


@pytest.mark.parametrize(("factor", "kinds"), [(1, ["soft", "soft", "full"]), (2, ["soft", "soft", "full"])])
def test_a_window_ends_where_it_leaves_a_tenth_of_the_power(factor, kinds):
    dwi = acquired(hamming, (64 * factor, 72 * factor, 6))
    support = measure_support(dwi)
    expected = np.arccos((10**-0.5 - 0.54) / 0.46) / np.pi  # of Nyquist: 0.661
    assert [axis.kind for axis in support.axes] == kinds
    np.testing.assert_allclose(support.matrix[:2], np.array(SHAPE[:2]) * expected, rtol=0.06)
    assert support.axes[0].level < -10
    assert not support.is_rotated


@pytest.mark.parametrize("degrees", [5, 10, 20, -10])
def test_rotation_in_plane_is_seen(degrees):
    dwi = acquired(filtered_edge)
    assert not measure_support(dwi).is_rotated
    turned = rotate(dwi.signal, degrees, axes=(0, 1), reshape=False, order=3)
    support = measure_support(replace(dwi, signal=np.rint(np.maximum(turned, 0))))
    assert [axis.kind for axis in support.axes] == ["rotated", "rotated", "full"]
    assert support.is_rotated
    assert "at an angle" in support.sentence


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_the_order_of_the_axes_does_not_matter(order):
    dwi = acquired(shape=(96, 72, 6))
    swapped = replace(dwi, signal=dwi.signal.transpose(*order, 3), acquisition_axis=order.index(2))
    matrix, kinds = found(swapped)
    assert matrix == tuple(np.array(measure_support(dwi).matrix)[list(order)])
    assert kinds == [["box", "full", "full"][a] for a in order]


def test_interpolation_along_the_slices_is_seen():
    scan = phantom((32, 36, 20), (5, 5, 6), shells=((0, 1), (1000, 12)), snr=30, supersampling=1)
    assert measure_support(scan).matrix == (32, 36, 20)
    assert measure_support(interpolate(scan, "1x1x2")).matrix == (32, 36, 20)


@pytest.mark.parametrize("model", ["kspace", "area", "paper"])
def test_lowered_scans_are_full(model):
    scan = phantom((64, 72, 6), (3, 3, 15), shells=((0, 1), (1000, 12)), snr=25, supersampling=1)
    assert measure_support(degrade(scan, 2, model=model)).matrix == (32, 36, 6)


@pytest.mark.parametrize(
    "dwi",
    [
        phantom((48, 48, 16), (4, 4.5, 8), shells=((0, 1), (1000, 12)), snr=None, supersampling=1),
        interpolate(phantom((48, 48, 6), (4, 4.5, 15), shells=((0, 3), (1000, 6)), supersampling=1), 2),
        phantom((12, 14, 6), (12, 12, 15), shells=((0, 1), (1000, 12)), supersampling=1),
        DWI(np.ones((20, 20, 4, 8)), np.eye(4), np.zeros(8), np.zeros((8, 3))),
        DWI(np.zeros((20, 20, 4, 8)), np.eye(4), np.zeros(8), np.zeros((8, 3))),
    ],
    ids=["no noise", "six directions", "small", "constant", "empty"],
)
def test_what_cannot_be_measured_counts_as_full(dwi):
    support = measure_support(dwi)
    assert support.matrix == dwi.spatial_shape
    assert to_native(dwi) is dwi
    assert support.sentence == "Every axis holds what its matrix says."


def test_the_native_scan_is_the_same_function_of_space():
    """Cosines with whole numbers of periods over the field of view, below the native Nyquist: known everywhere."""

    def sampled(shape, affine):
        corner, along = fine_affine[:3, 3] - fine_affine[:3, :3].sum(1) / 2, fine_affine[:3, :3] * np.array(fine)
        voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        place = voxels @ affine[:3, :3].T + affine[:3, 3]
        u = (place - corner) @ np.linalg.inv(along).T  # 0 to 1 over the field of view
        waves = 100 + 20 * np.cos(2 * np.pi * (7 * u[..., 0] + 0.3)) + 10 * np.cos(2 * np.pi * 5 * u[..., 1])
        return waves[..., None] * [1.0, 0.5]

    fine, native, fine_affine = (48, 45, 4), (20, 31, 4), oblique_affine()
    dwi = DWI(sampled(fine, fine_affine), fine_affine, [0, 1000], [[0, 0, 0], [0, 1, 0]])
    support = Support(tuple(AxisSupport(n, m, "box", -20.0) for n, m in zip(fine, native, strict=True)))
    result = to_native(dwi, support)
    assert result.spatial_shape == native
    np.testing.assert_allclose(ras_corners(result.affine, native), ras_corners(fine_affine, fine), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.signal, sampled(native, result.affine), atol=1e-3)
    assert np.array_equal(result.bvecs, dwi.bvecs)


def test_the_native_scan_is_full_and_stays():
    native = to_native(acquired(shape=(96, 108, 6)))
    assert native.spatial_shape < (70, 76, 7)
    assert to_native(native) is native


def test_sentences():
    full, box = AxisSupport(40, 40, "full", -1.0), AxisSupport(256, 128, "box", -20.0)
    soft, turned = AxisSupport(80, 52, "soft", -17.0), AxisSupport(80, 80, "rotated", -5.0)
    assert Support((box, box, full)).sentence == (
        "This scan of 256 x 256 x 40 holds 128 x 128 x 40: it was interpolated along i and j."
    )
    assert Support((box, soft, full)).sentence.endswith("interpolated along i and filtered or interpolated along j.")
    assert (
        Support((turned, turned, full), 2.0).sentence == "This scan was resampled at an angle in the plane of i and j."
    )


REAL = {
    "canon61_axial": ((0.60, 0.66), (1, 1)),
    "uih_dir16_rot_a": "rotated",
    "siemens_prisma_dti_yaw": ((1, 1), (1, 1)),
    "siemens_xa30_ap": ((1, 1), (1, 1)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_scans(shared_data, name):
    """As the notes on the data have it, which were made from the spectra of single images."""
    (path,) = (shared_data / name).glob("*.nii.gz")
    support = measure_support(read_dwi(path))
    assert support.is_rotated == (REAL[name] == "rotated")
    if not support.is_rotated:
        for axis, (low, high) in zip(support.axes, REAL[name], strict=False):
            assert low <= axis.held / axis.given <= high
