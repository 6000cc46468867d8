"""A checkpoint is one `.safetensors` file: weights, and a card that says what they are.

The card is JSON under the key ``card`` of the file's metadata. `read_card` needs the standard library only:
Slicer can list checkpoints without torch. Nothing in a file is ever run; everything in it is checked.

The card's `sha256` covers the weights as stored: for each tensor, in the order of its name's UTF-8 bytes,
``name NUL dtype NUL shape NUL data`` with dtype as safetensors spells it (``F16``), shape as comma-separated
decimals, data little-endian and row-major.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..networks import build, fold
from ..resources import RESOURCES
from .card import Card, refuse_constant

if TYPE_CHECKING:
    from torch import Tensor, nn

CATALOGUE = RESOURCES / "Checkpoints"

_MAX_HEADER = 4 * 2**20  # bytes
_MAX_FILE = 2 * 2**30  # bytes
# Bytes an element, by the name safetensors has for the type.
_WIDTHS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Checkpoint:
    """A card with its weights (name -> float32 or integer tensor, on the CPU).

    Examples
    --------
    >>> checkpoint = load_checkpoint("default")
    >>> network = checkpoint.network()
    >>> network.training, type(network).__name__
    (False, 'SRUNet')
    """

    card: Card
    weights: dict[str, Tensor]

    def network(self) -> nn.Module:
        """A new network with a copy of these weights, in eval mode, its normalisations folded in."""
        import torch

        with torch.device("meta"):  # no time for initial weights
            network = build(self.card.architecture, **self.card.arguments)
        network.load_state_dict({name: weight.clone() for name, weight in self.weights.items()}, assign=True)
        return fold(network)


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that come with the library, sorted.

    Examples
    --------
    >>> shipped_checkpoints()
    ['default', 'ssfd', 'through_plane', 'without_b15']
    """
    return sorted(path.stem for path in CATALOGUE.glob("*.safetensors"))


def resolve(name_or_path: str | os.PathLike[str]) -> Path:
    """The file a shipped name or a path stands for.

    Raises
    ------
    InputError
        If there is neither such a name nor such a file.

    Examples
    --------
    >>> resolve("default").name
    'default.safetensors'
    """
    if name_or_path in shipped_checkpoints():
        return CATALOGUE / f"{name_or_path}.safetensors"
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise InputError(
        f"No checkpoint {os.fspath(name_or_path)!r}: it is neither a file nor one of the shipped names "
        f"({', '.join(shipped_checkpoints()) or 'none'})."
    )


def read_card(name_or_path: str | os.PathLike[str]) -> Card:
    """Read and check a checkpoint's card alone, with the standard library only.

    Raises
    ------
    InputError
        If the file is no safetensors file, or its card is missing or impossible.

    Examples
    --------
    >>> read_card("default").task
    'super-resolution'
    """
    path = resolve(name_or_path)
    try:
        return Card.from_json(_read_header(path)["__metadata__"]["card"])
    except InputError as error:
        raise InputError(f"Checkpoint {path} cannot be used: {error}") from error


