"""The phantom: resolution independence, signal against closed forms and DIPY, noise against its moments."""

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel

from DWISuperResLib import phantoms
from DWISuperResLib.errors import InputError

SHAPE = (32, 40, 12)
VOXEL = (5.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def truth():
    return phantoms.phantom_truth(SHAPE, VOXEL, seed=1)


@pytest.fixture(scope="module")
def clean():
    return phantoms.phantom(SHAPE, VOXEL, snr=None, seed=1)


def block_mean(array):
    x, y, z, *rest = array.shape
    return array.reshape(x // 2, 2, y // 2, 2, z // 2, 2, *rest).mean(axis=(1, 3, 5))


def test_a_voxel_is_the_mean_of_its_parts():
    fine = phantoms.phantom((32, 40, 4), (4, 4, 4), snr=None, supersampling=1)
    coarse = phantoms.phantom((16, 20, 2), (8, 8, 8), snr=None, supersampling=2)
    np.testing.assert_allclose(coarse.signal, block_mean(fine.signal), rtol=1e-5)
    fine_truth = phantoms.phantom_truth((32, 40, 4), (4, 4, 4), supersampling=1)
    coarse_truth = phantoms.phantom_truth((16, 20, 2), (8, 8, 8), supersampling=2)
    np.testing.assert_allclose(coarse_truth.tissues, block_mean(fine_truth.tissues), atol=1e-6)
    np.testing.assert_allclose(coarse_truth.fibres, block_mean(fine_truth.fibres), atol=1e-6)


def test_the_head_is_centred_on_the_field_of_view(truth):
    extent = np.argwhere(truth.mask)
    middle = truth.affine[:3, :3] @ (extent.min(0) + extent.max(0)) / 2 + truth.affine[:3, 3]
    np.testing.assert_allclose(middle, 0, atol=1e-9)
    assert abs((np.ptp(extent[:, 1]) + 1) * VOXEL[1] - 168) <= 2 * VOXEL[1]


def test_pure_tissues_decay_with_their_own_diffusivity(truth, clean):
    for tissue in (1, 2):
        pure = truth.tissues[..., tissue] == 1
        assert pure.sum() >= 5
        ratio = clean.signal[pure] / clean.signal[pure][:, :1]
        expected = np.exp(-clean.bvals * phantoms.TISSUE_DIFFUSIVITIES[tissue])
        np.testing.assert_allclose(ratio, np.broadcast_to(expected, ratio.shape), rtol=1e-5)


def test_every_kind_of_voxel_is_there(truth):
    present = truth.fibres[..., :-1] > 0.2
    assert (present.sum(-1) == 1).sum() > 50
    assert (present.sum(-1) == 2).sum() > 10
    assert all(truth.fibres[..., bundle].max() > 0.25 for bundle in range(len(phantoms.BUNDLES)))
    assert ((truth.tissues > 0.05).sum(-1) >= 2).sum() > 100
    np.testing.assert_array_less(truth.tissues.sum(-1), 1 + 1e-5)


def test_some_point_has_three_crossing_bundles():
    fine = phantoms.phantom_truth((60, 40, 26), (2, 2, 2))
    assert ((fine.fibres[..., :-1] > 0.2).sum(-1) == 3).any()


def test_curved_bundles_turn_and_directions_are_unit_vectors(truth):
    lengths = np.linalg.norm(truth.directions, axis=-1)
    np.testing.assert_allclose(lengths[truth.fibres > 0], 1, atol=1e-5)
    genu = truth.directions[truth.fibres[..., phantoms.BUNDLES.index("genu")] > 0.3][:, phantoms.BUNDLES.index("genu")]
    assert np.ptp(genu[:, 1]) > 0.5


def test_single_fibres_agree_with_the_tensor_fit_of_dipy(truth):
    """At low b-values the fit sees the mean tensor, whatever the number of compartments."""
    low_b = phantoms.phantom(SHAPE, VOXEL, snr=None, seed=1, shells=((0, 1), (10, 30)))
    table = gradient_table(low_b.bvals, bvecs=low_b.bvecs, b0_threshold=1)
    white = truth.tissues[..., 0] == 1
    fit = TensorModel(table, fit_method="WLS").fit(low_b.signal[white].astype(np.float64))
    np.testing.assert_allclose(fit.fa, truth.fa[white], atol=0.01)
    single = truth.fibres[white].max(-1) > 0.85
    assert single.sum() > 10
    main = truth.directions[white][np.arange(white.sum()), truth.fibres[white].argmax(-1)]
    cosines = np.abs(np.sum(fit.directions[:, 0] * main, axis=-1))[single]
    assert np.degrees(np.arccos(np.minimum(cosines, 1))).max() < 2


def test_noise_is_rician_and_set_by_the_seed(truth):
    noisy = phantoms.phantom(SHAPE, VOXEL, snr=20, seed=1)
    clean = phantoms.phantom(SHAPE, VOXEL, snr=None, seed=1)
    sigma = clean.foreground_b0() / 20
    air = noisy.signal[truth.tissues.sum(-1) == 0]
    assert np.mean(air) == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.02)
    assert np.mean(air.astype(np.float64) ** 2) == pytest.approx(2 * sigma**2, rel=0.03)
    np.testing.assert_array_equal(phantoms.phantom(SHAPE, VOXEL, snr=20, seed=1).signal, noisy.signal)
    assert not np.array_equal(phantoms.phantom(SHAPE, VOXEL, snr=20, seed=2).signal, noisy.signal)


@pytest.mark.parametrize("arguments", [{"shape": (8, 8)}, {"voxel_size": (2, 2, 0)}, {"snr": 0}, {"shells": ()}])
def test_impossible_requests_are_refused(arguments):
    with pytest.raises(InputError, match="expected"):
        phantoms.phantom(**{"shape": (4, 4, 2), **arguments})
