"""GQI maps against DIPY and against DSI Studio's formulas written out in loops."""

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.data import default_sphere, get_sphere
from dipy.direction.peaks import peaks_from_model
from dipy.reconst.gqi import GeneralizedQSamplingModel
from dipy.reconst.odf import gfa
from scipy.spatial.transform import Rotation

from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from DWISuperResLib.io import read_dwi
from DWISuperResLib.microstructure import brain_mask, compute_maps
from DWISuperResLib.microstructure.gqi import GQI, balanced_kernel, geodesic_half_sphere, repulsion_half_sphere, shells
from DWISuperResLib.resources import RESOURCES

SPHERE = get_sphere(name="repulsion724")


def spiral(n, turn=0.0):
    """n directions spread over the half sphere."""
    i = np.arange(n)
    z = 1 - (i + 0.5) / n
    angle = i * 2.399963 + turn
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1)


def two_shells(n=20, n_b0=3):
    bvals = np.concatenate([np.zeros(n_b0), np.full(n, 1000.0), np.full(n, 2500.0)])
    return bvals, np.concatenate([np.zeros((n_b0, 3)), spiral(n), spiral(n, 1.0)])


def fibre_signals(bvals, bvecs, count, seed=0):
    """(V, N) noisy signals of one or two prolate tensors with random directions."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(2):
        fibres = Rotation.random(count, rng=rng).apply([0, 0, 1])
        parts.append(np.exp(-bvals * (3e-4 + 1.4e-3 * (fibres @ bvecs.T) ** 2)))
    share = rng.uniform(0, 1, (count, 1)).round(1)
    signals = 1000 * (share * parts[0] + (1 - share) * parts[1])
    return np.abs(signals + rng.normal(0, 20, signals.shape)).astype(np.float32)


def as_dwi(signals, bvals, bvecs):
    return DWI(signals[:, None, None], np.eye(4), bvals, bvecs)


def dipy_odf(signals, bvals, bvecs, sphere=SPHERE):
    model = GeneralizedQSamplingModel(
        gradient_table(bvals, bvecs=bvecs, b0_threshold=50), method="standard", sampling_length=1.25
    )
    return model.fit(signals.astype(np.float64)).odf(sphere)


def check_against_dipy(dwi, inside):
    odf = dipy_odf(dwi.signal[inside], dwi.bvals, dwi.bvecs)
    maps = compute_maps(dwi, ("qa", "iso", "gfa"), mask=inside)
    np.testing.assert_allclose(maps["qa"][inside], odf.max(-1) - odf.min(-1), rtol=1e-5)
    np.testing.assert_allclose(maps["iso"][inside], odf.min(-1), rtol=1e-5)
    np.testing.assert_allclose(maps["gfa"][inside], gfa(odf), atol=1e-6)
    assert not maps["qa"][~inside].any()


@pytest.mark.parametrize("name", ["siemens_b15_dti20", "philips_vand15", "siemens_xa30_dwi2trx", "uih_dir16"])
def test_maps_equal_dipy_on_real_scans(shared_data, name):
    dwi = read_dwi(shared_data / name / f"{name}.nii.gz")
    inside = np.zeros(dwi.spatial_shape, dtype=bool)
    inside.flat[np.flatnonzero(brain_mask(dwi))[::40]] = True
    check_against_dipy(dwi, inside)


def test_maps_equal_dipy_on_several_shells():
    bvals, bvecs = two_shells()
    check_against_dipy(as_dwi(fibre_signals(bvals, bvecs, 300), bvals, bvecs), np.ones((300, 1, 1), dtype=bool))


@pytest.mark.parametrize("name", ["hcph_multishell", "ds004737_dsi"])
def test_maps_equal_dipy_on_real_tables(shared_data, name):
    path = Path(shared_data) / "formats" / "gradtables" / name
    bvals, bvecs = np.loadtxt(f"{path}.bval"), np.loadtxt(f"{path}.bvec").T
    bvecs = np.where(bvals[:, None] > 50, bvecs, 0)
    check_against_dipy(as_dwi(fibre_signals(bvals, bvecs, 60), bvals, bvecs), np.ones((60, 1, 1), dtype=bool))


def test_scaled_qa_equals_peaks_from_model_and_dsi_studio():
    bvals, bvecs = two_shells()
    signals = fibre_signals(bvals, bvecs, 60)
    dwi = as_dwi(signals, bvals, bvecs)
    model = GeneralizedQSamplingModel(gradient_table(bvals, bvecs=bvecs), method="standard", sampling_length=1.25)
    peaks = peaks_from_model(
        model, signals.astype(np.float64), default_sphere, relative_peak_threshold=0.5, min_separation_angle=25
    )
    raw = compute_maps(dwi, ("qa", "iso"))
    as_dipy = compute_maps(dwi, ("qa",), qa_scale="dipy")["qa"]
    np.testing.assert_allclose(as_dipy[:, 0, 0], peaks.qa[:, 0], rtol=1e-5)
    as_dsi_studio = compute_maps(dwi, ("iso", "qa"), qa_scale="dsi-studio")
    assert as_dsi_studio["qa"].max() == pytest.approx(1)
    for name in ("qa", "iso"):
        np.testing.assert_allclose(as_dsi_studio[name], raw[name] / raw["qa"].max(), rtol=1e-6)
        np.testing.assert_allclose(compute_maps(dwi, (name,), qa_scale=0.5)[name], 0.5 * raw[name], rtol=1e-6)
    only_iso = compute_maps(dwi, ("iso",), qa_scale="dsi-studio")
    assert list(only_iso) == ["iso"]
    np.testing.assert_allclose(only_iso["iso"], as_dsi_studio["iso"])


def test_shipped_directions_are_those_of_the_readme():
    path = RESOURCES / "Microstructure" / "repulsion724_half.npy"
    text = path.with_name("README.md").read_text(encoding="utf-8")
    assert path.name in text
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_half_spheres_hold_one_of_each_opposite_pair():
    half = repulsion_half_sphere()
    assert half.shape == (362, 3)
    both = np.concatenate([half, -half])
    assert np.abs(SPHERE.vertices[:, None] - both).sum(-1).min(1).max() < 1e-12
    for fold, count in ((1, 6), (6, 181), (8, 321)):
        half = geodesic_half_sphere(fold)
        assert half.shape == (count, 3)
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1)
        cosines = np.abs(half @ half.T) - 2 * np.eye(count)
        # Evenly spread: the nearest neighbours of all points lie within a factor of 1.4.
        nearest = np.degrees(np.arccos(cosines.max(1)))
        assert nearest.max() < 1.4 * nearest.min()


def balanced_kernel_by_loops(bvals, bvecs, groups):
    """DSI Studio's shell balancing and ODF kernel, element by element."""
    resampling, grid, odf_directions = geodesic_half_sphere(6), [], geodesic_half_sphere(8)
    first_b0 = int(np.flatnonzero(bvals <= 50)[0])
    grid.append((0.0, np.zeros(3), {first_b0: 1.0}))
    spacings = []
    for group in groups:
        total = 0.0
        for i in group:
            best = 0.0
            for j in group:
                value = abs(math.cos(float(bvecs[i] @ bvecs[j])))
                if i != j and value <= 0.998:
                    best = max(best, value)
            total += math.acos(best)
        spacing = total / len(group)
        spacings.append(spacing)
        mean_b = sum(bvals[i] for i in group) / len(group)
        for u in resampling:
            weights = {i: math.exp(-2 * (math.acos(min(1, abs(float(u @ bvecs[i])))) / spacing) ** 2) for i in group}
            total = sum(weights.values())
            b = sum(w * bvals[i] for i, w in weights.items()) / total
            grid.append((b, u, {i: w / total * mean_b / 1000 for i, w in weights.items()}))
    matrix = np.zeros((len(odf_directions), len(bvals)))
    for h, direction in enumerate(odf_directions):
        for b, u, weights in grid:
            x = 1.25 * math.sqrt(0.01506 * b) * float(u @ direction)
            value = math.sin(x) / x if abs(x) > 1e-12 else 1.0
            for i, weight in weights.items():
                matrix[h, i] += value * weight
    return matrix, spacings, len(grid)


