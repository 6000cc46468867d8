"""Inference: a whole scan through a checkpoint, tile by tile, in batches over all directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoints import Checkpoint, load_checkpoint
from ..dwi import foreground_mask
from ..errors import Cancelled, InputError
from ..networks.views import Assembler, Normalisation, Tile, View
from ..resampling.degradation import fitting_width
from ..resampling.grid import Frame, in_plane_axes, regridded_mask, slice_axis
from ..resampling.operators import operator
from ..resampling.scale import Scale, ScaleLike
from ..scratch import signal_array
from .canvas import Canvas
from .devices import resolve_device, resolve_precision
from .guides import placed
from .memory import MEMORY_FORMATS, Batcher, buffers_reused
from .native import at_native
from .options import InferenceOptions
from .projection import Projection
from .threads import side_by_side

if TYPE_CHECKING:
    from ..dwi import DWI, AnyScan, Volume

Progress = Callable[[float, str], None]
Room = Callable[[Sequence[int], NDArray[np.float64]], NDArray[np.float32]]

MIN_FOREGROUND = 0.01
"""A slice with a smaller share of foreground voxels lies outside the head: it is interpolated, not predicted."""
FITTED_VOLUMES = 6
"""Of which the width of a degradation is told; one scan has one."""
SLICES_AT_ONCE = {"cpu": 4, "other": 256}
"""Images of one slice's size that a device, or one of a CPU's workers, is given at a time."""
USUAL_SLICE = 128 * 128
MOST_WORKERS = 4
"""So many batches at most, so that memory stays as small; further threads are divided among them."""


def super_resolve(
    scan: AnyScan,
    checkpoint: str | Checkpoint = "default",
    scale: ScaleLike = 2,
    *,
    guide: Volume | None = None,
    unchecked_guide: bool = False,
    mask: NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    room: Room | None = None,
    **options: Any,
) -> AnyScan:
    """Super-resolve a scan.

    What lies outside the head (slices with under 1 % foreground voxels, or nothing of `mask`) holds the sinc
    interpolation.

    Parameters
    ----------
    scan : DWI or Volume
    checkpoint : str, path or Checkpoint
        A shipped name, a `.safetensors` file, or one already loaded.
    scale : Scale, number, str or three numbers
        One that the checkpoint serves; see `Scale.parse`.
    guide : Volume, optional
        For a checkpoint whose card says `guided`: an image of higher resolution or another contrast that lies on the
        scan's anatomy by its header. On any grid; it is resliced, and normalised by the mean of its foreground.
    unchecked_guide : bool
        Take the guide as it lies, see `guides.placed`.
    mask : array (X, Y, Z), optional
        Only what shows a voxel of it is predicted.
    progress : callable, optional
        Called with (fraction, message).
    cancel : callable, optional
        Asked between batches; returns True to stop.
    room : callable (shape, affine) -> array of zeros, optional
        Makes the array for the signal of the result, (X, Y, Z, N) in Fortran order.
    **options
        device : {"auto", "cpu", "cuda", "mps"} or any torch device
            auto takes CUDA, then MPS, then the CPU.
        precision : {"auto", "fp32", "bf16", "fp16"}
            auto takes bf16 where the device computes in it.
        axis : optional
            Slice axis, see `grid.slice_axis`.
        ensemble : bool
            Test-time augmentation: mean over the flips and rotations of each slice, or the flips of each block.
        consistent : bool
            Data consistency: project the result onto the images that, degraded again by the checkpoint's degradation,
            equal the input; see `projection.Projection`. Where its slices or blurs were of many widths, by the one that
            fits best.
        native : bool
            Take a scan that was interpolated before down to the matrix that it holds, see `resampling.native`; the
            scale counts from there.
        batch_size : int
            Tiles computed at once; by default chosen for the device. When memory runs out it is halved.

    Returns
    -------
    The scan on the finer grid, same field of view, gradient table unchanged.

    Raises
    ------
    InputError
        If the checkpoint does not serve the scale, an option has no such value, a volume is no magnitude image, or the
        checkpoint needs a guide and there is none that lies on the scan, or takes none.
    ProcessingError
        If a single slice does not fit into the device's memory.
    Cancelled
        If `cancel` said so.

    Examples
    --------
    >>> from DWISuperResLib import degrade, phantom
    >>> scan = phantom((32, 32, 2), (4, 5, 40), snr=None, supersampling=1, shells=((0, 1), (1000, 6)))
    >>> low = degrade(scan, 2)
    >>> result = super_resolve(low, "default", 2, device="cpu")
    >>> result.spatial_shape, np.array_equal(result.bvecs, scan.bvecs)
    ((32, 32, 2), True)
    """
    run = _Run(scan.series, checkpoint, scale, InferenceOptions(**options), guide, unchecked_guide, mask)
    return scan.like(run(progress, cancel, room)[0])


def super_resolve_with_uncertainty(
    scan: AnyScan,
    checkpoint: str | Checkpoint = "default",
    scale: ScaleLike = 2,
    *,
    guide: Volume | None = None,
    unchecked_guide: bool = False,
    mask: NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
    cancel: Callable[[], bool] | None = None,
    room: Room | None = None,
    **options: Any,
) -> tuple[AnyScan, NDArray[np.float32]]:
    """Super-resolve by test-time augmentation; also return its voxelwise standard deviation.

    Parameters and errors as `super_resolve`, `ensemble` always on.

    Returns
    -------
    DWI or Volume, array (X, Y, Z, N)
        The result; the standard deviation over the members, times the card's `uncertainty_factor`, in signal units
        (before the projection of `consistent`), zero where the result is interpolated. N is 1 for a Volume.

    Examples
    --------
    >>> from DWISuperResLib import degrade, phantom
    >>> low = degrade(phantom((32, 32, 2), (4, 5, 40), supersampling=1, shells=((0, 1), (1000, 6))), 2)
    >>> result, spread = super_resolve_with_uncertainty(low, "default", 2, device="cpu")
    >>> spread.shape == result.signal.shape, bool(spread.min() >= 0)
    (True, True)
    """
    chosen = InferenceOptions(**{**options, "ensemble": True})
    run = _Run(scan.series, checkpoint, scale, chosen, guide, unchecked_guide, mask)
    result, spread = run(progress, cancel, room, keep_spread=True)
    assert spread is not None
    return scan.like(result), spread


class _Run:
    """One scan and one checkpoint, everything checked; calling it computes."""

    def __init__(
        self,
        dwi: DWI,
        checkpoint: str | Checkpoint,
        scale: ScaleLike,
        options: InferenceOptions,
        guide: Volume | None,
        unchecked_guide: bool,
        mask: NDArray[np.bool_] | None,
    ) -> None:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(checkpoint)
        dwi, options, mask = at_native(dwi, options, mask)
        self.dwi, self.card, self.options = dwi, loaded.card, options
        self.scale = Scale.parse(scale, dwi, options.axis)
        kept = [a for a, factor in enumerate(self.scale.factors) if factor == 1]
        # Lowered in-plane, a scan may be coarser there than along its slices; the factors tell the plane.
        axis = kept[0] if options.axis is None and len(kept) == 1 else slice_axis(dwi, options.axis)
        slices, self.shape = axis, self.scale.fine_shape(dwi.spatial_shape)
        card, shapes = loaded.card, (dwi.spatial_shape, self.shape)
        if card.task not in ("super-resolution", "denoising") or not card.serves(*shapes, axis):
            served = card.served_text or "none"
            raise InputError(f"The checkpoint {card.name!r} ({card.task}) serves scales {served}, not {self.scale}.")
        if options.batch_size is not None and options.batch_size < 1:
            raise InputError(f"The batch size is {options.batch_size}; expected at least 1.")
        self.normalisation = Normalisation.measure(dwi.signal, card.normalisation)
        self.lowest = min(0.0, float(dwi.signal.min()))
        self.device = resolve_device(options.device)
        self.dtype = resolve_precision(options.precision, self.device)
        network: Any = loaded.network()
        self.view: View = network.view
        self.network = network.to(self.device, memory_format=MEMORY_FORMATS[self.view.dimensions])
        if self.view.dimensions == 2:
            axis = _stacked_along(self.scale, Frame.of(dwi.affine, axis))
        self.frame = Frame.of(dwi.affine, axis)
        self.slices = self.frame.order.index(slices)
        self.low = self.frame.view(dwi.signal)
        self.fine = self.frame.along(self.shape)
        inside = self.frame.view(_predicted(dwi, axis, mask))
        self.tiles = self.view.tiles(self.fine, regridded_mask(inside, self.fine))
        self.guide: NDArray[np.float32] | None = None
        check_guide(card.name, self.view.guide, guide is not None)
        if guide is not None:
            shape = self.view.guide_shape(dwi.spatial_shape, self.shape)
            self.guide = self.frame.view(placed(guide, dwi, shape, unchecked=unchecked_guide))

    def __call__(
        self,
        progress: Progress | None,
        cancel: Callable[[], bool] | None,
        room: Room | None,
        keep_spread: bool = False,
    ) -> tuple[DWI, NDArray[np.float32] | None]:
        dwi, view = self.dwi, self.view
        shape, affine = (*self.shape, dwi.n_volumes), self.scale.refine(dwi.affine, dwi.spatial_shape)
        signal = signal_array(shape) if room is None else room(shape, affine)
        canvas, spread, spreads = Canvas(self.frame.view(signal), view, self.tiles), None, None
        if keep_spread:
            spread = signal_array(signal.shape)
            spreads = Canvas(self.frame.view(spread), view, self.tiles)
        lengths = zip(self.low.shape[1:], self.fine, strict=True)
        canvas.fill(self.low, {a: operator(n, m, "sinc") for a, (n, m) in enumerate(lengths) if n != m})
        report = progress or (lambda fraction, message: None)
        what = "slices" if view.dimensions == 2 else "blocks"
        report(0.0, f"super-resolving {len(self.tiles)} {what} of {dwi.n_volumes} volumes on {self.device}")
        buffers = buffers_reused() if self.device.type == "cpu" else nullcontext()
        # The outer autocast keeps weights that the inner one has cast from batch to batch; inference_mode would not.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False), buffers:
            for done, (tile, volumes, images, deviation) in self._predictions():
                if cancel and cancel():
                    raise Cancelled("Cancelled; nothing was written.")
                canvas.add(images, tile, volumes)
                if spreads is not None and deviation is not None:
                    spreads.add(deviation, tile, volumes)
                report(done, "super-resolving")
            if self.options.consistent and self.shape != dwi.spatial_shape:
                self._make_consistent(canvas)
        return replace(dwi, signal=signal, affine=affine), spread

    def _make_consistent(self, canvas: Canvas) -> None:
        degradation = self.card.degradation
        few = np.linspace(0, len(self.low) - 1, min(FITTED_VOLUMES, len(self.low))).round().astype(int)
        low, fine = (np.moveaxis(signal[few], 0, 3) for signal in (self.low, canvas.fine))
        width = fitting_width(low, fine, degradation, self.slices)
        project = Projection(self.low.shape[1:], self.fine, degradation, self.slices, self.device, width)
        canvas.map_volumes(lambda volume, n: project(volume, self.low[n].copy()))

    def _predictions(self) -> Iterator[tuple[float, tuple]]:
        """Share done, and (tile, volumes, images, deviations) in signal units: in batches over tiles and volumes."""
        count = self.dwi.n_volumes
        workers, size = self._workers_and_batch()
        batch = Batcher(self._forward, size)
        # Guidance is made of all volumes. Without it, blocks of a few at a time keep memory from growing with their
        # number; slices are small.
        together = min(batch.size, count) if self.view.dimensions == 3 and not self.view.guidance else count
        for first in range(0, count, together):
            members = slice(first, min(first + together, count))
            for done, found in self._predictions_of(members, batch, workers):
                yield (first + done * (members.stop - first)) / count, found

    def _predictions_of(self, members: slice, batch: Batcher, workers: int) -> Iterator[tuple[float, tuple]]:
        """The same for some volumes, which see no others."""
        dwi, view, low = self.dwi, self.view, self.low[members]
        gains = replace(self.normalisation, gains=self.normalisation.gains[members])
        assembler = Assembler(view, dwi.bvals[members], dwi.bvecs[members], gains)
        limits = (0.0, 1.0) if self.card.normalisation == "paper" else None
        count = len(low)
        group = max(1, batch.size // count)
        volumes = torch.arange(count)

        def jobs() -> Iterator[tuple[int, slice, torch.Tensor]]:
            """Number of the first tile, which of the images (tiles x volumes) from there on, and they as shown."""
            for start in range(0, len(self.tiles), group):
                tiles = self.tiles[start : start + group]
                slabs = [torch.from_numpy(view.slab(low, tile, self.fine)).to(self.device) for tile in tiles]
                guides = [self._guide_of(tile) for tile in tiles]
                x = torch.cat([assembler.show(slab, volumes, guide) for slab, guide in zip(slabs, guides, strict=True)])
                for first in range(0, len(x), batch.size):
                    part = slice(first, min(first + batch.size, len(x)))
                    yield start, part, x[part]

        def work(job: tuple[int, slice, torch.Tensor]) -> tuple[int, list[tuple[slice, NDArray, NDArray | None]]]:
            """For each part of a job: which images, they in signal units, their deviations."""
            start, whole, x = job
            found = []
            for within, mean, deviation in batch(x):
                if not torch.isfinite(mean.sum()):  # finite only if every term is
                    raise self._overflow()
                part = slice(whole.start + within.start, whole.start + within.stop)
                shown = torch.arange(part.start, part.stop) % count
                restored = assembler.restore(mean.clamp(*limits) if limits else mean, shown)
                if not self.options.consistent:
                    restored = restored.clamp_min(self.lowest)
                spread = None if deviation is None else assembler.restore(deviation, shown).cpu().numpy()
                found.append((part, restored.cpu().numpy(), spread))
            return start, found

        for start, found in side_by_side(work, jobs(), workers):
            tiles = self.tiles[start : start + group]
            for part, images, spread in found:
                for tile, inside, own in _by_tile(tiles, count, part):
                    shown = members.start + np.arange(part.start + inside.start, part.start + inside.stop) % count
                    done = (start + own + 1) / len(self.tiles)
                    yield done, (tile, shown, images[inside], None if spread is None else spread[inside])

    def _workers_and_batch(self) -> tuple[int, int]:
        """How many batches are computed side by side, and how many images each has.

        Slices are small enough that a CPU's threads do better with batches of their own, where there are some.
        """
        divided = self.device.type == "cpu" and self.view.dimensions == 2
        most = min(torch.get_num_threads(), MOST_WORKERS) if divided else 1
        size = self._usual_batch()
        if self.options.batch_size is not None:
            most = min(most, self.options.batch_size)
            size = self.options.batch_size // most
        batches = len(self.tiles) * self.dwi.n_volumes // size
        return max(1, min(most, batches // 2)), size

    def _guide_of(self, tile: Tile) -> torch.Tensor | None:
        """What a tile shows of the guide; a slice on the coarse grid ends where that does."""
        if self.guide is None:
            return None
        part = self.guide[tile.box]
        return torch.from_numpy(part.reshape(part.shape[-self.view.dimensions :]).copy()).to(self.device)

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        size = self.tiles[0].shape[-self.view.dimensions :]
        x = x.contiguous(memory_format=MEMORY_FORMATS[self.view.dimensions])
        with torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext():
            if not self.options.ensemble:
                return self.network(x, size).float(), None
            members = []
            for turn in symmetries(self.low.shape[-len(size) :], self.fine[-len(size) :]):
                turned = self.network(turn.forward(x), turn.size(size)).float()
                members.append(turn.back(turned))
        deviation, mean = torch.std_mean(torch.stack(members), dim=0, correction=0)
        return mean, self.card.uncertainty_factor * deviation

    def _overflow(self) -> InputError:
        precision = str(self.dtype or torch.float32).removeprefix("torch.")
        advice = "get it again" if self.dtype is None else "choose --precision fp32, or get it again"
        return InputError(
            f"The checkpoint {self.card.name!r} cannot be used: its weights make values of this scan that are not "
            f"finite in {precision}; {advice}."
        )

    def _usual_batch(self) -> int:
        images = SLICES_AT_ONCE["cpu" if self.device.type == "cpu" else "other"]
        if self.view.dimensions == 2 or not self.tiles:
            return images
        return max(1, images * USUAL_SLICE // int(np.prod(self.tiles[0].shape)))


def check_guide(name: str, guided: bool, given: bool) -> None:
    """InputError unless a checkpoint that is shown a guide is given one, and no other."""
    if guided and not given:
        raise InputError(
            f"The checkpoint {name!r} was trained with a guide: give an image such as a T1w that is registered to "
            "the scan (guide=, --guide), or choose another checkpoint."
        )
    if given and not guided:
        raise InputError(f"The checkpoint {name!r} takes no guide; leave it out, or choose one trained with one.")


def _stacked_along(scale: Scale, frame: Frame) -> int:
    """The voxel axis that a network of slices leaves alone: the slice axis, else that of columns, else that of rows.

    Of the frame of the slices, so that it is the same one however a scan is stored.
    """
    slices, rows, columns = frame.order
    kept = [a for a in (slices, columns, rows) if scale.factors[a] == 1]
    if not kept:
        raise InputError(f"A checkpoint for slices changes two axes at most; the scale {scale} changes all three.")
    return kept[0]


def _predicted(dwi: DWI, axis: int, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """(X, Y, Z) what is predicted: the mask, or the foreground of slices that show enough of it."""
    if mask is not None:
        if mask.shape != dwi.spatial_shape:
            raise InputError(f"The mask has matrix {mask.shape}; expected the input's, {dwi.spatial_shape}.")
        return mask.astype(bool)
    inside = foreground_mask(dwi.signal) & dwi.signal.any(axis=3)
    shown = inside.mean(axis=in_plane_axes(axis)) >= MIN_FOREGROUND
    return inside & np.expand_dims(shown, in_plane_axes(axis))


def _by_tile(tiles: Sequence[Tile], count: int, part: slice) -> Iterator[tuple[Tile, slice, int]]:
    """What of a part of a batch (tiles x volumes) belongs to each tile: the tile, where in the part, its number."""
    for number in range(part.start // count, -(-part.stop // count)):
        first, last = max(part.start, number * count), min(part.stop, (number + 1) * count)
        yield tiles[number], slice(first - part.start, last - part.start), number


@dataclass(frozen=True)
class Symmetry:
    """A flip of images (B, C, *n), and whether rows and columns are exchanged after it."""

    flipped: tuple[int, ...]
    transposed: bool

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Apply it."""
        images = images.flip(self.flipped)
        return images.mT if self.transposed else images

    def back(self, images: torch.Tensor) -> torch.Tensor:
        """Undo it."""
        return (images.mT if self.transposed else images).flip(self.flipped)

    def size(self, size: Sequence[int]) -> tuple[int, ...]:
        """What a size becomes under it."""
        return (*size[:-2], size[-1], size[-2]) if self.transposed else tuple(size)


def symmetries(shape: Sequence[int], size: Sequence[int]) -> list[Symmetry]:
    """The symmetries under which super-resolution of images of `shape` to `size`, both in pixels, is the same task.

    The eight of the square where both axes of a slice are refined alike, else its four flips; the eight flips of a
    block.
    """
    axes = [-1 - a for a in range(len(shape))]
    subsets = [tuple(a for n, a in enumerate(axes) if bits >> n & 1) for bits in range(2 ** len(axes))]
    alike = len(shape) == 2 and shape[0] * size[1] == shape[1] * size[0]
    return [
        Symmetry(flipped, transposed) for flipped in subsets for transposed in ((False, True) if alike else (False,))
    ]
