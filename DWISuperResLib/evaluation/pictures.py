"""Pictures of the report as SVG text: slices in anatomical orientation, differences, directions, a zoom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..microstructure import angular_error, map_info
from .drawing import IMAGES, INK, PAGE, label_of, to_svg
from .evaluate import Candidate, Evaluation
from .regions import DIRECTION_FA

PLANES = ("sagittal", "coronal", "axial")  # perpendicular to R, A, S
ZOOM_MM = 56.0
"""Side of the zoomed region."""


@dataclass(frozen=True)
class View:
    """How voxel arrays become pictures: axes reordered to R, A, S (the nearest ones), one plane, one region.

    Pictures are in radiological convention: the patient's right is on the left; in sagittal ones anterior is.
    """

    affine: NDArray[np.float64]
    plane: int  # RAS axis the picture is perpendicular to
    position: int  # along that axis, in reordered voxels
    box: tuple[slice, slice]  # rows (upwards) and columns (after mirroring), in voxels
    sizes: tuple[float, float]  # mm of a row and of a column

    @classmethod
    def of_plane(cls, affine: NDArray[np.float64], plane: int, position: int, mask: NDArray[np.bool_]) -> View:
        """The whole head in one plane, cropped to the mask with a margin of 4 mm."""
        zooms = np.linalg.norm(affine[:3, :3], axis=0)[_order(affine)]
        columns, rows = (a for a in range(3) if a != plane)
        whole = cls(affine, plane, position, (slice(None), slice(None)), (zooms[rows], zooms[columns]))
        extent = whole._picture(mask, "any")
        box = []
        for axis, size in enumerate(whole.sizes):
            hit = np.flatnonzero(extent.any(axis=1 - axis))
            margin = int(np.ceil(4 / size))
            box.append(slice(max(0, hit[0] - margin), hit[-1] + 1 + margin))
        return cls(affine, plane, position, (box[0], box[1]), whole.sizes)

    def zoomed(self, centre: tuple[float, float], side: float = ZOOM_MM) -> View:
        """A square region of `side` mm around a (row, column) of the whole picture."""
        box = [
            slice(max(0, round(c - side / 2 / s)), max(0, round(c - side / 2 / s)) + max(8, round(side / s)))
            for c, s in zip(centre, self.sizes, strict=True)
        ]
        return View(self.affine, self.plane, self.position, (box[0], box[1]), self.sizes)

    def picture(self, volume: NDArray) -> NDArray:
        """(rows, columns[, 3]) of a volume (X, Y, Z[, 3]); the first row is the lowest."""
        return self._picture(volume, "slice")[self.box]

    def _picture(self, volume: NDArray, mode: str) -> NDArray:
        ordered = to_ras_order(volume, self.affine)
        plane = ordered.any(axis=self.plane) if mode == "any" else np.take(ordered, self.position, axis=self.plane)
        return np.swapaxes(plane, 0, 1)[:, ::-1]

    @property
    def ends(self) -> tuple[str, str]:
        """Letters for the left and the right edge of the picture."""
        return ("A", "P") if self.plane == 0 else ("R", "L")


def to_ras_order(volume: NDArray, affine: NDArray) -> NDArray:
    """View of (X, Y, Z, ...) with axes permuted and flipped to the nearest R, A, S."""
    return nib.orientations.apply_orientation(volume, nib.orientations.io_orientation(affine))


def _order(affine: NDArray) -> list[int]:
    """Voxel axis for each of R, A, S."""
    return [int(i) for i in np.argsort(nib.orientations.io_orientation(affine)[:, 0])]


def choose_views(evaluation: Evaluation) -> tuple[View, View]:
    """The slice richest in fibres like those of the corpus callosum, in the plane of acquisition, and a zoom on them.

    Such voxels have a high FA and run left to right near the middle; where there are fewer than 20, the densest
    voxels of any direction serve.
    """
    affine, reference = evaluation.affine, evaluation.reference
    mask, fa = to_ras_order(evaluation.mask, affine), to_ras_order(reference.maps["fa"], affine)
    sideways = to_ras_order(np.abs(_direction(reference)[..., 0]), affine)
    across = np.argwhere(mask)[:, 0]
    near = np.abs(np.arange(mask.shape[0]) - across.mean()) <= 0.12 * np.ptp(across)
    callosum = mask & (fa > 0.5) & (sideways > 0.85) & near[:, None, None]
    if callosum.sum() < 20:
        callosum = mask & (fa >= np.quantile(fa[mask], 0.98))
    plane = _order(affine).index(evaluation.slice_axis)
    count = callosum.sum(axis=tuple(a for a in range(3) if a != plane)).astype(float)
    count = np.convolve(count, np.ones(3), mode="same")  # a slice whose neighbours hold them too
    position = int(np.argmax(count))
    whole = View.of_plane(affine, plane, position, evaluation.mask)
    here = np.take(callosum, position, axis=plane)
    picture = np.swapaxes(here, 0, 1)[:, ::-1]
    centre = np.argwhere(picture).mean(0) if picture.any() else np.array(picture.shape) / 2
    return whole, whole.zoomed((float(centre[0]), float(centre[1])))


def largest_slice(evaluation: Evaluation) -> View:
    """The slice, in the plane of acquisition, that shows most of the mask."""
    plane = _order(evaluation.affine).index(evaluation.slice_axis)
    mask = to_ras_order(evaluation.mask, evaluation.affine)
    position = int(np.argmax(mask.sum(axis=tuple(a for a in range(3) if a != plane))))
    return View.of_plane(evaluation.affine, plane, position, evaluation.mask)


def picture_figure(evaluation: Evaluation, view: View, quantity: str, *, per_row: int = 4) -> str:
    """One quantity by every method, above each its difference from the reference, on one symmetric scale."""
    reference, mask = evaluation.reference, view.picture(evaluation.mask)
    images = {c.name: view.picture(_volume(c, quantity)) for c in (reference, *evaluation.candidates)}
    limits = _limits(quantity, images[reference.name][mask])
    differences = {
        n: np.where(mask, i - images[reference.name], np.nan) for n, i in images.items() if n != reference.name
    }
    bound = symmetric_bound(list(differences.values()))
    cells = [(name, image, differences.get(name)) for name, image in images.items()]
    figure, rows = _grid(cells, view, per_row)
    for (name, image, difference), (top, bottom) in zip(cells, rows, strict=False):
        picture = _show(top, image, view, name, cmap="gray", vmin=limits[0], vmax=limits[1])
        if difference is None:
            bottom.set_axis_off()
        else:
            change = _show(bottom, difference, view, "", cmap="RdBu_r", vmin=-bound, vmax=bound)
    first = rows[0][1]
    _bar(figure, first, picture, label_of(quantity) + _unit(quantity), 0.62)
    _bar(figure, first, change, f"difference from {reference.name}", 0.22)
    return to_svg(figure)


def direction_figure(evaluation: Evaluation, view: View, *, per_row: int = 4) -> str:
    """Colour-coded FA by every method, and below each the angle by which its principal direction is off."""
    reference, mask = evaluation.reference, view.picture(evaluation.mask)
    directed = mask & (view.picture(reference.maps["fa"]) >= DIRECTION_FA)
    cells = []
    for candidate in (reference, *evaluation.candidates):
        angle = angular_error(view.picture(_direction(candidate)), view.picture(_direction(reference)))
        cells.append((candidate.name, colour_fa(candidate, view), np.where(directed, angle, np.nan)))
    figure, rows = _grid(cells, view, per_row)
    for (name, image, angle), (top, bottom) in zip(cells, rows, strict=False):
        _show(top, image, view, name)
        if name == reference.name:
            bottom.set_axis_off()
        else:
            error = _show(bottom, angle, view, "", cmap="inferno", vmin=0, vmax=30)
    _bar(figure, rows[0][1], error, "angle to the reference (°)", 0.42)
    return to_svg(figure)


def zoom_figure(evaluation: Evaluation, view: View, names: Sequence[str]) -> str:
    """DWI, FA, QA and colour FA of a few methods in one small region."""
    reference = evaluation.reference
    chosen = [reference, *(c for c in evaluation.candidates if c.name in names)]
    mask = view.picture(evaluation.mask)
    height, width = _extent(view, mask)
    panel = PAGE / max(4, len(chosen))
    figure = Figure(figsize=(panel * len(chosen) + 0.4, 4 * panel * height / width + 0.4))
    axes = figure.subplots(4, len(chosen), squeeze=False, gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    figure.subplots_adjust(left=0.4 / figure.get_figwidth(), right=1, bottom=0, top=1 - 0.3 / figure.get_figheight())
    for column, candidate in enumerate(chosen):
        for row, quantity in enumerate(("dwi", "fa", "qa")):
            low, high = _limits(quantity, view.picture(_volume(reference, quantity))[mask])
            image = view.picture(_volume(candidate, quantity))
            _show(axes[row, column], image, view, candidate.name if row == 0 else "", cmap="gray", vmin=low, vmax=high)
        _show(axes[3, column], colour_fa(candidate, view), view, "")
    for row, label in enumerate(("DWI", "FA", "QA", "colour FA")):
        axes[row, 0].text(
            -0.05, 0.5, label, transform=axes[row, 0].transAxes, rotation=90, ha="right", va="center", color=INK
        )
    return to_svg(figure)


def planes_figure(evaluation: Evaluation, candidate: Candidate, quantity: str) -> str:
    """One quantity in three planes: reference, candidate, difference."""
    reference = evaluation.reference
    centre = np.argwhere(to_ras_order(evaluation.mask, evaluation.affine)).mean(0).round().astype(int)
    views = [View.of_plane(evaluation.affine, plane, int(centre[plane]), evaluation.mask) for plane in (2, 1, 0)]
    shapes = [_extent(v, v.picture(evaluation.mask)) for v in views]
    widest = max(w for _, w in shapes)
    heights = [h / widest for h, _ in shapes]
    panel = 2.7
    figure = Figure(figsize=(3 * panel + 0.9, panel * sum(heights) + 0.35))
    axes = figure.subplots(3, 3, gridspec_kw={"wspace": 0.03, "hspace": 0.04, "height_ratios": heights})
    figure.subplots_adjust(
        left=0, right=1 - 0.9 / figure.get_figwidth(), bottom=0.01, top=1 - 0.3 / figure.get_figheight()
    )
    pairs = [[v.picture(_volume(c, quantity)) for c in (reference, candidate)] for v in views]
    inside = [v.picture(evaluation.mask) for v in views]
    changes = [np.where(m, b - a, np.nan) for m, (a, b) in zip(inside, pairs, strict=True)]
    bound = symmetric_bound(changes)
    low, high = _limits(quantity, np.concatenate([a[m] for (a, _), m in zip(pairs, inside, strict=True)]))
    for row, (view, pair) in enumerate(zip(views, pairs, strict=True)):
        titles = (reference.name, candidate.name, f"{candidate.name} − {reference.name}") if row == 0 else ("", "", "")
        for column, image in enumerate(pair):
            picture = _show(axes[row, column], image, view, titles[column], cmap="gray", vmin=low, vmax=high)
        change = _show(axes[row, 2], changes[row], view, titles[2], cmap="RdBu_r", vmin=-bound, vmax=bound)
    for handle, label, bottom in ((picture, label_of(quantity) + _unit(quantity), 0.55), (change, "difference", 0.1)):
        cax = figure.add_axes((1 - 0.75 / figure.get_figwidth(), bottom, 0.015, 0.33))
        _style_bar(figure.colorbar(handle, cax=cax), "")
        cax.set_title(label, fontsize=8, color=INK, loc="left")
    return to_svg(figure)


def colour_fa(candidate: Candidate, view: View) -> NDArray:
    """(rows, columns, 3): |direction| times FA; red left-right, green front-back, blue up-down."""
    fa = np.clip(view.picture(candidate.maps["fa"]), 0, 1)[..., None]
    return np.clip(1.3 * fa * np.abs(view.picture(_direction(candidate))), 0, 1)


def _direction(candidate: Candidate) -> NDArray:
    """Of a diffusion-weighted scan; pictures of directions are not made of others."""
    assert candidate.direction is not None
    return candidate.direction


def symmetric_bound(differences: Sequence[NDArray]) -> float:
    """One bound for all difference pictures: the 99th percentile of all absolute differences."""
    values = np.abs(np.concatenate([d[np.isfinite(d)] for d in differences]))
    return float(np.quantile(values, 0.99)) or 1e-6 if len(values) else 1e-6  # any, where all pictures are zero


def _volume(candidate: Candidate, quantity: str) -> NDArray:
    return candidate.images[quantity] if quantity in candidate.images else candidate.maps[quantity]


def _unit(quantity: str) -> str:
    unit = "signal" if quantity in IMAGES else map_info(quantity).unit
    if unit == "signal":
        return "" if quantity not in IMAGES else " signal"  # maps are in units of the reference's largest QA
    return f" ({unit})" if unit else ""


def _limits(quantity: str, values: NDArray) -> tuple[float, float]:
    """Black and white of the pictures of a quantity: its map's own, or from its reference's values in the mask."""
    window = None if quantity in IMAGES else map_info(quantity).window
    if window is not None or not values.size:
        return window or (0.0, 1.0)
    return 0.0, float(np.quantile(values, 0.995)) or 1.0


def _extent(view: View, picture: NDArray) -> tuple[float, float]:
    return picture.shape[0] * view.sizes[0], picture.shape[1] * view.sizes[1]


def _grid(cells: Sequence[tuple], view: View, per_row: int) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a pair of panels (above, below) for each cell, wrapped, sized to the picture's shape."""
    per_row = min(per_row, len(cells))
    height, width = _extent(view, cells[0][1])
    panel = PAGE / max(per_row, 3)
    blocks = -(-len(cells) // per_row)
    figure = Figure(figsize=(panel * per_row, blocks * (2 * panel * height / width + 0.34)))
    outer = figure.add_gridspec(blocks, 1, left=0, right=1, bottom=0.005, top=1 - 0.26 / figure.get_figheight(),
                                hspace=0.34 / (2 * panel * height / width))  # fmt: skip
    pairs = []
    for block in range(blocks):
        inner = outer[block].subgridspec(2, per_row, wspace=0.03, hspace=0.02)
        for column in range(per_row):
            pair = [figure.add_subplot(inner[row, column]) for row in range(2)]
            pairs.append(pair)
            if len(pairs) > len(cells):
                for axes in pair:
                    axes.set_axis_off()
    return figure, pairs


def _show(axes: Axes, image: NDArray, view: View, title: str, **options: Any) -> AxesImage:
    height, width = _extent(view, image)
    handle = axes.imshow(image, origin="lower", extent=(0, width, 0, height), interpolation="none", **options)
    axes.patch.set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=10, color=INK, pad=4)
        for x, letter, side in ((0.01, view.ends[0], "left"), (0.99, view.ends[1], "right")):
            axes.text(x, 0.5, letter, transform=axes.transAxes, fontsize=8, color="#8c8c8c", ha=side, va="center")
    return handle


def _bar(figure: Figure, axes: Axes, handle: AxesImage, label: str, bottom: float) -> None:
    """A horizontal colour bar within an empty panel."""
    inset = axes.inset_axes((0.1, bottom, 0.8, 0.06))
    _style_bar(figure.colorbar(handle, cax=inset, orientation="horizontal"), label)


def _style_bar(bar: Colorbar, label: str) -> None:
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, color=INK, labelcolor=INK)
    bar.locator = MaxNLocator(3, symmetric=False)
    bar.update_ticks()
    bar.outline.set_visible(False)
