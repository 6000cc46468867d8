"""Training steps against the same steps written plainly and against the ceiling; the making of batches against both.

    python -m Testing.benchmarks.training [SCAN] [--repeats 5] [--quick] [--json FILE]

A step: forward, L1 + 92 x L1 of VGG16-bn relu1_2, backward, AdamW. Plainly: float32, NCHW, all of VGG16-bn on three
channels for output and target, as the public implementation of arXiv 2605.15895 does. Ours: the precision that training
chooses here, channels last, the feature network up to its tap on one channel. VGG's weights are random: same cost.
Without a scan, the numerical phantom (1 b0, 20 directions). The ceiling is that of 3 x 3 convolutions alone, for as
many operations as forward, loss and backward take.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vgg import cfgs, make_layers

from DWISuperResLib.inference.predict import resolve_device, resolve_precision
from DWISuperResLib.io import write_dwi
from DWISuperResLib.losses import build_loss
from DWISuperResLib.networks import build
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.training import validated
from DWISuperResLib.training.cache import divided
from DWISuperResLib.training.patches import Batches, DWIData
from Testing.benchmarks.ceilings import convolution_ceiling, finish, seconds
from Testing.benchmarks.harness import Result, compare, parser, report
from Testing.benchmarks.losses import reference_loss
from Testing.benchmarks.super_resolution import ARCHITECTURES

FEATURE = {"name": "feature", "backbone": "vgg16_bn", "taps": "paper", "weights": "untrained"}
LOSS = [{"name": "l1"}, FEATURE | {"tap_weights": [92, 0, 0, 0, 0]}]
CASES = {
    "default network": {"patch": 96, "slabs": 4, "patches": 4, "goal": 8},
    "paper's network": {"patch": 96, "slabs": 4, "patches": 4, "goal": 5},
}
CEILING_SHARE = 0.5


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("scan", type=Path, nargs="?")
    options.add_argument("--quick", action="store_true", help="tiny patches: does it run?")
    arguments = options.parse_args(argv)
    results = []
    with tempfile.TemporaryDirectory() as name:
        scan = arguments.scan or Path(name) / "phantom.nii.gz"
        if arguments.scan is None:
            write_dwi(phantom((102, 102, 20), (2, 2, 4), supersampling=1, shells=((0, 1), (1000, 20))), scan)
        for title, case in CASES.items():
            case = case | {"patch": 32, "slabs": 2, "patches": 1} if arguments.quick else case
            results += measure(title, case, scan, Path(name), arguments.repeats)
    report(results, arguments.json)
    return results


def measure(title: str, case: dict, scan: Path, folder: Path, repeats: int) -> list[Result]:
    """Our step against the plain one; a batch against our step."""
    data = {key: case[key] for key in ("patch", "slabs", "patches")}
    config = validated({"data": {"scans": [str(scan)], "validation": [], "cache": str(folder), **data}})
    architecture, options = ARCHITECTURES[title]
    network = build(architecture, **options)
    source = DWIData(config, network.view, None, divided(config))
    source.prepare_data()
    source.setup("fit")
    batches = Batches(source.scans, network.view, config, None)
    device = resolve_device()
    precision = resolve_precision("auto", device)
    batch = batches[0]
    ours = step(network, batch, device, precision)
    plain = plain_step(build(architecture, **options), batch, device)
    fresh: Iterator[int] = count(1)
    shape = "x".join(map(str, batch["target"].shape))
    note = f"batch {shape}, {precision or 'float32'} on {device}"
    peer = "plain PyTorch, full VGG16-bn"
    return [
        compare(f"training step, {title}", ours, peer, plain, repeats=repeats, goal=case["goal"], note=note),
        against_ceiling(title, ours, device, precision or torch.float32, repeats),
        compare("  making its batch", lambda: batches[next(fresh)], "our step", ours, repeats=repeats, goal=1),
    ]


def against_ceiling(
    title: str, take: Callable[[], None], device: torch.device, dtype: torch.dtype, repeats: int
) -> Result:
    """The rate of a whole step, of network and loss, against that of convolutions alone, in turn."""
    with FlopCounterMode(display=False) as counter:
        take()
    work = counter.get_total_flops()
    measure = convolution_ceiling(device, dtype)
    ours, ceiling = [], []
    for _ in range(repeats):
        ours.append(seconds(take, device, 3))
        ceiling.append(work / measure())
    name = str(dtype).removeprefix("torch.")
    note = f"{work / 1e9:.4g} GFLOP a step, ceiling {work / min(ceiling) / 1e9:.4g} GFLOP/s"
    task = f"share of the ceiling in a training step, {title}"
    return Result(task, f"3 x 3 convolutions, {name}", ours, ceiling, goal=CEILING_SHARE, note=note)


def step(network: nn.Module, batch: dict, device: torch.device, precision: torch.dtype | None) -> Callable[[], None]:
    """A step as `training.module` takes it."""
    network = network.to(device, memory_format=torch.channels_last)
    loss = build_loss(LOSS).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    shown = batch["input"].to(device, memory_format=torch.channels_last)
    target = batch["target"].to(device)

    def take() -> None:
        with torch.autocast(device.type, precision) if precision else nullcontext():
            total, _ = loss(network(shown, target.shape[2:]).float(), target)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        finish(device)

    return take


def plain_step(network: nn.Module, batch: dict, device: torch.device) -> Callable[[], None]:
    """The same step as one would write it first."""
    network = network.to(device)
    vgg = make_layers(cfgs["D"], batch_norm=True).to(device).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    shown, target = batch["input"].to(device), batch["target"].to(device)

    def take() -> None:
        prediction = network(shown, batch["target"].shape[2:])
        total = reference_loss(vgg, prediction, target)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        finish(device)

    return take


if __name__ == "__main__":
    main()
