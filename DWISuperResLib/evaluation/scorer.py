"""How close a scan is to its reference: one answer for reports, comparisons, studies and training."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..dwi import shells
from ..errors import InputError
from ..metrics import Metric, Pair, metrics_of
from ..microstructure import brain_mask, compute_maps, map_info
from ..resampling.grid import check_same_grid, slice_axis
from .regions import REGIONS, find_regions

if TYPE_CHECKING:
    from ..dwi import DWI
    from ..metrics.deep import DeepDistance

Found = TypeVar("Found")
Maps = dict[str, NDArray[np.float32]]
Row = dict[str, Any]
COLUMNS = ("quantity", "metric", "value", "region", "volumes", "voxels", "data_range")
"""Of a row of scores: one value, what was measured, where, on which volumes, and the data range it rests on."""

DISTANCE_SLICES, DISTANCE_VOLUMES = 4, 3
"""Deep feature distances look at this many slices of this many weighted volumes."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a `Scorer` finds of a scan.

    Attributes
    ----------
    rows : list of dict
        With the keys `COLUMNS`.
    maps, difference : dict of array (X, Y, Z)
        Of the test, and test minus reference; 0 outside the mask. Maps in the signal's unit (QA, ISO) are in units of
        the reference's largest QA.
    direction : array, shape (X, Y, Z, 3), optional
        Principal directions, where they were asked for.
    """

    rows: list[Row]
    maps: Maps
    difference: Maps
    direction: NDArray[np.float32] | None

    def value(self, quantity: str, metric: str, *, region: str = "brain", volumes: str = "") -> float:
        """One value; NaN where it was not measured."""
        return find_value(self.rows, quantity=quantity, metric=metric, region=region, volumes=volumes)


def find_value(rows: Sequence[Row], **wanted: str) -> float:
    """The value of the row that says all this; NaN where there is none.

    Examples
    --------
    >>> find_value([{"metric": "mae", "region": "brain", "value": 0.5}], metric="mae")
    0.5
    """
    return next((row["value"] for row in rows if all(row[key] == text for key, text in wanted.items())), math.nan)


class Scorer:
    """A reference scan, its maps fitted once; called with another scan, it measures how close that comes.

    Parameters
    ----------
    reference : DWI
    mask : array (X, Y, Z), optional
        Voxels that count; `brain_mask(reference)` by default.
    maps : collection of str
        Maps that are compared, see `compute_maps`.
    groups : mapping of str to volumes, optional
        Volumes whose signals are compared, each group on its own, see `volume_groups`; none by default, and gradient
        tables may then differ.
    regions : collection of str
        Some of `REGIONS`; where no tensor can be fitted to the reference, the brain alone counts.
    direction : bool
        Whether principal directions are compared.
    distances : sequence of DeepDistance
        Deep feature distances of a few slices of a few weighted volumes (of others where none is weighted).
    distance_slices : int
        At most so many slices for these.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    fit : {"wls", "ols", "iwls"}
        Tensor fit.
    name : str
        Of the reference, for messages.

    Attributes
    ----------
    fitted : dict of array (X, Y, Z)
        The reference's maps: those compared, those that regions need.
    fitted_direction : array (X, Y, Z, 3), optional
    regions : dict of array of bool (X, Y, Z)
    qa_scale : float
        Factor on both scans' maps that are in the signal's unit: QA and ISO.

    Raises
    ------
    InputError
        If the mask is empty or of another matrix, or a map cannot be computed.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((16, 20, 3), (10, 10, 12), supersampling=1)
    >>> scorer = Scorer(scan, np.ones(scan.spatial_shape, bool), maps=("fa",), groups=volume_groups(scan))
    >>> scores = scorer(scan)
    >>> scores.value("fa", "mae"), scores.value("signal", "psnr", volumes="b1000")
    (0.0, inf)
    """

    def __init__(
        self,
        reference: DWI,
        mask: NDArray | None = None,
        *,
        maps: Collection[str] = ("fa", "qa"),
        groups: Mapping[str, NDArray[np.intp]] | None = None,
        regions: Collection[str] = tuple(REGIONS),
        direction: bool = False,
        distances: Sequence[DeepDistance] = (),
        distance_slices: int = DISTANCE_SLICES,
        axis: int | str | None = None,
        fit: str = "wls",
        name: str = "reference",
    ) -> None:
        from ..microstructure.tensor import determines_tensor

        self.reference, self.fit, self.name = reference, fit, name
        self.axis = slice_axis(reference, axis)
        self.mask = brain_mask(reference) if mask is None else np.asarray(mask) > 0
        if self.mask.shape != reference.spatial_shape or not self.mask.any():
            raise InputError(
                f"The mask has matrix {self.mask.shape} and {int(self.mask.sum())} voxels; expected the scan's "
                f"{reference.spatial_shape} with the brain marked, not empty."
            )
        self.groups = dict(groups or {})
        self.distances, self.distance_slices = tuple(distances), distance_slices
        self.maps = tuple(dict.fromkeys(maps))
        needed = set(self.maps) | ({"qa"} if any(map(_has_units_of_signal, self.maps)) else set())
        if any(REGIONS[n].rule for n in regions) and determines_tensor(reference.bvals, reference.bvecs):
            needed |= {"fa", "md"}
        self._vectors = ("direction",) if direction else ()
        computed = compute_maps(reference, {*needed, *self._vectors}, fit=fit, mask=self.mask)
        self.fitted_direction = computed.pop("direction", None)
        largest = float(computed["qa"].max()) if "qa" in computed else 0.0
        self.qa_scale = 1 / largest if largest > 0 else 1.0
        self.fitted = self._scaled(computed)
        self.regions = find_regions(self.mask, self.fitted, regions)

    def __call__(self, test: DWI, name: str = "test") -> Scores:
        """Measure a scan.

        Raises
        ------
        InputError
            If it lies on another grid or, where signals are compared, has another gradient table.
        """
        check_same_grid(self.reference, test, (self.name, name))
        if self.groups or self.distances:
            self._check_same_volumes(test, name)
        rows: list[Row] = []
        for group, members in self.groups.items():
            rows += self._of_signal(test, group, members)
        if self.distances:
            rows += self._of_distances(test)
        maps = compute_maps(test, {*self.maps, *self._vectors}, fit=self.fit, mask=self.mask)
        direction = maps.pop("direction", None)
        maps = self._scaled({quantity: maps[quantity] for quantity in self.maps})
        for quantity, values in maps.items():
            for region, inside in self._regions_of("map"):
                pair = Pair(self.fitted[quantity], values, inside, self.axis)
                rows += _rows(quantity, metrics_of("map"), pair, region)
        if self.fitted_direction is not None and direction is not None:
            for region, inside in self._regions_of("direction"):
                pair = Pair(self.fitted_direction, direction, inside, self.axis)
                rows += _rows("direction", metrics_of("direction"), pair, region)
        difference = {name: maps[name] - self.fitted[name] for name in maps}
        return Scores(rows, maps, difference, direction)

    def _scaled(self, maps: Maps) -> Maps:
        scale = np.float32(self.qa_scale)
        return {name: values * scale if _has_units_of_signal(name) else values for name, values in maps.items()}

    def _regions_of(self, kind: str) -> list[tuple[str, NDArray[np.bool_]]]:
        return [(name, inside) for name, inside in self.regions.items() if kind in REGIONS[name].of and inside.any()]

    def _check_same_volumes(self, test: DWI, name: str) -> None:
        reference = self.reference
        if reference.n_volumes != test.n_volumes or np.abs(reference.bvals - test.bvals).max() > 1:
            raise InputError(
                f"The {self.name} has {reference.n_volumes} volumes and the {name} {test.n_volumes}, or their b-values "
                "differ; both must be measured with the same gradient table."
            )

    def _of_signal(self, test: DWI, group: str, members: NDArray[np.intp]) -> list[Row]:
        # Volumes side by side need no copy.
        shown = slice(members[0], members[-1] + 1) if np.all(np.diff(members) == 1) else members
        pair = Pair(self.reference.signal[..., shown], test.signal[..., shown], self.mask, self.axis)
        where = ("brain", group, pair.data_range)  # found here, of what all metrics share
        found = concurrently([partial(_rows, "signal", [m], pair, *where) for m in metrics_of("signal")])
        return [row for rows in found for row in rows]

    def _of_distances(self, test: DWI) -> list[Row]:
        from ..metrics.deep import alike, measure_distances, sample_slices

        of_weighted = not self.reference.is_b0.all()
        shown = np.flatnonzero(~self.reference.is_b0 | (not of_weighted))
        members = shown[np.unique(np.linspace(0, len(shown) - 1, DISTANCE_VOLUMES).round().astype(int))]
        pair = (self.reference.signal[..., members], test.signal[..., members])
        images, wanted, inside = sample_slices(*pair, self.mask, self.axis, slices=self.distance_slices)
        data_range = float(pair[0][self.mask].max())
        where = ("brain", "weighted" if of_weighted else "unweighted", int(inside.sum()))

        def measured(distances: list[DeepDistance]) -> list[Row]:
            return [
                dict(zip(COLUMNS, ("deep distance", one.name, one.value, *where, float(one.data_range)), strict=True))
                for one in measure_distances(distances, images, wanted, mask=inside, data_range=data_range)
            ]

        found = concurrently([partial(measured, distances) for distances in alike(self.distances)])
        order = [distance.name for distance in self.distances]
        return sorted((row for rows in found for row in rows), key=lambda row: order.index(row["metric"]))


def concurrently(jobs: Sequence[Callable[[], Found]]) -> list[Found]:
    """What all jobs return, in their order; each runs on a thread of its own, which waits for no other.

    Examples
    --------
    >>> concurrently([lambda: 1, lambda: 2])
    [1, 2]
    """
    import torch

    from ..inference.threads import side_by_side

    return list(side_by_side(lambda job: job(), jobs, torch.get_num_threads()))


def _rows(
    quantity: str, metrics: Sequence[Metric], pair: Pair, region: str, volumes: str = "", data_range: float = math.nan
) -> list[Row]:
    where = (region, volumes, int(np.count_nonzero(pair.mask)), data_range)
    return [
        dict(zip(COLUMNS, (quantity, metric.name, float(metric.measure(pair)), *where), strict=True))
        for metric in metrics
    ]


def _has_units_of_signal(name: str) -> bool:
    return map_info(name).unit == "signal"


def volume_groups(dwi: DWI) -> dict[str, NDArray[np.intp]]:
    """Volumes by b-value: "b0", then "b1000", ... (mean b of each shell, to 50 s/mm²).

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((4, 4, 4), supersampling=1, shells=((0, 2), (1000, 3)))
    >>> volume_groups(scan)
    {'b0': array([0, 1]), 'b1000': array([2, 3, 4])}
    """
    groups = {"b0": np.flatnonzero(dwi.is_b0)} if dwi.is_b0.any() else {}
    return groups | {f"b{round(dwi.bvals[s].mean() / 50) * 50:d}": np.sort(s) for s in shells(dwi.bvals)}


def maps_that_fit(dwi: DWI, maps: Collection[str]) -> tuple[str, ...]:
    """Those of the maps that the gradient table allows to compute.

    Examples
    --------
    >>> from DWISuperResLib import DWI
    >>> bvecs = np.eye(3)[[0, 1, 2]]
    >>> maps_that_fit(DWI(np.ones((2, 2, 2, 3)), np.eye(4), [1000, 1000, 1000], bvecs), ("fa", "qa"))
    ('qa',)
    """
    voxel = replace(dwi, signal=dwi.signal[:1, :1, :1])
    fitting = []
    for name in maps:
        try:
            compute_maps(voxel, (name,))
        except InputError:
            continue
        fitting.append(name)
    return tuple(fitting)
