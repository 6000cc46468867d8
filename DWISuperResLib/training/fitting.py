"""Training with Lightning: all that was checked before is trained, saved as it goes, and exported."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from ..checkpoints import save_checkpoint
from ..errors import InputError, ProcessingError
from ..inference.devices import resolve_device, resolve_precision
from ..inference.memory import MEMORY_FORMATS, buffers_reused
from ..io import working_in, write_text
from ..losses import CompositeLoss
from .card import make_card
from .configuration import Configuration
from .module import Training
from .monitors import monitors
from .patches import DWIData
from .saving import BEST, LAST, Saving, WholeFiles, check_state, read_state

EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists",
    "Found .* in eval mode",
    ".*LeafSpec",
    ".*does not have many workers",
)
"""Warnings of Lightning about what is meant: frozen feature networks, batches made faster than steps by one worker."""
PRECISIONS: dict[torch.dtype | None, Any] = {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


def fit(config: Configuration, network: nn.Module, loss: CompositeLoss, scans: tuple[list[Path], list[Path]]) -> Path:
    """Train a network, saving it after every epoch, and export the best one.

    Parameters
    ----------
    config : Configuration
    network : module
    loss : CompositeLoss
    scans : two lists of Path
        To train on; held out.

    Returns
    -------
    Path of the exported checkpoint.

    Raises
    ------
    InputError
        If the data cannot be used, or what is to be resumed is damaged.
    ProcessingError
        If the loss ceases to be finite, or the disk is full.
    KeyboardInterrupt
        On SIGINT; its note says from where the run can be resumed.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    view: Any = network.view
    data = DWIData(config, view, _drawn_together(config, loss), scans)
    module = Training(config, network.to(memory_format=MEMORY_FORMATS[view.dimensions]), loss)
    if config.schedule.freeze_epochs and len(module.groups) < 2:
        raise InputError(
            f"schedule.freeze_epochs is {config.schedule.freeze_epochs}, but {config.network.architecture} has no "
            "encoder to freeze; set it to 0."
        )
    last = config.output / LAST
    resumed = last.exists()
    if resumed:
        check_state(last, module)
    monitor = f"val/{config.validation.monitor}" if data.held_out else None
    higher = bool(monitors()[config.validation.monitor][1].higher_is_better)
    saving = Saving(config.output, config.schedule.epochs, monitor, higher, config.validation.every)
    if config.machine.compile:
        # In place, so that the weights keep their names.
        network.compile(dynamic=False)
    trainer = make_trainer(config, saving)
    with working_in(config.output) if trainer.is_global_zero else nullcontext():
        _fit(config, trainer, module, data, saving, last if resumed else None)
    return _exported(config)


def _fit(
    config: Configuration,
    trainer: lightning.Trainer,
    module: Training,
    data: DWIData,
    saving: Saving,
    resumed: Path | None,
) -> None:
    if trainer.is_global_zero:
        if config.resume and not resumed:
            print(f"Nothing to resume in {config.output}: training starts at the first epoch.", file=sys.stderr)
        # Whole at every moment: other processes read it when they resume.
        plain = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_text(config.output / "configuration.yaml", plain)
    with _ended_well(trainer, saving), warnings.catch_warnings(), buffers_reused():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    if trainer.is_global_zero:
        _export(config, data, module, config.output / (LAST if saving.best is None else BEST))
    trainer.strategy.barrier()


def _exported(config: Configuration) -> Path:
    return config.output / f"{config.name}.safetensors"


def _export(config: Configuration, data: DWIData, module: Training, state: Path) -> None:
    stored = read_state(state)
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in stored["state_dict"].items() if k.startswith(prefix)}
    save_checkpoint(_exported(config), weights, make_card(config, data, module, stored["progress"]), overwrite=True)


def _drawn_together(config: Configuration, loss: CompositeLoss) -> int | None:
    """Volumes of one place that a batch holds; None: places are drawn volume by volume."""
    if not loss.needs_gradients and config.data.volumes is None:
        return None
    return config.data.volumes or 10**6


@contextmanager
def _ended_well(trainer: lightning.Trainer, saving: Saving) -> Iterator[None]:
    """Undo what Lightning makes of signals, and say what is saved when a run ends before its time."""
    try:
        yield
    except SystemExit as ending:
        interruption = ending.__context__
        if isinstance(interruption, KeyboardInterrupt):
            # Lightning ends the whole program with a code of its own.
            interruption.add_note(f"{saving.told[0].upper()}{saving.told[1:]}.")
            raise interruption from None
        if trainer.received_sigterm:
            print(f"Terminated; {saving.told}.", file=sys.stderr)
            signal.raise_signal(signal.SIGTERM)
        raise
    except OSError as error:
        place, reason = error.filename or saving.folder, error.strerror or error
        raise ProcessingError(
            f"Writing to {place} failed ({reason}); see to its space and permissions; {saving.told}."
        ) from error


def make_trainer(config: Configuration, saving: Saving) -> lightning.Trainer:
    """Lightning's Trainer as configured."""
    schedule, machine = config.schedule, config.machine
    callbacks: list[Callback] = [saving]
    if schedule.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=schedule.ema))
    if schedule.max_minutes is not None:
        callbacks.append(Timer(timedelta(minutes=schedule.max_minutes)))
    if schedule.patience is not None:
        mode = "max" if saving.sign > 0 else "min"
        callbacks.append(EarlyStopping(f"val/{config.validation.monitor}", mode=mode, patience=schedule.patience))
    device = resolve_device({"gpu": "cuda"}.get(machine.accelerator, machine.accelerator))
    return lightning.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy=machine.strategy,
        precision=PRECISIONS[resolve_precision(machine.precision, device)],
        max_epochs=schedule.epochs,
        gradient_clip_val=schedule.clip,
        accumulate_grad_batches=schedule.accumulate,
        check_val_every_n_epoch=config.validation.every,
        limit_val_batches=0 if saving.monitor is None else None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, schedule.steps_per_epoch),
        deterministic="warn" if machine.deterministic and device.type != "cpu" else False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        plugins=[WholeFiles()],
        logger=[CSVLogger(config.output, "csv"), TensorBoardLogger(config.output, "", "tensorboard")],
        enable_progress_bar=machine.progress,
        enable_model_summary=False,
        default_root_dir=config.output,
    )
