"""Self-checks without ground truth: is a super-resolved scan fit to be used? Cheap enough for every run.

Grid artefacts in the signal and in FA; consistency with the input; the input against what the checkpoint was trained
on; the ensemble's spread in the signal and in FA. Thresholds come from real scans with injected faults, see
`Testing/benchmarks/selfcheck_table.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..dwi import B0_THRESHOLD
from ..microstructure import brain_mask, compute_maps
from ..microstructure.tensor import design_matrix, determines_tensor
from ..resampling.degradation import coarsening, fitting_width
from ..resampling.grid import in_plane_axes, regridded_mask, slice_axis
from ..resampling.native import FULL_SHARE, ROTATED_DB, measure_support
from ..resampling.operators import map_volumes, operator
from .domain import TOLERANCE, check_domain

if TYPE_CHECKING:
    from ..checkpoints import Card
    from ..dwi import DWI, AnyScan

GRID_THRESHOLD_DB = 10.0
"""Of grids in the signal: what the shipped network adds reaches 6.8 dB without a grid, one of 5 % has at least 21."""
CONSISTENCY_THRESHOLD = 2.0
"""Output degraded again minus input, root mean square in units of the input's noise."""
ANATOMY_THRESHOLD = 1.4
"""Factor by which the brain's volume and its extent along the slice axis may lie outside the training data's."""
STATISTICS_THRESHOLD = 1.0
"""Distance of an intensity statistic from its range in the training data, in widths of that range."""
UNCERTAINTY_THRESHOLD = 3.2
"""Ensemble spread of the signal, in percent of its mean in the brain."""
FA_UNCERTAINTY_THRESHOLD = 0.025
"""Ensemble spread propagated to FA, median over the brain."""

_SLICES, _VOLUMES, _VOXELS = 12, 6, 4000
"""At most so many of each are looked at."""

_NEXT_TO_NOTHING, _TINY = 1e-6, float(np.finfo(np.float32).tiny)
"""Floors under what is divided by or taken the logarithm of: beside the largest signal, and where there is none."""

_NARROWEST_RANGES = {
    "b0 spread": 0.4,
    "b0 skewness": 0.5,
    "dwi spread": 0.4,
    "dwi skewness": 0.6,
    "b0-dwi correlation": 0.4,
    "diffusivity": 0.25,
    "anisotropy": 0.15,
}
"""Intensity statistics of a card, and the narrowest range that each is taken to have: scanners differ that much."""
_ANATOMY_UNITS = {"brain volume": "cm³", "slab height": "mm"}


@dataclass(frozen=True)
class Check:
    """One self-check: what was measured, from where on it warns, whether it does, and what to do in one sentence."""

    name: str
    value: float
    threshold: float
    fired: bool
    advice: str

    @property
    def warning(self) -> str:
        """What it found and what to do, for people."""
        name = f"{self.name[0].upper()}{self.name[1:]}"
        return f"{name} is {self.value:.2g}, the limit {self.threshold:.2g}. {self.advice}"


def self_checks(
    low: AnyScan,
    high: AnyScan,
    card: Card | None,
    uncertainty: NDArray[np.float32] | None = None,
    axis: int | str | None = None,
) -> list[Check]:
    """Check a super-resolved scan against its input and its checkpoint.

    Parameters
    ----------
    low, high : DWI or Volume
        Input and output, over one field of view: their matrices tell the scale.
    card : Card, optional
        Of the checkpoint; None for an interpolation: the domain is not checked, and k-space truncation is the
        degradation.
    uncertainty : array (X, Y, Z, N), optional
        Standard deviation of the ensemble on the output's grid, see `predict.super_resolve_with_uncertainty`.
    axis : optional
        Slice axis, see `grid.slice_axis`.

    Returns
    -------
    list of Check
        Checks that cannot be made (no tensor, a card without ranges) are left out.
    """
    before, after = low.series, high.series
    axis = slice_axis(before, axis)
    mask = brain_mask(before)
    fine = regridded_mask(mask, after.spatial_shape)
    noise = noise_level(before, mask)
    drawn = card.degradation if card else {}
    checks = [*_grid_checks(before, after, fine, axis), _consistency_check(before, after, mask, noise, drawn, axis)]
    if card is not None:
        checks += _domain_checks(before, card, mask, noise, axis)
    if uncertainty is not None:
        checks += _uncertainty_checks(after, uncertainty, card.uncertainty_factor if card else 1.0, fine)
    return checks


