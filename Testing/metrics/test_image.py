"""Metrics against closed forms and scikit-image-like oracles written out in NumPy and SciPy."""

import numpy as np
import pytest
from scipy import ndimage

from DWISuperResLib.errors import InputError
from DWISuperResLib.metrics import METRICS, Metric, Pair, metrics_of, residual_spectrum
from DWISuperResLib.metrics.image import ms_ssim_scales


def image_scores(reference, test, mask=None, data_range=None, slice_axis=2):
    pair = Pair(reference, test, mask, slice_axis, data_range)
    return {metric.name: metric.measure(pair) for metric in metrics_of("signal")} | {"data_range": pair.data_range}


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    reference = ndimage.gaussian_filter(rng.uniform(0, 1000, (48, 52, 5, 3)), (2, 2, 0, 0)).astype(np.float32)
    return reference, reference + rng.normal(0, 20, reference.shape).astype(np.float32)


def test_psnr_and_nrmse_follow_their_definitions(pair):
    reference, test = pair
    mask = np.zeros(reference.shape[:3], bool)
    mask[10:40, 8:44, 1:4] = True
    scores = image_scores(reference, test, mask=mask)
    rmse = np.sqrt(np.mean((test[mask].astype(float) - reference[mask]) ** 2))
    assert scores["rmse"] == pytest.approx(rmse, rel=1e-5)
    assert scores["data_range"] == pytest.approx(reference[mask].max())
    assert scores["psnr"] == pytest.approx(20 * np.log10(reference[mask].max() / rmse), abs=1e-3)
    assert scores["nrmse"] == pytest.approx(rmse / reference[mask].mean(), rel=1e-4)


def test_psnr_shifts_by_the_stated_data_range(pair):
    low, high = (image_scores(*pair, data_range=r)["psnr"] for r in (500.0, 1000.0))
    assert high - low == pytest.approx(20 * np.log10(2), abs=1e-4)


def test_ssim_equals_wang_2004_inside_the_mask(pair):
    reference, test = (a[..., :1].astype(float) for a in pair)
    mask = np.zeros(reference.shape[:3], bool)
    mask[12:36, 14:40, 2] = True

    def blur(image):
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5, mode="mirror")

    x, y, data_range = test[:, :, 2, 0], reference[:, :, 2, 0], 800.0
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    expected = ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))[mask[:, :, 2]].mean()
    assert image_scores(*pair, mask=np.ones_like(mask), data_range=data_range)["ssim"] != pytest.approx(
        expected, abs=1e-4
    )
    scores = image_scores(reference, test, mask=mask, data_range=data_range)
    assert scores["ssim"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_scores_do_not_depend_on_where_the_slice_axis_stands(pair, slice_axis):
    moved = [np.moveaxis(a, 2, slice_axis) for a in pair]
    expected, found = image_scores(*pair), image_scores(*moved, slice_axis=slice_axis)
    assert found == pytest.approx(expected, rel=1e-5)


def test_identical_images_are_perfect(pair):
    scores = image_scores(pair[0], pair[0])
    assert scores["rmse"] == 0
    assert scores["psnr"] == np.inf
    assert scores["ssim"] == pytest.approx(1, abs=1e-6)
    assert scores["ms_ssim"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("size", "scales"), [(8, 0), (20, 2), (60, 3), (120, 4), (200, 5)])
def test_ms_ssim_uses_as_many_scales_as_fit(size, scales):
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 2, (size, size, 1))
    pair = Pair(image, image + rng.normal(0, 0.1, image.shape))
    assert ms_ssim_scales(pair) == scales
    assert np.isnan(METRICS["ms_ssim"].measure(pair)) == np.isnan(METRICS["ssim"].measure(pair)) == (scales == 0)


def test_every_headline_says_which_way_is_better():
    noise = np.random.default_rng(0).normal(0, 1, (2, 24, 24, 3))
    reference = 10 + noise[0]
    close, far = (Pair(reference, reference + step * noise[1]) for step in (0.1, 0.5))
    for metric in (*metrics_of("signal", headline=True), *metrics_of("map", headline=True)):
        assert metric.better(metric.measure(close), metric.measure(far)), metric.name
    with pytest.raises(InputError, match="say whether"):
        Metric("vague", "Vague", lambda pair: 0.0, higher_is_better=None)


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((4, 4, 4), None, "on one grid"),
        ((4, 4, 5), np.ones((4, 4, 4)), "mask has shape"),
        ((4, 4, 5), np.zeros((4, 4, 5)), "empty"),
    ],
)
def test_bad_input_is_refused(shape, mask, message):
    with pytest.raises(InputError, match=message):
        image_scores(np.ones((4, 4, 5)), np.ones(shape), mask=mask)


def test_a_dark_region_has_no_data_range():
    with pytest.raises(InputError, match="data range"):
        image_scores(np.zeros((4, 4, 4)), np.ones((4, 4, 4)))


def test_spectrum_of_white_noise_is_its_variance_and_of_a_wave_one_line():
    noise = np.random.default_rng(0).normal(0, 3, (64, 64, 20, 4))
    frequency, power = residual_spectrum(noise)
    np.testing.assert_allclose(power[1:], 9, rtol=0.1)
    assert frequency[0] == pytest.approx(1 / 128)
    wave = np.cos(2 * np.pi * np.arange(64) / 4)[:, None, None] * np.ones((64, 64, 2))
    frequency, power = residual_spectrum(wave)
    assert frequency[np.argmax(power)] == pytest.approx(0.25, abs=1 / 64)
    assert power[np.argmax(power)] > 100 * np.delete(power, np.argmax(power)).max()


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("size", [(9, 12, 14), (10, 11, 13)])
def test_spectrum_counts_every_mode_of_the_plane_once(size, slice_axis):
    images = np.random.default_rng(0).normal(0, 1, size)
    other = [a for a in range(3) if a != slice_axis]
    modes = np.abs(np.fft.fft2(images, axes=other, norm="ortho") ** 2).mean(slice_axis)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(size[a]) for a in other), indexing="ij"))
    rings = [(radius >= low) & (radius < low + 0.125) for low in (0, 0.125, 0.25, 0.375)]
    found = residual_spectrum(images, slice_axis=slice_axis, bins=4)[1]
    np.testing.assert_allclose(found, [modes[ring].mean() for ring in rings], rtol=1e-5)
