"""The card of a checkpoint: what its network is and what it was trained on, checked field by field.

Standard library only, since Slicer reads cards in a process that must not load torch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..networks import architectures
from ..resampling import MAX_FACTOR

Factors = tuple[float, float, float]

FORMAT_VERSION = 2
"""Format 1, which is read too, had whole in-plane `scales` for `factors` and `view`, and another meaning of SNR."""
TASKS = ("super-resolution", "denoising", "ssfd")
NORMALISATIONS = ("volume", "paper")

# Widths, depths and sizes of a slice network sum to far less; more could keep `build` busy for hours.
_MAX_ARGUMENTS = 8192


@dataclass(frozen=True)
class Card:
    """What a checkpoint is; validated when built.

    Attributes
    ----------
    name : str
    architecture : str
        One of `networks.architectures()`.
    arguments : dict
        What `networks.build` is called with.
    factors : tuple of (float, float, float)
        What it was trained on: factors along the two axes within the slice and along the slice axis; a number is an
        in-plane factor. May be empty only where `task` is not super-resolution. A network that is shown interpolated
        images, and was trained on several, serves all between the smallest and the largest of each axis.
    task : {"super-resolution", "denoising", "ssfd"}
    view : dict
        What the network is shown, see `networks.views`; set by `save_checkpoint`, empty in cards of format 1.
    normalisation : {"volume", "paper"}
        How signals are scaled before the network; "paper" is one min-max over the whole 4D scan.
    degradation : dict
        How the low-resolution training data were made.
    voxel_sizes : dict
        ``{"in_plane": [low, high], "slice": [low, high]}`` of the low-resolution training data, mm.
    bvals, snr : tuple of float
        Lowest and highest in the training data, s/mm^2 and 1 (b0 signal over noise); empty if unknown.
    statistics, loss, scores, training : dict
        Free-form: intensities of the training data; loss terms; held-out results; scans, steps, seed.
    uncertainty_factor : float
        By which the spread of test-time augmentation is multiplied to be the standard deviation of the error, see
        `evaluation.reliability`; 1 where it was not measured.
    licence, provenance : str
    format_version : int
    sha256 : str
        Of the weights, set by `save_checkpoint`; see the module's docstring.

    Raises
    ------
    InputError
        If a field has the wrong type or an impossible value.

    Examples
    --------
    >>> card = Card("thin", "sr_unet", {"width": 8}, factors=(2, (1, 1, 3)))
    >>> card.served_text, card.scales
    ('1x1x3, 2', (2,))
    >>> card.serves(coarse=(48, 48, 20), fine=(96, 96, 20), axis=2)
    True
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    factors: tuple[Factors, ...]
    task: str = "super-resolution"
    view: dict[str, Any] = field(default_factory=dict)
    normalisation: str = "volume"
    degradation: dict[str, Any] = field(default_factory=dict)
    voxel_sizes: dict[str, Any] = field(default_factory=dict)
    bvals: tuple[float, ...] = ()
    snr: tuple[float, ...] = ()
    statistics: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    uncertainty_factor: float = 1.0
    licence: str = ""
    provenance: str = ""
    format_version: int = FORMAT_VERSION
    sha256: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "architecture", "task", "normalisation", "licence", "provenance", "sha256"):
            _check_text(name, getattr(self, name))
        for name in ("arguments", "view", "degradation", "voxel_sizes", "statistics", "loss", "scores", "training"):
            object.__setattr__(self, name, _json_object(name, getattr(self, name)))
        for name in ("bvals", "snr"):
            object.__setattr__(self, name, _interval(name, getattr(self, name)))
        if not self.name or "\n" in self.name or len(self.name) > 100:
            raise _bad("name", self.name, "one line of 1 to 100 characters")
        choices = {"architecture": architectures(), "task": TASKS, "normalisation": NORMALISATIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise _bad(name, getattr(self, name), f"one of {', '.join(known)}")
        if type(self.format_version) is not int or self.format_version != FORMAT_VERSION:
            raise _bad("format version", self.format_version, f"{FORMAT_VERSION}; a newer release may read this file")
        if not _is_number(self.uncertainty_factor) or not 0.01 <= self.uncertainty_factor <= 100:
            raise _bad("uncertainty_factor", self.uncertainty_factor, "a number from 0.01 to 100")
        if not re.fullmatch("([0-9a-f]{64})?", self.sha256):
            raise _bad("sha256", self.sha256, "64 hexadecimal digits")
        self._check_sizes()
        object.__setattr__(self, "factors", _factors(self.factors, self.task))

    def _check_sizes(self) -> None:
        if sum(abs(x) for x in _leaves("arguments", self.arguments) if isinstance(x, int | float)) > _MAX_ARGUMENTS:
            raise _bad("arguments", self.arguments, f"numbers that sum to at most {_MAX_ARGUMENTS}")
        for name, limits in self.voxel_sizes.items():
            if name not in ("in_plane", "slice") or not _interval("voxel_sizes", limits, low=1e-3, high=1e3):
                raise _bad("voxel_sizes", self.voxel_sizes, "in_plane and slice, each [low, high] in mm")

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """Smallest and largest factor of each axis, where it serves all between; else empty.

        Examples
        --------
        >>> view = {"kind": "block", "kernel": "bspline"}
        >>> Card("free", "recnn", {}, factors=((2, 2, 1), (2, 2, 3)), view=view).limits
        ((2.0, 2.0), (2.0, 2.0), (1.0, 3.0))
        """
        if len(self.factors) < 2 or self.view.get("kernel") is None:
            return ()
        return tuple((min(along), max(along)) for along in zip(*self.factors, strict=True))

    @property
    def scales(self) -> tuple[float, ...]:
        """The in-plane factors it serves, whole ones as int."""
        planes = [first for first, second, across in self.factors if first == second and across == 1]
        return tuple(int(f) if f == int(f) else f for f in planes)

    @property
    def guided(self) -> bool:
        """Whether the network is shown a guide: a registered image of another contrast or of higher resolution."""
        return self.view.get("guide") is True

    @property
    def served_text(self) -> str:
        """The factors for people: in-plane ones as a number, others as three; or from where to where."""
        if self.limits:
            return " to ".join("x".join(f"{factor:g}" for factor in end) for end in zip(*self.limits, strict=True))
        return ", ".join(
            f"{first:g}" if first == second and across == 1 else f"{first:g}x{second:g}x{across:g}"
            for first, second, across in self.factors
        )

    def serves(self, coarse: Sequence[int], fine: Sequence[int], axis: int) -> bool:
        """Whether it was trained to bring one matrix to another, the slices being stacked along voxel axis `axis`.

        A matrix that differs by less than a coarse voxel from a factor's counts: whole voxels over the same field of
        view may ask for it.
        """
        order = [a for a in range(3) if a != axis] + [axis]
        pairs = [(coarse[a], fine[a]) for a in order]
        if self.limits:
            wanted = zip(pairs, self.limits, strict=True)
            return tuple(coarse) != tuple(fine) and all(
                m == n if high == 1 else low * n - low < m < high * n + high for (n, m), (low, high) in wanted
            )
        return any(
            all(m == n if f == 1 else abs(m - f * n) < f for (n, m), f in zip(pairs, served, strict=True))
            for served in self.factors
        )

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Read a card; every field that has no default must be there, and none that is unknown.

        Raises
        ------
        InputError
            If the text is no JSON object, or its fields are not a card's.
        """
        try:
            fields = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"The card is not valid JSON ({error}).") from error
        if not isinstance(fields, dict):
            raise InputError(f"The card is a JSON {type(fields).__name__}; expected an object.")
        known = {f.name: f for f in dataclasses.fields(cls)}
        first = fields.get("format_version") == 1 and fields["format_version"] is not True
        required = ["name", "architecture", "arguments", "scales" if first else "factors", "format_version", "sha256"]
        if missing := [name for name in required if name not in fields]:
            raise InputError(f"The card lacks {', '.join(missing)}; the file is not a checkpoint of this library.")
        if first:
            # SNR was that of the weighted volumes.
            factors = _whole(fields.pop("scales"))
            fields |= {"factors": factors, "format_version": FORMAT_VERSION, "snr": ()}
        # Before the unknown fields: a newer format has them by right.
        if fields["format_version"] == FORMAT_VERSION and (unknown := sorted(set(fields) - set(known))):
            raise InputError(f"The card has unknown fields ({', '.join(map(repr, unknown[:5]))}).")
        return cls(**{name: value for name, value in fields.items() if name in known})

    def to_json(self) -> str:
        """The card as one line of ASCII JSON."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)


def describe(card: Card) -> str:
    """The card as text for people, a line a fact; what is not known is left out.

    Examples
    --------
    >>> print(describe(Card("thin", "sr_unet", {"width": 8}, factors=(2,), licence="Apache-2.0")))
    Name           thin
    Task           super-resolution x2 in-plane
    Architecture   sr_unet(width=8)
    Normalisation  volume
    Licence        Apache-2.0
    """
    served = card.served_text.split(", ") if card.factors else []
    scales = [f"x{text}" if "x" in text else f"x{text} in-plane" for text in served]
    arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in card.arguments.items())
    limits = {name: _range_text(value, "mm") for name, value in card.voxel_sizes.items()}
    lines = {
        "Name": card.name,
        "Task": f"{card.task} {', '.join(scales)}".strip(),
        "Architecture": f"{card.architecture}({arguments})",
        "Guide": "a registered image, such as a T1w" if card.guided else "",
        "Normalisation": card.normalisation,
        "Degradation": _facts(card.degradation),
        "Voxel size": ", ".join(f"{name.replace('_', '-')} {text}" for name, text in limits.items()),
        "b-values": _range_text(card.bvals, "s/mm^2"),
        "SNR": _range_text(card.snr),
        "Loss": _facts(card.loss),
        "Scores": _facts(card.scores),
        "Training": _facts(card.training),
        "Uncertainty": "" if card.uncertainty_factor == 1 else f"spread x {card.uncertainty_factor:.3g}, as measured",
        "Licence": card.licence,
        "Provenance": card.provenance,
        "SHA-256": card.sha256,
    }
    return "\n".join(f"{label:14} {text}" for label, text in lines.items() if text)


