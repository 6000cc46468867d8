"""Whether this machine has what a configuration asks for, told without Lightning."""

from __future__ import annotations

import torch

from ..errors import InputError
from ..inference.devices import resolve_device, resolve_precision
from .configuration import Machine


def check_machine(machine: Machine) -> None:
    """Raise InputError unless the devices are here and can work together.

    Examples
    --------
    >>> check_machine(Machine(accelerator="cpu", devices=2, strategy="ddp"))
    >>> check_machine(Machine(accelerator="cpu", devices=[0]))
    Traceback (most recent call last):
    ...
    DWISuperResLib.errors.InputError: machine.devices is [0], but only GPUs are chosen by number; give how many.
    """
    device = resolve_device({"gpu": "cuda"}.get(machine.accelerator, machine.accelerator))
    resolve_precision(machine.precision, device)
    devices = machine.devices
    if isinstance(devices, list) and device.type == "cpu":
        raise InputError(f"machine.devices is {devices}, but only GPUs are chosen by number; give how many.")
    if device.type == "cpu" or devices == "auto":
        return
    here = torch.cuda.device_count() if device.type == "cuda" else 1
    wanted = devices if isinstance(devices, list) else list(range(int(devices)))
    if len(set(wanted)) < len(wanted) or max(wanted) >= here:
        raise InputError(
            f"machine.devices is {devices}, but this machine has {here} of the kind {device.type}; give at most "
            f"{here}, or their numbers from 0, each once."
        )
    if device.type == "mps" and machine.strategy == "ddp":
        raise InputError("machine.strategy is ddp, but mps is one device; set it to auto.")
