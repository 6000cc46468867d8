"""Microstructure: the registry of maps, tensor maps (FA, MD, AD, RD), GQI maps (QA, ISO, GFA) and brain masks.

`tensor` and `gqi` hold the models themselves, for arrays of NumPy and of torch; `tensor.fit_tensor` is differentiable.
"""

from . import tensor, gqi  # noqa: F401, I001  (their models register themselves, in the order people see)
from .maps import angular_error, compute_maps
from .masks import brain_mask
from .models import MapInfo, MapModel, display_window, map_info, map_models, map_names, register_map_model

__all__ = [
    "MapInfo",
    "MapModel",
    "angular_error",
    "brain_mask",
    "compute_maps",
    "display_window",
    "map_info",
    "map_models",
    "map_names",
    "register_map_model",
]
