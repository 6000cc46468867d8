"""How much finer a grid is along each voxel axis."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import MAX_FACTOR
from .grid import regridded_affine, slice_axis

if TYPE_CHECKING:
    from ..dwi import DWI

_NOTICEABLE = Fraction(1001, 1000)
"""Voxel sizes nearer to each other than this are the same, written with few digits."""

Shape = tuple[int, int, int]
ScaleLike: TypeAlias = "Scale | int | float | str | Sequence[float]"


@dataclass(frozen=True)
class Scale:
    """One factor of at least 1 for each voxel axis.

    A factor is what was asked for. A grid has whole voxels and keeps its field of view, so what an axis of n voxels
    really gets is n_out / n with n_out the whole number nearest to factor * n: see `fine_shape` and `refine`.

    Parameters
    ----------
    factors : three Fractions

    Raises
    ------
    InputError
        If there are not three factors, or one is below 1.

    Examples
    --------
    >>> scale = Scale.of(2, 2.5, 1)
    >>> str(scale), scale.fine_shape((64, 64, 20)), scale.coarse_shape((128, 160, 20))
    ('2x2.5x1', (128, 160, 20), (64, 64, 20))
    """

    factors: tuple[Fraction, Fraction, Fraction]

    def __post_init__(self) -> None:
        if len(self.factors) != 3 or min(self.factors) < 1:
            raise self._impossible()

    @classmethod
    def of(cls, *factors: float | Fraction) -> Scale:
        """The scale of three numbers, one for each voxel axis."""
        first, second, third = (_fraction(f) for f in factors)
        return cls((first, second, third))

    @classmethod
    def in_plane(cls, factor: float | Fraction, axis: int) -> Scale:
        """`factor` along the two axes within a slice, 1 along the slice axis.

        Examples
        --------
        >>> str(Scale.in_plane(3, axis=0))
        '1x3x3'
        """
        return cls.of(*(1 if a == axis else factor for a in range(3)))

    @classmethod
    def of_slices(cls, first: float | Fraction, second: float | Fraction, across: float | Fraction, axis: int) -> Scale:
        """Factors along both axes within a slice, in ascending order, and along the slice axis.

        Examples
        --------
        >>> str(Scale.of_slices(2, 2, 3, axis=0))
        '3x2x2'
        """
        in_plane = iter((first, second))
        return cls.of(*(across if a == axis else next(in_plane) for a in range(3)))

    @classmethod
    def between(cls, coarse: Sequence[int], fine: Sequence[int]) -> Scale:
        """The exact factors that lead from one matrix to another over the same field of view.

        These may exceed `MAX_FACTOR`: at 5, an axis of 96 voxels becomes one of 19, whose voxels are 96/19 times as
        large.

        Examples
        --------
        >>> str(Scale.between((19, 40, 10), (96, 80, 10)))
        '5.053x2x1'
        """
        first, second, third = (Fraction(m, n) for n, m in zip(coarse, fine, strict=True))
        return cls((first, second, third))

    @classmethod
    def parse(cls, value: ScaleLike, dwi: DWI, axis: int | str | None = None, *, coarser: bool = False) -> Scale:
        """Understand a scale as users write it, up to `MAX_FACTOR`.

        Parameters
        ----------
        value : Scale, number, str or three numbers
            2 or "2.5": in-plane, that is along the two axes within the slices. "1x1x3": a factor for each voxel axis.
            "1.25mm": to voxels of that size, as near as whole voxels allow; axes that are finer (or, to lower the
            resolution, coarser) stay. "2x2x1.5mm": the same with a size for each axis.
        dwi : DWI
            The scan at hand.
        axis : {0, 1, 2, "i", "j", "k"}, optional
            Slice axis, for an in-plane factor; see `grid.slice_axis`.
        coarser : bool
            Whether the scan at hand is the finer one, so that a voxel size is that of the coarser grid.

        Raises
        ------
        InputError
            If it is no scale, or a factor lies outside 1 to `MAX_FACTOR`.

        Examples
        --------
        >>> from DWISuperResLib import phantom
        >>> scan = phantom((16, 20, 4), (2, 2, 2.5), snr=None, supersampling=1)  # the slice axis is the third
        >>> [str(Scale.parse(value, scan)) for value in (2, "2.5", "1x1x3", "1.25mm")]
        ['2x2x1', '2.5x2.5x1', '1x1x3', '1.6x1.6x2']
        """
        if isinstance(value, Scale):
            return value
        text = value.strip().lower() if isinstance(value, str) else ""
        if text.endswith("mm"):
            scale = cls._to_voxel_size(text, dwi, coarser)
        else:
            scale = cls._of_factors(text.split("x") if text else value, dwi, axis)
        if max(scale.factors) > MAX_FACTOR:
            raise scale._impossible()
        return scale

    @classmethod
    def _to_voxel_size(cls, text: str, dwi: DWI, coarser: bool) -> Scale:
        numbers = [_fraction(part) for part in text.removesuffix("mm").split("x")]
        wanted = numbers * 3 if len(numbers) == 1 else numbers
        if len(wanted) != 3 or min(wanted) <= 0:
            raise _no_scale(text)
        sizes = [Fraction(float(size)).limit_denominator(10**6) for size in dwi.voxel_sizes]
        ratios = [w / s if coarser else s / w for s, w in zip(sizes, wanted, strict=True)]
        factors = [ratio if ratio > _NOTICEABLE else Fraction(1) for ratio in ratios]
        if max(factors) == 1:
            raise InputError(
                f"The scale {text!r} asks for voxels no {'coarser' if coarser else 'finer'} than the scan's "
                f"({' x '.join(f'{size:.3g}' for size in dwi.voxel_sizes)} mm); give a "
                f"{'larger' if coarser else 'smaller'} size."
            )
        return cls.of(*factors)

    @classmethod
    def _of_factors(cls, value: int | float | str | Sequence[float | str], dwi: DWI, axis: int | str | None) -> Scale:
        several = isinstance(value, Sequence) and not isinstance(value, str)
        numbers = [_fraction(part) for part in (value if several else [value])]  # type: ignore[union-attr]
        if len(numbers) == 1:
            return cls.in_plane(numbers[0], slice_axis(dwi, axis))
        if len(numbers) != 3:
            raise _no_scale(value)
        return cls.of(*numbers)

    def fine_shape(self, shape: Sequence[int]) -> Shape:
        """Matrix of the finer grid over the field of view of a coarser one.

        Examples
        --------
        >>> Scale.of(2.5, 2.5, 1).fine_shape((13, 10, 7))
        (33, 25, 7)
        """
        return self._shape(n * f for n, f in zip(shape, self.factors, strict=True))

    def coarse_shape(self, shape: Sequence[int]) -> Shape:
        """Matrix of the coarser grid over the field of view of a finer one.

        Examples
        --------
        >>> Scale.of(2, 2, 1).coarse_shape((81, 106, 76))
        (41, 53, 76)
        """
        return self._shape(n / f for n, f in zip(shape, self.factors, strict=True))

    def refine(self, affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
        """Affine of the finer grid, given that and the matrix of the coarser one.

        Examples
        --------
        The outer edges stay where they are: the first of two voxels of 0.5 mm lies a quarter of 1 mm before the centre.

        >>> Scale.of(2, 2, 1).refine(np.eye(4), (8, 8, 8))[0].tolist()
        [0.5, 0.0, 0.0, -0.25]
        """
        return regridded_affine(affine, shape, self.fine_shape(shape))

    def coarsen(self, affine: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.float64]:
        """Affine of the coarser grid, given that and the matrix of the finer one."""
        return regridded_affine(affine, shape, self.coarse_shape(shape))

    def _impossible(self) -> InputError:
        return InputError(
            f"The scale has the factors {', '.join(_text(f) for f in self.factors)}; expected three, each from 1 to "
            f"{MAX_FACTOR}."
        )

    def __str__(self) -> str:
        return "x".join(_text(f) for f in self.factors)

    @staticmethod
    def _shape(lengths: Iterable[Fraction]) -> Shape:
        first, second, third = (max(1, math.floor(n + Fraction(1, 2))) for n in lengths)
        return first, second, third


def _fraction(value: object) -> Fraction:
    text = str(value).strip()
    if isinstance(value, bool) or not (
        isinstance(value, Fraction) or re.fullmatch(r"\d{1,9}(\.\d{0,9})?|\.\d{1,9}", text)
    ):
        raise _no_scale(value)
    return Fraction(value if isinstance(value, Fraction) else text)


def _no_scale(value: object) -> InputError:
    return InputError(
        f"The scale is {value!r}; expected an in-plane factor (2 or 2.5), a factor for each voxel axis (1x1x3) or a "
        f"voxel size (1.25mm), factors from 1 to {MAX_FACTOR}."
    )


def _text(factor: Fraction) -> str:
    return f"{float(factor):.4g}"
