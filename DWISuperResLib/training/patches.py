"""From scans to batches: slabs degraded on the fly, patches drawn from them, all a function of (seed, index)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ..dwi import B0_THRESHOLD
from ..errors import InputError
from ..io.cohort import divide
from ..microstructure.tensor import determines_tensor
from ..networks.views import SliceAssembler, SliceInput
from ..resampling import upsamplers as interpolation
from ..resampling.grid import in_plane_axes
from .cache import Scan, open_scan
from .configuration import Configuration
from .tasks import TASKS, Slab, separable
from .validation import Case, prepare

Batch = dict[str, Any]
UNLUCKY = 100
"""Draws of directions, none of which determines a tensor, after which it is no coincidence."""


def lowered(slab: Slab, shape: Sequence[int]) -> Slab:
    """Coarser slices of `shape` (rows, columns): band-limited, as if acquired with larger voxels."""

    def matrix(n_out: int, n_in: int) -> NDArray[np.float64]:
        step = n_in / n_out
        centres = (np.arange(n_out, dtype=np.float64) + 0.5) * step - 0.5
        lobes = 3 * step
        return interpolation.sample_kernel(
            n_in,
            centres.astype(np.float64),
            lambda x: np.where(np.abs(x) < lobes, np.sinc(x / step) * np.sinc(x / lobes), 0),
            lobes,
        )

    return separable(slab, matrix(shape[0], slab.shape[-2]), matrix(shape[1], slab.shape[-1]))


def windowed(slab: Slab, alphas: Sequence[float] | NDArray[np.float64]) -> Slab:
    """Slices under the window alpha + (1 - alpha) cos(2 pi k), k in cycles a pixel, along (rows, columns).

    Scanners filter k-space, each in its own way, and 0.54 is Hamming's window; above 1 it sharpens.
    """

    def matrix(n: int, alpha: float) -> NDArray[np.float64]:
        # The window's transform: three taps, mirrored at the border.
        shifted = np.pad(np.eye(n), ((1, 1), (0, 0)), mode="symmetric")
        return alpha * np.eye(n) + (1 - alpha) / 2 * (shifted[:-2] + shifted[2:])

    return separable(slab, *(matrix(n, a) for n, a in zip(slab.shape[-2:], alphas, strict=True)))


class Batches(Dataset):
    """Batch `index` is a function of (seed, index) alone, so workers, resuming and epochs cannot change it.

    A batch is a dict: input (B, C, h, w) and target (B, 1, H, W) in network intensity, scale, gains and offsets
    (B,) that lead back to signal, and `gradients`: one (bvals, bvecs) for each run of samples that show one place
    in several volumes, empty where samples are independent.
    """

    def __init__(
        self, scans: Sequence[Scan], slice_input: SliceInput, config: Configuration, joint: int | None
    ) -> None:
        """`joint`: volumes drawn together at each place; None: one, and every patch has its own place."""
        self.scans = scans
        self.config = config
        self.joint = joint
        self.slice_input = slice_input
        self.assemblers = [SliceAssembler(slice_input, s.bvals, s.bvecs, s.normalisation) for s in scans]
        sizes = np.array([1.0 if config.data.weighting == "scan" else s.shape[0] * s.shape[1] for s in scans])
        self.chances = sizes / sizes.sum()

    def __getitem__(self, index: int) -> Batch:
        config, data = self.config, self.config.data
        rng = np.random.default_rng((config.seed, index))
        scale = int(rng.choice(config.scales))
        turn = bool(config.augmentation.rotations and rng.random() < 0.5)
        chosen = rng.choice(len(self.scans), size=data.slabs, p=self.chances)
        if data.patch is None:
            chosen[:] = chosen[0]
        factor = float(rng.uniform(*config.augmentation.resample))
        shapes = [tuple(round(n / factor) for n in self.scans[c].shape[2:]) for c in chosen]
        edge = data.patch or max(map(max, shapes))
        patch = tuple(min(edge // scale, min(s[a] for s in shapes) // scale) for a in (0, 1))
        parts = [self._draw(c, scale, shape, patch, turn, rng) for c, shape in zip(chosen, shapes, strict=True)]
        return {
            "scale": scale,
            "gradients": [g for part in parts for g in part["gradients"]],
            **{k: torch.cat([p[k] for p in parts]) for k in ("input", "target", "gains", "offsets")},
        }

    def _draw(self, chosen: int, scale: int, shape, patch, turn: bool, rng: np.random.Generator) -> Batch:
        """Patches of one slab."""
        scan, assembler, data = self.scans[chosen], self.assemblers[chosen], self.config.data
        augmentation = self.config.augmentation
        in_brain = rng.random() < data.brain
        area = scan.brain_area / scan.brain_area.sum() if in_brain else None
        position = int(rng.choice(scan.shape[0], p=area))
        drawn = self._volumes(scan, rng)
        # Without guidance, only the volumes that are drawn are read.
        shown = np.arange(scan.shape[1]) if self.slice_input.guidance else np.unique(drawn)
        slab = scan.slab(position, self.slice_input.neighbours, shown)
        mask = scan.mask[position]
        if shape != slab.shape[-2:]:
            slab = lowered(slab, shape)
            rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, mask.shape, strict=True))
            mask = mask[np.ix_(rows, columns)]
        if augmentation.window != (1, 1) and rng.random() < 0.5:
            slab = windowed(slab, rng.uniform(*augmentation.window, size=2))
        gains = scan.normalisation.gains[shown][:, None, None, None]
        exponent = float(rng.uniform(*augmentation.contrast))
        if exponent != 1:
            slab = np.maximum(slab * gains, 0) ** np.float32(exponent) / gains
        start = [int(rng.integers(n % scale + 1)) for n in shape]
        stop = [s + n // scale * scale for s, n in zip(start, shape, strict=True)]
        slab, mask = (
            slab[..., start[0] : stop[0], start[1] : stop[1]],
            mask[start[0] : stop[0], start[1] : stop[1]],
        )
        low = TASKS[self.config.task](slab, scan, scale, self.config, rng)
        if self.slice_input.guidance:
            channels = assembler(torch.from_numpy(low), torch.from_numpy(drawn.ravel()))
        else:
            full = np.zeros((scan.shape[1], *low.shape[1:]), np.float32)
            full[shown] = low
            channels = assembler(torch.from_numpy(full), torch.from_numpy(drawn.ravel()))
        target = torch.from_numpy(slab[np.searchsorted(shown, drawn.ravel()), self.slice_input.neighbours])
        gains_drawn = torch.from_numpy(scan.normalisation.gains[drawn.ravel()])
        target = (target - scan.normalisation.offset) * gains_drawn[:, None, None]
        inside = np.argwhere(mask)
        inputs, targets = [], []
        for first in range(0, drawn.size, drawn.shape[1]):
            samples = slice(first, first + drawn.shape[1])
            row, column = self._place(inside if in_brain else None, patch, scale, slab.shape[-2:], rng)
            fine = [slice(scale * o, scale * (o + n)) for o, n in zip((row, column), patch, strict=True)]
            pair = [
                channels[samples, :, row : row + patch[0], column : column + patch[1]],
                target[samples, None, fine[0], fine[1]],
            ]
            gain = float(rng.uniform(*augmentation.intensity))
            flips = [a for a in (-2, -1) if augmentation.flips and rng.random() < 0.5]
            pair = [torch.flip(p * gain, flips) for p in pair]
            inputs.append(pair[0].mT if turn else pair[0])
            targets.append(pair[1].mT if turn else pair[1])
        tables = [(scan.bvals[v], scan.bvecs[v]) for v in drawn] if self.joint else []
        return {
            "input": torch.cat(inputs),
            "target": torch.cat(targets),
            "gains": gains_drawn,
            "offsets": torch.full_like(gains_drawn, scan.normalisation.offset),
            "gradients": tables,
        }

    def _volumes(self, scan: Scan, rng: np.random.Generator) -> NDArray[np.intp]:
        """(places, volumes at each) to show."""
        n, places = scan.shape[1], self.config.data.patches
        if self.joint is None:
            weighted = scan.bvals > B0_THRESHOLD
            share = self.config.data.b0
            if share is None or weighted.all() or not weighted.any():
                return rng.integers(n, size=(places, 1))
            chances = np.where(weighted, (1 - share) / weighted.sum(), share / (~weighted).sum())
            return rng.choice(n, size=(places, 1), p=chances)
        if self.joint >= n:
            return np.tile(np.arange(n), (places, 1))
        return np.array([self._directions(scan, self.joint, rng) for _ in range(places)])

    @staticmethod
    def _directions(scan: Scan, joint: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """`joint` volumes that a tensor can be fitted to, one of them a b0 where there is one."""
        b0 = np.flatnonzero(scan.bvals <= B0_THRESHOLD)
        weighted = np.setdiff1d(np.arange(scan.shape[1]), b0)
        for _ in range(UNLUCKY):
            fixed = rng.choice(b0, size=min(1, len(b0)), replace=False) if len(b0) else np.empty(0, int)
            rest = min(joint - len(fixed), len(weighted))
            drawn = np.sort(np.concatenate([fixed, rng.choice(weighted, size=rest, replace=False)]))
            if determines_tensor(scan.bvals[drawn], scan.bvecs[drawn]):
                return drawn
        raise InputError(
            f"{UNLUCKY} draws of {joint} volumes from {scan.path} had no six independent directions; raise "
            "data.volumes."
        )

    @staticmethod
    def _place(inside, patch, scale: int, shape, rng: np.random.Generator) -> tuple[int, int]:
        """Low-resolution corner of a patch, around a random brain pixel where `inside` lists any."""
        room = [n // scale - p for n, p in zip(shape, patch, strict=True)]
        if inside is None or not len(inside):
            return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        centre = inside[rng.integers(len(inside))] // scale
        row, column = (int(np.clip(c - p // 2, 0, r)) for c, p, r in zip(centre, patch, room, strict=True))
        return row, column


class EpochSampler(Sampler[int]):
    """Indices of one epoch's batches, counted over all epochs; each process takes its share."""

    def __init__(self, length: int, rank: int, processes: int) -> None:
        self.length, self.rank, self.processes = length, rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, after resuming as well."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.length * self.processes + self.rank
        return iter(range(first, first + self.length * self.processes, self.processes))

    def __len__(self) -> int:
        return self.length


