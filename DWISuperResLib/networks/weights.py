"""Weights that others trained: torchvision's, fetched when asked; fastai's, read without running code from the file."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from ..errors import InputError, MissingDependencyError, ProcessingError

TORCHVISION_FILES = {
    "alexnet": "alexnet-owt-7be5be79.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet50": "resnet50-0676ba61.pth",  # IMAGENET1K_V1
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
}
"""Torchvision's files of ImageNet weights; each name ends with the start of the file's sha256."""
_TORCHVISION_URL = "https://download.pytorch.org/models/"

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


def cached_weights(architecture: str, *, download: bool = False) -> Path | None:
    """The file of torchvision's ImageNet weights in torch.hub's cache, its checksum verified.

    Parameters
    ----------
    architecture : str
        One of `TORCHVISION_FILES`.
    download : bool
        Fetch the file where the cache lacks it; nothing is fetched unasked.

    Returns
    -------
    Path, or None where the cache lacks the file and `download` is not set.

    Raises
    ------
    InputError
        If the cached file is damaged.
    ProcessingError
        If the file cannot be fetched, or is damaged on its way.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", TORCHVISION_FILES[architecture])
    checksum = path.stem.rsplit("-", 1)[-1]
    if not path.is_file():
        if not download:
            return None
        address = _TORCHVISION_URL + path.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), hash_prefix=checksum, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise ProcessingError(
                f"{address} could not be fetched ({error}); download it by hand and give its path instead."
            ) from error
    if not (digest := file_sha256(path)).startswith(checksum):
        raise InputError(f"{path} is damaged: its sha256 starts with {digest[:8]}, expected {checksum}; delete it.")
    return path


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal.

    Examples
    --------
    >>> file_sha256(Path(__file__)) == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    True
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
