"""What holds for every architecture."""

import pytest
import torch
from torch import nn

from DWISuperResLib import networks

SMALL = {"sr_unet": {"width": 8, "blocks": [1, 1]}, "recnn": {"dimensions": 2}, "srcnn": {"dimensions": 2}}


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture", ["dncnn", "dynamic_unet", "recnn", "residual", "sr_unet", "srcnn", "ssfd", "swin_unetr"]
)
def test_folding_keeps_the_output(architecture):
    torch.manual_seed(1)
    network = networks.build(architecture, **SMALL.get(architecture, {})).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 2)
            module.bias.normal_()
    x = torch.rand(1, network.view.channels, 32, 32, dtype=torch.float64)
    size = (64, 64) if architecture in ("dynamic_unet", "sr_unet") else (32, 32)
    expected = network(x, size)
    assert (networks.fold(network)(x, size) - expected).norm() <= 1e-10 * expected.norm()
