"""A training run: everything is checked first, and only then Lightning loaded, a scan copied or a file written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoints import load_checkpoint, read_card
from ..errors import InputError, MissingDependencyError
from ..losses import build_loss
from ..networks import build
from ..resampling.scale import Scale
from .cache import divided
from .configuration import Configuration, Factors, Term, load_configuration
from .machine import check_machine

MAY_CHANGE = {
    *("resume", "machine", "validation", "licence", "provenance", "output", "data.workers", "data.cache"),
    *("schedule.epochs", "schedule.max_minutes", "schedule.patience"),
}
"""What may change when a run is resumed; a longer schedule than before is another course of the learning rate."""
TRIED = {2: 32, 3: 8}
"""Edge of the coarse image that a network is tried on, by its dimensions."""


def train(config: Configuration) -> Path:
    """Train a network and export the best one.

    Writes into `config.output`: configuration.yaml, metrics, TensorBoard events, `last.ckpt` after every epoch to
    resume from, `best.ckpt`, and `<name>.safetensors`.

    Returns
    -------
    Path of the exported checkpoint.

    Raises
    ------
    InputError
        Before training, if configuration or data cannot be used.
    ProcessingError
        If the loss ceases to be finite, or the disk is full.
    KeyboardInterrupt
        On SIGINT; its note says from where the run can be resumed.

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
    check_machine(config.machine)
    config = completed(config)
    scans = divided(config)
    if config.schedule.patience is not None and not scans[1]:
        raise InputError("schedule.patience needs subjects held out; set data.validation or leave it out.")
    last = config.output / "last.ckpt"
    if last.exists() and not config.resume:
        raise InputError(f"{config.output} holds a training run already; set resume=true or choose another output.")
    if last.exists():
        check_same_run(config, config.output / "configuration.yaml")
    torch.manual_seed(config.seed)
    network = make_network(config)
    loss = build_loss(fitting_terms(config, network.view.dimensions))
    try:
        from .fitting import fit
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Training needs {error.name}, which is not installed; pip install 'dwi-superres[train]'."
        ) from error
    return fit(config, network, loss, scans)


def fitting_terms(config: Configuration, dimensions: int) -> list[Term]:
    """The terms of the loss, those of untrained features with as many axes as the network's images have.

    Raises
    ------
    InputError
        If a term reads features of slices, and the network makes blocks.
    """
    terms = []
    for term in config.loss:
        name = str(term.get("name")).lower()
        backbone = "untrained" if name == "untrained" else term.get("backbone", "vgg16_bn")
        of_features = name in ("feature", "untrained")
        if of_features and backbone == "untrained":
            term = {"dimensions": dimensions, **term}
        if of_features and dimensions != term.get("dimensions", 2):
            raise InputError(
                f"The loss term {name!r} reads features of {'slices' if dimensions == 3 else 'blocks'}, which "
                f"{config.network.architecture} does not make; take backbone: untrained, without dimensions."
            )
        terms.append(term)
    return terms


def completed(config: Configuration) -> Configuration:
    """Without arguments of its own, a network is that of the checkpoint it starts from.

    An architecture that has a head for each in-plane factor, as its argument `scales` says, gets those that are trained
    and new to it.
    """
    wanted = config.network
    if wanted.start_from is None or wanted.arguments:
        return config
    card = read_card(wanted.start_from)
    arguments = dict(card.arguments)
    if "scales" in arguments:
        whole = {int(f) for f, same, across in config.served if f == same == int(f) and across == 1}
        arguments["scales"] = sorted({*arguments["scales"], *whole})
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
        start_from(network, load_checkpoint(wanted.start_from).weights, wanted.start_from)
    network.eval()
    view = network.view
    if view.guide != (config.data.guide is not None):
        raise InputError(
            "The network has the argument guide: true, but data.guide names no images; set it."
            if view.guide
            else "data.guide names images, but the network is shown none; give it the argument guide: true."
        )
    for triple in config.served:
        for factors in tried_factors(triple, view.dimensions):
            edge = TRIED[view.dimensions]
            size = tuple(round(edge * f) for f in factors)
            shown = torch.zeros(1, view.channels, *([edge] * len(size) if view.kernel is None else size))
            with torch.inference_mode():
                shape = tuple(network(shown, size).shape)
            if shape != (1, 1, *size):
                raise InputError(
                    f"{wanted.architecture} makes {shape} of {tuple(shown.shape)}; expected {(1, 1, *size)}."
                )
    return network.train()


def tried_factors(triple: Factors, dimensions: int) -> list[tuple[float, ...]]:
    """Factors of the images that a network is given for a triple: a block, or slices that hold what is refined.

    Examples
    --------
    >>> tried_factors((2, 2, 1), 2), tried_factors((1, 1, 3), 2)
    ([(2, 2)], [(1, 3), (3, 1)])
    """
    first, second, across = triple
    if dimensions == 3:
        return [(across, first, second)]
    if across == 1:
        return [(first, second)]
    if min(first, second) > 1:
        raise InputError(
            f"The scale {Scale.of(*triple)} refines all three axes, which networks of slices cannot; leave one at 1, "
            "or choose a network of blocks."
        )
    # The slice axis becomes rows or columns.
    return [(max(first, second), across), (across, max(first, second))]


def start_from(network: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """Copy the weights of a checkpoint; what the network has beyond it (the head of a new scale) stays as it is."""
    own = network.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise InputError(
            f"Only {len(fitting)} of the network's {len(own)} weights are in {name}; give network.architecture and "
            "network.arguments as on that checkpoint's card."
        )
    network.load_state_dict(fitting, strict=False)


def check_same_run(config: Configuration, path: Path) -> None:
    """Raise InputError if the run in `path` (configuration.yaml) trained something else than `config` would."""
    try:
        before = load_configuration(path).model_dump(mode="json")
    except InputError as error:
        raise InputError(
            f"The run in {path.parent} cannot be resumed ({str(error).rstrip('.')}); put its configuration.yaml back "
            "or choose another output."
        ) from error
    for section, value in config.model_dump(mode="json").items():
        if section in MAY_CHANGE:
            continue
        pairs = value.items() if isinstance(value, dict) else [("", value)]
        for key, now in pairs:
            name = f"{section}.{key}" if key else section
            then = before.get(section, {}).get(key) if key else before.get(section)
            if name not in MAY_CHANGE and then != now:
                raise InputError(
                    f"{name} was {then!r} in the run to resume ({path}) and is {now!r}; set it back or choose "
                    "another output."
                )
