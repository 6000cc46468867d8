"""From scans to batches: slabs degraded on the fly, patches drawn from them, all a function of (seed, index)."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from ..dwi import B0_THRESHOLD
from ..errors import InputError
from ..microstructure.tensor import determines_tensor
from ..networks.views import Assembler, View
from ..resampling.grid import regridded_mask
from .cache import Scan, open_scan, open_simulated
from .configuration import Configuration
from .configuration import Factors as Triple
from .tasks import TASKS, Slab, lowered, separable
from .validation import Case, prepare, shown_slab

Batch = dict[str, Any]
DRAWS_BEFORE_GIVING_UP = 100
"""Draws of directions, none of which determines a tensor, after which it is no coincidence."""
AROUND, HALO = 2, 4
"""Of a volume, patches are drawn from a part so many patches wide, and so many coarse voxels more where it was cut."""


def windowed(slab: Slab, alphas: Sequence[float] | NDArray[np.float64]) -> Slab:
    """(..., *n) under the window alpha + (1 - alpha) cos(2 pi k), k in cycles a voxel, along each of the last axes.

    Scanners filter k-space, each in its own way, and 0.54 is Hamming's window; above 1 it sharpens.
    """

    def matrix(n: int, alpha: float) -> NDArray[np.float64]:
        # The window's transform: three taps, mirrored at the border.
        shifted = np.pad(np.eye(n), ((1, 1), (0, 0)), mode="symmetric")
        return alpha * np.eye(n) + (1 - alpha) / 2 * (shifted[:-2] + shifted[2:])

    return separable(slab, [matrix(n, a) for n, a in zip(slab.shape[-len(alphas) :], alphas, strict=True)])


@dataclass(frozen=True)
class Place:
    """A scan, the factors along the axes that a network is shown, and their lengths on the fine grid."""

    scan: Scan
    factors: tuple[Fraction, ...]
    shape: tuple[int, ...]

    @property
    def whole(self) -> tuple[int, ...]:
        """The lengths less what whole voxels of the coarse grid do not fill."""
        return tuple(n // f.numerator * f.numerator for n, f in zip(self.shape, self.factors, strict=True))

    def cut(self, rng: np.random.Generator) -> list[slice]:
        """A random region of the fine grid that whole voxels of the coarse one fill."""
        starts = [int(rng.integers(n % f.numerator + 1)) for n, f in zip(self.shape, self.factors, strict=True)]
        return [slice(s, s + n) for s, n in zip(starts, self.whole, strict=True)]

    def limits(self, region: Sequence[slice]) -> list[tuple[int, int]]:
        """From where to where in a region of `part` patches may reach: to within `HALO` of where it was cut."""
        limits = []
        for box, n, whole, f in zip(region, self.shape, self.whole, self.factors, strict=True):
            length = box.stop - box.start
            halo = math.ceil(HALO * f) if length < whole else 0
            limits.append((halo if box.start > 0 else 0, length - halo if box.stop < n else length))
        return limits

    def part(self, patch: Sequence[int], rng: np.random.Generator, in_brain: bool) -> list[slice]:
        """A region as of `cut`, but only `AROUND` patches wide: a whole volume takes far longer to lower than to learn.

        Somewhere, or around a random brain voxel.
        """
        shown = np.argwhere(self.scan.mask) if in_brain else np.empty((0, 3))
        share = (shown[rng.integers(len(shown))] + 0.5) / self.scan.extent if len(shown) else rng.random(3)
        region = []
        for n, whole, f, p, centre in zip(self.shape, self.whole, self.factors, patch, share, strict=True):
            wanted = AROUND * p + 2 * math.ceil(HALO * f)
            length = min(whole, -(-wanted // f.numerator) * f.numerator)
            start = int(np.clip(round(centre * n - length / 2), 0, n - length))
            region.append(slice(start, start + length))
        return region


class Batches(Dataset):
    """Batch `index` is a function of (seed, index) alone, so workers, resuming and epochs cannot change it.

    A batch is a dict: input (B, C, *n) and target (B, 1, *m) in network intensity, gains and offsets (B,) that lead
    back to signal, and `gradients`: one (bvals, bvecs) for each run of samples that show one place in several volumes,
    empty where samples are independent.

    Parameters
    ----------
    scans : sequence of Scan
    view : View
        Of the network.
    config : Configuration
    together : int, optional
        Volumes drawn together at each place; None: one, and every patch has its own place.
    """

    def __init__(self, scans: Sequence[Scan], view: View, config: Configuration, together: int | None) -> None:
        self.scans, self.config = scans, config
        self.together = together
        self.view = view
        self.assemblers = {id(s): Assembler(view, s.bvals, s.bvecs, s.normalisation) for s in scans}
        sizes = np.array([1.0 if config.data.weighting == "scan" else s.extent[0] * s.count for s in scans])
        self.chances = sizes / sizes.sum()
        self.groups = {triple: self._alike(triple) for triple in config.served}

    def __getitem__(self, index: int) -> Batch:
        data, augmentation = self.config.data, self.config.augmentation
        rng = np.random.default_rng((self.config.seed, index))
        triples = [self._triple(rng)] * data.slabs
        transposed = bool(augmentation.rotations and rng.random() < 0.5)
        chosen = self._chosen(triples, rng)
        coarser = float(rng.uniform(*augmentation.resample))
        places = [self._place(self.scans[c], triple, coarser) for c, triple in zip(chosen, triples, strict=True)]
        patch = self._patch(places)
        if patch[-1] != patch[-2]:
            transposed = transposed and all(place.factors[-1] == place.factors[-2] for place in places)
        parts = [self._draw(place, patch, transposed, rng) for place in places]
        return {
            "gradients": [g for part in parts for g in part["gradients"]],
            **{k: torch.cat([p[k] for p in parts]) for k in ("input", "target", "gains", "offsets")},
        }

    def _chosen(self, triples: list[Triple], rng: np.random.Generator) -> NDArray[np.intp]:
        """Numbers of the scans that slabs are taken of; `triples` are drawn anew where each may have its own."""
        if self.view.kernel is None or self.config.data.patch is None:
            chosen = self._scans(triples[0], len(triples), rng)
            return chosen if self.config.data.patch else np.full_like(chosen, chosen[0])
        # On the fine grid, patches of all factors have one shape.
        triples[1:] = [self._triple(rng) for _ in triples[1:]]
        return np.concatenate([self._scans(triple, 1, rng) for triple in triples])

    def _triple(self, rng: np.random.Generator) -> Triple:
        return self.config.scales[int(rng.integers(len(self.config.scales)))]

    def _scans(self, triple: Triple, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Numbers of scans whose images a triple refines alike."""
        groups = self.groups[triple]
        shares = np.array([self.chances[group].sum() for group in groups])
        group = groups[rng.choice(len(groups), p=shares / shares.sum()) if len(groups) > 1 else 0]
        chances = self.chances[group]
        return rng.choice(group, size=count, p=chances / chances.sum())

    def _alike(self, triple: Triple) -> list[NDArray[np.intp]]:
        """Numbers of the scans that show what a triple refines, together those whose images it refines alike.

        On the coarse grid, only these make patches of one shape: which of rows and columns is the slice axis depends on
        how a scan was acquired, which is the first of its axes on how it is stored.
        """
        found: dict[tuple[Fraction, ...], list[int]] = {}
        for number, scan in enumerate(self.scans):
            if self.view.dimensions == 3 or scan.stacked in scan.planes(triple, self.config.data):
                factors = scan.factors(triple)[3 - self.view.dimensions :] if self.view.kernel is None else ()
                found.setdefault(factors, []).append(number)
        return [np.array(numbers) for numbers in found.values()]

    def _place(self, scan: Scan, triple: Triple, coarser: float) -> Place:
        first = 3 - self.view.dimensions
        factors, extent = scan.factors(triple)[first:], scan.extent[first:]
        return Place(scan, factors, tuple(round(n / coarser) for n in extent))

    def _patch(self, places: Sequence[Place]) -> tuple[int, ...]:
        """Extent of the batch's patches on the fine grid: as configured, or what the smallest scan has."""
        edge = self.config.data.patch or max(max(place.shape) for place in places)
        extent = [min(edge, *lengths) for lengths in zip(*(place.whole for place in places), strict=True)]
        if self.view.kernel is None:
            extent = [n // f.numerator * f.numerator for n, f in zip(extent, places[0].factors, strict=True)]
        if min(extent) == 0:
            smallest = min(places, key=lambda place: min(place.whole))
            raise InputError(
                f"{smallest.scan.path} has too few voxels along an axis to be refined by "
                f"{' x '.join(f'{float(f):g}' for f in smallest.factors)}; exclude it, or leave out that scale."
            )
        return tuple(extent)

    def _draw(self, place: Place, patch: tuple[int, ...], transposed: bool, rng: np.random.Generator) -> Batch:
        """Patches of one slab: a slice with its neighbours, or the volume."""
        scan = place.scan
        in_brain = rng.random() < self.config.data.brain
        position = self._position(scan, in_brain, rng)
        drawn = self._volumes(scan, rng)
        # Guidance is made of the same slice of all volumes; of the neighbouring slices, those of the drawn are enough.
        seen = np.unique(drawn)
        shown = np.arange(scan.count) if self.view.guidance else seen
        volume = self.view.dimensions == 3
        region = place.part(patch, rng, in_brain) if volume else [slice(None)] * 2
        images, mask = self._read(place, position, region, shown, seen)
        owners = np.concatenate([shown, np.repeat(seen, self.view.context - 1)])
        images = self._varied(images, scan.normalisation.gains[owners], len(place.shape), rng)
        if not volume:
            region = place.cut(rng)
            images, mask = images[_last(region)], mask[tuple(region)]
        guide = self._guide(place, position, region) if self.view.guide else None
        channels = self._channels(images, guide, place, shown, drawn.ravel(), rng)
        target = torch.from_numpy(images[np.searchsorted(shown, drawn.ravel())])
        gains = torch.from_numpy(scan.normalisation.gains[drawn.ravel()])
        target = (target - scan.normalisation.offset) * gains.view(-1, *(1,) * (target.ndim - 1))
        inside = np.argwhere(mask) if in_brain else None
        limits = place.limits(region) if volume else [(0, n) for n in mask.shape]
        pairs = []
        for first in range(0, drawn.size, drawn.shape[1]):
            samples = slice(first, first + drawn.shape[1])
            box = self._corner(inside, patch, limits, place.factors, rng)
            pairs.append(self._pair(channels[samples], target[samples, None], box, place.factors, transposed, rng))
        return {
            "input": torch.cat([pair[0] for pair in pairs]),
            "target": torch.cat([pair[1] for pair in pairs]),
            "gains": gains,
            "offsets": torch.full_like(gains, scan.normalisation.offset),
            "gradients": [(scan.bvals[v], scan.bvecs[v]) for v in drawn] if self.together else [],
        }

    def _position(self, scan: Scan, in_brain: bool, rng: np.random.Generator) -> int:
        """Which slice; a view of blocks sees them all."""
        area = scan.brain_area / scan.brain_area.sum() if in_brain else None
        return int(rng.choice(scan.extent[0], p=area))

    def _read(
        self, place: Place, position: int, region: Sequence[slice], shown: NDArray[np.intp], seen: NDArray[np.intp]
    ) -> tuple[Slab, NDArray[np.bool_]]:
        """Signal of the `shown` volumes (V, *n), then of the neighbouring slices of each `seen` one, and (*n) brain; of
        a region of the grid of the place's shape."""
        scan, side, volume = place.scan, self.view.context // 2, self.view.dimensions == 3
        if volume and place.shape == scan.extent:
            return scan.part(shown, region), np.asarray(scan.mask[tuple(region)])
        mask = np.asarray(scan.mask if volume else scan.mask[position])
        images = scan.part(shown) if volume else scan.slab(position, 0, shown)[:, 0]
        if side:
            beside = np.delete(scan.slab(position, side, seen), side, axis=1)
            images = np.concatenate([images, beside.reshape(-1, *images.shape[1:])])
        if place.shape != images.shape[1:]:
            images, mask = lowered(images, place.shape), regridded_mask(mask, place.shape)
        return images[_last(region)], mask[tuple(region)]

    def _guide(self, place: Place, position: int, region: Sequence[slice]) -> Slab:
        """(*n) of the guide, on the fine grid."""
        guide = place.scan.guide[position] if self.view.dimensions == 2 else place.scan.guide
        return lowered(np.array(guide), place.shape)[tuple(region)]

    def _varied(self, images: Slab, gains: NDArray[np.float32], dimensions: int, rng: np.random.Generator) -> Slab:
        """Another scanner's k-space filter and contrast."""
        augmentation = self.config.augmentation
        if augmentation.window != (1, 1) and rng.random() < 0.5:
            images = windowed(images, rng.uniform(*augmentation.window, size=dimensions))
        exponent = float(rng.uniform(*augmentation.contrast))
        if exponent != 1:
            scaled = gains.reshape(-1, *(1,) * (images.ndim - 1))
            images = np.maximum(images * scaled, 0) ** np.float32(exponent) / scaled
        return images

    def _channels(
        self,
        images: Slab,
        guide: Slab | None,
        place: Place,
        shown: NDArray[np.intp],
        drawn: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> torch.Tensor:
        """(len(drawn), C, *n) what the network is shown of the degraded images, in `_read`'s order."""
        degraded = TASKS[self.config.task](images, place.scan, place.factors, self.config, rng)
        middle = self.view.context // 2
        low = np.zeros((len(shown), self.view.context, *degraded.shape[1:]), np.float32)
        low[:, middle] = degraded[: len(shown)]
        if middle:
            beside = np.delete(np.arange(self.view.context), middle)
            rows = np.searchsorted(shown, np.unique(drawn))
            low[rows[:, None], beside] = degraded[len(shown) :].reshape(len(rows), len(beside), *degraded.shape[1:])
        low = shown_slab(self.view, low, images.shape[1:])
        if len(shown) < place.scan.count:
            full = np.zeros((place.scan.count, *low.shape[1:]), np.float32)
            full[shown] = low
            low = full
        seen = None if guide is None else torch.from_numpy(lowered(guide, low.shape[2:]))
        return self.assemblers[id(place.scan)].show(torch.from_numpy(low), torch.from_numpy(drawn), seen)

    def _corner(
        self,
        inside: NDArray[np.intp] | None,
        patch: Sequence[int],
        limits: Sequence[tuple[int, int]],
        factors: Sequence[Fraction],
        rng: np.random.Generator,
    ) -> list[slice]:
        """Where a patch lies on the fine grid, around a random brain voxel where `inside` lists any."""
        if inside is None or not len(inside):
            centre = [int(rng.integers(low, high)) for low, high in limits]
        else:
            centre = [int(c) for c in inside[rng.integers(len(inside))]]
        steps = [f.numerator if self.view.kernel is None else 1 for f in factors]
        box = []
        for c, p, (low, high), step in zip(centre, patch, limits, steps, strict=True):
            start = int(np.clip((c - p // 2) // step * step, low, high - p))
            box.append(slice(start, start + p))
        return box

    def _pair(
        self,
        channels: torch.Tensor,
        target: torch.Tensor,
        box: Sequence[slice],
        factors: Sequence[Fraction],
        transposed: bool,
        rng: np.random.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and target of a patch, flipped and turned."""
        augmentation, axes = self.config.augmentation, range(-len(box), 0)
        shown = box
        if self.view.kernel is None:
            shown = [slice(int(b.start / f), int(b.stop / f)) for b, f in zip(box, factors, strict=True)]
        gain = float(rng.uniform(*augmentation.intensity))
        flips = [a for a in axes if augmentation.flips and rng.random() < 0.5]
        pair = [torch.flip(images[_last(place)] * gain, flips) for images, place in ((channels, shown), (target, box))]
        # Only where rows and columns are refined alike is a turned patch one of the same task.
        if transposed and factors[-1] == factors[-2]:
            pair = [images.mT for images in pair]
        return pair[0], pair[1]

    def _volumes(self, scan: Scan, rng: np.random.Generator) -> NDArray[np.intp]:
        """(places, volumes at each) to show."""
        n, places = scan.count, self.config.data.patches
        if self.together is None:
            weighted = scan.bvals > B0_THRESHOLD
            share = self.config.data.b0
            if share is None or weighted.all() or not weighted.any():
                return rng.integers(n, size=(places, 1))
            chances = np.where(weighted, (1 - share) / weighted.sum(), share / (~weighted).sum())
            return rng.choice(n, size=(places, 1), p=chances)
        if self.together >= n:
            return np.tile(np.arange(n), (places, 1))
        return np.array([self._directions(scan, self.together, rng) for _ in range(places)])

    @staticmethod
    def _directions(scan: Scan, together: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """`together` volumes that a tensor can be fitted to, one of them a b0 where there is one."""
        b0 = np.flatnonzero(scan.bvals <= B0_THRESHOLD)
        weighted = np.setdiff1d(np.arange(scan.count), b0)
        for _ in range(DRAWS_BEFORE_GIVING_UP):
            fixed = rng.choice(b0, size=min(1, len(b0)), replace=False) if len(b0) else np.empty(0, int)
            rest = min(together - len(fixed), len(weighted))
            drawn = np.sort(np.concatenate([fixed, rng.choice(weighted, size=rest, replace=False)]))
            if determines_tensor(scan.bvals[drawn], scan.bvecs[drawn]):
                return drawn
        raise InputError(
            f"{DRAWS_BEFORE_GIVING_UP} draws of {together} volumes from {scan.path} had no six independent directions; "
            "raise data.volumes."
        )


def _last(box: Sequence[slice]) -> tuple[Any, ...]:
    """Index of a box of the last axes."""
    return (..., *box)


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

    def __init__(
        self, config: Configuration, view: View, together: int | None, scans: tuple[list[Path], list[Path]]
    ) -> None:
        super().__init__()
        self.config, self.view, self.together = config, view, together
        self.files, self.held_out = scans
        self._first_epoch = 0
        self.cache = config.data.cache or config.output / "cache"

    def _open(self, path: Path) -> Scan:
        data = self.config.data
        return open_scan(path, self.cache, self.config.normalisation, data.guide, data.native)

    def _simulated(self) -> list[Scan]:
        """Scans of random contrast, made of structural images."""
        data, found = self.config.data, []
        for number, structural in enumerate(data.structural):
            for n in range(data.simulations):
                seed = (self.config.seed * 1000 + number) * 1000 + n
                found.append(open_simulated(structural, seed, self.cache, self.config.normalisation))
        return found

    def _references(self, files: Sequence[Path]) -> list[Scan]:
        """Those of some scans that show what a network should make."""
        scans = [self._open(path) for path in files]
        kept = [scan for scan in scans if scan.is_reference]
        if scans and not kept:
            raise InputError(
                f"{scans[0].path} and all scans with it were resampled at an angle; give scans as they were acquired, "
                "or set data.native=false."
            )
        return kept

    def _looked_at(self, scan: Scan) -> list[Scan]:
        """A scan in every plane that the network is shown."""
        if self.view.dimensions == 3:
            return [scan]
        axes = {axis for triple in self.config.served for axis in scan.planes(triple, self.config.data)}
        return [scan.stacked_along(axis) for axis in sorted(axes, key=lambda axis: (axis != scan.axis, axis))]

    def prepare_data(self) -> None:
        """Write the memory-mapped copies; one process a machine does it."""
        for path in (*self.files, *self.held_out):
            scan = self._open(path)
            if scan.remark:
                done = "taken down to that" if scan.is_reference else "left out"
                print(f"{path.name}: {scan.remark.removesuffix('.')}; {done}.", file=sys.stderr)
        self._simulated()

    def setup(self, stage: str) -> None:
        """Open them."""
        scans = [*self._references(self.files), *self._simulated()]
        self.scans = [looked_at for scan in scans for looked_at in self._looked_at(scan)]
        for scan in self.scans if self.together else ():
            if (self.together or 0) < 7 or not determines_tensor(scan.bvals, scan.bvecs):
                raise InputError(
                    f"{scan.path} has {scan.count} volumes, drawn {self.together} at a time; losses across volumes "
                    "need a b0 and six directions at least, so exclude it or raise data.volumes."
                )
        self.validation_scans = self._references(self.held_out)

    def state_dict(self) -> dict[str, int]:
        """At the end of an epoch, when runs are saved, the number of the next.

        Lightning would tell it the sampler of a resumed run only when batches of the first are on their way.
        """
        assert self.trainer is not None
        return {"epoch": self.trainer.current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Of a run that is resumed."""
        self._first_epoch = state_dict["epoch"]

    def train_dataloader(self) -> DataLoader:
        """Batches of the epochs."""
        workers = self.config.data.workers
        length = self.config.schedule.steps_per_epoch * self.config.schedule.accumulate
        sampler = EpochSampler(length, *self._process())
        sampler.set_epoch(self._first_epoch)
        return DataLoader(
            Batches(self.scans, self.view, self.config, self.together),
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader:
        """Indices of cases; -1, which scores nothing, keeps a process without any in step with the others."""
        rank, processes = self._process()
        count = len(self.validation_scans) * len(self.config.served)
        return DataLoader(list(range(rank, count, processes)) or [-1], batch_size=None)  # type: ignore[arg-type]

    def _process(self) -> tuple[int, int]:
        """This process, and how many there are."""
        assert self.trainer is not None
        return self.trainer.global_rank, self.trainer.world_size

    def case(self, index: int) -> Case:
        """Slices of held-out scan `index // len(served)` at one scale, the same at every call."""
        scan = self.validation_scans[index // len(self.config.served)]
        triple = self.config.served[index % len(self.config.served)]
        if self.view.dimensions == 2:
            scan = scan.stacked_along(scan.planes(triple, self.config.data)[0])
        return prepare(scan, triple, self.config, self.view, seed=self.config.seed + index)
