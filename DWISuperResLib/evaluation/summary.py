"""An evaluation in a few numbers and in a few plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import METRICS, Metric, metrics_of
from .drawing import label_of
from .regions import DIRECTED, DIRECTION_FA

if TYPE_CHECKING:
    from .evaluate import Evaluation
    from .selfchecks import Check

SUMMARISED_MAPS = ("fa", "qa", "gfa", "md")


@dataclass(frozen=True)
class Column:
    """One number for each method.

    Attributes
    ----------
    quantity : str
        "signal", a map, or "direction".
    metric : Metric
    phrase : str
        What the verdict calls it.
    """

    quantity: str
    metric: Metric
    phrase: str = ""

    @property
    def factor(self) -> float:
        """From the unit of the scores to the one shown: MD is in 10⁻³ mm²/s."""
        return 1e3 if self.quantity == "md" and self.metric.unit is None else 1.0

    @property
    def heading(self) -> str:
        """With the unit and an arrow towards the better."""
        label = {"signal": "DWI ", "direction": ""}
        prefix = label[self.quantity] if self.quantity in label else f"{label_of(self.quantity)} "
        unit = " (10⁻³ mm²/s)" if self.factor != 1 else ""
        return f"{prefix}{self.metric.heading}{unit} {'↑' if self.metric.higher_is_better else '↓'}"

    def value(self, evaluation: Evaluation, method: str) -> float:
        """Of a method; the signal's are means over the weighted b-values, each counted by its volumes."""
        if self.quantity != "signal":
            region = DIRECTED if self.quantity == "direction" else "brain"
            return self.factor * evaluation.score(method, self.quantity, self.metric.name, region=region)
        volumes = evaluation.conditions["volumes"]
        shells = [s for s in evaluation.shells if s != "b0"] or evaluation.shells
        values = [evaluation.score(method, "signal", self.metric.name, volumes=s) for s in shells]
        return float(np.average(values, weights=[volumes[s] for s in shells]))

    def closest(self, evaluation: Evaluation, methods: Sequence[str]) -> str:
        """The best of some methods."""
        sign = -1 if self.metric.higher_is_better else 1
        values = {name: sign * self.value(evaluation, name) for name in methods}
        return min(methods, key=lambda name: values[name] if math.isfinite(values[name]) else math.inf)


JUDGED = (
    Column("signal", METRICS["nrmse"], "signal error (NRMSE)"),
    Column("fa", METRICS["mae"], "FA error"),
    Column("qa", METRICS["mae"], "QA error"),
    Column("direction", METRICS["mean_deg"], "direction error"),
)
"""What the verdict rests on; of all of these less is better."""


def summary_columns() -> list[Column]:
    """Every headline metric of the signal, of the maps and of the direction.

    Examples
    --------
    >>> summary_columns()[0].metric.label
    'PSNR'
    """
    kinds = [("signal", "signal"), *((name, "map") for name in SUMMARISED_MAPS), ("direction", "direction")]
    return [Column(quantity, metric) for quantity, kind in kinds for metric in metrics_of(kind, headline=True)]  # type: ignore[arg-type]


def summary_table(evaluation: Evaluation) -> dict[str, Any]:
    """Header and rows of cells {text, best}; the best of each column is marked where there is a choice."""
    methods = [candidate.name for candidate in evaluation.candidates]
    values = {column: [column.value(evaluation, name) for name in methods] for column in summary_columns()}
    shown = {column: found for column, found in values.items() if np.isfinite(found).any()}
    rows = []
    for i, candidate in enumerate(evaluation.candidates):
        cells = []
        for column, found in shown.items():
            best = (np.nanmax if column.metric.higher_is_better else np.nanmin)(found)
            text = f"{found[i]:.{column.metric.decimals}f}" if math.isfinite(found[i]) else "n/a"
            cells.append({"text": text, "best": len(found) > 1 and found[i] == best})
        rows.append(
            {"name": candidate.name, "kind": candidate.kind, "cells": cells, "seconds": f"{candidate.seconds:.1f}"}
        )
    header = [column.heading for column in shown]
    return {"header": header, "rows": rows, "timed": any(c.seconds for c in evaluation.candidates)}


def verdict(
    evaluation: Evaluation, checks: Sequence[Check] = (), run: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """The outcome in a few plain sentences, the most important first; `run` as for `report.write_report`."""
    sentences = _findings(evaluation)
    files = {Path(str(value)).name for value in run.values()}
    for network, scans in evaluation.conditions.get("trained on", {}).items():
        if known := files & set(scans.split(", ")):
            sentences.append(
                f"The checkpoint {network} was trained on {min(known)}: this says little about scans it never saw."
            )
    if fired := [c.name for c in checks if c.fired]:
        sentences.append(f"Self-checks that warn: {', '.join(fired)}; see below what to do.")
    elif checks:
        sentences.append(f"None of the {len(checks)} self-checks warns.")
    return sentences


def _findings(evaluation: Evaluation) -> list[str]:
    if evaluation.conditions["task"] == "compare":
        return _of_comparison(evaluation)
    networks = [c.name for c in evaluation.candidates if c.kind == "checkpoint"]
    classical = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    if networks:
        return [_of_network(evaluation, network, classical) for network in networks if classical]
    judged = JUDGED[:1] if evaluation.structural else JUDGED
    listed = "; ".join(f"{column.phrase}: {column.closest(evaluation, classical)}" for column in judged)
    return [f"No checkpoint was evaluated. Closest to the original among the interpolations: {listed}."]


def _of_network(evaluation: Evaluation, network: str, classical: Sequence[str]) -> str:
    better, parts = 0, []
    for column in JUDGED:
        value, best = column.value(evaluation, network), column.closest(evaluation, classical)
        rival = column.value(evaluation, best)
        if not (math.isfinite(value) and rival > 0):
            continue
        better += column.metric.better(value, rival)
        change = 100 * (value / rival - 1)
        parts.append(f"{column.phrase} {abs(change):.1f} % {'lower' if change < 0 else 'higher'} ({best})")
    lead = f"is closer to the original than every classical interpolation on {better} of {len(parts)} measures"
    if better in (0, len(parts)):
        lead = f"{'comes' if better else 'does not come'} closer to the original than every classical interpolation"
    return f"The checkpoint {network} {lead}; against the best one for each measure: {'; '.join(parts)}."


def _of_comparison(evaluation: Evaluation) -> list[str]:
    reference, test = evaluation.reference.name, evaluation.candidates[0].name
    parts = []
    for quantity in ("fa", "qa"):
        bias, low, high, mae = (evaluation.score(test, quantity, m) for m in ("bias", "loa_lower", "loa_upper", "mae"))
        mean = float(evaluation.reference.maps[quantity][evaluation.mask].mean())
        parts.append(
            f"{label_of(quantity)} differs by {mae:.3f} on average ({100 * mae / mean:.0f} % of its mean of "
            f"{mean:.3f}), "
            f"with a bias of {bias:+.3f} and 95 % of voxels between {low:+.3f} and {high:+.3f}"
        )
    angle = evaluation.score(test, "direction", "mean_deg", region=DIRECTED)
    return [
        f"In the brain, {test} against {reference}: {parts[0]}.",
        f"{parts[1]}. Principal directions differ by {angle:.1f}° on average where FA is at least {DIRECTION_FA}.",
    ]
