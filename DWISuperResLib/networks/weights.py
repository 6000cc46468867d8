"""Weights trained with fastai: read without running code from the file, and renamed for our network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, MissingDependencyError

_MODULES = {
    "layers.0.0": "encoder.conv1",
    "layers.0.1": "encoder.bn1",
    **{f"layers.0.{3 + i}": f"encoder.layer{i}" for i in range(1, 5)},
    "layers.1": "bottom_norm",
    "layers.3.0.0": "bottom1",
    "layers.3.1.0": "bottom2",
    "layers.5.conv2.2.gamma": "attention.gamma",
    **{f"layers.5.conv2.2.{name}.0": f"attention.{name}" for name in ("query", "key", "value")},
    **{f"layers.{3 + i}.shuf.0.0": f"up{i}.up.conv" for i in range(1, 5)},
    **{f"layers.{3 + i}.bn": f"up{i}.norm" for i in range(1, 5)},
    **{f"layers.{3 + i}.{conv}.0": f"up{i}.{conv}" for i in range(1, 5) for conv in ("conv1", "conv2")},
    "layers.8.0.0": "up5.conv",
    "layers.11.convpath.0.0": "residual1",
    "layers.11.convpath.1.0": "residual2",
    "layers.12.0": "head",
}

# Weight norm and spectral norm as PyTorch stored them before parametrizations; fastai 2.8 still does.
_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_SPECTRAL_NORM = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


class _Discarded:
    """Takes the place of the few classes in a saved optimiser, which is not used: nothing of theirs is run."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_OPTIMISER_CLASSES = (
    "fastcore.foundation.L",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)


def read_fastai(path: Path) -> dict[str, Tensor]:
    """The weights in a file of fastai's ``learn.save``, named as in `dynamic_unet.DynamicUNet`.

    Raises
    ------
    InputError
        If the file holds anything but weights, with or without an optimiser's state.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise MissingDependencyError("Importing .pth files safely needs torch 2.6 or newer; upgrade torch.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals([(_Discarded, name) for name in _OPTIMISER_CLASSES]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not a plain state dict but would run code when read, as files of learn.export do; "
            "open it in fastai, call learn.save('model', with_opt=False) and import that .pth."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise InputError(f"{path} is not a PyTorch file, or is damaged ({error}).") from error
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise InputError(f"{path} holds no state dict (names and tensors); save it in fastai with learn.save.")
    return from_fastai(state)


def from_fastai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of fastai's DynamicUnet (ResNet18 encoder) to that of `dynamic_unet.DynamicUNet`.

    Names that are not the network's stay as they are, for the caller's check of completeness to find.
    """
    return dict(_rename(name.removeprefix("module."), tensor) for name, tensor in state.items())


def _rename(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    # The longest known beginning: "layers.1" also begins "layers.11.convpath".
    prefixes = (name[: dot.start()] for dot in reversed(list(re.finditer(r"\.|$", name))))
    prefix = next((p for p in prefixes if p in _MODULES), None)
    if prefix is None:
        return name, tensor
    module, rest = _MODULES[prefix], name[len(prefix) + 1 :]
    if module.startswith("attention"):
        if tensor.ndim == 3:  # fastai's 1 x 1 convolution over a row of pixels is our matrix
            tensor = tensor.squeeze(-1)
        rest = _SPECTRAL_NORM.get(rest, rest)
    else:
        rest = _WEIGHT_NORM.get(rest, rest)
    return f"{module}.{rest}".removesuffix("."), tensor
