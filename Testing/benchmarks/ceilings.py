"""What a device can do at most, measured; and what a network asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from DWISuperResLib.inference.memory import MEMORY_FORMATS

# By dimensions: channels, pixels a side: sizes at which libraries do best.
CONVOLUTIONS = {2: ((64, 128), (128, 64), (256, 32)), 3: ((64, 32), (128, 24), (32, 48))}


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Least time of repeated runs, one more before them to warm up."""
    best = float("inf")
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        work()
        finish(device)
        if repeat:
            best = min(best, time.perf_counter() - start)
    return best


def finish(device: torch.device) -> None:
    """Wait for what was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager:
    """Mixed precision as in the engine: None is plain float32."""
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def convolution_ceiling(
    device: torch.device, dtype: torch.dtype, dimensions: int = 2, tiny: bool = False
) -> Callable[[], float]:
    """Measure on each call: operations a second of the best of some convolutions of 3 pixels an axis, channels last.

    `tiny` images, a quarter of the size, only show that it runs.
    """
    make, memory = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions], MEMORY_FORMATS[dimensions]
    cases = []
    for channels, side in CONVOLUTIONS[dimensions]:
        side = side // 4 if tiny else side
        layer = make(channels, channels, 3, padding=1).to(device, dtype, memory_format=memory)
        images = torch.rand(4, channels, *[side] * dimensions, device=device).to(dtype, memory_format=memory)
        cases.append((layer, images, 2 * 3**dimensions * channels**2 * images[:, 0].numel()))

    def measure() -> float:
        with torch.inference_mode():
            return max(work / seconds(lambda c=conv, x=x: c(x), device, 3) for conv, x, work in cases)

    return measure


def matmul_ceiling(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second of a square matrix product."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device)


def bandwidth_ceiling(device: torch.device, megabytes: int) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def operations(network: nn.Module, x: torch.Tensor, scale: int) -> float:
    """Operations (2 a multiply-add) that an input takes."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(x, [scale * n for n in x.shape[2:]])
    return float(counter.get_total_flops())


def traffic(network: nn.Module, x: torch.Tensor, scale: int, dtype: torch.dtype | None) -> float:
    """Bytes that the layers read and write for an input, each layer taken alone: weights, inputs, outputs."""
    total = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        tensors = (*inputs, output, *module.parameters())
        total += sum(t.numel() * (dtype or t.dtype).itemsize for t in tensors)

    hooks = [m.register_forward_hook(add) for m in network.modules() if not list(m.children())]
    with torch.inference_mode(), autocast(x.device, dtype):
        network(x, [scale * n for n in x.shape[2:]])
    for hook in hooks:
        hook.remove()
    return float(total)
