"""Feature loss of the shallowest tap against the reference way: all of VGG16-bn on three channels.

    python -m Testing.benchmarks.losses [--repeats 5] [--json FILE]

Forward and backward at the paper's slice size, 206 x 172, in float32 and in the precision that training takes here.
VGG's weights are random: same cost.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from DWISuperResLib.inference.predict import resolve_device, resolve_precision
from DWISuperResLib.losses import build_loss
from Testing.benchmarks.ceilings import autocast, finish
from Testing.benchmarks.harness import Result, compare, parser, report

TAP_MODULES = (5, 12, 22, 32, 42)
PEER = "VGG16-bn whole, three channels"


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--batch", type=int, default=1)
    arguments = options.parse_args(argv)
    device = resolve_device()
    torch.manual_seed(0)
    network = make_layers(cfgs["D"], batch_norm=True).to(device).eval().requires_grad_(False)
    feature = {"name": "feature", "weight": 92.0, "backbone": "vgg16_bn", "weights": "untrained"}
    loss = build_loss([{"name": "l1"}, feature]).to(device)
    target = torch.rand(arguments.batch, 1, 206, 172, device=device)

    def step(way: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype | None) -> Callable[[], None]:
        def take() -> None:
            prediction = (0.9 * target).requires_grad_()
            with autocast(device, dtype):
                total = way(prediction)
            total.backward()
            finish(device)

        return take

    results = []
    for dtype in dict.fromkeys((None, resolve_precision("auto", device))):
        result = compare(
            f"feature loss relu1_2, {str(dtype or torch.float32).removeprefix('torch.')}",
            step(lambda x: loss(x, target)[0], dtype),
            PEER,
            step(lambda x: reference_loss(network, x, target), None),
            repeats=arguments.repeats,
            goal=6,
            note=f"{arguments.batch} x 206 x 172 on {device}; the peer in float32",
        )
        results.append(result)
    report(results, arguments.json)
    return results


def reference_loss(network: torch.nn.Sequential, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + 92 L1(Feat0), every module run on three equal channels as the public implementation does."""

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        taps = []
        for i, module in enumerate(network):
            x = module(x)
            if i in TAP_MODULES:
                taps.append(x)
        return taps

    three = prediction.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1)
    seen, wanted = (features(x) for x in three)
    weighted = [w * functional.l1_loss(f, g) for w, f, g in zip((92, 0, 0, 0, 0), seen, wanted, strict=True)]
    return functional.l1_loss(*three) + torch.stack(weighted).sum()


if __name__ == "__main__":
    main()
