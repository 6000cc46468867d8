"""A training run: everything checked first, then trained, then exported as a checkpoint."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from .. import __version__
from ..checkpoints import Card, load_checkpoint, read_card, save_checkpoint
from ..errors import InputError
from ..evaluation.selfchecks import domain_range, domain_statistics
from ..inference.predict import resolve_device, resolve_precision
from ..losses import build_loss
from ..networks import build
from ..resampling.degradation import degrade
from ..resampling.scale import Scale
from .cache import Scan
from .configuration import Configuration, load_configuration
from .module import MEMORY_FORMATS, Training
from .monitors import monitors
from .patches import DWIData

MAY_CHANGE = {
    *("resume", "machine", "validation", "licence", "provenance", "output", "data.workers", "data.cache"),
    *("schedule.epochs", "schedule.max_minutes", "schedule.patience"),
}
"""What may change when a run is resumed; a longer schedule than before is another course of the learning rate."""
SCANS_DESCRIBED = 20
"""On the card, at most."""
EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists",
    "Found .* in eval mode",
    ".*LeafSpec",
    ".*does not have many workers",
)
"""Warnings of Lightning about what is meant: frozen feature networks, batches made faster than steps by one worker."""
PRECISIONS: dict[torch.dtype | None, Any] = {None: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


def train(config: Configuration) -> Path:
    """Train a network and export the best one.

    Writes into `config.output`: configuration.yaml, metrics.csv, TensorBoard events, last.ckpt and best.ckpt to
    resume from, and `<name>.safetensors`.

    Returns
    -------
    Path of the exported checkpoint.

    Raises
    ------
    InputError
        Before training, if configuration or data cannot be used.
    ProcessingError
        If the loss ceases to be finite.

    Examples
    --------
    Two steps on the phantom; a network worth its name takes some thousands.

    >>> from DWISuperResLib import load_checkpoint, phantom, write_dwi
    >>> from DWISuperResLib.training import validated
    >>> write_dwi(phantom((32, 32, 2), (4, 5, 40), supersampling=1, shells=((0, 1), (1000, 6))), "scan.nii.gz")
    >>> path = train(validated({
    ...     "name": "thin",
    ...     "data": {"scans": ["scan.nii.gz"], "validation": [], "patch": 32, "workers": 0},
    ...     "network": {"arguments": {"width": 4, "scales": [2]}},
    ...     "schedule": {"epochs": 1, "steps_per_epoch": 2},
    ...     "machine": {"accelerator": "cpu", "progress": False},
    ... }))
    >>> load_checkpoint(path).card.served_text
    '2'
    """
    config = completed(config)
    output = config.output
    last = output / "last.ckpt"
    if last.exists() and not config.resume:
        raise InputError(f"{output} holds a training run already; set resume=true or choose another output.")
    if last.exists():
        check_same_run(config, output / "configuration.yaml")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    network = make_network(config)
    loss = build_loss(config.loss)
    together = None
    if loss.needs_gradients or config.data.volumes is not None:
        together = config.data.volumes or 10**6
    data = DWIData(config, network.view, together)
    module = Training(config, network.to(memory_format=MEMORY_FORMATS[network.view.dimensions]), loss)
    if config.schedule.freeze_epochs and len(module.groups) < 2:
        raise InputError(
            f"schedule.freeze_epochs is {config.schedule.freeze_epochs}, but {config.network.architecture} has no "
            "encoder to freeze; set it to 0."
        )
    output.mkdir(parents=True, exist_ok=True)
    best = ModelCheckpoint(
        output,
        filename="best",
        monitor=f"val/{config.validation.monitor}",
        mode="max" if monitors()[config.validation.monitor][1].higher_is_better else "min",
        every_n_epochs=config.validation.every,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    trainer = make_trainer(config, best, validates=bool(data.held_out))
    if trainer.is_global_zero:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        # Whole at every moment: other processes read it when they resume.
        (output / "configuration.part").write_text(text, encoding="utf-8")
        (output / "configuration.part").replace(output / "configuration.yaml")
    with warnings.catch_warnings():
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    exported = output / f"{config.name}.safetensors"
    if trainer.is_global_zero:
        stored = torch.load(best.best_model_path or last, map_location="cpu", weights_only=True)
        prefix = "network."
        weights = {k.removeprefix(prefix): v for k, v in stored["state_dict"].items() if k.startswith(prefix)}
        save_checkpoint(exported, weights, make_card(config, data, module, stored["progress"]), overwrite=True)
    trainer.strategy.barrier()
    return exported


def completed(config: Configuration) -> Configuration:
    """Without arguments of its own, a network is that of the checkpoint it starts from, served scales added."""
    wanted = config.network
    if wanted.start_from is None or wanted.arguments:
        return config
    card = read_card(wanted.start_from)
    arguments = dict(card.arguments)
    if "scales" in arguments:
        arguments["scales"] = sorted({*arguments["scales"], *(int(f) for triple in config.scales for f in triple[:2])})
    network = wanted.model_copy(update={"architecture": card.architecture, "arguments": arguments})
    return config.model_copy(update={"network": network})


def make_network(config: Configuration) -> Any:
    """Build the network, with the weights it starts from, and see that it serves the scales."""
    wanted = config.network
    network: Any = build(wanted.architecture, **wanted.arguments)
    if wanted.imagenet is not None:
        if not hasattr(network, "load_imagenet"):
            raise InputError(
                f"network.imagenet is set, but {wanted.architecture} has no ImageNet encoder; leave it out."
            )
        network.load_imagenet(wanted.imagenet)
    if wanted.start_from is not None:
        start(network, wanted.start_from)
    network.eval()
    view = network.view
    for triple in config.served:
        # Any plane or block will do: what matters is that the network makes the size asked for.
        size = tuple(round(32 * f) for f in triple[: view.dimensions])
        shown = torch.zeros(1, view.channels, *(size if view.dimensions == 3 else (32, 32)))
        with torch.inference_mode():
            shape = tuple(network(shown, size).shape)
        if shape != (1, 1, *size):
            raise InputError(f"{wanted.architecture} makes {shape} of {tuple(shown.shape)}; expected {(1, 1, *size)}.")
    return network.train()


def start(network: nn.Module, name: str) -> None:
    """Copy the weights of a checkpoint; what the network has beyond it (the head of a new scale) stays as it is."""
    weights = load_checkpoint(name).weights
    own = network.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise InputError(
            f"Only {len(fitting)} of the network's {len(own)} weights are in {name}; give network.architecture and "
            "network.arguments as on that checkpoint's card."
        )
    network.load_state_dict(fitting, strict=False)


def make_trainer(config: Configuration, best: ModelCheckpoint, validates: bool) -> lightning.Trainer:
    """Lightning's Trainer as configured."""
    schedule, machine = config.schedule, config.machine
    # Every epoch one to resume from, after the best is known, which it remembers.
    last = ModelCheckpoint(
        config.output, save_top_k=0, save_last=True, save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[Callback] = [best, last] if validates else [last]
    if schedule.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=schedule.ema))
    if schedule.max_minutes is not None:
        callbacks.append(Timer(timedelta(minutes=schedule.max_minutes)))
    if schedule.patience is not None:
        if not validates:
            raise InputError("schedule.patience needs subjects held out; set data.validation or leave it out.")
        callbacks.append(EarlyStopping(f"val/{config.validation.monitor}", mode=best.mode, patience=schedule.patience))
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
        limit_val_batches=None if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(10, schedule.steps_per_epoch),
        deterministic="warn" if machine.deterministic and device.type != "cpu" else False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=[CSVLogger(config.output, "csv"), TensorBoardLogger(config.output, "", "tensorboard")],
        enable_progress_bar=machine.progress,
        enable_model_summary=False,
        default_root_dir=config.output,
    )


