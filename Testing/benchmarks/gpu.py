"""Both networks on a graphics card: slices a second, shares of what the card can do, a whole HCP-7T-sized scan.

    python -m Testing.benchmarks.gpu [--quick] [--repeats 5] [--json FILE] [--no-scan]

Written for an H200. Where no CUDA device is found, the same code runs on the processor with tiny sizes, which shows
that it works, and says why there is no figure for a card. Slices are those of HCP 7T (86 x 103 to 172 x 206).
Memory traffic is that of the layers each taken alone, so compiling, which fuses layers, can exceed a share of 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from DWISuperResLib.checkpoints import Card, save_checkpoint
from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import write_dwi
from DWISuperResLib.networks import build, fold, sr_unet
from Testing.benchmarks.ceilings import autocast, bandwidth_ceiling, matmul_ceiling, operations, seconds, traffic
from Testing.benchmarks.harness import Result, parser, report, run_command
from Testing.benchmarks.super_resolution import ARCHITECTURES, SCALE, SLICE

SCAN = (87, 104, 173, 143)  # becomes 174 x 208 x 173 x 143
SCAN_LIMIT = 60.0  # seconds
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="tiny sizes even where there is a card")
    options.add_argument("--no-scan", action="store_true", help="leave the whole scan out")
    arguments = options.parse_args(argv)
    reason = _no_card()
    if reason:
        print(f"No figure for a graphics card: {reason}. What follows ran on the processor, to show that it runs.")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    tiny = bool(reason) or arguments.quick
    device = torch.device("cpu" if reason else "cuda")
    throughput(device, tiny)
    results = []
    if not arguments.no_scan:
        shape = (20, 24, 3, 8) if tiny else SCAN
        results = list(whole_scan(shape, device, 1 if tiny else min(arguments.repeats, 2)))
    if reason:
        results = [Result(r.task, r.peer, skipped=f"{reason}; ran tiny on the processor") for r in results]
    report(results, arguments.json)
    return results


def _no_card() -> str:
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "no CUDA device is visible"


def throughput(device: torch.device, tiny: bool) -> None:
    """Print slices a second for every combination."""
    size, batches = ((16, 20), (2,)) if tiny else (SLICE, (16, 64, 128, 256))
    peak = {
        name: matmul_ceiling(device, dtype or torch.float32, 256 if tiny else 8192)
        for name, dtype in PRECISIONS.items()
    }
    bandwidth = bandwidth_ceiling(device, 16 if tiny else 4096)
    print(
        f"ceilings: {peak['fp32'] / 1e12:.4g} TFLOP/s fp32 and {peak['bf16'] / 1e12:.4g} bf16 (matrix product), "
        f"{bandwidth / 1e12:.3g} TB/s (copy)"
    )
    print(
        f"{'network':16} {'precision':9} {'compiled':8} {'batch':>5} {'slices/s':>9} {'TFLOP/s':>8} "
        f"{'of matmul':>9} {'of bf16':>8} {'of TB/s':>8}"
    )
    for title, (architecture, options) in ARCHITECTURES.items():
        for compiled in (False, True):
            network = fold(build(architecture, **options)).to(device, memory_format=torch.channels_last)
            shape = (network.view.channels, *size[::-1])
            one = torch.rand(1, *shape, device=device)
            work = operations(network, one, SCALE)
            # On the processor the tracing alone: generating code takes minutes and shows nothing about a card.
            backend = "inductor" if device.type == "cuda" else "eager"
            if compiled:
                # Made with NumPy, which the compiler cannot follow.
                torch.compiler.assume_constant_result(sr_unet._operator.__wrapped__)
            called = torch.compile(network, backend=backend) if compiled else network
            for name, dtype in PRECISIONS.items():
                needed = traffic(network, one, SCALE, dtype)
                for batch in batches:
                    start = f"{title:16} {name:9} {'yes' if compiled else 'no':8} {batch:5d}"
                    x = torch.rand(batch, *shape, device=device).contiguous(memory_format=torch.channels_last)

                    def forward(called=called, x=x, dtype=dtype) -> None:
                        with torch.inference_mode(), autocast(device, dtype):
                            called(x, [SCALE * n for n in x.shape[2:]])

                    try:
                        rate = batch / seconds(forward, device, 3)
                    except Exception as error:  # the compiler may lack this device or this network
                        print(f"{start} failed: {str(error).splitlines()[0][:80]}")
                        break
                    flops = rate * work
                    print(
                        f"{start} {rate:9.1f} {flops / 1e12:8.3g} {flops / peak[name]:9.1%} "
                        f"{flops / peak['bf16']:8.1%} {rate * needed / bandwidth:8.1%}"
                    )


def whole_scan(shape: tuple[int, ...], device: torch.device, repeats: int) -> Iterator[Result]:
    """`dwi-superres run` of a scan that becomes HCP-7T-sized, files included, both networks, plain and gzipped."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dwi(_scan(shape, rng), folder / "low.nii.gz")
        for title, (architecture, options) in ARCHITECTURES.items():
            normalisation = "paper" if architecture == "dynamic_unet" else "volume"
            card = Card(title, architecture, options, (SCALE,), normalisation=normalisation)
            checkpoint = folder / f"{architecture}.safetensors"
            save_checkpoint(checkpoint, build(architecture, **options).state_dict(), card)
            for suffix in (".nii", ".nii.gz"):
                command = [
                    sys.executable,
                    "-m",
                    "DWISuperResLib",
                    "run",
                    folder / "low.nii.gz",
                    folder / f"fine{suffix}",
                ]
                command += ["--checkpoint", checkpoint, "--device", device.type, "--overwrite", "--progress", "none"]
                times = []
                for _ in range(repeats):
                    start = time.perf_counter()
                    run_command(*command)
                    times.append(time.perf_counter() - start)
                size = "x".join(str(n * f) for n, f in zip(shape, (SCALE, SCALE, 1, 1), strict=True))
                yield Result(f"{title}, to {size}{suffix}", "limit", times, [SCAN_LIMIT] * repeats, goal=1)


def _scan(shape: tuple[int, ...], rng: np.random.Generator) -> DWI:
    """A head-sized ellipsoid in noise, as integers."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:3]), indexing="ij")
    head = np.where((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.9) ** 2 < 1, 1000.0, 0.0).astype(np.float32)
    bvecs = rng.normal(size=(shape[3], 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.where(np.arange(shape[3]) % 16 == 0, 0.0, 1000.0)
    signal = np.empty(shape, np.float32, order="F")
    for n in range(shape[3]):
        noise = rng.standard_normal(shape[:3], dtype=np.float32)
        signal[..., n] = np.abs(head * np.exp(-bvals[n] * 7e-4) + 20 * noise).round()
    return DWI(signal, np.diag([2.1, 2.1, 1.05, 1.0]), bvals, bvecs, acquisition_axis=2)


if __name__ == "__main__":
    main()
