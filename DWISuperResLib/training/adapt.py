"""A network trained on the very scan that it is to super-resolve, of whose slices it is shown coarser copies.

The scan's slices, finer than they are thick, are what it is to make of themselves, made as coarse along one of their
axes as the slices are thick (after SMORE, Zhao et al. 2021, doi:10.1109/TMI.2020.3037187). Nothing but the scan is
needed, and slices that are held back tell when it helps no more.

In-plane there is no such lesson. The scan degraded once more is one of coarser anatomy and without the filter that the
scanner lays on the edge of k-space: networks that were trained on it made scans worse (Testing/benchmarks/TRIALS.md).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..checkpoints import Card, Checkpoint
from ..dwi import DWI
from ..errors import Cancelled, InputError
from ..inference.devices import resolve_device
from ..inference.memory import MEMORY_FORMATS, buffers_reused
from ..losses import build_loss
from ..microstructure.tensor import determines_tensor
from ..networks import build
from ..resampling.grid import in_plane_axes, slice_axis
from ..resampling.scale import Scale, ScaleLike
from .cache import Scan, copied_scan, copy_scan
from .configuration import Configuration, Factors, validated
from .module import Training, learning_rates
from .patches import Batch, Batches
from .run import start_from

HELD_BACK = 5
"""Every so manieth slice of the brain is held back."""
CHECKS = 10
"""How often the slices held back are looked at, the beginning not counted."""
PATIENCE = 5
"""So many checks without a better one end the training."""
CHECKED = 8
"""Batches of the slices held back."""
TIMED = 3
"""Steps by which the time of one is measured."""
FINE_TUNING, FRESH = 1e-4, 1e-3
"""Learning rates of a network that serves the factors already, and of one that has yet to learn them."""
PULL = 1e-3
"""Share of the way back to where it started that a fine-tuned weight goes with every step at the full learning rate:
L2-SP (Li et al. 2018, arXiv:1802.01483), decoupled from the gradient as weight decay is in AdamW."""
PATCH = 48
"""Edge in pixels of the finer grid."""
TOGETHER = 12
"""Volumes of a place that a loss across volumes compares: a b0 and eleven directions."""


@dataclass(frozen=True)
class Adaptation:
    """What an adaptation did, for the provenance of its result; the same steps and seed give the same network again.

    Attributes
    ----------
    steps : int
        Of the schedule: what to ask for to repeat it.
    kept : int
        Step whose weights were kept; 0 where none was better than the start.
    seed : int
    before, after : float
        Loss on the slices held back, at the start and of the weights kept.
    minutes : float
    """

    steps: int
    kept: int
    seed: int
    before: float
    after: float
    minutes: float


def adapt(
    dwi: DWI,
    checkpoint: Checkpoint,
    scale: ScaleLike,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    axis: int | str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[float, str], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> tuple[Checkpoint, Adaptation]:
    """Train a network on the scan that it is to super-resolve.

    Parameters
    ----------
    dwi : DWI
    checkpoint : Checkpoint
        Where it starts from. It serves the scale or is an `sr_unet`, whose body is kept and whose ends are new.
    scale : Scale, number, str or three numbers
        Through-plane (1x1x3), by a whole number where the checkpoint does not serve it; see `Scale.parse`.
    minutes : float, optional
        How long it may take. The first steps are timed, and so many are planned as fit.
    steps : int, optional
        In place of `minutes`: how many, to repeat what another adaptation did.
    axis : optional
        Slice axis, see `grid.slice_axis`.
    seed : int
    device : str
    progress : callable (fraction, message), optional
    cancel : callable () -> bool, optional

    Returns
    -------
    Checkpoint, Adaptation
        The network as it did best on the slices held back, and how it came about.

    Raises
    ------
    InputError
        If neither or both of `minutes` and `steps` are given, the checkpoint cannot start it or takes a guide, the
        scale refines the slices themselves, or these are no finer than their distance would become.
    Cancelled
        If `cancel` said so.

    Examples
    --------
    >>> from DWISuperResLib import load_checkpoint, phantom
    >>> scan = phantom((40, 48, 6), (4, 4, 20), supersampling=1, shells=((0, 1), (1000, 6)))
    >>> adapted, told = adapt(scan, load_checkpoint("through_plane"), "1x1x2", steps=2, device="cpu")
    >>> adapted.card.served_text, told.steps
    ('1x1x2', 2)
    """
    if (minutes is None) == (steps is None):
        raise InputError("An adaptation takes minutes or a number of steps; give one of them.")
    if not (minutes or steps or 0) > 0:
        raise InputError(f"The adaptation is given {minutes or steps} minutes or steps; expected a number above 0.")
    if checkpoint.card.view.get("guide"):
        raise InputError(f"The checkpoint {checkpoint.card.name!r} is shown a guide and cannot adapt; choose another.")
    begun = time.monotonic()
    slices = slice_axis(dwi, axis)
    plan = _plan(dwi, checkpoint.card, Scale.parse(scale, dwi, axis), slices, seed)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, _own_randomness(seed), buffers_reused():
        copy_scan(dwi, Path(folder), plan.config.normalisation, slices)
        lessons = _lessons(copied_scan(Path(folder), Path("the scan")), plan)
        training = _Training(plan, _network(plan, checkpoint), lessons, resolve_device(device))
        if steps is None:
            steps = training.fitting_in((minutes or 0.0) * 60 - (time.monotonic() - begun))
        before, after, kept = training(steps, progress or (lambda share, message: None), cancel or (lambda: False))
        weights = {name: value.cpu() for name, value in training.network.state_dict().items()}
    told = Adaptation(steps, kept, seed, before, after, round((time.monotonic() - begun) / 60, 2))
    return Checkpoint(_card(plan, checkpoint.card, told, dwi, slices), weights), told


@dataclass(frozen=True)
class _Plan:
    """What is to be learned: the factors as a card has them, by which network, whether it served them before.

    `together` is how many volumes the loss compares, None where it compares them one by one.
    """

    factors: Factors
    architecture: str
    arguments: dict[str, Any]
    served: bool
    together: int | None
    config: Configuration


def _plan(dwi: DWI, card: Card, scale: Scale, slices: int, seed: int) -> _Plan:
    fine = scale.fine_shape(dwi.spatial_shape)
    served = card.serves(dwi.spatial_shape, fine, slices)
    exactly = [f for f in card.factors if replace(card, factors=(f,)).serves(dwi.spatial_shape, fine, slices)]
    first, second = (float(scale.factors[a]) for a in in_plane_axes(slices))
    factors: Factors = exactly[0] if exactly else (first, second, float(scale.factors[slices]))
    if factors[2] == 1 or max(factors[:2]) > 1:
        raise InputError(
            f"An adaptation refines the distance of slices (1x1x3), not the slices; the scale is {scale}, and in-plane "
            "adapted networks do worse. Leave it out, or run through-plane first and in-plane after."
        )
    coarser = _coarser_in_plane(dwi, factors[2], slices)
    arguments = dict(card.arguments) if served else _through_plane_arguments(card, factors, scale)
    fa = _fa_terms(card, dwi)
    config = validated(
        {
            "name": "adapted",
            "seed": seed,
            "scales": [factors],
            "normalisation": card.normalisation,
            "data": {"scans": ["the scan"], "patch": PATCH, "patches": 1 if fa else 8, "margin": 2, "brain": 1.0},
            "loss": [{"name": "charbonnier"}, *fa],
            # Slices touch, as far as a header tells.
            "degradation": {"models": {"profile": 1}, "fwhm": [1, 1]},
            "augmentation": {"resample": [coarser, coarser], "contrast": [1, 1]},
            "schedule": {"learning_rate": FINE_TUNING if served else FRESH, "warmup": 0.1, "weight_decay": 0},
        },
    )
    return _Plan(factors, card.architecture, arguments, served, TOGETHER if fa else None, config)


def _through_plane_arguments(card: Card, factors: Factors, scale: Scale) -> dict[str, Any]:
    """Of a network that is made to serve a through-plane factor; InputError where it cannot be."""
    whole = int(factors[2])
    if card.architecture != "sr_unet" or whole != factors[2]:
        raise InputError(
            f"The checkpoint {card.name!r} serves scales {card.served_text}, not {scale}; to these an adaptation "
            "adds whole through-plane factors of an sr_unet alone, such as 1x1x3."
        )
    # Neighbours lie a slice apart in training and a pixel apart when it is used; what a slice profile leaves is
    # not band-limited.
    return {**card.arguments, "scales": [[1, whole]], "neighbours": 0, "band_limited": False}


def _fa_terms(card: Card, dwi: DWI) -> list[dict[str, Any]]:
    """Of the loss that the network was trained with: those of the FA, where the scan determines one."""
    weighted = np.count_nonzero(~dwi.is_b0)
    fitted = 0 < weighted < dwi.n_volumes and determines_tensor(dwi.bvals, dwi.bvecs)
    return [term for term in card.loss.get("terms", ()) if term.get("name") == "fa"] if fitted else []


def _coarser_in_plane(dwi: DWI, factor: float, slices: int) -> float:
    """How much coarser slices are to be made first, so that they are as fine as their distance will be."""
    wanted = float(dwi.voxel_sizes[slices]) / factor
    finest = max(float(dwi.voxel_sizes[a]) for a in in_plane_axes(slices))
    if wanted < 0.98 * finest:
        raise InputError(
            f"The slices have voxels of {finest:.3g} mm and cannot teach a distance of {wanted:.3g} mm; choose a "
            "smaller through-plane factor, or leave the adaptation out."
        )
    return max(wanted / finest, 1.0)


@dataclass(frozen=True)
class _Part(Scan):
    """Some slices of a scan."""

    slices: tuple[int, ...] = ()

    @cached_property
    def brain_area(self) -> NDArray[np.float64]:
        area = np.count_nonzero(self.mask, axis=(1, 2)).astype(np.float64)
        area[np.setdiff1d(np.arange(len(area)), self.slices)] = 0
        return area


def _lessons(scan: Scan, plan: _Plan) -> tuple[Batches, Batches]:
    """Batches of the slices to train on, and of those held back: the latter always the same, without augmentation."""
    brain = np.flatnonzero(scan.brain_area > 0.1 * scan.brain_area.max())
    held = brain[HELD_BACK // 2 :: HELD_BACK]
    if not len(held):
        raise InputError(f"The scan shows brain in {len(brain)} slices; an adaptation needs {HELD_BACK // 2 + 1}.")
    # Taken for the slice axis, an axis of the slices is coarsened as slices are.
    axes = in_plane_axes(scan.axis)
    still = {"intensity": (1, 1), "flips": False, "rotations": False}
    unchanged = plan.config.augmentation.model_copy(update=still)
    configs = plan.config, plan.config.model_copy(update={"augmentation": unchanged})
    view: Any = build(plan.architecture, **plan.arguments).view
    if view.dimensions == 3:
        raise InputError(
            "An adaptation trains networks of slices, and the checkpoint's is one of blocks; leave it out."
        )
    made = []
    for slices, config in zip((np.setdiff1d(brain, held), held), configs, strict=True):
        part = _Part(**{f.name: getattr(scan, f.name) for f in fields(Scan)}, slices=tuple(int(s) for s in slices))
        made.append(Batches([replace(part, axis=axis) for axis in axes], view, config, plan.together))
    return made[0], made[1]


def _network(plan: _Plan, checkpoint: Checkpoint) -> nn.Module:
    network = build(plan.architecture, **plan.arguments)
    if plan.served:
        network.load_state_dict(checkpoint.weights)
    else:
        start_from(network, checkpoint.weights, checkpoint.card.name)
    return network


class _Training:
    """Steps, and checks between them; afterwards `network` is as it was when it did best."""

    def __init__(self, plan: _Plan, network: nn.Module, lessons: tuple[Batches, Batches], device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.lessons, self.held = lessons
        self.format = MEMORY_FORMATS[self.lessons.view.dimensions]
        # Batch norm keeps the statistics of the training: a scan is too little to measure them.
        self.network = network.to(device).to(memory_format=self.format).eval()
        self.module = Training(plan.config, self.network, build_loss(plan.config.loss))
        self.start = copy.deepcopy(self.network.state_dict())

    def fitting_in(self, seconds: float) -> int:
        """Steps that take so long, checks included; measured on a copy, so that nothing depends on the measurement."""
        trial = copy.copy(self)
        trial.network = copy.deepcopy(self.network)
        optimizer = trial._optimizer()
        trial._step(optimizer, 0, 0.5)
        begun = time.monotonic()
        for number in range(TIMED):
            trial._step(optimizer, number, 0.5)
        stepped = time.monotonic()
        trial._error()
        a_step, a_check = (stepped - begun) / TIMED, time.monotonic() - stepped
        left = seconds - (TIMED + 1) * a_step - (CHECKS + 2) * a_check
        return max(CHECKS, int(left / a_step))

    def __call__(
        self, steps: int, report: Callable[[float, str], None], cancelled: Callable[[], bool]
    ) -> tuple[float, float, int]:
        """Loss on the slices held back, before and after, and the step that was best."""
        optimizer = self._optimizer()
        before = best = self._error()
        kept, without = 0, 0
        best_weights = copy.deepcopy(self.network.state_dict())
        every = -(-steps // CHECKS)
        for n in range(steps):
            if cancelled():
                raise Cancelled("Cancelled; nothing was written.")
            self._step(optimizer, n, n / steps)
            if (n + 1) % every == 0 or n + 1 == steps:
                error = self._error()
                without += 1
                if error < best:
                    best, kept, without = error, n + 1, 0
                    best_weights = copy.deepcopy(self.network.state_dict())
            report((n + 1) / steps, f"adapting to the scan: held-back loss {best:.4g} ({before:.4g} at the start)")
            if without == PATIENCE:
                break
        self.network.load_state_dict(best_weights)
        return before, best, kept

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), betas=(0.9, 0.99), weight_decay=0)

    def _step(self, optimizer: torch.optim.Optimizer, number: int, done: float) -> None:
        schedule = self.plan.config.schedule
        rate = learning_rates(schedule, done, 1)[0][0]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        self._loss(self.lessons[number]).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        optimizer.step()
        if self.plan.served:
            with torch.no_grad():
                for name, parameter in self.network.named_parameters():
                    parameter.lerp_(self.start[name], PULL * rate / schedule.learning_rate)

    def _error(self) -> float:
        """Mean loss on the slices held back."""
        with torch.no_grad():
            return float(torch.stack([self._loss(self.held[n]) for n in range(CHECKED)]).mean())

    def _loss(self, batch: Batch) -> torch.Tensor:
        """Of a batch, without the border, where the network lacks context."""
        shown = batch["input"].to(self.device, memory_format=self.format)
        target = batch["target"].to(self.device)
        size = target.shape[2:]
        margins = [self.plan.config.data.margin * m // n for n, m in zip(shown.shape[2:], size, strict=True)]
        inside = (..., *(slice(margin, -margin) for margin in margins))
        gains, offsets = (batch[name].to(self.device) for name in ("gains", "offsets"))
        compared = {"target": target[inside], "gains": gains, "offsets": offsets, "gradients": batch["gradients"]}
        return self.module.compare(self.network(shown, size).float()[inside], compared)[0]


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """New weights are drawn from the seed, and the caller's generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _card(plan: _Plan, card: Card, told: Adaptation, dwi: DWI, slices: int) -> Card:
    """The card of the checkpoint with what was done to it; of the factors, those alone that it was adapted to."""
    training = {**card.training, "adapted": asdict(told)}
    name = f"{card.name[:90]}, adapted"
    sizes = [float(size) for size in dwi.voxel_sizes]
    planes, across = [sizes[a] for a in in_plane_axes(slices)], sizes[slices]
    return replace(
        card, name=name, arguments=plan.arguments, factors=(plan.factors,), view={}, training=training, sha256="",
        degradation={"model": "profile", **plan.config.degradation.model_dump(mode="json")},
        voxel_sizes={"in_plane": [min(planes), max(planes)], "slice": [across, across]},
    )  # fmt: skip