def test_balanced_kernel_equals_the_formula():
    bvals = np.array([0.0, 5.0] + [995.0, 1005.0] * 8 + [2000.0] * 20)
    bvecs = np.concatenate([np.zeros((2, 3)), spiral(16), spiral(20, 1.0)])
    order = np.random.default_rng(0).permutation(len(bvals))
    bvals, bvecs = bvals[order], bvecs[order]
    groups = [np.flatnonzero((bvals > 50) & (bvals < 1500)), np.flatnonzero(bvals > 1500)]
    assert [sorted(shell) for shell in shells(bvals)] == [group.tolist() for group in groups]
    expected, spacings, count = balanced_kernel_by_loops(bvals, bvecs, groups)
    assert count == 1 + 2 * 181
    np.testing.assert_allclose(balanced_kernel(bvals, bvecs), expected, atol=1e-12)
    # The documented quirk: the spacing comes out far below the mean angle between neighbours.
    cosines = np.abs(bvecs[groups[1]] @ bvecs[groups[1]].T) - 2 * np.eye(20)
    assert spacings[1] < 0.5 * np.arccos(cosines.max(1)).mean()


def test_balanced_maps_follow_the_kernel_and_drop_voxels_of_negative_odf():
    bvals, bvecs = two_shells()
    signals = fibre_signals(bvals, bvecs, 50)
    signals[0] = 0
    signals[0, np.argmax(bvals > 2000)] = 1000
    odf = signals @ balanced_kernel(bvals, bvecs).T
    assert odf[0].min() < 0 < odf[1:].min()
    maps = compute_maps(as_dwi(signals, bvals, bvecs), ("qa", "iso", "gfa"), balance_shells=True)
    np.testing.assert_allclose(maps["qa"][1:, 0, 0], np.ptp(odf[1:], axis=1), rtol=1e-5)
    np.testing.assert_allclose(maps["iso"][1:, 0, 0], odf[1:].min(1), rtol=1e-5)
    np.testing.assert_allclose(maps["gfa"][1:, 0, 0], gfa(odf[1:]), rtol=1e-4)
    assert maps["qa"][0] == maps["iso"][0] == maps["gfa"][0] == 0


