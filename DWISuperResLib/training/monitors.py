"""What training measures every epoch on the subjects held out, and can choose its best network by."""

from __future__ import annotations

from ..metrics import Metric, metrics_of

MAPS = ("fa", "qa")
"""Maps whose errors are measured."""


def monitors() -> dict[str, tuple[str, Metric]]:
    """Quantity ("signal" or a map) and metric by the name under which training reports it.

    Examples
    --------
    >>> list(monitors())
    ['psnr', 'ssim', 'ms_ssim', 'nrmse', 'fa_error', 'qa_error']
    """
    found = {metric.name: ("signal", metric) for metric in metrics_of("signal", headline=True)}
    for name in MAPS:
        found |= {f"{name}_{m.short or m.name}": (name, m) for m in metrics_of("map", headline=True)}
    return found
