"""Microstructure: tensor maps (FA, MD, AD, RD), GQI maps (QA, ISO, GFA), brain masks and the comparison of two scans.

`tensor` and `gqi` hold the models themselves, in torch; `tensor.fit_tensor` is differentiable.
"""

from .comparison import Comparison, compare
from .maps import MAPS, angular_error, compute_maps, principal_direction
from .masks import brain_mask

__all__ = ["MAPS", "Comparison", "angular_error", "brain_mask", "compare", "compute_maps", "principal_direction"]