def test_balancing_gives_shells_of_unequal_size_weight_by_b_value_alone():
    """Repeating every direction of one shell changes plain QA but not balanced QA."""
    bvals, bvecs = two_shells(n_b0=1)
    first = bvals == 1000
    signals = fibre_signals(bvals, bvecs, 40)
    doubled = [np.concatenate([a, a[..., first]], -1) for a in (signals, bvals)] + [
        np.concatenate([bvecs, bvecs[first]])
    ]
    for balance, equal in ((True, True), (False, False)):
        once = compute_maps(as_dwi(signals, bvals, bvecs), ("qa",), balance_shells=balance)["qa"]
        twice = compute_maps(as_dwi(*doubled), ("qa",), balance_shells=balance)["qa"]
        assert np.allclose(once, twice, rtol=1e-4) is equal


def test_qa_is_nearly_the_same_in_every_frame():
    bvals, bvecs = two_shells(40)
    signals = fibre_signals(bvals, bvecs, 50)
    turned = bvecs @ Rotation.from_euler("xyz", [0.3, 1.0, -0.7]).as_matrix().T
    first = compute_maps(as_dwi(signals, bvals, bvecs), ("qa",))["qa"]
    second = compute_maps(as_dwi(signals, bvals, turned), ("qa",))["qa"]
    np.testing.assert_allclose(second, first, rtol=0.03)


def test_isotropic_and_empty_voxels_have_no_qa():
    bvals, bvecs = two_shells()
    signals = np.stack([np.zeros_like(bvals), 1000 * np.exp(-bvals * 1e-3)])
    maps = compute_maps(as_dwi(signals, bvals, bvecs), ("qa", "iso", "gfa"))
    assert maps["qa"][0] == maps["gfa"][0] == 0
    assert maps["qa"][1] < 0.1 * maps["iso"][1]
    with pytest.raises(InputError, match="diffusion-weighted"):
        GQI(np.zeros(4), np.zeros((4, 3)))


def test_small_qa_keeps_its_digits_in_float32():
    bvals, bvecs = two_shells(30)
    fibre = np.array([0.6, 0.0, 0.8])
    signals = 1e5 * np.exp(-bvals * (8e-4 + 1e-6 * (bvecs @ fibre) ** 2))[None]
    odf = dipy_odf(signals.astype(np.float32), bvals, bvecs)
    for make in (np.asarray, torch.from_numpy):
        qa = GQI(bvals, bvecs)(make(signals.T.astype(np.float32)))["qa"]
        np.testing.assert_allclose(np.asarray(qa), np.ptp(odf, axis=-1), rtol=1e-5)