def make_card(config: Configuration, data: DWIData, module: Training, reached: dict[str, Any]) -> Card:
    """The card of a network as it was when `reached` was noted: everything the training knows."""
    scans = data.scans
    planes = [
        size * f for scan in scans for size in scan.frame_sizes[1:] for triple in config.served for f in triple[:2]
    ]
    across = [scan.frame_sizes[0] * triple[2] for scan in scans for triple in config.served]
    coarsest = config.augmentation.resample[1]
    weighted = [b for scan in scans for b in scan.bvals]
    holes = {"holes": "16 x 16 px, Poisson-disc distributed, over half of every slice"}
    drawn: dict[str, Any] = holes if config.task == "ssfd" else config.degradation.model_dump(mode="json")
    degradation = {"model": max(drawn["models"], key=drawn["models"].get)} if config.task == "super-resolution" else {}
    statistics = describe_scans(config, scans, degradation.get("model"))
    return Card(
        name=config.name,
        architecture=config.network.architecture,
        arguments=config.network.arguments,
        factors=config.served,
        task=config.task,
        normalisation=config.normalisation,
        degradation=degradation | drawn,
        voxel_sizes={
            "in_plane": [round(min(planes), 3), round(max(planes) * coarsest, 3)],
            "slice": [round(min(across), 3), round(max(across), 3)],
        },
        bvals=(min(weighted), max(weighted)),
        snr=tuple(statistics.pop("snr", ())),
        statistics=statistics,
        loss={"terms": module.loss.description},
        scores={"monitored": config.validation.monitor, **reached["scores"]},
        training={
            "scans": sorted(path.name for path in data.files),
            "held_out": sorted(path.name for path in data.held_out),
            "steps": reached["step"],
            "minutes": round(reached["seconds"] / 60, 2),
            "seed": config.seed,
            "start_from": config.network.start_from or "",
            "augmentation": config.augmentation.model_dump(mode="json"),
            "schedule": config.schedule.model_dump(mode="json"),
            "versions": {"dwi-superres": __version__, "torch": torch.__version__, "lightning": lightning.__version__},
        },
        licence=config.licence,
        provenance=config.provenance,
    )


def describe_scans(config: Configuration, scans: list[Scan], model: str | None) -> dict[str, list[float]]:
    """Ranges of the training scans' statistics at the resolution the network is given, of some scans."""
    distinct = list({scan.path: scan for scan in reversed(scans)}.values())
    found = []
    for scan in distinct[:: -(-len(distinct) // SCANS_DESCRIBED)]:
        dwi = scan.dwi()
        if dwi.is_b0.all():
            continue
        for triple in config.served:
            scale = Scale.of_slices(*triple, axis=scan.axis)
            low = dwi if model is None else degrade(dwi, scale, model=model, axis=scan.axis)
            found.append(domain_statistics(low, axis=scan.axis))
    return domain_range(found)


def check_same_run(config: Configuration, path: Path) -> None:
    """Raise InputError if the run in `path` (configuration.yaml) trained something else than `config` would."""
    before = load_configuration(path).model_dump(mode="json")
    for section, value in config.model_dump(mode="json").items():
        if section in MAY_CHANGE:
            continue
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        for key, now in pairs:
            name = f"{section}.{key}" if key else section
            then = before.get(section, {}).get(key) if key else before.get(section)
            if name not in MAY_CHANGE and then != now:
                raise InputError(
                    f"{name} was {then!r} in the run to resume and is {now!r}; set it back or choose another output."
                )
