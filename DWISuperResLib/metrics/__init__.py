"""How good a super-resolved scan is: image quality, map errors, deep feature distances, grid artefacts."""

from .image import image_scores, residual_spectrum

__all__ = ["image_scores", "residual_spectrum"]
