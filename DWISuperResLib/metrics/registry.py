"""Every metric, declared once: its unit, which way is better, where it applies, and how it is computed.

What is registered here is scored, reported and can be monitored in training; nothing else has to know of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import InputError
from ..registry import Registry
from .image import Pair, ms_ssim, nrmse, psnr, ssim

Kind = Literal["signal", "map", "direction"]


@dataclass(frozen=True)
class Metric:
    """A number that says how close an image is to its reference.

    Attributes
    ----------
    name : str
        As in scores.tsv.
    label : str
        As in headings.
    measure : callable of a `Pair`
        NaN where it cannot be measured.
    of : tuple of {"signal", "map", "direction"}
        What it applies to. Directions are unit vectors (X, Y, Z, 3).
    unit : str, optional
        Empty for a number without a unit; None: the image's own.
    higher_is_better : bool, optional
        None where neither is, as for a bias.
    headline : bool
        Whether summaries show it and training can monitor it, besides the full tables.
    decimals : int
        Shown in summaries.
    short : str
        What follows the map in the names of training's scores ("fa_error"), where not `name`.

    Examples
    --------
    >>> METRICS["psnr"].heading, METRICS["psnr"].higher_is_better
    ('PSNR (dB)', True)
    >>> METRICS["psnr"].measure(Pair(np.full((2, 2, 2), 10.0), np.full((2, 2, 2), 9.0)))
    20.0
    """

    name: str
    label: str
    measure: Callable[[Pair], float]
    of: tuple[Kind, ...] = ("signal",)
    unit: str | None = ""
    higher_is_better: bool | None = False
    headline: bool = True
    decimals: int = 4
    short: str = ""

    def __post_init__(self) -> None:
        if self.headline and self.higher_is_better is None:
            raise InputError(f"The metric {self.name} is a headline, so say whether higher or lower values are better.")

    def better(self, first: float, second: float) -> bool:
        """Whether the first value is the better of the two.

        Examples
        --------
        >>> METRICS["psnr"].better(31.0, 30.0), METRICS["mae"].better(31.0, 30.0)
        (True, False)
        """
        return first > second if self.higher_is_better else first < second

    @property
    def heading(self) -> str:
        """Label with the unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def metrics_of(kind: Kind, *, headline: bool = False) -> list[Metric]:
    """Those that apply to signals, maps or directions, in the registry's order; only headline ones if asked.

    Examples
    --------
    >>> [metric.name for metric in metrics_of("signal")]
    ['psnr', 'ssim', 'ms_ssim', 'nrmse', 'rmse']
    """
    return [metric for metric in METRICS.values() if kind in metric.of and (metric.headline or not headline)]


def _correlation(pair: Pair) -> float:
    first, second = (values.ravel() for values in pair.values)
    return float(np.corrcoef(first, second)[0, 1]) if min(np.ptp(first), np.ptp(second)) > 0 else math.nan


def _limit_of_agreement(pair: Pair, side: int) -> float:
    """Bland and Altman's: bias -+ 1.96 standard deviations of the difference (doi:10.1016/S0140-6736(86)90837-8)."""
    spread = pair.error.std(ddof=1) if len(pair.error) > 1 else 0.0
    return float(pair.error.mean() + side * 1.96 * spread)


def _angle(pair: Pair, summary: Callable[[np.ndarray], np.floating]) -> float:
    from ..microstructure import angular_error

    return float(summary(angular_error(*pair.values)))


METRICS: Registry[Metric] = Registry("metric")
"""By name; add one here, and tables, the report and training know it."""

for _metric in (
    Metric("psnr", "PSNR", psnr, unit="dB", higher_is_better=True, decimals=2),
    Metric("ssim", "SSIM", ssim, higher_is_better=True),
    Metric("ms_ssim", "MS-SSIM", ms_ssim, higher_is_better=True),
    Metric("nrmse", "NRMSE", nrmse),
    Metric("mae", "MAE", lambda pair: float(np.abs(pair.error).mean()), of=("map",), unit=None, short="error"),
    Metric(
        "rmse", "RMSE", lambda pair: math.sqrt(pair.mean_squared_error), of=("signal", "map"), unit=None,
        headline=False,
    ),
    Metric(
        "bias", "bias", lambda pair: float(pair.error.mean()), of=("map",), unit=None, higher_is_better=None,
        headline=False,
    ),
    Metric("correlation", "correlation", _correlation, of=("map",), higher_is_better=True, headline=False),
    Metric(
        "loa_lower", "lower limit of agreement", lambda pair: _limit_of_agreement(pair, -1), of=("map",), unit=None,
        higher_is_better=None, headline=False,
    ),
    Metric(
        "loa_upper", "upper limit of agreement", lambda pair: _limit_of_agreement(pair, 1), of=("map",), unit=None,
        higher_is_better=None, headline=False,
    ),
    Metric("mean_deg", "direction", lambda pair: _angle(pair, np.mean), of=("direction",), unit="°", decimals=2),
    Metric(
        "median_deg", "median direction", lambda pair: _angle(pair, np.median), of=("direction",), unit="°",
        headline=False,
    ),
):  # fmt: skip
    METRICS.register(_metric.name)(_metric)