def _facts(values: Mapping[str, Any], indent: int = 15) -> str:
    """Facts in a row, and a line below for each that has facts of its own."""
    row, lines = [], []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines.append(f"{' ' * indent}{name}: {_facts(value, indent + 2)}")
        else:
            row.append(f"{name} {value if isinstance(value, str) else json.dumps(value)}")
    return "\n".join(("; ".join(row), *lines))


def _range_text(limits: Sequence[float], unit: str = "") -> str:
    if not limits:
        return ""
    low, high = limits
    return (f"{low:g}" if low == high else f"{low:g} to {high:g}") + f" {unit}".rstrip()


def refuse_constant(text: str) -> None:
    """For `json.loads`: NaN and Infinity, which Python would read, are no JSON."""
    raise ValueError(f"{text} is not JSON")


def _bad(name: str, found: Any, expected: str) -> InputError:
    # reprlib, since str would fail on deep nesting and flood on long text.
    return InputError(f"The card's {name} is {reprlib.repr(found)}; expected {expected}.")


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.replace("\n", "").isprintable():
        raise _bad(name, value, "printable text")


def _json_object(name: str, value: Any) -> dict[str, Any]:
    """A copy of a dict as it will come back from JSON (tuples become lists)."""
    try:
        copy = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _bad(name, value, f"what JSON can hold ({error})") from error
    if not isinstance(copy, dict):
        raise _bad(name, value, "an object")
    _leaves(name, copy)
    return copy