def checks_and_warnings(
    low: AnyScan,
    high: AnyScan,
    card: Card,
    uncertainty: NDArray[np.float32] | None = None,
    axis: int | str | None = None,
) -> tuple[list[Check], list[str]]:
    """`native_checks` and `self_checks`, and a sentence for each that fired; a failure to check costs no result."""
    try:
        checks = [*native_checks(low.series), *self_checks(low, high, card, uncertainty, axis)]
    except Exception as error:
        return [], [f"The result could not be checked ({type(error).__name__}: {error})."]
    return checks, [check.warning for check in checks if check.fired]


def native_checks(dwi: DWI) -> list[Check]:
    """Whether a scan holds what its matrix says, see `resampling.native`.

    Examples
    --------
    >>> from DWISuperResLib import interpolate, phantom
    >>> scan = phantom((48, 48, 6), (4, 4.5, 15), supersampling=1, shells=((0, 1), (1000, 12)))
    >>> print(native_checks(interpolate(scan, 2, method="sinc"))[0].advice)
    This scan of 96 x 96 x 6 holds 48 x 48 x 6: it was interpolated along i and j; --native takes it down first.
    """
    support = measure_support(dwi)
    lacks = support.share < FULL_SHARE
    advice = support.sentence
    if lacks:
        advice = f"{advice.removesuffix('.')}; --native takes it down first."
    is_rotated = support.asymmetry > ROTATED_DB
    turned = "No axis was resampled at an angle."
    if is_rotated:
        turned = "It was resampled at an angle, which blurs it unevenly: a scan as acquired is the better input."
    return [
        Check("native resolution (share of the matrix held)", support.share, FULL_SHARE, lacks, advice),
        Check("rotation of k-space (dB)", support.asymmetry, ROTATED_DB, is_rotated, turned),
    ]


def noise_level(dwi: DWI, mask: NDArray[np.bool_]) -> float:
    """Standard deviation of the noise in signal units: what a tensor leaves unexplained, the median over the mask.

    Falls back on DIPY's `estimate_sigma` where fewer than three volumes are left over after fitting a tensor.
    """
    design = design_matrix(dwi.bvals, dwi.bvecs)
    if dwi.n_volumes < 10 or not determines_tensor(dwi.bvals, dwi.bvecs):
        from dipy.denoise.noise_estimate import estimate_sigma

        return float(np.median(estimate_sigma(dwi.signal[..., _spread_volumes(dwi)], N=0)))
    signal = _signals_at(dwi.signal, _spread_voxels(mask, _VOXELS))
    signal = np.maximum(signal, _NEXT_TO_NOTHING * signal.max(initial=0) + _TINY)
    fitted = np.exp(np.log(signal) @ (design @ np.linalg.pinv(design)).T)
    residual = (signal - fitted)[:, ~dwi.is_b0]
    freedom = (dwi.n_volumes - 7) / dwi.n_volumes
    return float(np.median(np.sqrt((residual**2).mean(1) / freedom)))


