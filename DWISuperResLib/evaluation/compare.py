"""Two scans of one grid: their maps, the differences, and how large those are in the brain and in its tissues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .scorer import Maps, Row, Scorer

if TYPE_CHECKING:
    from ..dwi import DWI


@dataclass(frozen=True, eq=False)
class Comparison:
    """Maps of a reference and of a test scan, test minus reference, and statistics of the difference.

    Maps are (X, Y, Z) float32, 0 outside `mask`. QA and ISO of both are in units of the largest QA of the reference in
    the mask, which is 1 / `qa_scale` in the signal's unit.

    Each row of `statistics` has: map, region, n (voxels), the metrics of maps (mae, rmse, bias (mean difference),
    correlation (Pearson), loa_lower and loa_upper (Bland-Altman 95 % limits of agreement, bias -+ 1.96 SD)),
    reference_mean, test_mean. Regions: "brain" (the mask) and, where a tensor can be fitted to the reference, classes
    by its FA and MD, see `regions.REGIONS`.
    """

    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]
    maps: tuple[str, ...]
    reference: Maps
    test: Maps
    difference: Maps
    statistics: list[dict[str, Any]]
    qa_scale: float

    @classmethod
    def of(
        cls,
        maps: Sequence[str],
        reference: Mapping[str, NDArray[np.float32]],
        test: Mapping[str, NDArray[np.float32]],
        rows: Sequence[Row],
        regions: Mapping[str, NDArray[np.bool_]],
        **shared: Any,
    ) -> Comparison:
        """From what a `Scorer` fitted and found."""
        maps = tuple(dict.fromkeys(maps))
        statistics: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            if row["quantity"] in maps:
                key = (row["quantity"], row["region"])
                empty = {"map": key[0], "region": key[1], "n": row["voxels"]}
                statistics.setdefault(key, empty)[row["metric"]] = row["value"]
        for (name, region), found in statistics.items():
            for column, values in (("reference_mean", reference), ("test_mean", test)):
                found[column] = float(values[name][regions[region]].mean(dtype=np.float64))
        first, second = ({name: values[name] for name in maps} for values in (reference, test))
        difference = {name: second[name] - first[name] for name in maps}
        mask = regions["brain"]
        return cls(
            mask=mask, maps=maps, reference=first, test=second, difference=difference,
            statistics=list(statistics.values()), **shared,
        )  # fmt: skip

    def as_tsv(self) -> str:
        """The statistics as tab-separated values with a header."""
        columns = list(self.statistics[0])
        rows = [columns, *([str(row[column]) for column in columns] for row in self.statistics)]
        return "".join("\t".join(row) + "\n" for row in rows)


def compare(
    reference: DWI, test: DWI, maps: Sequence[str] = ("fa", "qa"), *, mask: NDArray | None = None, fit: str = "wls"
) -> Comparison:
    """Compare the microstructure of two scans.

    To compare several with one reference, make a `Scorer` of it once.

    Parameters
    ----------
    reference, test : DWI
        On one grid. Gradient tables may differ.
    maps, fit
        As for `compute_maps`.
    mask : array (X, Y, Z), optional
        Voxels to compare, on the reference's grid; `brain_mask(reference)` by default.

    Raises
    ------
    InputError
        If the grids differ, the mask is empty or has another matrix, or a gradient table is too small for the maps.

    Examples
    --------
    >>> from DWISuperResLib import phantom
    >>> scan = phantom((16, 20, 3), (10, 10, 12), supersampling=1)
    >>> comparison = compare(scan, scan, ("fa",), mask=np.ones(scan.spatial_shape))
    >>> comparison.statistics[0]["region"], comparison.statistics[0]["mae"]
    ('brain', 0.0)
    """
    scorer = Scorer(reference, mask, maps=maps, fit=fit)
    found = scorer(test)
    return Comparison.of(
        scorer.maps, scorer.fitted, found.maps, found.rows, scorer.regions,
        affine=reference.affine, qa_scale=scorer.qa_scale,
    )  # fmt: skip
