"""DWISuperRes: super-resolution of diffusion-weighted MRI, and what it does to the microstructure.

The names below load on first use, so importing the package stays quick and pulls in no torch, DIPY or Matplotlib.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DWI": "dwi",
    "Volume": "dwi",
    "read_dwi": "io",
    "read_volume": "io",
    "write_dwi": "io",
    "write_volume": "io",
    "degrade": "resampling.degradation",
    "interpolate": "resampling.upsamplers",
    "super_resolve": "inference.predict",
    "load_checkpoint": "checkpoints",
    "brain_mask": "microstructure",
    "compute_maps": "microstructure",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "phantom": "phantoms",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
