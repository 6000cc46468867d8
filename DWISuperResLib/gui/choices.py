"""What the panel offers, read from the library's registries: whoever registers a map or a degradation finds it here."""

from __future__ import annotations

from slicer.i18n import tr as _

from .. import mrml
from ..microstructure.models import map_info, map_names
from ..resampling.degradation import DEGRADATIONS

USUAL_MAPS = ("fa", "qa", mrml.COLOUR_FA)
"""Chosen until the user chooses others."""


def maps() -> list[tuple[str, str]]:
    """(label, name) of every map that can be compared, and of colour FA."""
    entries = [(map_info(name).label, name) for name in map_names()]
    return [*entries, (_("Colour FA"), mrml.COLOUR_FA)]


def map_label(name: str) -> str:
    """What a map is called in the panel; an unknown one by its name."""
    return next((label for label, known in maps() if known == name), name)


def map_help(name: str) -> str:
    """A map in full, with its unit."""
    if name == mrml.COLOUR_FA:
        return _("principal direction: red left-right, green front-back, blue up-down, as bright as FA is high")
    info = map_info(name)
    return f"{info.title} ({info.unit})" if info.unit else info.title


def degradations() -> list[tuple[str, str]]:
    """(label, name) of every way to simulate a low resolution."""
    labels = {
        "kspace": _("K-space truncation (as a scanner does)"),
        "gaussian": _("Gaussian blur"),
        "area": _("Averaging of voxels"),
        "paper": _("Cubic interpolation (published method)"),
        "profile": _("Thick slices (k-space truncation within them)"),
    }
    return [(labels.get(name, degradation.summary), name) for name, degradation in DEGRADATIONS.items()]