def load_checkpoint(name_or_path: str | os.PathLike[str] = "default") -> Checkpoint:
    """Load a checkpoint by shipped name or from a `.safetensors` file, and check that its weights are whole.

    Parameters
    ----------
    name_or_path : str or path

    Returns
    -------
    Checkpoint
        Weights stored in half precision come back as float32. A file that has not changed is not read again: do not
        change its weights in place.

    Raises
    ------
    InputError
        If the file is damaged, altered, or its weights are not those of its architecture.

    Examples
    --------
    >>> checkpoint = load_checkpoint("default")
    >>> checkpoint.card.architecture, checkpoint.card.task
    ('sr_unet', 'super-resolution')
    """
    path = resolve(name_or_path)
    state = path.stat()
    return _load(path, (state.st_ino, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)  # a process that serves many commands reads and checks a file once; `network` copies the weights
def _load(path: Path, _state: tuple[int, ...]) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    try:
        stored = load_file(path)
        if (found := _digest(stored)) != card.sha256:
            raise InputError(
                f"its weights have sha256 {found[:12]}..., the card says {card.sha256[:12]}...; get it again."
            )
        weights = {name: t.float() if t.is_floating_point() else t for name, t in stored.items()}
        view = _check_weights(weights, card)
        if card.view and card.view != view:
            raise InputError(f"its card shows the network {card.view}, its arguments {view}; get it again.")
    except SafetensorError as error:
        raise InputError(f"Checkpoint {path} cannot be used: {error}.") from error
    except InputError as error:
        raise InputError(f"Checkpoint {path} cannot be used: {error}") from error
    return Checkpoint(card, weights)


def save_checkpoint(
    path: str | os.PathLike[str],
    weights: Mapping[str, Tensor],
    card: Card,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> Card:
    """Write weights and card as one file, whole or not at all.

    Parameters
    ----------
    path : str or path
        Ends in `.safetensors`.
    weights : mapping of str to tensor
        The network's `state_dict()`, not folded.
    card : Card
    half : bool
        Store matrices and kernels as float16: half the size. Vectors (biases, batch statistics) keep theirs.
    overwrite : bool

    Returns
    -------
    Card
        As written, with its `view` and `sha256`.

    Raises
    ------
    InputError
        If the file exists and `overwrite` is not set, or the weights are not the architecture's.
    ProcessingError
        If the file cannot be written.

    Examples
    --------
    >>> from DWISuperResLib.networks import build
    >>> network = build("sr_unet", width=8)
    >>> card = Card("thin", "sr_unet", {"width": 8}, factors=(2,))
    >>> saved = save_checkpoint("thin.safetensors", network.state_dict(), card)
    >>> saved.sha256 == load_checkpoint("thin.safetensors").card.sha256
    True
    """
    import torch
    from safetensors.torch import save

    from ..io.outputs import check_targets, output_files

    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} does not end in .safetensors; give the checkpoint that suffix.")
    check_targets([path], overwrite)
    stored = {}
    for name, tensor in weights.items():
        dtype = torch.float16 if half and tensor.is_floating_point() and tensor.ndim > 1 else tensor.dtype
        stored[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    view = _check_weights(stored, card)
    card = dataclasses.replace(card, view=view, sha256=_digest(stored))
    content = save(stored, metadata={"format": "pt", "card": card.to_json()})
    with output_files([path], overwrite) as (temporary,), temporary.open("wb") as file:
        # save_file would make a file that nobody else can read.
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return card


def import_fastai(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    scales: Sequence[float] = (2,),
    name: str | None = None,
    licence: str = "",
    provenance: str = "",
    overwrite: bool = False,
) -> Card:
    """Make a checkpoint of weights trained with fastai as in Lohr & Werner 2026 (arXiv:2605.15895).

    Parameters
    ----------
    path : str or path
        What ``learn.save`` wrote: the state dict of ``unet_learner(dls, resnet18, n_out=3, blur=True,
        norm_type=NormType.Weight, self_attention=True, y_range=(-3, 3))``, with or without the optimiser's. Blur
        and range leave no trace in the file: that they were so is the caller's word.
    output : str or path
        Ends in `.safetensors`.
    scales : sequence of int
        In-plane factors the weights were trained for; not in the file either.
    name, licence, provenance : str
        For the card; `name` is by default the file's.
    overwrite : bool

    Returns
    -------
    Card
        As written. Normalisation and upsampling are the paper's.

    Raises
    ------
    InputError
        If the file holds anything but plain weights (``learn.export`` does), or not this network's.

    Examples
    --------
    >>> import_fastai("model.pth", "model.safetensors")
    Traceback (most recent call last):
    DWISuperResLib.errors.InputError: There is no file model.pth.
    """
    from ..networks.weights import read_fastai

    path = Path(path)
    weights = read_fastai(path)
    card = Card(
        name or path.stem,
        "dynamic_unet",
        {"upsampling": "paper", "output_range": [-3.0, 3.0]},
        tuple((float(f), float(f), 1.0) for f in scales),
        normalisation="paper",
        degradation={"model": "paper"},
        licence=licence,
        provenance=provenance,
    )
    try:
        _check_weights(weights, card)
    except InputError as error:
        raise InputError(f"{path} is not a fastai U-Net on a ResNet18 as in the paper: {error}") from error
    return save_checkpoint(output, weights, card, overwrite=overwrite)


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, its sizes and types checked."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"it cannot be opened ({error.strerror}).") from error
    with file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_FILE:
            raise InputError(f"the file has {size} bytes; expected at most {_MAX_FILE}.")
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise InputError(f"its header claims {length} bytes; it is not a safetensors file, or it is cut short.")
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"its header is not valid JSON ({error}).") from error
    if not isinstance(header, dict) or not isinstance(metadata := header.get("__metadata__"), dict):
        raise InputError("it has no metadata; expected a checkpoint with a card.")
    if not isinstance(metadata.get("card"), str):
        raise InputError("its metadata hold no card; expected a checkpoint of this library.")
    data = size - 8 - length
    for name, entry in header.items():
        if name != "__metadata__" and not _fits(entry, data):
            raise InputError(f"tensor {name[:80]!r} has an impossible type, shape or place.")
    return header


def _fits(entry: Any, size: int) -> bool:
    """Whether a safetensors header entry is well formed and lies within `size` bytes of data."""
    try:
        width, shape, (begin, end) = _WIDTHS[entry["dtype"]], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        return False
    numbers = [*shape, begin, end] if isinstance(shape, list) and len(shape) <= 8 else [None]
    if not all(type(n) is int and n >= 0 for n in numbers):
        return False
    return end - begin == width * math.prod(shape) and end <= size


def _digest(weights: Mapping[str, Tensor]) -> str:
    """sha256 over the weights in the canonical order of the module's docstring."""
    import torch

    names = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
    names |= {torch.int32: "I32", torch.int64: "I64", torch.uint8: "U8", torch.bool: "BOOL"}
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items(), key=lambda item: item[0].encode()):
        if tensor.dtype not in names:
            raise InputError(f"tensor {name!r} has dtype {tensor.dtype}; expected one of {', '.join(names.values())}.")
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{names[tensor.dtype]}\0{shape}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_weights(weights: Mapping[str, Tensor], card: Card) -> dict[str, Any]:
    """InputError unless the weights are exactly those of the card's architecture, and finite; returns its view."""
    import torch

    with torch.device("meta"):  # shapes without memory: a hostile card cannot ask for terabytes
        network: Any = build(card.architecture, **card.arguments)
    expected = network.state_dict()
    for kind, names in (
        ("lack", expected.keys() - weights.keys()),
        ("have extra", weights.keys() - expected.keys()),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise InputError(f"its weights {kind} {len(names)} tensors for {card.architecture!r} ({some}).")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"weight {name!r} has shape {tuple(tensor.shape)}; expected "
                f"{tuple(expected[name].shape)} for {card.architecture!r} with these arguments."
            )
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise InputError(f"weight {name!r} is {tensor.dtype}; expected {expected[name].dtype}.")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"weight {name!r} holds values that are not finite.")
    return network.view.describe()
