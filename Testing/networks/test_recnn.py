"""ReCNN and SRCNN: parameters and receptive fields of the paper's formulas, initial weights, what they refuse."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from DWISuperResLib import networks
from DWISuperResLib.errors import InputError


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@given(st.integers(2, 20), st.integers(1, 64), st.sampled_from([1, 3, 5, 7]), st.sampled_from([2, 3]))
@settings(max_examples=30, deadline=None)
def test_parameters_of_recnn_are_those_of_the_formula(layers, filters, kernel, dimensions):
    """n f^d + n, then L - 2 times n² f^d + n, then n f^d + 1."""
    with torch.device("meta"):
        network = networks.build("recnn", layers=layers, filters=filters, kernel=kernel, dimensions=dimensions)
    taps = kernel**dimensions
    between = (layers - 2) * (filters**2 * taps + filters)
    assert count(network) == (filters * taps + filters) + between + (filters * taps + 1)
    assert network.receptive_field == (kernel - 1) * layers + 1


def test_the_published_networks_have_their_published_sizes():
    """20L-64-3 of Pham et al. 2019 and SRCNN3D 9-1-5 of 64 and 32 filters, counted by hand."""
    with torch.device("meta"):
        assert count(networks.build("recnn")) == 28 * 64 + 18 * (27 * 64 * 64 + 64) + 27 * 64 + 1 == 1995329
        assert count(networks.build("recnn", layers=10)) == 28 * 64 + 8 * (27 * 64 * 64 + 64) + 27 * 64 + 1
        assert count(networks.build("srcnn")) == 64 * (9**3 + 1) + 32 * (64 + 1) + (32 * 5**3 + 1) == 52801
        assert count(networks.build("srcnn", dimensions=2)) == 64 * 82 + 32 * 65 + 32 * 25 + 1 == 8129  # Dong et al.


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("recnn", {"layers": 4, "filters": 3}),
        ("recnn", {"layers": 3, "filters": 2, "kernel": 5}),
        ("recnn", {"layers": 5, "filters": 3, "dimensions": 2}),
        ("srcnn", {"filters": [2, 2]}),
        ("srcnn", {"kernels": [3, 1], "filters": [2], "dimensions": 2}),
    ],
)
def test_the_receptive_field_is_where_gradients_come_from(architecture, arguments):
    network = networks.build(architecture, **arguments).double()
    for parameter in network.parameters():  # positive weights: no path is rectified away, no two cancel
        torch.nn.init.uniform_(parameter, 0.1, 1)
    dimensions = network.view.dimensions
    edge = network.receptive_field + 4
    x = torch.rand(1, 1, *[edge] * dimensions, dtype=torch.float64, requires_grad=True)
    middle = (0, 0, *[edge // 2] * dimensions)
    network(x, x.shape[2:])[middle].backward()
    seen = x.grad[0, 0] != 0
    for axis in range(dimensions):
        along = seen.movedim(axis, 0).flatten(1).any(1).nonzero()
        assert (int(along.min()), int(along.max())) == (2, edge - 3)
    assert int(seen.sum()) == network.receptive_field**dimensions


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("guidance", [[], ["mean_b0", "mean_dwi"]])
def test_the_layers_are_pytorchs_convolutions_padded_with_zeros(dimensions, guidance):
    """However the first is computed: a Sequential of the same layers gives the same, values and gradients."""
    arguments = {"kernels": [9, 1, 5], "filters": [4, 3], "dimensions": dimensions, "guidance": guidance}
    network = networks.build("srcnn", **arguments).double()
    for convolution in network.layers:
        torch.nn.init.normal_(convolution.bias)
    first, second, third = network.layers
    plain = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
    x = torch.rand(2, network.view.channels, *(11, 12, 10)[-dimensions:], dtype=torch.float64)
    results = []
    for forward in (lambda: network(x, x.shape[2:]), lambda: plain(x)):
        network.zero_grad()
        made = forward()
        made.square().sum().backward()
        results.append((made.detach(), first.weight.grad.clone(), third.bias.grad.clone()))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


def test_initial_weights_are_msra_and_biases_zero():
    torch.manual_seed(0)
    network = networks.build("recnn", layers=3, filters=64)
    for convolution, inputs in zip(network.layers, (27, 27 * 64, 27 * 64), strict=True):
        assert float(convolution.weight.detach().std()) == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
        assert not convolution.bias.any()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_residual_of_zero_is_the_interpolated_image_and_srcnn_has_none(dimensions):
    x = torch.rand(2, 1, *[12] * dimensions)
    for architecture, expected in (("recnn", x), ("srcnn", torch.zeros_like(x))):
        network = networks.build(architecture, dimensions=dimensions)
        torch.nn.init.zeros_(network.layers[-1].weight)
        torch.testing.assert_close(network(x, x.shape[2:]), expected)


@pytest.mark.parametrize("architecture", ["recnn", "srcnn"])
def test_bf16_keeps_what_the_eye_sees(architecture):
    """The answer stays in float32, so that only what convolutions add is rounded to eight bits."""
    torch.manual_seed(0)
    small = {"recnn": {"layers": 3, "filters": 8}, "srcnn": {"filters": [16, 8]}}[architecture]
    network = networks.build(architecture, **small)
    x = torch.rand(1, 1, 16, 16, 16)
    exact = network(x, x.shape[2:])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = network(x, x.shape[2:])
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert len(rounded.unique()) > 256 * 8


@pytest.mark.parametrize(
    ("architecture", "arguments", "says"),
    [
        ("recnn", {"layers": 1}, r"layers is \[1\]; expected whole numbers from 2"),
        ("recnn", {"layers": 2.5}, "layers"),
        ("recnn", {"filters": 0}, "filters"),
        ("recnn", {"kernel": 4}, "odd numbers"),
        ("recnn", {"dimensions": 4}, "expected 2"),
        ("recnn", {"dimensions": 2, "block": 32}, "Slices are shown whole"),
        ("recnn", {"block": 32, "overlap": 20}, "overlap of at most half"),
        ("recnn", {"guidance": ["t9"]}, "guidance is 't9'"),
        ("srcnn", {"filters": [64]}, "one number fewer"),
        ("srcnn", {"kernels": [3], "filters": []}, "2 to 100 kernels"),
    ],
)
def test_arguments_that_make_no_network_are_refused(architecture, arguments, says):
    with pytest.raises(InputError, match=says):
        networks.build(architecture, **arguments)


def test_another_grid_is_refused():
    with pytest.raises(InputError, match="ReCNN keeps the grid"):
        networks.build("recnn", layers=2, filters=2)(torch.zeros(1, 1, 8, 8, 8), (16, 16, 16))
