"""How good a super-resolved scan is: image quality, map errors, deep feature distances, grid artefacts."""

from .image import Pair, residual_spectrum
from .registry import METRICS, Metric, metrics_of

__all__ = ["METRICS", "Metric", "Pair", "metrics_of", "residual_spectrum"]