class DWIData(lightning.LightningDataModule):
    """Training batches, and the scans held out."""

    def __init__(self, config: Configuration, slice_input: SliceInput, joint: int | None) -> None:
        super().__init__()
        self.config, self.slice_input, self.joint = config, slice_input, joint
        data = config.data
        self.files, self.held_out = divide(
            data.scans, held_out=data.validation, exclude=data.exclude, subject=data.subject, seed=config.seed
        )
        self.cache = config.data.cache or config.output / "cache"

    def _open(self, path: Path, every_axis: bool) -> list[Scan]:
        first = open_scan(path, self.cache, self.config.normalisation)
        if not every_axis:
            return [first]
        others = [open_scan(path, self.cache, self.config.normalisation, a) for a in in_plane_axes(first.axis)]
        # A view lower than a patch, of a scan with few slices, would shrink the patches of its whole batch.
        return [first, *(view for view in others if min(view.shape[2:]) >= (self.config.data.patch or 0))]

    def prepare_data(self) -> None:
        """Write the memory-mapped copies; one process a machine does it."""
        for path in self.files:
            self._open(path, self.config.data.axes == "all")
        for path in self.held_out:
            self._open(path, False)

    def setup(self, stage: str) -> None:
        self.scans = [s for path in self.files for s in self._open(path, self.config.data.axes == "all")]
        for scan in self.scans if self.joint else ():
            if (self.joint or 0) < 7 or not determines_tensor(scan.bvals, scan.bvecs):
                raise InputError(
                    f"{scan.path} has {scan.shape[1]} volumes, drawn {self.joint} at a time; losses across volumes "
                    "need a b0 and six directions at least, so exclude it or raise data.volumes."
                )
        self.validation_scans = [s for path in self.held_out for s in self._open(path, False)]

    def train_dataloader(self) -> DataLoader:
        workers = self.config.data.workers
        length = self.config.schedule.steps_per_epoch * self.config.schedule.accumulate
        return DataLoader(
            Batches(self.scans, self.slice_input, self.config, self.joint),
            batch_size=None,
            sampler=EpochSampler(length, *self._place()),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        """Indices of cases; -1, which scores nothing, keeps a process without any in step with the others."""
        rank, processes = self._place()
        count = len(self.validation_scans) * len(self.config.served)
        return DataLoader(list(range(rank, count, processes)) or [-1], batch_size=None)  # type: ignore[arg-type]

    def _place(self) -> tuple[int, int]:
        """This process, and how many there are."""
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size

    def case(self, index: int) -> Case:
        """Slices of held-out scan `index // len(served)` at one scale, the same at every call."""
        scan = self.validation_scans[index // len(self.config.served)]
        scale = self.config.served[index % len(self.config.served)]
        return prepare(scan, scale, self.config, self.slice_input, seed=self.config.seed + index)
