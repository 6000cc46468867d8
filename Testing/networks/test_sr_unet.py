"""The default network: sizes, scales, cost."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from DWISuperResLib import networks
from DWISuperResLib.errors import InputError
from DWISuperResLib.resampling.operators import operator


def flops(network, x):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(x, [2 * n for n in x.shape[2:]])
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [(8, 8), (13, 17), (51, 40), (3, 5)])
@pytest.mark.parametrize("scale", [2, 3, 5])
def test_any_slice_size_becomes_scale_times_larger(size, scale):
    network = networks.build("sr_unet", scales=[2, 3, 5], width=4, blocks=[1, 1, 1])
    x = torch.rand(2, network.view.channels, *size)
    fine = (scale * size[0], scale * size[1])
    assert network(x, fine).shape == (2, 1, *fine)
    less = (fine[0] - scale + 1, fine[1] - 1)
    assert network(x, less).shape == (2, 1, *less)


def test_one_slice_costs_several_times_less_than_the_papers_network():
    default = networks.build("sr_unet")
    paper = networks.build("dynamic_unet")
    low = torch.rand(1, default.view.channels, 64, 64)
    assert flops(networks.fold(paper), low[:, :1]) > 5 * flops(default.eval(), low)


def test_a_scale_without_a_head_and_senseless_arguments_are_refused():
    network = networks.build("sr_unet", scales=[2], width=4, blocks=[1])
    with pytest.raises(InputError, match=r"makes images 2 times as large, but was asked for \(24, 24\)"):
        network(torch.rand(1, network.view.channels, 8, 8), (24, 24))
    for arguments in ({"width": 0}, {"width": 4096}, {"blocks": [1] * 9}, {"scales": []}, {"scales": [2.5]}):
        with pytest.raises(InputError):
            networks.build("sr_unet", **arguments)


@pytest.mark.parametrize("scale", [2, 3])
def test_a_band_limited_network_leaves_the_measured_k_space_as_it_is(scale):
    torch.manual_seed(0)
    network = networks.build("sr_unet", scales=[scale], width=4, blocks=[1, 1])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    low = torch.rand(2, network.view.channels, 15, 11)
    fine = network(low, [scale * n for n in low.shape[2:]])[:, 0].detach().double()
    # Continued by reflection, the slice has no jump and the discrete Fourier transform no say in its border.
    mirrored = torch.cat((fine, fine.flip(-1)), -1)
    mirrored = torch.cat((mirrored, mirrored.flip(-2)), -2).numpy()
    rows, columns = (operator(2 * n * scale, 2 * n, "sinc") for n in (15, 11))
    np.testing.assert_allclose((rows @ mirrored @ columns.T)[:, :15, :11], low[:, 0].numpy(), atol=1e-5)
    free = networks.build("sr_unet", scales=[scale], width=4, blocks=[1, 1], band_limited=False)
    free.load_state_dict(network.state_dict())
    assert (free(low, [scale * n for n in low.shape[2:]])[:, 0].detach() - fine).abs().max() > 0.1


def test_one_axis_alone_is_refined_in_either_order_by_the_same_head():
    network = networks.build("sr_unet", scales=[2, [1, 3]], width=4, blocks=[1, 1])
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    x = torch.rand(2, network.view.channels, 9, 12, generator=torch.Generator().manual_seed(0))
    across = network(x, (9, 36))
    assert across.shape == (2, 1, 9, 36)
    assert torch.equal(network(x.mT.contiguous(), (36, 9)), across.mT)
    low = x[:, 0].double()
    kept = across[:, 0].detach().double() @ torch.from_numpy(operator(36, 12, "mirrored_sinc")).T
    assert (kept - low).abs().max() < 1e-5
    with pytest.raises(InputError, match="2, 1x3 times as large"):
        network(x, (18, 36))


def test_a_head_for_one_axis_interleaves_the_phases_of_that_axis():
    network = networks.build("sr_unet", scales=[[1, 2]], width=2, blocks=[1], band_limited=False)
    head = network.tails["1x2"]
    torch.nn.init.zeros_(head.expand.weight)
    head.expand.bias.data = torch.arange(32, dtype=torch.float32) % 2  # phases of one channel follow each other
    torch.nn.init.zeros_(head.last.weight)
    head.last.weight.data[0, 0, 1, 1] = 1
    x = torch.zeros(1, network.view.channels, 3, 4)
    assert network(x, (3, 8))[0, 0].tolist() == [[0, 1] * 4] * 3


@pytest.mark.parametrize("scales", [[[2, 1]], [[1, 2, 3]], [2, [2, 2]], [[1, 2], [1, 2]], [[]]])
def test_pairs_of_factors_ascend_and_come_once(scales):
    with pytest.raises(InputError, match="scales"):
        networks.build("sr_unet", scales=scales, width=4, blocks=[1])
