"""What all figures share: ink, colours of methods, labels, and the SVG text itself.

Text and axes use `currentColor`, so one figure serves a light page, a dark page and paper. Only Matplotlib's object
interface is used; nothing touches pyplot or the display.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ..microstructure import map_info

if TYPE_CHECKING:
    from .evaluate import Candidate

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
INTERPOLATION_COLOURS = ("#8c8c8c", "#56b4e9", "#0072b2", "#e0a100", "#cc79a7", "#009e73")
CHECKPOINT_COLOURS = ("#d55e00", "#7f5fc7", "#b8336a", "#4d7c0f")
IMAGES = {"dwi": "DWI", "b0": "b0", "image": "image"}
"""What is shown of a scan besides its maps."""
PAGE = 8.6
"""Width in inches of a figure that fills the page."""


def label_of(quantity: str) -> str:
    """Of an image (of `IMAGES`) or a map, for people.

    Examples
    --------
    >>> label_of("dwi"), label_of("fa")
    ('DWI', 'FA')
    """
    return IMAGES.get(quantity) or map_info(quantity).label


def colours(candidates: Sequence[Candidate]) -> dict[str, str]:
    """A colour for each method, the same in every figure."""
    classical, others = itertools.cycle(INTERPOLATION_COLOURS), itertools.cycle(CHECKPOINT_COLOURS)
    return {c.name: next(classical if c.kind == "interpolation" else others) for c in candidates}


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element whose ink is the page's text colour and whose width is the page's to choose."""
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    # Text stays text and identifiers are the same on every run: these two can only be set through rcParams.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "DWISuperRes"}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    head, rest = svg.split(">", 1)
    return (
        re.sub(r' (width|height)="[^"]*"', "", head)
        + f' style="--natural: {7.4 * figure.get_figwidth():.1f}em">'
        + rest
    )


def in_page_ink(axes: Axes) -> None:
    """Ticks and frame in the page's text colour, on the page's own ground."""
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, which="both", labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(INK)
