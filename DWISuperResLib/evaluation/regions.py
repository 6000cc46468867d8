"""The parts of the brain that are scored apart, each declared once: its name, its rule, and what is scored there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..registry import Registry

FLUID_MD = 1.5e-3
"""Mean diffusivity (mm²/s) from which a voxel of low FA counts as fluid: tissue has 0.7e-3 to 1e-3, free water 3e-3."""
DIRECTION_FA = 0.2
"""Principal directions are compared where the reference's FA is at least this: below, they are mostly noise."""

Maps = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Region:
    """A part of the brain, told by the reference's maps.

    Attributes
    ----------
    name : str
        As in tables.
    rule : callable of the reference's maps ("fa", "md"), optional
        (X, Y, Z) bool; None is the whole mask, which needs no tensor.
    of : tuple of {"map", "direction"}
        What is scored there.
    is_fa_class : bool
        Whether figures by class of FA show it.

    Examples
    --------
    >>> REGIONS["brain"].rule is None, REGIONS["FA 0.2-0.4"].is_fa_class
    (True, True)
    """

    name: str
    rule: Callable[[Maps], NDArray[np.bool_]] | None
    of: tuple[str, ...] = ("map",)
    is_fa_class: bool = False


def _fluid(maps: Maps) -> NDArray[np.bool_]:
    return (maps["fa"] < 0.2) & (maps["md"] >= FLUID_MD)


def _fa_class(low: float, high: float) -> Callable[[Maps], NDArray[np.bool_]]:
    return lambda maps: (maps["fa"] >= low) & (maps["fa"] < high) & ~_fluid(maps)


REGIONS: Registry[Region] = Registry("region")
"""By name. Fluid-like voxels (FA below 0.2, MD from 1.5e-3 mm²/s) have a row of their own and are in no class of FA;
the classes are, roughly, grey matter, mixed, white matter and the densest white matter. They and the fluid part the
brain."""

for _region in (
    Region("brain", None),
    Region("CSF-like", _fluid),
    Region("FA < 0.2", _fa_class(0.0, 0.2), is_fa_class=True),
    Region(f"FA >= {DIRECTION_FA}", lambda maps: maps["fa"] >= DIRECTION_FA, of=("direction",)),
    Region("FA 0.2-0.4", _fa_class(0.2, 0.4), of=("map", "direction"), is_fa_class=True),
    Region("FA 0.4-0.6", _fa_class(0.4, 0.6), of=("map", "direction"), is_fa_class=True),
    Region("FA >= 0.6", _fa_class(0.6, math.inf), of=("map", "direction"), is_fa_class=True),
):
    REGIONS.register(_region.name)(_region)

DIRECTED = f"FA >= {DIRECTION_FA}"
"""Region in which the error of the principal direction is summarised."""


def find_regions(
    mask: NDArray[np.bool_], maps: Maps, names: Collection[str] = tuple(REGIONS)
) -> dict[str, NDArray[np.bool_]]:
    """Masks of the named regions within `mask`, by name; without maps of FA and MD, of the brain alone.

    Examples
    --------
    >>> maps = {"fa": np.array([[[0.1, 0.1, 0.5]]]), "md": np.array([[[3e-3, 8e-4, 8e-4]]])}
    >>> found = find_regions(np.ones((1, 1, 3), bool), maps)
    >>> [name for name, inside in found.items() if inside[0, 0, 0]]
    ['brain', 'CSF-like']
    """
    return {
        name: mask if REGIONS[name].rule is None else mask & REGIONS[name].rule(maps)  # type: ignore[misc]
        for name in names
        if REGIONS[name].rule is None or {"fa", "md"} <= maps.keys()
    }
