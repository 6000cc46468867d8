"""Networks of blocks against the processor's ceiling, and against the same network written plainly in PyTorch.

    python -m Testing.benchmarks.blocks [--repeats 5] [--quick] [--json FILE]

Ours: as inference runs it, the precision that it chooses here, channels last. Plainly: the same weights in a Sequential
of float32, channels first. The ceiling is that of 3 x 3 x 3 convolutions alone, measured in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from DWISuperResLib.inference.devices import resolve_device, resolve_precision
from DWISuperResLib.inference.memory import MEMORY_FORMATS, buffers_reused
from DWISuperResLib.networks import build, fold
from Testing.benchmarks.ceilings import autocast, convolution_ceiling, finish, operations, seconds
from Testing.benchmarks.harness import Result, compare, parser, report

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {"20L-ReCNN": ("recnn", {}), "SRCNN3D": ("srcnn", {})}
SMALL: dict[str, dict[str, Any]] = {"recnn": {"layers": 3, "filters": 8}, "srcnn": {"filters": [8, 4]}}
CEILING_SHARE, PLAIN_GOAL = 0.6, 3


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    arguments = options.parse_args(argv)
    device = resolve_device()
    results = []
    for title, (architecture, published) in NETWORKS.items():
        network = network_of(architecture, SMALL[architecture] if arguments.quick else published, device)
        block = torch.rand(1, network.view.channels, *[16 if arguments.quick else 64] * 3, device=device)
        results += [
            against_ceiling(title, network, block, arguments.repeats, arguments.quick),
            against_plain(title, network, block, arguments.repeats),
        ]
    report(results, arguments.json)
    return results


def network_of(architecture: str, arguments: dict[str, Any], device: torch.device) -> Any:
    """The network as inference has it."""
    network: Any = fold(build(architecture, **arguments))
    return network.to(device, memory_format=MEMORY_FORMATS[3])


def plain_of(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same weights as one would write it first."""
    layers: list[nn.Module] = []
    for convolution in network.layers:
        n_out, n_in, kernel, *_ = convolution.weight.shape
        copy = nn.Conv3d(n_in, n_out, kernel, padding=kernel // 2)
        copy.load_state_dict(convolution.state_dict())
        layers += [copy, nn.ReLU()]
    body = nn.Sequential(*layers[:-1]).to(network.layers[0].weight.device).eval()
    residual = type(network).__name__ == "ReCNN"
    return lambda x: x + body(x) if residual else body(x)


def against_ceiling(title: str, network: Any, block: torch.Tensor, repeats: int, tiny: bool) -> Result:
    """Rate of the whole network against that of convolutions alone, in turn."""
    device = block.device
    dtype = resolve_precision("auto", device)
    work = operations(network, block, 1)
    measure = convolution_ceiling(device, dtype or torch.float32, 3, tiny)
    ours, ceiling = [], []
    with torch.no_grad(), torch.autocast(device.type, enabled=False), buffers_reused():
        for _ in range(repeats):
            ours.append(seconds(forward_of(network, block, dtype), device, 2))
            ceiling.append(work / measure())
    rate = f"{work / 1e9:.4g} GFLOP a block of {block.shape[-1]}³, ceiling {work / min(ceiling) / 1e9:.4g} GFLOP/s"
    return Result(
        f"share of the convolution ceiling, {title}",
        f"3 x 3 x 3 convolutions, {str(dtype or torch.float32).removeprefix('torch.')}",
        ours,
        ceiling,
        goal=CEILING_SHARE,
        note=f"{rate}, {torch.get_num_threads()} threads on {device}",
    )


def against_plain(title: str, network: Any, block: torch.Tensor, repeats: int) -> Result:
    """A block by the engine's way and by plain PyTorch's."""
    device = block.device
    plain, ours = plain_of(network), forward_of(network, block, resolve_precision("auto", device))

    def theirs() -> None:
        plain(block)
        finish(device)

    with torch.no_grad(), torch.autocast(device.type, enabled=False), buffers_reused():
        return compare(f"a block, {title}", ours, "plain PyTorch, fp32 NCDHW", theirs, repeats=repeats, goal=PLAIN_GOAL)


def forward_of(network: Any, block: torch.Tensor, dtype: torch.dtype | None) -> Callable[[], None]:
    """A block through the network as `inference.predict` takes it."""

    def forward() -> None:
        x = block.contiguous(memory_format=MEMORY_FORMATS[3])
        with autocast(block.device, dtype):
            network(x, x.shape[2:])
        finish(block.device)

    return forward


if __name__ == "__main__":
    main()
