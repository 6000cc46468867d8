"""Slicewise inference: a whole scan through a checkpoint, in batches of slices over all directions."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoints import Checkpoint, load_checkpoint
from ..errors import Cancelled, InputError, ProcessingError
from ..networks.views import Normalisation, SliceAssembler, foreground_mask
from ..resampling import degradation
from ..resampling import upsamplers as interpolation
from ..resampling.grid import in_plane_axes, in_plane_factors, refined_affine, slice_axis

if TYPE_CHECKING:
    from ..dwi import DWI

Progress = Callable[[float, str], None]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
MIN_FOREGROUND = 0.01
"""A slice with a smaller share of foreground voxels lies outside the head: it is interpolated, not predicted."""


def super_resolve(
    dwi: DWI,
    checkpoint: str | Checkpoint = "default",
    scale: int = 2,
    *,
    device: str = "auto",
    precision: str = "auto",
    axis: int | str | None = None,
    ensemble: bool = False,
    consistent: bool = False,
    mask: NDArray[np.bool_] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
) -> DWI:
    """Super-resolve a scan in-plane.

    Slices outside the head (under 1 % foreground voxels, or outside `mask`) hold the sinc interpolation.

    Parameters
    ----------
    dwi : DWI
    checkpoint : str, path or Checkpoint
        A shipped name, a `.safetensors` file, or one already loaded.
    scale : int
        In-plane factor, one of the checkpoint's.
    device : {"auto", "cpu", "cuda", "mps"} or any torch device
        auto takes CUDA, then MPS, then the CPU.
    precision : {"auto", "fp32", "bf16", "fp16"}
        auto takes bf16 where the device computes in it.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    ensemble : bool
        Mean over the eight flips and rotations of each slice.
    consistent : bool
        Project the result onto the images that, degraded again by the checkpoint's degradation model, equal the
        input: the limit of iterative back-projection (Irani & Peleg 1991, doi:10.1016/1049-9652(91)90045-L) in closed
        form.
    mask : array (X, Y, Z), optional
        Slices without a voxel in it are interpolated.
    batch_size : int, optional
        Slices computed at once; by default chosen for the device. When memory runs out it is halved.
    progress : callable, optional
        Called with (fraction, message).
    cancel : callable, optional
        Asked between batches; returns True to stop.

    Returns
    -------
    DWI on the finer grid, same field of view, gradient table unchanged.

    Raises
    ------
    InputError
        If the checkpoint does not serve the scale, or an option has no such value.
    ProcessingError
        If a single slice does not fit into the device's memory.
    Cancelled
        If `cancel` said so.
    """
    options = _Options(device, precision, axis, ensemble, consistent, mask, batch_size, progress, cancel)
    return _process(dwi, checkpoint, scale, options)[0]


def super_resolve_with_uncertainty(
    dwi: DWI, checkpoint: str | Checkpoint = "default", scale: int = 2, **options
) -> tuple[DWI, NDArray[np.float32]]:
    """Super-resolve by self-ensemble; also return its voxelwise standard deviation.

    Parameters and errors as `super_resolve`, `ensemble` always on.

    Returns
    -------
    DWI, array (X, Y, Z, N)
        The result; the standard deviation over the eight flips and rotations in signal units (before the projection
        of `consistent`), zero where slices are interpolated.
    """
    options["ensemble"] = True
    result, spread = _process(dwi, checkpoint, scale, _Options(**options), keep_spread=True)
    assert spread is not None
    return result, spread


@dataclass(frozen=True)
class _Options:
    device: str = "auto"
    precision: str = "auto"
    axis: int | str | None = None
    ensemble: bool = False
    consistent: bool = False
    mask: NDArray[np.bool_] | None = None
    batch_size: int | None = None
    progress: Progress | None = None
    cancel: Callable[[], bool] | None = None


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device a name stands for; InputError if this machine lacks it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.zeros(1, device=resolved) + 1
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"The device {device!r} cannot be used here ({reason}); choose cpu or auto.") from error
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of a precision name, None for fp32; auto is bf16 where the device computes in it."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            precision = "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"The precision is {precision!r}; expected auto, {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision]


def _cpu_has_bf16() -> bool:
    # Elsewhere bf16 is emulated, slower than float32; torch tells only through this module, absent in older releases.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def _process(
    dwi: DWI, checkpoint: str | Checkpoint, scale: int, options: _Options, keep_spread: bool = False
) -> tuple[DWI, NDArray[np.float32] | None]:
    loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
    card = loaded.card
    if card.task not in ("super-resolution", "denoising") or scale not in card.scales:
        served = ", ".join(map(str, card.scales)) or "none"
        raise InputError(f"The checkpoint {card.name!r} ({card.task}) serves scales {served}, not {scale}.")
    if options.batch_size is not None and options.batch_size < 1:
        raise InputError(f"The batch size is {options.batch_size}; expected at least 1.")
    axis = slice_axis(dwi, options.axis)
    device = resolve_device(options.device)
    dtype = resolve_precision(options.precision, device)
    network: Any = loaded.network().to(device).to(memory_format=torch.channels_last)
    normalisation = Normalisation.measure(dwi.signal, card.normalisation)
    assembler = SliceAssembler(network.slice_input, dwi.bvals, dwi.bvecs, normalisation)
    limits = (0.0, 1.0) if card.normalisation == "paper" else (min(0.0, float(dwi.signal.min())), None)

    low = as_slices(dwi.signal, axis)
    fine_shape = [n * f for n, f in zip(dwi.spatial_shape, map(int, in_plane_factors(scale, axis)), strict=True)]
    signal = np.empty((*fine_shape, dwi.n_volumes), np.float32, order="F")
    spread = np.zeros_like(signal, order="F") if keep_spread else None
    fine = as_slices(signal, axis)
    fine_spread = None if spread is None else as_slices(spread, axis)

    predicted = _predicted_slices(dwi, axis, options.mask)
    operators = [torch.tensor(interpolation.operator(n, scale, "sinc"), dtype=torch.float32) for n in low.shape[2:]]
    for index in np.flatnonzero(~predicted):
        fine[:, index] = (operators[0] @ torch.from_numpy(low[:, index].copy()) @ operators[1].T).numpy()
    project = _projection(low.shape[2:], scale, card.degradation, device) if options.consistent else None

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype) if dtype else nullcontext():
            if not options.ensemble:
                return network(x, scale).float(), None
            members = torch.stack([undo(network(do(x), scale).float()) for do, undo in _symmetries()])
        deviation, mean = torch.std_mean(members, dim=0, correction=0)
        return mean, deviation

    batch = _Batcher(forward, options.batch_size or (8 if device.type == "cpu" else 256))
    indices = np.flatnonzero(predicted)
    volumes = torch.arange(dwi.n_volumes)
    group = max(1, batch.size // dwi.n_volumes)
    report = options.progress or (lambda fraction, message: None)
    report(0.0, f"super-resolving {len(indices)} slices of {dwi.n_volumes} volumes on {device}")
    k = network.slice_input.neighbours
    # The outer autocast keeps the weights that the inner one has cast from batch to batch; inference_mode would not.
    buffers = _buffers_reused() if device.type == "cpu" else nullcontext()
    with torch.no_grad(), torch.autocast(device.type, enabled=False), buffers:
        for start in range(0, len(indices), group):
            if options.cancel and options.cancel():
                raise Cancelled("Cancelled; nothing was written.")
            members = indices[start : start + group]
            slabs = [torch.from_numpy(_slab(low, index, k)).to(device) for index in members]
            x = torch.cat([assembler(slab, volumes) for slab in slabs])
            repeated = volumes.repeat(len(members))
            for part, mean, deviation in batch(x):
                images = mean.clamp(*limits) if limits[1] else mean
                restored = assembler.restore(images, repeated[part])
                if project is not None:
                    source = torch.cat([slab[:, k] for slab in slabs])[part].unsqueeze(1)
                    restored = project(restored, source)
                elif limits[1] is None:
                    restored = restored.clamp_min(limits[0])
                places = (repeated[part].numpy(), np.repeat(members, dwi.n_volumes)[part])
                fine[places] = restored[:, 0].cpu().numpy()
                if fine_spread is not None and deviation is not None:
                    fine_spread[places] = assembler.restore(deviation, repeated[part])[:, 0].cpu().numpy()
            report((start + len(members)) / len(indices), "super-resolving")
    affine = refined_affine(dwi.affine, in_plane_factors(scale, axis))
    return replace(dwi, signal=signal, affine=affine), spread


def as_slices(signal: NDArray, axis: int) -> NDArray:
    """View of (X, Y, Z, N) as (N, slices, H, W), W the first in-plane axis: no copy, rows contiguous."""
    first, second = in_plane_axes(axis)
    return signal.transpose(3, axis, second, first)


def _slab(low: NDArray[np.float32], index: int, neighbours: int) -> NDArray[np.float32]:
    members = np.clip(np.arange(index - neighbours, index + neighbours + 1), 0, low.shape[1] - 1)
    return low[:, members]


def _predicted_slices(dwi: DWI, axis: int, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    if mask is not None and mask.shape != dwi.spatial_shape:
        raise InputError(f"The mask has matrix {mask.shape}; expected the input's, {dwi.spatial_shape}.")
    inside = foreground_mask(dwi.signal) & (dwi.signal.any(axis=3)) if mask is None else mask.astype(bool)
    share = inside.mean(axis=in_plane_axes(axis))
    return share > 0 if mask is not None else share >= MIN_FOREGROUND


class _Batcher:
    """Run `forward` over a batch in parts; when the device runs out of memory, halve the part and go on."""

    def __init__(self, forward: Callable, size: int) -> None:
        self.forward = forward
        self.size = size

    def __call__(self, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
        start = 0
        while start < len(x):
            part = slice(start, min(start + self.size, len(x)))
            try:
                mean, deviation = self.forward(x[part])
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self.size == 1:
                    raise ProcessingError(
                        "A single slice does not fit into the device's memory; close other programs or use the CPU."
                    ) from error
                self.size = self.size // 2
                if x.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield part, mean, deviation
            start = part.stop


@contextmanager
def _buffers_reused() -> Iterator[None]:
    """Let glibc keep what layers free for the next ones: mapped anew, their pages take a tenth of the time and more.

    See mallopt(3). Other C libraries are left alone. Afterwards the memory goes back to the system.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def _symmetries() -> Iterator[tuple[Callable, Callable]]:
    """The eight symmetries of the square, each with its inverse."""
    for flips in ((), (-1,), (-2,), (-1, -2)):
        yield lambda t, f=flips: t.flip(f), lambda t, f=flips: t.flip(f)
        yield lambda t, f=flips: t.flip(f).mT, lambda t, f=flips: t.mT.flip(f)


def _projection(shape: tuple[int, ...], scale: int, model: dict, device: torch.device) -> Callable:
    """Map (result, input) to the nearest images whose degradation is the input, all (B, 1, H, W)."""
    name = model.get("model", "kspace")
    down = [degradation.operator(n * scale, scale, name) for n in shape]
    up = [np.linalg.pinv(d) for d in down]
    rows, columns = (torch.tensor(d, dtype=torch.float32, device=device) for d in down)
    back_rows, back_columns = (torch.tensor(u, dtype=torch.float32, device=device) for u in up)

    def project(result: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return result + back_rows @ (source - rows @ result @ columns.T) @ back_columns.T

    return project
