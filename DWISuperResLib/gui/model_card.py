"""A checkpoint's card in the panel: a line, and the rest; and where a scan lies outside of what it was trained for."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from .. import mrml
from ..checkpoints import Card
from ..evaluation.domain import check_domain
from ..resampling.grid import slice_axis


def scale_label(factors: Sequence[float]) -> str:
    """Factors of a card for people: one number within the slice; along the slices where they become thinner."""
    first, second, across = factors
    if first == second == across:
        return _("×{factor} isotropic").format(factor=f"{first:g}")
    plane = f"×{first:g}" if first == second else f"×{first:g} ×{second:g}"
    if across == 1:
        return plane
    along = _("×{factor} across the slices").format(factor=f"{across:g}")
    return along if first == second == 1 else f"{plane}, {along}"


def scale_text(factors: Sequence[float], axis: int) -> str:
    """Factors of a card as `Scale.parse` takes them, the slices being stacked along voxel axis `axis`."""
    first, second, across = factors
    if first == second and across == 1:
        return f"{first:g}"
    voxel = [first, second]
    voxel.insert(axis, across)
    return "x".join(f"{factor:g}" for factor in voxel)


def served_label(card: Card) -> str:
    """The factors of a card, and whether those between them are served as well (by scripts; the panel lists these)."""
    scales = ", ".join(map(scale_label, card.factors))
    return _("{scales} and all between").format(scales=scales) if card.limits else scales


def card_line(card: Card) -> str:
    """One line: what the model is for and its first held-out score; escaped as in `card_html`."""
    line = _("{scales} finer voxels").format(scales=served_label(card))
    scores = {name: value for name, value in card.scores.items() if isinstance(value, str | int | float)}
    if scores:
        name, value = next(iter(scores.items()))
        score = _plain(value).split(",")[0]  # of several in one, the first
        line += "; " + _("held out: {name} {score}").format(name=name.replace("_", " "), score=score)
    return html.escape(line)


def card_html(card: Card) -> str:
    """The card for a QLabel: a line a fact; what the file says is escaped, since it may come from anywhere."""
    rows = (
        (_("Scale factors"), served_label(card)),
        (_("Guide"), _("needs a registered image, such as a T1w") if card.guided else ""),
        (_("Trained on"), _plain(card.training.get("scans", ""))),
        (_("Low resolution by"), _plain(card.degradation.get("model", ""))),
        (_("Held-out scores"), _facts({k: v for k, v in card.scores.items() if not isinstance(v, Mapping)})),
        (_("Loss"), _loss(card)),
        (_("Licence"), card.licence),
    )
    return "<br>".join(f"<b>{html.escape(name)}:</b> {html.escape(text)}" for name, text in rows if text)


def domain_warnings(card: Card, node, axis: str = "") -> list[str]:
    """Sentences on the voxel size and b-values of a DWI node that the checkpoint never saw; empty if there are none."""
    grid = mrml.header(node)
    across = slice_axis(grid, axis or None)
    names = {
        "in-plane voxel size": _("in-plane voxel size"),
        "slice thickness": _("slice thickness"),
        "b-value": _("b-value"),
    }
    text = _("The {what} of this scan ({found}) lies outside of what the model was trained on ({trained}).")
    return [
        text.format(
            what=names[check.name], found=_range(check.found, check.unit), trained=_range(check.trained, check.unit)
        )
        for check in check_domain(card, grid.voxel_sizes, across, mrml.gradient_table(node)[0])
        if check.outside
    ]


def _range(values, unit: str) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    if unit == "s/mm²":
        low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return f"{low} {unit}" if low == high else _("{low} to {high} {unit}").format(low=low, high=high, unit=unit)


def _loss(card: Card) -> str:
    terms = card.loss.get("terms")
    if not isinstance(terms, list) or not all(isinstance(term, Mapping) and "name" in term for term in terms):
        return _facts(card.loss)
    return ", ".join(f"{term['name']} {_plain(term.get('weight', 1))}" for term in terms)


def _facts(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_facts(value)})"
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
