"""The registry of maps: what each is called, its unit, how it is shown, and the model that makes it.

A new map is one `MapModel`, registered where it is written. `compute_maps`, the command line, the report and the
panel read their choices here. Only NumPy is imported, so that a program without torch or DIPY can read them too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Fit = Callable[[Any], Mapping[str, Any]]
"""Signals (N, V) float32, of NumPy or torch, to maps by name: (V,), or (V, components)."""


@dataclass(frozen=True)
class MapInfo:
    """What is known of a map without computing it.

    Attributes
    ----------
    name : str
        In lower case, as the file and the option are called.
    label, title : str
        For people: short ("FA") and in full ("fractional anisotropy").
    unit : str
        "" where there is none; "signal" for the unit of the scan.
    window : (float, float), optional
        What a view shows from black to white; without it see `display_window`.
    components : int
        1, or 3 for vectors in RAS.

    Examples
    --------
    >>> MapInfo("fa", "FA", "fractional anisotropy", window=(0.0, 1.0)).unit
    ''
    """

    name: str
    label: str
    title: str
    unit: str = ""
    window: tuple[float, float] | None = None
    components: int = 1


@dataclass(frozen=True)
class NoOptions:
    """Of a model that leaves nothing to choose."""


@dataclass(frozen=True)
class MapModel:
    """A model that makes maps of the signals and the gradient table.

    Attributes
    ----------
    name : str
    maps : tuple of MapInfo
        All that it can make.
    fit : callable
        `fit(bvals (N,), bvecs (N, 3), wanted, options)` prepares for one gradient table and returns a `Fit`, which
        is called with a few thousand voxels at a time, in several threads. `wanted` holds names of its maps; the
        `Fit` may return more than these.
    options : type
        A frozen dataclass; every field has a default and, as `metadata["help"]`, a line for people. Its
        `__post_init__` raises InputError for values it cannot use.
    finish : callable, optional
        `finish(maps, options)`: maps of the whole scan by name, (X, Y, Z), which it may change in place.
    needs : callable, optional
        `needs(wanted, options)`: the maps `finish` must see; by default the wanted ones.

    Examples
    --------
    >>> tensor = map_models()[0]
    >>> [info.label for info in tensor.maps][:4]
    ['FA', 'MD', 'AD', 'RD']
    """

    name: str
    maps: tuple[MapInfo, ...]
    fit: Callable[[NDArray[np.float64], NDArray[np.float64], frozenset[str], Any], Fit]
    options: type = NoOptions
    finish: Callable[[dict[str, NDArray[np.float32]], Any], None] | None = None
    needs: Callable[[frozenset[str], Any], frozenset[str]] | None = None


_MODELS: dict[str, MapModel] = {}


def register_map_model(model: MapModel) -> MapModel:
    """Add a model to the registry.

    Raises
    ------
    ValueError
        If another model has its name, one of its maps or one of its options.

    Examples
    --------
    >>> register_map_model(map_models()[0])
    Traceback (most recent call last):
    ValueError: There is a model of maps called tensor already; choose another name.
    """
    models = (*_MODELS.values(), model)
    for what, names in (
        ("model", [m.name for m in models]),
        ("map", [info.name for m in models for info in m.maps]),
        ("option", [field.name for m in models for field in fields(m.options)]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"There is a {what} of maps called {', '.join(twice)} already; choose another name.")
    _MODELS[model.name] = model
    return model


def map_models() -> tuple[MapModel, ...]:
    """The registered models.

    Examples
    --------
    >>> [model.name for model in map_models()][:2]
    ['tensor', 'gqi']
    """
    return tuple(_MODELS.values())


def map_names() -> tuple[str, ...]:
    """Names of the maps of one value a voxel, which can be listed, written, compared and shown as an image.

    Examples
    --------
    >>> map_names()[:7]
    ('fa', 'md', 'ad', 'rd', 'qa', 'iso', 'gfa')
    """
    return tuple(info.name for model in _MODELS.values() for info in model.maps if info.components == 1)


def map_info(name: str) -> MapInfo:
    """What is known of a map.

    Raises
    ------
    InputError
        If there is no such map.

    Examples
    --------
    >>> map_info("md").label, map_info("md").unit
    ('MD', 'mm²/s')
    """
    for model in _MODELS.values():
        for info in model.maps:
            if info.name == name:
                return info
    raise InputError(f"There is no map {name!r}; expected some of {', '.join(map_names())}.")


def display_window(name: str, *maps: NDArray) -> tuple[float, float]:
    """Window (low, high) that maps of one kind share: the map's own, else 0 to the 99th percentile where not 0.

    Examples
    --------
    >>> display_window("fa", np.array([0.2, 0.7]))
    (0.0, 1.0)
    >>> display_window("md", np.array([0.0, 0.001]))
    (0.0, 0.001)
    """
    if (window := map_info(name).window) is not None:
        return window
    values = np.concatenate([values[values != 0] for values in maps])
    return 0.0, (float(np.percentile(values, 99)) if values.size else 0.0) or 1.0


def models_of(maps: Collection[str], options: Mapping[str, Any]) -> list[tuple[MapModel, frozenset[str], Any]]:
    """The models that make some maps, each with its share of them and its options, checked.

    Raises
    ------
    InputError
        If a map or an option is unknown, or an option has a value that its model cannot use.

    Examples
    --------
    >>> [(model.name, sorted(wanted)) for model, wanted, _ in models_of(("fa", "md"), {"fit": "ols"})]
    [('tensor', ['fa', 'md'])]
    """
    for name in maps:
        map_info(name)
    known = {model.name: {field.name for field in fields(model.options)} for model in _MODELS.values()}
    if unknown := sorted(set(options) - set().union(*known.values())):
        names = ", ".join(sorted(set().union(*known.values())))
        raise InputError(f"No model of maps has the option {', '.join(unknown)}; expected some of {names}.")
    chosen = []
    for model in _MODELS.values():
        checked = model.options(**{name: value for name, value in options.items() if name in known[model.name]})
        if wanted := frozenset(maps) & {info.name for info in model.maps}:
            chosen.append((model, wanted, checked))
    return chosen
