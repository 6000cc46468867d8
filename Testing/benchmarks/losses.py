"""Feature loss of the shallowest tap against the reference way: all of VGG16-bn on three channels.

    python Testing/benchmarks/losses.py [--repeats 5]

Forward and backward at the paper's slice size, 206 x 172, minimum of interleaved repeats.
"""

import argparse
import time

import torch
from torch.nn import functional
from torchvision.models.vgg import cfgs, make_layers

from DWISuperResLib.losses import build_loss

TAP_MODULES = (5, 12, 22, 32, 42)


def reference_loss(network, prediction, target):
    """L1 + 92 L1(Feat0), every module run on three equal channels as the public implementation does."""

    def features(x):
        taps = []
        for i, module in enumerate(network):
            x = module(x)
            if i in TAP_MODULES:
                taps.append(x)
        return taps

    three = prediction.expand(-1, 3, -1, -1), target.expand(-1, 3, -1, -1)
    seen, wanted = (features(x) for x in three)
    weighted = [w * functional.l1_loss(f, g) for w, f, g in zip((92, 0, 0, 0, 0), seen, wanted, strict=True)]
    return functional.l1_loss(*three) + sum(weighted)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    network = make_layers(cfgs["D"], batch_norm=True).eval().requires_grad_(False)
    loss = build_loss(
        [{"name": "l1"}, {"name": "feature", "weight": 92.0, "backbone": "vgg16_bn", "weights": "untrained"}]
    )
    target = torch.rand(arguments.batch, 1, 206, 172)
    ways = {
        "VGG16-bn, whole, three channels": lambda x: reference_loss(network, x, target),
        "relu1_2, folded, one channel": lambda x: loss(x, target)[0],
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(arguments.repeats + 1):  # the first warms up
        for name, way in ways.items():
            prediction = (target + 0.05 * torch.randn_like(target)).requires_grad_()
            start = time.perf_counter()
            way(prediction).backward()
            best[name] = min(best[name], time.perf_counter() - start)
    slow, fast = best.values()
    for name, seconds in best.items():
        print(f"{name:34s} {1e3 * seconds:8.1f} ms")
    print(f"{'ratio':34s} {slow / fast:8.1f}")


if __name__ == "__main__":
    main()
