"""The default network: sizes, scales, cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from DWISuperResLib import networks
from DWISuperResLib.errors import InputError


def flops(network, x, scale):
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(x, scale)
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [(8, 8), (13, 17), (51, 40), (3, 5)])
@pytest.mark.parametrize("scale", [2, 3, 5])
def test_any_slice_size_becomes_scale_times_larger(size, scale):
    network = networks.build("sr_unet", scales=[2, 3, 5], width=4, blocks=[1, 1, 1])
    x = torch.rand(2, network.slice_input.channels, *size)
    assert network(x, scale).shape == (2, 1, scale * size[0], scale * size[1])


def test_one_slice_costs_several_times_less_than_the_papers_network():
    default = networks.build("sr_unet")
    paper = networks.build("dynamic_unet")
    low = torch.rand(1, default.slice_input.channels, 64, 64)
    assert flops(networks.fold(paper), low[:, :1], 2) > 5 * flops(default.eval(), low, 2)


def test_a_scale_without_a_head_and_senseless_arguments_are_refused():
    network = networks.build("sr_unet", scales=[2], width=4, blocks=[1])
    with pytest.raises(InputError, match="no head for scale 3"):
        network(torch.rand(1, network.slice_input.channels, 8, 8), 3)
    for arguments in ({"width": 0}, {"width": 4096}, {"blocks": [1] * 9}, {"scales": []}, {"scales": [2.5]}):
        with pytest.raises(InputError):
            networks.build("sr_unet", **arguments)