def _leaves(name: str, value: Any, levels: int = 16) -> list[Any]:
    """What a JSON value holds besides lists and objects; InputError if these are nested too deeply."""
    if not isinstance(value, dict | list):
        return [value]
    if levels == 0:
        raise _bad(name, value, "at most 16 levels of lists and objects")
    items = value.values() if isinstance(value, dict) else value
    return [leaf for item in items for leaf in _leaves(name, item, levels - 1)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_factor(value: Any) -> bool:
    return _is_number(value) and 1 <= value <= MAX_FACTOR


def _interval(name: str, value: Any, *, low: float = 0.0, high: float = 1e6) -> tuple[float, ...]:
    """(lowest, highest), or () for unknown."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) not in (0, 2):
        raise _bad(name, value, "[lowest, highest]")
    if not all(map(_is_number, value)) or not all(low <= v <= high for v in value) or list(value) != sorted(value):
        raise _bad(name, value, f"[lowest, highest] between {low:g} and {high:g}")
    return tuple(float(v) for v in value)


def _whole(value: Any) -> Any:
    """Scales of format 1."""
    if not isinstance(value, Sequence) or not all(type(s) is int for s in value):
        raise _bad("scales", value, "whole in-plane factors")
    return value


def _factors(value: Any, task: str) -> tuple[Factors, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > 1000:
        raise _bad("factors", value, "a list of three factors each")
    found = set()
    for entry in value:
        triple = (entry, entry, 1) if _is_number(entry) else entry
        if not isinstance(triple, Sequence) or len(triple) != 3 or not all(map(_is_factor, triple)):
            raise _bad("factors", value, f"in-plane factors, or three factors each, from 1 to {MAX_FACTOR}")
        found.add((float(triple[0]), float(triple[1]), float(triple[2])))
    if not value and task == "super-resolution":
        raise _bad("factors", value, "at least one in-plane factor")
    return tuple(sorted(found))
