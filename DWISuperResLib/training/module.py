"""The training step, the schedule and the optimiser: everything about training that is not data."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..dwi import DWI
from ..errors import ProcessingError
from ..inference.memory import MEMORY_FORMATS
from ..losses import CompositeLoss
from ..resampling.upsamplers import quick_upsamplers
from .configuration import Configuration, Schedule
from .images import figures
from .monitors import monitors
from .patches import Batch
from .validation import Case, classical, predict, score

WHITE = {"volume": 4.0, "paper": 1.0}
"""Network intensity that losses see as 1, where feature networks and SSIM have their white: b0 of grey matter is
about 1 when volumes are divided by their foreground mean, and fluid 3 to 4."""


class Training(lightning.LightningModule):
    """A network, its loss, and the schedule that trains it."""

    network: Any

    def __init__(self, config: Configuration, network: nn.Module, loss: CompositeLoss) -> None:
        super().__init__()
        self.config, self.network, self.loss = config, network, loss
        self.groups = parameter_groups(network)
        self._classical: dict[int, dict[str, dict[str, float]]] = {}
        self._rows: list[Tensor] = []
        self._frozen = False
        self._seconds_before = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time trained, earlier parts of a resumed run included."""
        return self._seconds_before + time.monotonic() - self._started

    def configure_optimizers(self) -> torch.optim.Optimizer:
        schedule = self.config.schedule
        options: list[dict[str, Any]] = []
        for level, group in enumerate(self.groups):
            for kind, members in split_parameters(group).items():
                decay = schedule.weight_decay if kind == "matrices" else 0.0
                if members:
                    options.append({"params": members, "level": level, "kind": kind, "weight_decay": decay})
        if schedule.optimizer == "sgd":
            return torch.optim.SGD(options, lr=schedule.learning_rate, momentum=0.9)
        maker = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
        betas = (0.9, schedule.beta2)
        # Not fused, which would take half the time: Lightning refuses to clip the gradients of such an optimiser.
        return maker(options, lr=schedule.learning_rate, betas=betas, eps=schedule.epsilon)

    def on_train_start(self) -> None:
        self._started = time.monotonic()

    def on_train_epoch_start(self) -> None:
        # Whatever draws from the global generators continues the same after resuming.
        torch.manual_seed(np.random.SeedSequence((self.config.seed, self.current_epoch)).generate_state(1)[0])

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        schedule, optimizer = self.config.schedule, self.trainer.optimizers[0]
        done = self.global_step / (schedule.epochs * schedule.steps_per_epoch)
        if schedule.max_minutes is not None:
            done = max(done, self.seconds / 60 / schedule.max_minutes)
        frozen = done < schedule.freeze_epochs / schedule.epochs
        if self._frozen and not frozen:
            # As fastai's unfreeze: momenta of the frozen phase would pull at weights that stood still.
            optimizer.state.clear()
        self._frozen = frozen
        rates, momentum = learning_rates(schedule, min(done, 1.0), len(self.groups))
        for group in optimizer.param_groups:
            group["lr"] = rates[group["level"]] * (schedule.bias_ratio if group["kind"] == "vectors" else 1.0)
            if "betas" in group:
                group["betas"] = (momentum, schedule.beta2)
        self.log("lr", rates[-1])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Skipped by clipping and optimiser, unlike parameters that cease to need gradients, which DDP forbids.
        for group in optimizer.param_groups if self._frozen else ():
            if group["level"] < len(self.groups) - 1 and group["kind"] != "normalisation":
                for parameter in group["params"]:
                    parameter.grad = None

    def training_step(self, batch: Batch, index: int) -> Tensor:
        shown = batch["input"].contiguous(memory_format=MEMORY_FORMATS[self.network.view.dimensions])
        size = batch["target"].shape[2:]
        prediction = self.network(shown, size).float()
        if self.config.data.margin:
            # Patches of scans that hold little, lowered to what they hold, would else be all margin.
            margin, pairs = self.config.data.margin, zip(shown.shape[2:], size, strict=True)
            margins = [min(margin * m // n, m // 3) for n, m in pairs]
            inside = (..., *(slice(first, m - first) for first, m in zip(margins, size, strict=True)))
            prediction, batch = prediction[inside], batch | {"target": batch["target"][inside]}
        with torch.autocast(self.device.type, enabled=False) if self.loss.needs_float32 else nullcontext():
            total, parts = self.compare(prediction, batch)
        self.log_dict(
            {f"train/{name}": value for name, value in parts.items()}, on_step=False, on_epoch=True, batch_size=1
        )
        self.log("loss", total, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        if self.global_step % 10 == 0 and not torch.isfinite(total):
            raise ProcessingError(
                f"The loss is {total.item()} at step {self.global_step}; lower schedule.learning_rate or set "
                "schedule.clip."
            )
        return total

    def compare(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in units of WHITE; across volumes, in one unit for all volumes of a place."""
        white = WHITE[self.config.normalisation]
        if not self.loss.needs_gradients:
            return self.loss(prediction / white, batch["target"] / white)
        totals, shares, first = [], [], 0
        for bvals, bvecs in batch["gradients"]:
            rows = slice(first, first + len(bvals))
            first = rows.stop
            ones = (1,) * (prediction.ndim - 2)
            gains, offsets = batch["gains"][rows].view(1, -1, *ones), batch["offsets"][rows].view(1, -1, *ones)
            level = (1 / gains + offsets).mean() * white
            seen, wanted = (
                (images[rows].transpose(0, 1) / gains + offsets) / level for images in (prediction, batch["target"])
            )
            table = torch.as_tensor(bvals).to(prediction), torch.as_tensor(bvecs).to(prediction)
            total, parts = self.loss(seen, wanted, gradients=table)
            totals.append(total)
            shares.append(parts)
        mean = {name: torch.stack([part[name] for part in shares]).mean() for name in shares[0]}
        return torch.stack(totals).mean(), mean

    def validation_step(self, index: int, _: int) -> None:
        if index < 0:
            return
        # Only the network computes in the training's precision.
        with torch.autocast(self.device.type, enabled=False):
            case = self.trainer.datamodule.case(index)  # type: ignore[attr-defined]
            if index not in self._classical:
                self._classical[index] = {
                    method: score(case, classical(case, method))[0] for method in quick_upsamplers()
                }
            test = predict(self._forward, case, self.network.view, self.device)
            scores, differences = score(case, test)
            if self.config.validation.images and index == 0:
                self._show(case, test, differences)
        table = [scores, *self._classical[index].values()]
        self._rows.append(torch.tensor([[row[name] for name in monitors()] for row in table], dtype=torch.float64))

    def _forward(self, shown: Tensor, size: Sequence[int]) -> Tensor:
        shown = shown.contiguous(memory_format=MEMORY_FORMATS[self.network.view.dimensions])
        with self.trainer.precision_plugin.forward_context():
            return self.network(shown, size)

    def on_validation_epoch_end(self) -> None:
        count = 1 + len(quick_upsamplers()), len(monitors())
        rows = torch.stack(self._rows) if self._rows else torch.full((1, *count), math.nan)
        self._rows.clear()
        known = ~torch.isnan(rows)
        sums = torch.stack((torch.where(known, rows, 0).sum(0), known.sum(0).to(rows)))
        sums = self.trainer.strategy.reduce(sums.float().to(self.device), reduce_op="sum").cpu()
        means = (sums[0] / sums[1]).numpy()
        report = []
        for n, (name, (_, metric)) in enumerate(monitors().items()):
            best = float((np.max if metric.higher_is_better else np.min)(means[1:, n]))
            self.log_dict({f"val/{name}": float(means[0, n]), f"classical/{name}": best}, batch_size=1)
            report.append(f"{name} {means[0, n]:.4g} ({best:.4g})")
        self.print(f"epoch {self.current_epoch}, network (best interpolation): {', '.join(report)}")

    def _show(self, case: Case, test: DWI, differences: dict[str, NDArray[np.float32]]) -> None:
        baseline = classical(case, "sinc")
        base_differences = score(case, baseline)[1]
        for logger in self.loggers:
            if isinstance(logger, lightning.pytorch.loggers.TensorBoardLogger):
                for name, image in figures(case, test, baseline, differences, base_differences).items():
                    logger.experiment.add_image(name, image, self.global_step, dataformats="HWC")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        metrics = self.trainer.callback_metrics
        scores = {name: float(value) for name, value in metrics.items() if name.startswith(("val/", "classical/"))}
        checkpoint["progress"] = {
            "frozen": self._frozen,
            "seconds": self.seconds,
            "step": self.global_step,
            "scores": {name: round(value, 6) for name, value in scores.items() if math.isfinite(value)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._frozen = checkpoint["progress"]["frozen"]
        self._seconds_before = checkpoint["progress"]["seconds"]


def parameter_groups(network: Any) -> list[nn.Module]:
    """Parts of a network, earliest first, that discriminative learning rates and freezing tell apart."""
    return network.parameter_groups() if hasattr(network, "parameter_groups") else [network]


def split_parameters(part: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by how they are treated: decayed matrices, biases, and normalisation, never frozen."""
    kinds: dict[str, list[nn.Parameter]] = {"matrices": [], "vectors": [], "normalisation": []}
    for module in part.modules():
        normalises = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for parameter in module.parameters(recurse=False):
            kind = "normalisation" if normalises else "matrices" if parameter.ndim > 1 else "vectors"
            kinds[kind].append(parameter)
    return kinds


def learning_rates(schedule: Schedule, done: float, groups: int) -> tuple[list[float], float]:
    """Learning rate of each parameter group, earliest first, and Adam's first momentum.

    Parameters
    ----------
    schedule : Schedule
    done : float
        Fraction of training done, 0 to 1.
    groups : int

    Notes
    -----
    With `freeze_epochs`, fastai's `fine_tune` (fastai 2.7.15, callback/schedule.py): a one-cycle with its peak at
    99 % and the encoder at a tenth of the rate, of which only batch norm is trained; then half the rate, spread
    geometrically over the groups by `encoder_ratio`, from a fifth up to its peak at `warmup` and down.
    """
    frozen = schedule.freeze_epochs / schedule.epochs
    if done < frozen:
        factor, momentum = one_cycle(done / frozen, 0.99, 25)
        peaks = [schedule.learning_rate / 10] * (groups - 1) + [schedule.learning_rate]
        return [peak * factor for peak in peaks], momentum
    done = (done - frozen) / (1 - frozen)
    peak = schedule.learning_rate / 2 if frozen else schedule.learning_rate
    momentum = 0.9
    if schedule.shape == "one-cycle":
        factor, momentum = one_cycle(done, schedule.warmup, 5 if frozen else 25)
    elif done < schedule.warmup:
        factor = max(done / schedule.warmup, 1e-3)
    elif schedule.shape == "cosine":
        along = (done - schedule.warmup) / (1 - schedule.warmup)
        factor = schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * along)) / 2
    else:
        factor = 1.0
    spread = [schedule.encoder_ratio ** (g / (groups - 1) - 1) if groups > 1 else 1.0 for g in range(groups)]
    return [peak * factor * s for s in spread], momentum


def one_cycle(done: float, peak_at: float, start_divisor: float) -> tuple[float, float]:
    """Rate relative to its peak, and momentum, of the one-cycle policy (arXiv:1803.09820) with cosine ramps."""

    def ramp(start: float, end: float, along: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * along)) / 2

    if done < peak_at:
        return ramp(1 / start_divisor, 1, done / peak_at), ramp(0.95, 0.85, done / peak_at)
    along = (done - peak_at) / (1 - peak_at)
    return ramp(1, 1e-5, along), ramp(0.85, 0.95, along)
