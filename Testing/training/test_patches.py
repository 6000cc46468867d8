"""Training data: inputs are the degraded targets, batches are functions of seed and index, subjects stay apart."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import rotate

from DWISuperResLib import io
from DWISuperResLib.errors import InputError
from DWISuperResLib.microstructure.tensor import determines_tensor
from DWISuperResLib.networks.views import Assembler, BlockView, Normalisation, SliceView
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.grid import Frame
from DWISuperResLib.resampling.operators import operator
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.resampling.upsamplers import interpolate
from DWISuperResLib.training import validated
from DWISuperResLib.training.cache import open_scan
from DWISuperResLib.training.patches import Batches, DWIData, EpochSampler, windowed
from DWISuperResLib.training.tasks import add_noise
from DWISuperResLib.training.validation import classical, predict, prepare, score

STILL = {"flips": False, "rotations": False, "intensity": [1, 1], "contrast": [1, 1]}


@pytest.fixture(scope="module")
def dwi():
    return phantom((24, 36, 5), (6.0, 5.0, 7.0), supersampling=1, shells=((0, 2), (1000, 7)))


@pytest.fixture(scope="module")
def path(dwi, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    io.write_dwi(dwi, path)
    return path


@pytest.fixture(scope="module")
def scan(path):
    return open_scan(path, path.parent / "cache", "volume")


def batches(scan, neighbours=1, guidance=(), together=None, augmentation=None, view=None, **changes):
    data = {"scans": ["x"], "slabs": 2, "patches": 3, "patch": None} | changes.pop("data", {})
    tree = {"data": data, "augmentation": STILL if augmentation is None else augmentation, **changes}
    return Batches([scan], view or SliceView(neighbours, guidance), validated(tree), together)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cached_slabs_are_the_scan(dwi, path, axis, tmp_path):
    scan = open_scan(path, tmp_path, "volume").stacked_along(axis)
    expected = Frame.of(dwi.affine, axis).view(io.read_dwi(path).signal)
    slab = scan.slab(0, 1, slice(None))
    np.testing.assert_array_equal(slab, expected[:, [0, 0, 1]])
    last = scan.extent[0] - 1
    np.testing.assert_array_equal(scan.slab(last, 1, np.array([1, 3])), expected[[1, 3]][:, [last - 1, last, last]])
    assert scan.mask.shape == scan.extent == expected.shape[1:]
    np.testing.assert_array_equal(scan.part(np.array([2, 5])), expected[[2, 5]])
    region = (slice(1, 3), slice(2, 7), slice(0, 4))
    np.testing.assert_array_equal(scan.part(np.array([2, 5]), region), expected[[2, 5]][(slice(None), *region)])
    np.testing.assert_allclose(scan.frame_sizes, scan.frame.along(dwi.voxel_sizes))
    np.testing.assert_array_equal(scan.dwi().signal, io.read_dwi(path).signal)


def test_whole_numbers_take_two_bytes_and_a_second_opening_writes_nothing(dwi, tmp_path):
    rounded = dataclasses.replace(dwi, signal=np.rint(dwi.signal))
    io.write_dwi(rounded, tmp_path / "a.nii.gz")
    scan = open_scan(tmp_path / "a.nii.gz", tmp_path / "cache", "volume")
    assert scan.signal.dtype == np.uint16
    assert isinstance(scan.signal, np.memmap)
    written = (scan.folder / "signal.npy").stat().st_mtime_ns
    again = open_scan(tmp_path / "a.nii.gz", tmp_path / "cache", "volume")
    assert (again.folder / "signal.npy").stat().st_mtime_ns == written
    np.testing.assert_array_equal(again.slab(2, 0, slice(None))[:, 0], scan.frame.view(rounded.signal)[:, 2])


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("guidance", [(), ("q_smooth", "mean_b0")])
def test_inputs_are_what_inference_sees_of_the_degraded_scan(path, scan, scale, guidance):
    dwi = io.read_dwi(path)
    cut = dwi.signal[: dwi.signal.shape[0] // scale * scale, : dwi.signal.shape[1] // scale * scale]
    low = scan.frame.view(degrade(dataclasses.replace(dwi, signal=cut), scale, axis=2).signal)
    normalisation = Normalisation.measure(dwi.signal, "volume")
    assembler = Assembler(SliceView(1, guidance), dwi.bvals, dwi.bvecs, normalisation)
    seen = [
        assembler.show(torch.from_numpy(low[:, [max(z - 1, 0), z, min(z + 1, 4)]].copy()), torch.arange(9))
        for z in range(5)
    ]
    fine = scan.frame.view(cut) * normalisation.gains[:, None, None, None]
    batch = batches(scan, guidance=guidance, together=99, scales=[scale])[4]
    for n in range(0, len(batch["input"]), 9):
        matches = [
            z
            for z in range(5)
            if np.allclose(batch["target"][n : n + 9, 0], fine[:, z], atol=1e-5)
            and np.allclose(batch["input"][n : n + 9], seen[z], atol=1e-4)
        ]
        assert len(matches) == 1


@pytest.mark.parametrize("scale", [2, 3])
def test_augmented_pairs_stay_aligned(scan, scale):
    dataset = batches(scan, augmentation={}, scales=[scale], data={"patch": None})
    for index in range(4):
        batch = dataset[index]
        height, width = batch["target"].shape[-2:]
        rows, columns = (torch.tensor(operator(n, n // scale, "sinc"), dtype=torch.float32) for n in (height, width))
        lowered = rows @ batch["target"] @ columns.T
        torch.testing.assert_close(batch["input"][:, :1], lowered, rtol=1e-3, atol=1e-3)


def test_patches_are_windows_of_the_whole_slices(scan):
    whole = batches(scan, data={"slabs": 1, "patches": 1})
    small = batches(scan, data={"slabs": 1, "patches": 1, "patch": 16})
    batch = small[0]
    assert batch["input"].shape == (1, 3, 8, 8)
    assert batch["target"].shape == (1, 1, 16, 16)
    assert whole[0]["input"].shape == (1, 3, 18, 12)


def test_batches_are_functions_of_seed_and_index(scan):
    def same(first, second):
        return torch.equal(first["input"], second["input"]) and torch.equal(first["target"], second["target"])

    noisy = {"augmentation": {}, "data": {"patch": 16}, "degradation": {"noise": [1, 5]}}
    assert same(batches(scan, **noisy)[3], batches(scan, **noisy)[3])
    assert not same(batches(scan, **noisy)[3], batches(scan, **noisy)[4])
    assert not same(batches(scan, **noisy)[3], batches(scan, seed=1, **noisy)[3])


def test_every_range_changes_the_batch(scan):
    plain = batches(scan)[0]
    for section, changes in (
        ("degradation", {"models": {"gaussian": 1}}),
        ("degradation", {"models": {"area": 1}}),
        ("degradation", {"models": {"paper": 1}}),
        ("degradation", {"models": {"gaussian": 1}, "fwhm": [2, 2]}),
        ("degradation", {"noise": [5, 5]}),
        ("augmentation", STILL | {"intensity": [2, 2]}),
        ("augmentation", STILL | {"contrast": [2, 2]}),
    ):
        assert not torch.allclose(batches(scan, **{section: changes})[0]["input"], plain["input"], atol=1e-3)
    window = {"augmentation": STILL | {"window": [0.6, 0.7]}}  # of half of the slabs
    pairs = [(batches(scan, **window)[n]["input"], batches(scan)[n]["input"]) for n in range(3)]
    assert any(not torch.allclose(found, still, atol=1e-3) for found, still in pairs)
    coarser = batches(scan, augmentation=STILL | {"resample": [1.5, 1.5]})[0]
    assert coarser["target"].shape[-2:] == (24, 16)


@given(n=st.integers(4, 40), data=st.data(), alphas=st.tuples(st.floats(0.5, 1.1), st.floats(0.5, 1.1)))
def test_window_weights_each_frequency(n, data, alphas):
    """Cosines that are even about both borders are eigenvectors, their eigenvalue the window at their frequency."""
    half_cycles = data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
    rows, columns = (np.cos(np.pi * k * (np.arange(n) + 0.5) / n) for k in half_cycles)
    weights = [a + (1 - a) * np.cos(np.pi * k / n) for a, k in zip(alphas, half_cycles, strict=True)]
    image = np.outer(rows, columns).astype(np.float32)
    np.testing.assert_allclose(windowed(image, alphas), np.prod(weights) * image, atol=1e-5)


def test_a_factor_listed_twice_is_drawn_twice_as_often(scan):
    dataset = batches(scan, scales=[3, 2, 3], data={"slabs": 1, "patches": 1})
    batches_drawn = [dataset[index] for index in range(300)]
    drawn = [batch["target"].shape[2] // batch["input"].shape[2] for batch in batches_drawn]
    assert drawn.count(3) == pytest.approx(200, abs=30)  # 3.7 standard deviations
    assert dataset.config.served == ((2, 2, 1), (3, 3, 1))


def test_volumes_of_one_place_come_together_with_their_gradients(scan):
    batch = batches(scan, together=8, data={"patch": 16})[0]
    assert len(batch["gradients"]) == 6
    assert batch["target"].shape[0] == 6 * 8
    for bvals, bvecs in batch["gradients"]:
        assert (bvals <= 50).sum() == 1
        assert bvecs.shape == (8, 3)
    back = batch["target"] / batch["gains"].view(-1, 1, 1, 1) + batch["offsets"].view(-1, 1, 1, 1)
    slices = scan.signal.astype(np.float32).reshape(-1, *scan.extent[1:])
    windows = np.lib.stride_tricks.sliding_window_view(slices, (16, 16), axis=(1, 2))
    assert min(np.abs(windows - back[0, 0].numpy()).max(axis=(-1, -2)).min(axis=(1, 2))) < 1e-2


def test_directions_drawn_together_determine_a_tensor(dwi, tmp_path):
    """Of scans that repeat directions, most draws would not."""
    six = np.array([[1, 1, 0], [1, -1, 0], [0, 1, 1], [0, 1, -1], [1, 0, 1], [-1, 0, 1]]) / np.sqrt(2)

    def with_copies(copies):
        bvecs = np.vstack([np.zeros((1, 3)), six, np.tile(six[:1], (copies, 1))])
        repeated = np.resize(np.arange(dwi.n_volumes), len(bvecs))
        bvals = np.where(np.arange(len(bvecs)) > 0, 1000.0, 0.0)
        file = tmp_path / f"{copies}.nii.gz"
        io.write_dwi(dataclasses.replace(dwi, signal=dwi.signal[..., repeated], bvals=bvals, bvecs=bvecs), file)
        return open_scan(file, tmp_path, "volume")

    dataset = batches(with_copies(2), together=8, data={"patch": 16})
    assert all(determines_tensor(*table) for index in range(10) for table in dataset[index]["gradients"])
    with pytest.raises(InputError, match=r"100 draws of 7 volumes .* raise data\.volumes"):
        batches(with_copies(40), together=7, data={"patch": 16})[0]


def test_patches_prefer_the_brain(tmp_path):
    io.write_dwi(phantom((48, 60, 3), (6.0, 6.0, 9.0), supersampling=1, shells=((0, 1),)), tmp_path / "small.nii.gz")
    scan = open_scan(tmp_path / "small.nii.gz", tmp_path, "volume")

    def share(brain):
        dataset = batches(scan, neighbours=0, data={"patch": 16, "brain": brain, "patches": 8})
        return np.mean([float((dataset[n]["target"] > 0.3).float().mean()) for n in range(20)])

    assert share(1.0) > 2 * share(0.0)


def test_noise_is_rician_of_the_percentage(scan):
    class Flat:
        level = 200.0

    config = validated({"data": {"scans": ["x"]}, "degradation": {"noise": [10, 10]}})
    noisy = add_noise(np.zeros((4, 1, 100, 100), np.float32), Flat, (1, 1), config, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(20 * np.sqrt(np.pi / 2), rel=0.01)  # Rayleigh
    noisy = add_noise(np.full((4, 1, 100, 100), 1000, np.float32), Flat, (1, 1), config, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(20, rel=0.02)


def test_processes_share_every_index_once():
    for epoch in range(3):
        parts = []
        for rank in range(2):
            sampler = EpochSampler(5, rank, 2)
            sampler.set_epoch(epoch)
            parts += list(sampler)
        assert sorted(parts) == list(range(10 * epoch, 10 * epoch + 10))


# Validation


@pytest.mark.parametrize("scale", [2, 3])
def test_validation_scores_interpolation_and_perfection(path, scan, scale):
    config = validated({"data": {"scans": ["x"]}, "scales": [scale], "validation": {"slices": 2}})
    case = prepare(scan, (scale, scale, 1), config, SliceView(1), seed=0)
    perfect, _ = score(case, case.reference)
    assert perfect["fa_error"] == perfect["qa_error"] == perfect["nrmse"] == 0
    sinc = classical(case, "sinc")
    values, differences = score(case, sinc)
    assert values["fa_error"] == pytest.approx(float(np.abs(differences["fa"][case.scorer.mask]).mean()))
    assert 0 < values["nrmse"] < 0.5
    # A network that interpolates scores as the interpolation does.
    network = build_interpolator()
    shown = predict(network, case, SliceView(1), torch.device("cpu"))
    np.testing.assert_allclose(shown.signal, np.maximum(sinc.signal, 0), atol=1e-2)


def build_interpolator():
    def network(x, size):
        lengths = zip(x.shape[-2:], size, strict=True)
        rows, columns = (torch.tensor(operator(n, m, "sinc"), dtype=torch.float32) for n, m in lengths)
        return rows @ x[:, :1] @ columns.T

    return network


# Blocks


@pytest.mark.parametrize("scale", ["2x2x2", "1x1x2.5", "2x1.5x1"])
def test_blocks_are_shown_interpolated_to_the_grid_of_their_target(path, scan, scale):
    dwi = io.read_dwi(path)
    dataset = batches(scan, view=BlockView(16, 4), scales=[scale], data={"slabs": 1, "patches": 2, "patch": None})
    batch = dataset[0]
    low = degrade(dwi, scale, axis=2)
    shown = scan.frame.view(low.signal)
    for axis, m in enumerate(scan.extent, start=1):
        shown = np.moveaxis(np.tensordot(operator(shown.shape[axis], m, "bspline"), shown, (1, axis)), 0, axis)
    gains = Normalisation.measure(dwi.signal, "volume").gains[:, None, None, None]
    fine = scan.frame.view(dwi.signal)
    if tuple(batch["target"].shape[2:]) != scan.extent:  # a factor that does not divide: a region of whole voxels
        assert all(m <= n for m, n in zip(batch["target"].shape[2:], scan.extent, strict=True))
        return
    for one, target in zip(batch["input"], batch["target"], strict=True):
        volume = next(n for n in range(dwi.n_volumes) if np.allclose(target[0], fine[n] * gains[n], atol=1e-5))
        np.testing.assert_allclose(one[0], shown[volume] * gains[volume], atol=1e-3)


def test_a_block_network_that_adds_nothing_validates_as_its_interpolation(scan):
    config = validated({"data": {"scans": ["x"]}, "scales": ["2x2x1"], "validation": {"slices": 4}})
    view = BlockView(16, 8)
    case = prepare(scan, (2, 2, 1), config, view, seed=0)
    shown = predict(lambda x, size: x[:, :1], case, view, torch.device("cpu"))
    expected = classical(case, "bspline")
    np.testing.assert_allclose(shown.signal, np.maximum(expected.signal, 0), atol=1e-1)


def test_interpolated_scans_are_copied_as_they_hold_and_rotated_ones_left_out(tmp_path, capfd):
    scan = phantom((40, 48, 4), (5, 5, 8), supersampling=1, shells=((0, 1), (1000, 8)), snr=20)
    edged = interpolate(
        scan, Scale.between(scan.spatial_shape, (43, 51, 4))
    )  # k-space ends at 0.93, as filters have it
    turned = dataclasses.replace(edged, signal=rotate(edged.signal, 12, axes=(0, 1), reshape=False))
    files = {"plain": scan, "filled": interpolate(scan, 2), "turned": turned}
    for name, dwi in files.items():
        io.write_dwi(dwi, tmp_path / f"{name}.nii.gz")
    paths = {name: tmp_path / f"{name}.nii.gz" for name in files}
    tree = {"data": {"scans": ["x"], "cache": tmp_path / "cache", "patch": 32}}

    def data(*names, **more):
        config = validated({"data": {**tree["data"], **more}})
        return DWIData(config, SliceView(0), None, ([paths[name] for name in names], []))

    honest = data("plain", "filled", "turned")
    honest.prepare_data()
    honest.setup("fit")
    assert [scan.path.name for scan in honest.scans] == ["plain.nii.gz", "filled.nii.gz"]
    plain, filled = honest.scans
    assert filled.axis == 2
    assert max(np.abs(np.subtract(filled.extent, plain.extent))) <= 2
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 2
    assert told[0].startswith("filled.nii.gz: This scan of 80 x 96 x 4 holds")
    assert told[0].endswith("; taken down to that.")
    assert told[1] == "turned.nii.gz: This scan was resampled at an angle in the plane of i and j; left out."
    with pytest.raises(InputError, match=r"turned.nii.gz and all .* set data\.native=false"):
        data("turned").setup("fit")
    as_given = data("filled", "turned", native=False)
    as_given.setup("fit")
    assert [scan.extent for scan in as_given.scans] == [(4, 96, 80), (4, 51, 43)]
