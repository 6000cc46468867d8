"""What a network is shown of a volume, and where its answer belongs.

A view looks at a scan in its `resampling.grid.Frame`, as (volumes, slices, rows, columns), and divides it into tiles: a
slice, or a block. Training and inference both assemble a network's input here, from a slab: the signal of all volumes
in a tile, with what the view wants to see around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ..dwi import B0_THRESHOLD, foreground_mask, shells
from ..errors import InputError
from ..registry import Registry
from ..resampling.operators import KERNELS, apply_operators, operator

if TYPE_CHECKING:
    import torch

Box = tuple[slice, slice, slice]

SMALLEST_MEAN = 0.1
"""A volume's mean beside its mean magnitude. Magnitude images have 1; real-valued noise alone, which has none to divide
by, next to 0."""


NEGLIGIBLE = 1e-7
"""Weight of a coarse voxel beside 1, below which an interpolation leaves it out: float32 would not show it."""


@dataclass(frozen=True, slots=True)  # there may be a hundred thousand
class Tile:
    """A box of a frame: where it begins and ends along slices, rows and columns.

    Examples
    --------
    >>> Tile((3, 0, 0), (4, 96, 80)).shape
    (1, 96, 80)
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def box(self) -> Box:
        """Index into (..., slices, rows, columns)."""
        slices, rows, columns = map(slice, self.start, self.stop)
        return slices, rows, columns

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its extent along slices, rows, columns."""
        slices, rows, columns = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return slices, rows, columns


class View(Protocol):
    """What a network is shown, and where its answer belongs."""

    dimensions: ClassVar[int]
    """Spatial axes of the network's images: 2 (rows, columns) or 3 (slices, rows, columns)."""
    guide: bool
    """Whether the last channel is a guide: an image of another contrast or of higher resolution."""

    @property
    def guidance(self) -> tuple[str, ...]:
        """Of `GUIDANCE`: images made from all volumes of the same tile."""

    @property
    def kernel(self) -> str | None:
        """How images are interpolated to the fine grid before the network; None: it is shown the coarse one."""

    @property
    def channels(self) -> int:
        """Number of input channels; channel 0 is the image itself."""

    @property
    def context(self) -> int:
        """Images of the same volume that are shown, the tile's own in the middle."""

    def tiles(self, shape: Sequence[int], inside: NDArray[np.bool_]) -> list[Tile]:
        """Tiles of the fine grid `shape` that show anything of `inside`, a mask on that grid; all of equal extent."""

    def slab(self, low: NDArray, tile: Tile, shape: Sequence[int]) -> NDArray[np.float32]:
        """(N, context, *n) signal of the coarse `low` (N, slices, rows, columns) that a tile of the fine grid shows."""

    def guide_shape(self, coarse: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
        """Matrix of the grid that tiles are shown on, and so guides: that of the scan, or the fine one."""

    def weight(self, tile: Tile, shape: Sequence[int]) -> NDArray[np.float32] | None:
        """Weight of a tile's answer where tiles overlap, up to a factor; None: tiles do not overlap."""

    def describe(self) -> dict[str, Any]:
        """Plain JSON values for a checkpoint's card."""


@dataclass(frozen=True)
class SliceView:
    """Slices, one by one, on the coarse or on the fine grid within the slice.

    Parameters
    ----------
    neighbours : int
        Adjacent slices of the same volume on either side, 0 to 8.
    guidance : tuple of str
        Of `GUIDANCE`: images made from all volumes of the same slice.
    guide : bool
        Whether a guide's slice, on the grid that is shown, is shown as well.
    kernel : str, optional
        How slices are interpolated to the fine grid, see `resampling.operators.operator`; by default they are shown on
        the coarse one.

    Examples
    --------
    >>> view = SliceView(neighbours=1, guidance=("mean_b0",))
    >>> view.channels, view.context
    (4, 3)
    """

    neighbours: int = 0
    guidance: tuple[str, ...] = ()
    guide: bool = False
    kernel: str | None = None
    dimensions: ClassVar[int] = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", _checked_guidance(self.guidance))
        if self.kernel is not None:
            KERNELS.find(self.kernel)
        if self.neighbours not in range(9):
            raise InputError(f"neighbours is {self.neighbours!r}; expected 0 to 8 slices on either side.")
        _check_guide(self.guide)

    @property
    def context(self) -> int:
        """The slice and its neighbours."""
        return 1 + 2 * self.neighbours

    @property
    def channels(self) -> int:
        """The slice, its neighbours, the guidance images, the guide."""
        return self.context + len(self.guidance) + self.guide

    def tiles(self, shape: Sequence[int], inside: NDArray[np.bool_]) -> list[Tile]:
        """A tile for each slice that shows anything of `inside` (slices, rows, columns)."""
        shown = np.flatnonzero(inside.any(axis=(1, 2)))
        return [Tile((int(s), 0, 0), (int(s) + 1, int(shape[1]), int(shape[2]))) for s in shown]

    def slab(self, low: NDArray, tile: Tile, shape: Sequence[int]) -> NDArray[np.float32]:
        """(N, 1 + 2 neighbours, H, W) around a slice of `low` (N, slices, h, w); beyond the ends the last repeats."""
        position, k = tile.start[0], self.neighbours
        members = np.clip(np.arange(position - k, position + k + 1), 0, low.shape[1] - 1)
        part = low[:, members]
        if self.kernel is not None:
            part = _interpolated(part, shape[1:], tile.box[1:], self.kernel)
        return np.ascontiguousarray(part, np.float32)

    def guide_shape(self, coarse: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
        """That of the grid that is shown."""
        return tuple(coarse if self.kernel is None else fine)

    def weight(self, tile: Tile, shape: Sequence[int]) -> None:
        """Slices do not overlap."""

    def describe(self) -> dict[str, Any]:
        """For a checkpoint's card; those made before there was a kernel have none."""
        plain = {"kind": "slice", "neighbours": self.neighbours, "guidance": list(self.guidance), **_told(self.guide)}
        return plain if self.kernel is None else plain | {"kernel": self.kernel}


@dataclass(frozen=True)
class BlockView:
    """Blocks of the volume, interpolated to the fine grid, so that any factors along any axes are served.

    Parameters
    ----------
    size : int
        Edge of a block in voxels of the fine grid.
    overlap : int
        Of adjacent blocks, in voxels. They are blended over the middle quarter of it, so with 8/3 of the network's
        reach, or more, the result does not depend on how the volume is divided.
    guidance : tuple of str
        Of `GUIDANCE`: images made from all volumes of the same block.
    kernel : str
        How blocks are interpolated, see `resampling.operators.operator`.
    guide : bool
        Whether a guide's block, on the fine grid, is shown as well.

    Examples
    --------
    >>> BlockView(size=32).dimensions
    3
    """

    size: int = 64
    overlap: int = 16
    guidance: tuple[str, ...] = ()
    kernel: str = "bspline"
    guide: bool = False
    dimensions: ClassVar[int] = 3
    context: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "guidance", _checked_guidance(self.guidance))
        KERNELS.find(self.kernel)
        if type(self.size) is not int or type(self.overlap) is not int or not 0 <= 2 * self.overlap <= self.size <= 512:
            raise InputError(
                f"The blocks have size {self.size!r} and overlap {self.overlap!r}; expected a size up to 512 voxels "
                "and an overlap of at most half of it."
            )
        _check_guide(self.guide)

    @property
    def channels(self) -> int:
        """The block, the guidance images, the guide."""
        return 1 + len(self.guidance) + self.guide

    def tiles(self, shape: Sequence[int], inside: NDArray[np.bool_]) -> list[Tile]:
        """Overlapping blocks over the whole grid, those without anything of `inside` left out."""
        edges = [min(self.size, int(n)) for n in shape]
        starts = [_starts(int(n), edge, self.overlap) for n, edge in zip(shape, edges, strict=True)]
        found = []
        for place in product(*starts):
            stop = tuple(start + edge for start, edge in zip(place, edges, strict=True))
            tile = Tile((place[0], place[1], place[2]), (stop[0], stop[1], stop[2]))
            if inside[tile.box].any():
                found.append(tile)
        return found

    def slab(self, low: NDArray, tile: Tile, shape: Sequence[int]) -> NDArray[np.float32]:
        """(N, 1, d, h, w): the part of `low` (N, slices, rows, columns), interpolated to `shape`, that a tile shows."""
        return np.ascontiguousarray(_interpolated(low, shape, tile.box, self.kernel)[:, None], np.float32)

    def guide_shape(self, coarse: Sequence[int], fine: Sequence[int]) -> tuple[int, ...]:
        """That of the fine grid."""
        return tuple(fine)

    def weight(self, tile: Tile, shape: Sequence[int]) -> NDArray[np.float32]:
        """One inside; towards another block it falls to zero over the middle quarter of the overlap."""
        ramps = []
        for start, stop, n in zip(tile.start, tile.stop, shape, strict=True):
            ramp = np.ones(stop - start)
            width = min(self.overlap, stop - start)
            if width:
                rising = np.clip(((np.arange(width) + 0.5) / width - 0.375) * 4, 1e-6, 1)
                if start > 0:
                    ramp[:width] *= rising
                if stop < n:
                    ramp[-width:] *= rising[::-1]
            ramps.append(ramp)
        return np.einsum("i,j,k->ijk", *ramps).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """For a checkpoint's card."""
        return {
            "kind": "block", "size": self.size, "overlap": self.overlap, "guidance": list(self.guidance),
            "kernel": self.kernel, **_told(self.guide),
        }  # fmt: skip


def _check_guide(guide: object) -> None:
    if not isinstance(guide, bool):
        raise InputError(f"guide is {guide!r}; expected true or false.")


def _told(guide: bool) -> dict[str, bool]:
    """On cards of guided networks alone: those of others, older ones too, know no guide."""
    return {"guide": True} if guide else {}


def _starts(n: int, edge: int, overlap: int) -> list[int]:
    """Where blocks of `edge` begin on an axis of n voxels, so that they overlap by `overlap` or more and fill it."""
    count = -(-max(n - overlap, 1) // max(edge - overlap, 1)) if n > edge else 1
    return sorted({round(i * (n - edge) / max(count - 1, 1)) for i in range(count)})


def _interpolated(low: NDArray, shape: Sequence[int], box: Sequence[slice], kernel: str) -> NDArray:
    """The last axes of `low`, interpolated to `shape`, as a box of that grid shows them.

    Of the coarse grid only what bears on the box is touched, so that memory follows the box and not the volume.
    """
    first = low.ndim - len(shape)
    windows: list[Any] = list(box)
    operators: dict[int, NDArray] = {}
    for axis, (n, m, kept) in enumerate(zip(low.shape[first:], shape, box, strict=True)):
        if n != m:
            rows = operator(int(n), int(m), kernel)[kept]
            used = np.flatnonzero(np.abs(rows).max(0) > NEGLIGIBLE)
            windows[axis] = slice(int(used[0]), int(used[-1]) + 1)
            operators[first + axis] = rows[:, windows[axis]]
    return apply_operators(low[(..., *windows)], operators)


@dataclass(frozen=True)
class Normalisation:
    """Signal <-> network intensity: (signal - offset) * gains[n] for volume n; gain 0 marks an empty volume.

    `measure` finds it from a scan; "volume" divides each volume by its mean over the foreground, "paper" maps the
    whole 4D volume's minimum and maximum to 0 and 1 (arXiv:2605.15895, public code).
    """

    offset: float
    gains: NDArray[np.float32]

    @classmethod
    def measure(cls, signal: NDArray[np.float32], kind: str) -> Normalisation:
        """Find the normalisation of a signal (X, Y, Z, N); `kind` is "volume" or "paper".

        Raises
        ------
        InputError
            If the kind is unknown, or the mean of a volume to divide by is negative or next to nothing beside its
            values (`SMALLEST_MEAN`).

        Examples
        --------
        >>> volumes = np.stack([np.full((4, 4, 4), v, np.float32) for v in (200.0, 50.0, 0.0)], axis=-1)
        >>> Normalisation.measure(volumes, "volume").gains.tolist()
        [0.004999999888241291, 0.019999999552965164, 0.0]
        """
        if kind == "paper":
            low, high = float(signal.min()), float(signal.max())
            return cls(low, np.full(signal.shape[3], 1 / (high - low) if high > low else 0, np.float32))
        if kind != "volume":
            raise InputError(f"The normalisation is {kind!r}; expected volume or paper.")
        foreground = foreground_mask(signal)
        means, sizes = np.zeros((2, signal.shape[3]))
        for n in range(signal.shape[3]):
            inside = signal[..., n][foreground]
            means[n], sizes[n] = inside.mean(dtype=np.float64), np.abs(inside).mean(dtype=np.float64)
        if unusable := np.flatnonzero((sizes > 0) & (means < SMALLEST_MEAN * sizes)).tolist():
            first = unusable[0]
            raise InputError(
                f"Volumes {unusable} have no positive signal on average (volume {first}: mean {means[first]:.3g} at a "
                f"mean magnitude of {sizes[first]:.3g} in the foreground), and a network needs magnitudes; take away "
                "the offset, leave these volumes out, or interpolate instead (for instance by sinc)."
            )
        return cls(0.0, np.divide(1, means, out=np.zeros_like(means), where=means > 0).astype(np.float32))


class Assembler:
    """Turn slabs of one scan into network input, and network output back into signal.

    Parameters
    ----------
    view : View
    bvals, bvecs : arrays (N,) in s/mm², (N, 3)
    normalisation : Normalisation
    """

    def __init__(
        self,
        view: View,
        bvals: NDArray[np.float64],
        bvecs: NDArray[np.float64],
        normalisation: Normalisation,
    ) -> None:
        import torch

        self.view = view
        self.offset = normalisation.offset
        self.gains = torch.from_numpy(normalisation.gains)
        matrices = [GUIDANCE[name](bvals, bvecs, normalisation.gains) for name in view.guidance]
        self._guidance = torch.from_numpy(np.stack(matrices).astype(np.float32)) if matrices else None

    def show(
        self, slab: torch.Tensor, volumes: Sequence[int] | torch.Tensor, guide: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Assemble channels: the image, its neighbours in the order -1, +1, -2, +2, ..., guidance, the guide.

        Parameters
        ----------
        slab : tensor, shape (N, context, *n)
            Signal of every volume, the image itself in the middle.
        volumes : sequence of int, length B
        guide : tensor, shape *n, where the view shows one
            Of mean 1 in its foreground.

        Returns
        -------
        tensor, shape (B, channels, *n)
        """
        import torch

        k = self.view.context // 2
        order = [k] + [k + side * step for step in range(1, k + 1) for side in (-1, 1)]
        volumes = torch.as_tensor(volumes, device=slab.device)
        parts = [(slab[volumes][:, order] - self.offset) * self._gains_of(volumes, slab)]
        if self._guidance is not None:
            guidance = self._guidance.to(slab.device)[:, volumes]
            images = torch.tensordot(guidance, slab[:, k] - self.offset, dims=([2], [0]))
            parts.append(images.transpose(0, 1))
        if guide is not None:
            parts.append(guide.expand(len(volumes), 1, *guide.shape))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def restore(self, images: torch.Tensor, volumes: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Network intensity (B, 1, *n) back to signal; an empty volume stays empty."""
        import torch

        gains = self._gains_of(volumes, images)
        return images / torch.where(gains > 0, gains, torch.inf) + self.offset

    def _gains_of(self, volumes: Sequence[int] | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        import torch

        gains = self.gains.to(like.device)[torch.as_tensor(volumes, device=like.device)]
        return gains.view(-1, *(1,) * (like.ndim - 1))


def shell_fit(bvals: NDArray[np.float64], bvecs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Hat matrix (N, N): each shell's least-squares fit of an even quadratic in the direction, else its mean.

    Even polynomials up to order 2 span the even spherical harmonics up to order 2. The mean where fewer than seven
    directions, or none, are given.
    """
    matrix = np.zeros((len(bvals), len(bvals)))
    for members in (np.flatnonzero(bvals <= B0_THRESHOLD), *shells(bvals)):
        g = bvecs[members]
        x, y, z = g.T
        basis = np.stack((x * x, y * y, z * z, x * y, x * z, y * z), axis=1)
        if len(members) < 7 or (np.linalg.norm(g, axis=1) < 0.5).any():
            basis = np.ones((len(members), 1))
        matrix[np.ix_(members, members)] = basis @ np.linalg.pinv(basis)
    return matrix


Guidance = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]], NDArray[np.float64]]
GUIDANCE: Registry[Guidance] = Registry("guidance")
"""Each makes, of b-values, directions and gains, the matrix (N, N) from all signals to an image for each volume."""


@GUIDANCE.register("q_smooth")
def _q_smooth(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], gains: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The volume's own contrast with less noise: `shell_fit`, evaluated at its own direction."""
    return shell_fit(bvals, bvecs) * gains[:, None]


@GUIDANCE.register("mean_b0")
def _mean_b0(bvals: NDArray[np.float64], bvecs: NDArray[np.float64], gains: NDArray[np.float32]) -> NDArray[np.float64]:
    return _mean_of(bvals <= B0_THRESHOLD, gains)


@GUIDANCE.register("mean_dwi")
def _mean_dwi(
    bvals: NDArray[np.float64], bvecs: NDArray[np.float64], gains: NDArray[np.float32]
) -> NDArray[np.float64]:
    weighted = bvals > B0_THRESHOLD
    # Without weighting, the mean of all: on three of four structural images the default network errs less by it.
    return _mean_of(weighted if weighted.any() else np.ones_like(weighted), gains)


def _mean_of(members: NDArray[np.bool_], gains: NDArray[np.float32]) -> NDArray[np.float64]:
    row = members * gains / max(members.sum(), 1)
    return np.tile(row, (len(gains), 1))


def _checked_guidance(names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; each at most once, since they come from files of strangers."""
    found = tuple(names)
    seen: set[str] = set()
    for name in found:
        GUIDANCE.find(name)
        if name in seen:
            raise InputError(f"The guidance names {name} more than once; name each image once.")
        seen.add(name)
    return found