def domain_statistics(
    dwi: DWI, mask: NDArray[np.bool_] | None = None, axis: int | str | None = None
) -> dict[str, float]:
    """Numbers that describe a scan the way a network sees it, for `Card.statistics` and `Card.snr`.

    Training (`DWISuperResLib.training`) calls this for each training scan *at the resolution the network is given*
    (degraded by each of its scales), merges them by `domain_range`, and stores the result: everything but "snr" as the
    card's `statistics`, "snr" as its `snr`.

    Returns
    -------
    dict
        "snr": mean b0 signal of the foreground over the noise, see `DWI.foreground_b0`. "b0 spread", "dwi spread": ln
        of the 5 to 95 % quantile range over the median in the brain; "b0 skewness", "dwi skewness": ln of the upper
        over the lower half of that range; "b0-dwi correlation": over the brain's voxels, of mean b0 and mean DWI;
        "diffusivity": median of ln(b0/DWI)/b, 1e-3 mm²/s; "anisotropy": median over voxels of the standard deviation
        over directions / mean, noise taken off; "brain volume": cm³; "slab height": extent of the brain along the
        slice axis, mm. What needs a b0, or a weighted volume, is left out without.
    """
    mask = brain_mask(dwi) if mask is None else mask
    axis = slice_axis(dwi, axis)
    b0, mean, variance = _in_each_voxel(dwi, mask)
    noise = noise_level(dwi, mask)
    found = {
        "snr": _ratio(dwi.foreground_b0(), noise),
        "brain volume": float(mask.sum() * dwi.voxel_sizes.prod() / 1000),
        "slab height": float(np.ptp(np.argwhere(mask)[:, axis]) + 1) * float(dwi.voxel_sizes[axis]),
    }
    if dwi.is_b0.any():
        found |= _shape_of("b0", b0)
    if dwi.is_b0.all():
        return found
    spread = np.sqrt(np.maximum(variance - noise**2, 0))
    found |= {**_shape_of("dwi", mean), "anisotropy": float(np.median(spread / _raised(mean)))}
    if dwi.is_b0.any():
        ratio = _raised(b0) / _raised(mean)
        found["b0-dwi correlation"] = float(np.corrcoef(b0, mean)[0, 1]) if b0.std() > 0 < mean.std() else 1.0
        found["diffusivity"] = float(1e3 * np.median(np.log(ratio)) / dwi.bvals[~dwi.is_b0].mean())
    return found


