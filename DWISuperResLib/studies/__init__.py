"""The papers' experiments, one file each; `STUDIES` has them by name."""

from . import guidance, layers, metrics, scales, transfer, untrained
from .base import STUDIES, Study, StudyOptions

__all__ = ["STUDIES", "Study", "StudyOptions", "guidance", "layers", "metrics", "scales", "transfer", "untrained"]
