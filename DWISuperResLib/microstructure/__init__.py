"""Microstructure: tensor maps (FA, MD, AD, RD), GQI maps (QA, ISO, GFA) and brain masks.

`tensor` and `gqi` hold the models themselves, in torch; `tensor.fit_tensor` is differentiable.
"""

from .maps import MAPS, angular_error, compute_maps, principal_direction
from .masks import brain_mask

__all__ = ["MAPS", "angular_error", "brain_mask", "compute_maps", "principal_direction"]