def _in_each_voxel(dwi: DWI, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(3, V) mean b0, mean of the weighted volumes and their variance, zero without; a plane at a time: no copy."""
    found = np.zeros((3, *dwi.spatial_shape), np.float32)
    weighted = np.flatnonzero(~dwi.is_b0)
    for k in np.flatnonzero(mask.any(axis=(0, 1))):
        inside, place = dwi.signal[:, :, k][mask[:, :, k]], (slice(None), slice(None), k)
        if dwi.is_b0.any():
            found[0][place][mask[place]] = inside[:, dwi.is_b0].mean(1)
        if len(weighted):
            found[1][place][mask[place]] = inside[:, weighted].mean(1)
        if len(weighted) > 1:
            found[2][place][mask[place]] = inside[:, weighted].var(1, ddof=1)
    return found[:, mask]


def domain_range(statistics: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """Smallest and largest of each number over scans: what a card stores, JSON-ready."""
    values: dict[str, list[float]] = {}
    for one in statistics:
        for key, value in one.items():
            values.setdefault(key, []).append(value)
    return {key: [float(f"{min(v):.4g}"), float(f"{max(v):.4g}")] for key, v in values.items()}


def _shape_of(name: str, values: NDArray) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    level, lower, upper, span = _raised(np.array([middle, middle - low, high - middle, high - low]))
    return {f"{name} spread": float(np.log(span / level)), f"{name} skewness": float(np.log(upper / lower))}


def _raised(values: NDArray) -> NDArray:
    """Values none of which is below a millionth of the largest, nor zero: safe to divide by, whatever their unit."""
    return np.maximum(values, _NEXT_TO_NOTHING * values.max(initial=0) + _TINY)


def _ratio(value: float, by: float) -> float:
    """value / by, at most 1e12."""
    return value / max(by, 1e-12 * abs(value), _TINY)


def _grid_checks(low: DWI, high: DWI, mask: NDArray[np.bool_], axis: int) -> list[Check]:
    """Of a few slices in the middle of the brain: of some volumes, and of the FA of all.

    In the slices, and where the slice axis was refined in sections that hold it: so along every axis that a network
    may have changed, which for one of blocks are all three, whichever of them were refined.
    """
    sections = [axis]
    if low.spatial_shape[axis] != high.spatial_shape[axis]:
        sections.append(in_plane_axes(axis)[0])
    found: dict[str, list[tuple[float, float, int]]] = {"signal": []}
    if determines_tensor(high.bvals, high.bvecs):
        found["FA"] = []
    for across in sections:
        for name, excesses in _excesses(low, high, mask, across, "FA" in found).items():
            found[name] += excesses
    checks = []
    for name, excesses in found.items():
        if not excesses:
            continue
        excess, threshold, period = max(excesses, key=lambda e: e[0] - e[1])
        advice = "No regular pattern stands out."
        if excess > threshold:
            advice = (
                f"A pattern repeats every {period} voxels: read no detail of that size, and try another checkpoint."
            )
            if any(m % n for n, m in zip(low.spatial_shape, high.spatial_shape, strict=True)):
                # Measured: FA of scans of 39 and 35 slices, made of 20 and 18; of 38 and 36 slices there is none.
                advice += (
                    " Its matrix is no multiple of the input's, so that voxels lie on those of the input and between "
                    "them in turn, which alone can bring it: a scale that divides evenly avoids that."
                )
        checks.append(Check(f"grid artefacts in {name} (dB)", excess, threshold, excess > threshold, advice))
    return checks


def _excesses(
    low: DWI, high: DWI, mask: NDArray[np.bool_], across: int, with_fa: bool
) -> dict[str, list[tuple[float, float, int]]]:
    """(excess, threshold, period) of the patterns in sections stacked along voxel axis `across`."""
    from ..metrics.grid_artefacts import NoSliceError, grid_artefact_index

    area = mask.sum(axis=in_plane_axes(across))
    full = np.flatnonzero(area > 0.5 * area.max())
    chosen = full[np.unique(np.linspace(0, len(full) - 1, _SLICES).round().astype(int))]
    plain = replace(high, signal=_interpolated(low, high.spatial_shape, chosen, across))
    region = _slices(mask, chosen, across)
    volumes = _spread_volumes(high)
    shown = np.stack([_slices(high.signal[..., n], chosen, across) for n in volumes], axis=3)
    stacks = {"signal": (shown, plain.signal[..., volumes])}
    if with_fa:
        within = np.zeros_like(mask)
        np.moveaxis(within, across, 0)[chosen] = np.moveaxis(region, across, 0)
        first = _slices(compute_maps(high, ("fa",), mask=within)["fa"], chosen, across)
        second = compute_maps(plain, ("fa",), mask=region)["fa"]
        stacks["FA"] = (first[..., None], second[..., None])
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in stacks}
    for name, (image, interpolated) in stacks.items():
        # Anatomy hides wide grids; what the network added to the interpolation shows them.
        candidates = [image]
        added = image - interpolated
        if np.abs(added[region]).mean() > 1e-3 * np.abs(image[region]).mean():
            candidates.append(added)
        repeated = np.concatenate([np.moveaxis(region, across, 0)] * image.shape[3])
        for each in candidates:
            if np.ptp(each[region]) <= 1e-6 * np.abs(interpolated).max():
                continue  # an empty image has no pattern; the consistency check speaks of it
            try:
                index = grid_artefact_index(np.concatenate(np.moveaxis(each, (3, across), (0, 1))), repeated)
            except NoSliceError:
                continue  # too small a brain to tell
            least = GRID_THRESHOLD_DB if name == "signal" else 0.0
            found[name] += [
                (v, max(least, index.threshold_db[p]), p) for p, v in index.excess_db.items() if np.isfinite(v)
            ]
    return found


def _slices(array: NDArray, chosen: NDArray[np.intp], axis: int) -> NDArray:
    """Some slices of (X, Y, Z, ...), in Fortran order."""
    return np.asfortranarray(array[tuple(chosen if a == axis else slice(None) for a in range(3))])


def _interpolated(low: DWI, shape: Sequence[int], chosen: NDArray[np.intp], across: int) -> NDArray[np.float32]:
    """Some sections of the sinc interpolation of `low` to a finer matrix, without the others."""
    signal, operators = low.signal, {}
    for a, (n, m) in enumerate(zip(low.spatial_shape, shape, strict=True)):
        if a == across and n == m:
            signal = _slices(signal, chosen, across)
        elif n != m:
            matrix = operator(n, m, "sinc")
            operators[a] = matrix[chosen] if a == across else matrix
    return map_volumes(signal, operators)


def _consistency_check(
    low: DWI, high: DWI, mask: NDArray[np.bool_], noise: float, drawn: Mapping[str, object], axis: int
) -> Check:
    volumes = _spread_volumes(low)
    before, after = low.signal[..., volumes], high.signal[..., volumes]
    width = fitting_width(before, after, drawn, axis)
    again = map_volumes(after, coarsening(low.spatial_shape, high.spatial_shape, drawn, axis, width))
    difference = again[mask] - before[mask]
    value = _ratio(float(np.sqrt((difference.astype(np.float64) ** 2).mean())), noise)
    fired = not value <= CONSISTENCY_THRESHOLD
    advice = "The output, degraded again, equals the input within its noise."
    if fired:
        advice = "The output, degraded again, is not the input: check the scale, or try --consistent."
    if width is not None:
        advice += f" The slice thickness, or blur, that fits best was taken: {width:.2f} of a voxel of the input."
    return Check("consistency with the input (noise SD)", value, CONSISTENCY_THRESHOLD, fired, advice)


def _domain_checks(low: DWI, card: Card, mask: NDArray[np.bool_], noise: float, axis: int) -> list[Check]:
    found = domain_statistics(low, mask, axis)
    checks = []
    for check in check_domain(card, low.voxel_sizes, axis, low.bvals, found["snr"]):
        span = f"{check.trained[0]:.4g} to {check.trained[1]:.4g}"
        advice = f"Within the training data's range ({span})."
        if check.outside:
            low_end, high_end = (f"{value:.3g}" for value in check.found)
            reach = low_end if low_end == high_end else f"{low_end} to {high_end}"
            advice = f"It is {reach}, in training {span}; compare with sinc, or use a checkpoint made for such scans."
        name = f"domain: {check.name} (factor outside)"
        checks.append(Check(name, check.factor, TOLERANCE, check.outside, advice))
    if low.is_b0.all() and card.bvals and card.bvals[1] > B0_THRESHOLD:
        name = "domain: share of volumes without diffusion weighting"
        advice = "The checkpoint was trained on diffusion-weighted scans: compare with sinc, or use one made for these."
        return [*checks, Check(name, 1.0, 0.99, True, advice)]
    return checks + _statistics_checks(found, card)


def _statistics_checks(found: Mapping[str, float], card: Card) -> list[Check]:
    """Intensities and anatomy beside those of the training data."""
    checks = []
    known = {
        key: tuple(card.statistics[key])
        for key in (*_NARROWEST_RANGES, *_ANATOMY_UNITS)
        if key in found and key in card.statistics
    }
    distances = {
        key: _outside(found[key], known[key], _NARROWEST_RANGES[key]) for key in _NARROWEST_RANGES if key in known
    }
    factors = {
        key: max(known[key][0] / found[key], found[key] / known[key][1]) for key in _ANATOMY_UNITS if key in known
    }
    for name, unit, outside, threshold in (
        ("intensities", "range widths outside", distances, STATISTICS_THRESHOLD),
        ("anatomy", "factor outside", factors, ANATOMY_THRESHOLD),
    ):
        if not outside:
            continue
        worst = max(outside, key=outside.__getitem__)
        fired = outside[worst] > threshold
        advice = "Like those of the training data."
        if fired:
            span = " to ".join(f"{v:.3g}" for v in known[worst])
            advice = (
                f"The {worst} is {found[worst]:.3g} {_ANATOMY_UNITS.get(worst, '')}".rstrip()
                + f", in training {span}: make sure that this is a DWI of a whole head, and compare with sinc."
            )
        checks.append(Check(f"domain: {name} ({unit})", outside[worst], threshold, fired, advice))
    return checks


def _outside(value: float, limits: tuple[float, ...], tolerance: float) -> float:
    low, high = limits
    return max(low - value, value - high, 0.0) / max(high - low, tolerance)


def _uncertainty_checks(high: DWI, deviation: NDArray, factor: float, mask: NDArray[np.bool_]) -> list[Check]:
    """Limits are of the members' spread itself, which is the deviation over its factor."""
    voxels = _spread_voxels(mask, _VOXELS)
    signal, spread = _signals_at(high.signal, voxels), _signals_at(deviation, voxels) / factor
    weighted = ~high.is_b0 if not high.is_b0.all() else high.is_b0
    mean = float(signal[:, weighted].mean())
    value = 100 * _ratio(float(np.sqrt(np.median((spread[:, weighted] ** 2).mean(1)))), mean)
    fired = value > UNCERTAINTY_THRESHOLD
    advice = "The members of the ensemble agree."
    if fired:
        advice = "The members of the ensemble disagree; trust details only where the uncertainty map is low."
    checks = [Check("ensemble spread of the signal (%)", value, UNCERTAINTY_THRESHOLD, fired, advice)]
    if determines_tensor(high.bvals, high.bvecs):
        value = float(np.median(fa_deviation(signal, spread, high.bvals, high.bvecs)))
        fired = value > FA_UNCERTAINTY_THRESHOLD
        advice = "It moves FA little."
        if fired:
            advice = "It makes FA uncertain by that much; do not interpret smaller differences of FA."
        checks.append(Check("ensemble spread of FA", value, FA_UNCERTAINTY_THRESHOLD, fired, advice))
    return checks


def fa_deviation(signal: NDArray, deviation: NDArray, bvals: NDArray, bvecs: NDArray) -> NDArray[np.float32]:
    """(V,) standard deviation of FA, to first order, for signals (V, N) whose volumes err independently by (V, N)."""
    import torch

    from ..microstructure.tensor import fit_tensor, fractional_anisotropy

    unit = float(np.abs(signal).max(initial=0)) / 1000 or 1.0  # see `tensor.MIN_SIGNAL`
    values = torch.tensor(signal / unit, dtype=torch.float32, requires_grad=True)
    fractional_anisotropy(fit_tensor(values, bvals, bvecs)).sum().backward()
    assert values.grad is not None
    return np.sqrt(((values.grad.numpy() * (deviation / unit)) ** 2).sum(-1))


def _spread_volumes(dwi: DWI) -> NDArray[np.intp]:
    """A few weighted volumes, evenly spread (of all where there is none)."""
    volumes = np.flatnonzero(~dwi.is_b0) if not dwi.is_b0.all() else np.arange(dwi.n_volumes)
    return volumes[np.unique(np.linspace(0, len(volumes) - 1, _VOLUMES).round().astype(int))]


def _spread_voxels(mask: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], ...]:
    """Indices of about `count` voxels of the mask, evenly spread."""
    inside = np.flatnonzero(mask)
    return np.unravel_index(inside[:: max(1, len(inside) // count)], mask.shape)


def _signals_at(signal: NDArray[np.float32], voxels: tuple[NDArray[np.intp], ...]) -> NDArray[np.float32]:
    """(V, N) signals of some voxels, a volume at a time: each lies by itself in a file."""
    found = np.empty((len(voxels[0]), signal.shape[3]), np.float32)
    for n in range(signal.shape[3]):
        found[:, n] = signal[..., n][voxels]
    return found
