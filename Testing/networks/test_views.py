"""What a network sees: normalisation, neighbours, guidance."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from DWISuperResLib.errors import InputError
from DWISuperResLib.networks.views import Assembler, BlockView, Normalisation, SliceView, Tile


def directions(n, seed=0):
    g = np.random.default_rng(seed).normal(size=(n, 3))
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def slab_of(dwi, index, neighbours):
    members = np.clip(np.arange(index - neighbours, index + neighbours + 1), 0, dwi.spatial_shape[2] - 1)
    return torch.from_numpy(dwi.signal.transpose(3, 2, 1, 0)[:, members].copy())


def test_channels_are_the_slice_its_neighbours_and_guidance(small_dwi):
    spec = SliceView(2, ("mean_b0", "mean_dwi"))
    gains = np.arange(1, 11, dtype=np.float32)
    assemble = Assembler(spec, small_dwi.bvals, small_dwi.bvecs, Normalisation(0.0, gains))
    x = assemble.show(slab_of(small_dwi, 2, 2), [5, 0])
    assert x.shape == (2, spec.channels, 10, 12)
    volumes = small_dwi.signal.transpose(3, 2, 1, 0)
    for channel, index in enumerate((2, 1, 3, 0, 3)):  # offsets 0, -1, +1, -2, +2, the last one beyond the end
        np.testing.assert_allclose(x[0, channel], volumes[5, index] * 6, rtol=1e-6)
    expected = (volumes[:2, 2] * gains[:2, None, None]).mean(0)
    np.testing.assert_allclose(x[1, 5], expected, rtol=1e-6)
    expected = (volumes[2:, 2] * gains[2:, None, None]).mean(0)
    np.testing.assert_allclose(x[0, 6], expected, rtol=1e-5)


def test_restore_undoes_the_normalisation(small_dwi):
    for kind in ("volume", "paper"):
        normalisation = Normalisation.measure(small_dwi.signal, kind)
        assemble = Assembler(SliceView(), small_dwi.bvals, small_dwi.bvecs, normalisation)
        slab = slab_of(small_dwi, 1, 0)
        restored = assemble.restore(assemble.show(slab, range(10)), range(10))
        torch.testing.assert_close(restored, slab, rtol=1e-5, atol=1e-3)


def test_paper_normalisation_maps_the_whole_scan_to_0_and_1(small_dwi):
    normalisation = Normalisation.measure(small_dwi.signal, "paper")
    scaled = (small_dwi.signal - normalisation.offset) * normalisation.gains
    assert scaled.min() == pytest.approx(0, abs=1e-6)
    assert scaled.max() == pytest.approx(1)


def test_q_smooth_keeps_a_signal_that_is_quadratic_in_the_direction_and_averages_noise():
    g = np.concatenate((np.zeros((2, 3)), directions(30)))
    bvals = np.array([0.0, 5.0] + [1000.0] * 30)
    tensor = np.array([[3, 0.5, 0], [0.5, 2, 0.2], [0, 0.2, 1]])
    signal = 10 + np.einsum("ni,ij,nj->n", g, tensor, g)
    signal[:2] = 50, 70
    assemble = Assembler(SliceView(0, ("q_smooth",)), bvals, g, Normalisation(0.0, np.ones(32, np.float32)))
    noise = np.random.default_rng(1).normal(size=(32, 1, 40, 40))
    smooth = assemble.show(torch.from_numpy((signal[:, None, None, None] + noise).astype(np.float32)), range(32))[
        :, 1
    ].numpy()
    np.testing.assert_allclose(smooth[2:].mean((1, 2)), signal[2:], atol=0.15)
    np.testing.assert_allclose(smooth[:2].mean((1, 2)), 60, atol=0.15)
    # A fit of 6 coefficients to 30 samples keeps 6/30 of the noise variance on average.
    assert smooth[2:].var(axis=(1, 2)).mean() == pytest.approx(6 / 30, rel=0.1)


def test_unknown_guidance_and_too_many_neighbours_are_refused():
    with pytest.raises(InputError, match="The guidance is 't1'; expected one of"):
        SliceView(0, ("t1",))
    with pytest.raises(InputError, match="expected 0 to 8"):
        SliceView(9)


def test_a_scan_of_zeros_is_normalised_without_a_division_by_zero(small_dwi):
    empty = replace(small_dwi, signal=np.zeros_like(small_dwi.signal))
    assert np.isfinite(Normalisation.measure(empty.signal, "volume").gains).all()


def test_an_empty_volume_stays_empty(small_dwi):
    signal = small_dwi.signal.copy()
    signal[..., 3] = 0
    normalisation = Normalisation.measure(signal, "volume")
    assemble = Assembler(SliceView(0, ("q_smooth",)), small_dwi.bvals, small_dwi.bvecs, normalisation)
    shown = assemble.show(torch.from_numpy(np.moveaxis(signal, 3, 0)[:, None, ..., 0]), [3, 4])
    assert not shown[0].any()
    assert shown[1].any(dim=(1, 2)).all()
    restored = assemble.restore(torch.ones(2, 1, 5, 5), [3, 4])
    assert not restored[0].any()
    assert torch.isfinite(restored).all()


@pytest.mark.parametrize("offset", [-1e4, -600.0])
def test_volumes_without_positive_signal_are_refused_by_number(small_dwi, offset):
    signal = small_dwi.signal.copy()
    signal[..., [2, 7]] += offset
    with pytest.raises(
        InputError, match=r"Volumes \[2, 7\] have no positive signal on average .* take away the offset"
    ):
        Normalisation.measure(signal, "volume")
    noise = np.random.default_rng(0).normal(size=signal.shape[:3])
    signal = small_dwi.signal.copy()
    signal[..., 5] = noise - noise[small_dwi.signal.sum(3) >= small_dwi.signal.sum(3).mean()].mean() + 1e-9
    with pytest.raises(InputError, match=r"Volumes \[5\]"):
        Normalisation.measure(signal, "volume")


def test_guidance_named_twice_is_refused():
    with pytest.raises(InputError, match="mean_b0 more than once"):
        SliceView(0, ("mean_b0", "mean_b0"))


def test_slices_are_the_tiles_that_show_something_of_the_mask(small_dwi):
    inside = np.zeros((4, 20, 24), bool)
    inside[1:3, 5, 5] = True
    assert SliceView().tiles((4, 20, 24), inside) == [Tile((z, 0, 0), (z + 1, 20, 24)) for z in (1, 2)]


@given(st.tuples(*[st.integers(1, 70)] * 3), st.integers(8, 32), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_blocks_cover_the_grid_and_their_weights_can_be_blended(shape, size, quarter):
    view = BlockView(size, min(2 * quarter, size // 2))
    tiles = view.tiles(shape, np.ones(shape, bool))
    total = np.zeros(shape)
    for tile in tiles:
        assert tile.shape == tuple(min(size, n) for n in shape)
        total[tile.box] += view.weight(tile, shape)
    assert total.min() > 0.4


def test_a_block_shows_the_interpolated_volume(small_dwi):
    low = small_dwi.signal.transpose(3, 2, 1, 0)
    shape = (9, 17, 31)
    whole = low
    for axis, m in enumerate(shape, start=1):
        positions = (np.arange(m) + 0.5) * low.shape[axis] / m - 0.5
        places = [positions if a == axis else np.arange(n) for a, n in enumerate(whole.shape)]
        whole = ndimage.map_coordinates(whole, np.meshgrid(*places, indexing="ij"), order=3, mode="reflect")
    tile = Tile((2, 5, 10), (6, 13, 18))
    shown = BlockView(8, 2).slab(low, tile, shape)
    np.testing.assert_allclose(shown[:, 0], whole[(slice(None), *tile.box)], rtol=0.02)
