"""Where a network runs, and in which precision."""

from __future__ import annotations

import torch

from ..errors import InputError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str = "auto") -> torch.device:
    """The torch device a name stands for; InputError if this machine lacks it.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        (torch.zeros(1, device=resolved) + 1).cpu()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise InputError(f"The device {device!r} cannot be used here ({reason}); choose cpu or auto.") from error
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of a precision name, None for fp32; auto is bf16 where the device computes in it."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        else:
            precision = "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"The precision is {precision!r}; expected auto, {', '.join(PRECISIONS)}.")
    return PRECISIONS[precision]


def _cpu_has_bf16() -> bool:
    # Elsewhere bf16 is emulated, slower than float32; torch tells only through this module, absent in older releases.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())
