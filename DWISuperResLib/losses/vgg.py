"""VGG16 features of grey images (arXiv 1409.1556), with and without batch normalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..networks.weights import cached_weights

_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
TAPS = tuple(f"relu{b}_{i}" for b, widths in enumerate(_BLOCKS, 1) for i in range(1, len(widths) + 1))
"""Every tap, shallowest first: the ReLU after each convolution."""

PAPER_TAPS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The ReLU before each max-pooling: modules 5, 12, 22, 32, 42 of torchvision's `vgg16_bn().features`."""

_WIDTHS = tuple(width for widths in _BLOCKS for width in widths)

# Grey value g in [0, 1] -> value of input channel c: gain_c * g + shift_c, in the channel order of the
# weights.
_NORMALISATIONS = {
    "none": ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    "imagenet": (
        (1 / 0.229, 1 / 0.224, 1 / 0.225),
        (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
    ),
    "caffe": ((255.0, 255.0, 255.0), (-103.939, -116.779, -123.68)),
}


class VGGFeatures(nn.Module):
    """The convolutions of VGG16 up to the deepest tap.

    A grey image stands in all three input channels, so the first convolution is folded to one. Where
    normalisation shifts the channels, zero padding keeps the shift away from the border: the shift's own
    response is therefore the convolution of a constant image, and enters as that.

    Parameters
    ----------
    convolutions : sequence of (weight (out, in, 3, 3), bias (out,)), shallowest first
        Batch normalisation already folded in.
    taps : sequence of str
    normalisation : {"none", "imagenet", "caffe"}
        none: the image as it is; imagenet: RGB mean and standard deviation; caffe: BGR, 0 to 255, minus
        the means.
    description : dict
        For a checkpoint's card.
    """

    shift_weight: Tensor

    def __init__(
        self,
        convolutions: Sequence[tuple[Tensor, Tensor]],
        taps: Sequence[str],
        normalisation: str,
        description: dict[str, Any],
    ) -> None:
        super().__init__()
        self.taps = tuple(taps)
        self.description = description
        gain, shift = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in _NORMALISATIONS[normalisation])
        first = convolutions[0][0].double()
        self.shifted = bool(shift.any())
        # Not persistent: a training checkpoint need not carry a copy of VGG.
        self.register_buffer("shift_weight", (first * shift).sum(1, keepdim=True).float(), persistent=False)
        for i, (weight, bias) in enumerate(convolutions):
            folded = (first * gain).sum(1, keepdim=True) if i == 0 else weight
            self.register_buffer(
                f"weight{i}", folded.float().contiguous(memory_format=torch.channels_last), persistent=False
            )
            self.register_buffer(f"bias{i}", bias.float(), persistent=False)

    def forward(self, grey: Tensor) -> dict[str, Tensor]:
        """Features (B, C, h, w) by tap of grey images (B, 1, H, W) with values in about [0, 1]."""
        deepest = TAPS.index(self.taps[-1])
        pools = int(self.taps[-1][4]) - 1
        if grey.ndim != 4 or grey.shape[1] != 1 or min(grey.shape[2:]) < 2**pools:
            raise InputError(
                f"VGG up to {self.taps[-1]} got an input of shape {tuple(grey.shape)}; expected (B, 1, H, "
                "W) with sides "
                f"of at least {2**pools} px."
            )
        features = {}
        x = grey
        for i, tap in enumerate(TAPS[: deepest + 1]):
            if i and tap.endswith("_1"):
                x = functional.max_pool2d(x, 2)
            x = functional.conv2d(x, getattr(self, f"weight{i}"), getattr(self, f"bias{i}"), padding=1)
            if i == 0 and self.shifted:
                ones = grey.new_ones((1, 1, *grey.shape[2:]))
                x = x + functional.conv2d(ones, self.shift_weight, padding=1)
            x = functional.relu(x, inplace=True)
            if tap in self.taps:
                features[tap] = x
        return features


def vgg_features(
    architecture: str,
    taps: Sequence[str] | None = None,
    *,
    weights: str | Path = "torchvision",
    normalisation: str = "auto",
    seed: int = 0,
    untrained_deeper: bool = False,
    download: bool = False,
) -> VGGFeatures:
    """Build the features of VGG16.

    Parameters
    ----------
    architecture : {"vgg16", "vgg16_bn"}
    taps : sequence of str, optional
        Of `TAPS`; default relu1_2.
    weights : str or path
        "torchvision": torchvision's ImageNet weights from torch.hub's cache (see `download`); "untrained":
        Kaiming normal from `seed`; else a file: .pth or .safetensors with torchvision's names, or .npz
        with arrays conv<b>_<i> (height, width, in, out) and bias<b>_<i> as Keras has them.
    normalisation : {"auto", "none", "imagenet", "caffe"}
        See `VGGFeatures`; auto: caffe for .npz, none for untrained weights, imagenet else.
    seed : int
        Of untrained layers; every layer has its own stream, so a layer is the same whatever is untrained
        beside it.
    untrained_deeper : bool
        Where a file ends above the deepest tap, continue with untrained layers; the description says which.
    download : bool
        Fetch torchvision's weights where the cache lacks them.

    Raises
    ------
    InputError
        If an option is unknown, the file is missing or does not fit, or it ends above the deepest tap.

    Examples
    --------
    >>> list(vgg_features("vgg16", ["relu1_1"], weights="untrained")(torch.zeros(1, 1, 8, 8)))
    ['relu1_1']
    """
    taps = ("relu1_2",) if taps is None else tuple(taps)
    if unknown := [tap for tap in taps if tap not in TAPS]:
        raise InputError(f"VGG16 has no taps {unknown}; choose from {', '.join(TAPS)}.")
    taps = tuple(sorted(taps, key=TAPS.index))
    if normalisation not in ("auto", *_NORMALISATIONS):
        raise InputError(f"The normalisation is {normalisation!r}; expected auto, {', '.join(_NORMALISATIONS)}.")
    wanted = TAPS.index(taps[-1]) + 1
    path = None if weights == "untrained" else _weights_file(architecture, weights, download)
    known = [] if path is None else _read_convolutions(path, architecture)[:wanted]
    if not (path is None or untrained_deeper):
        _check_reach(path, len(known), wanted)
    convolutions = known + [_untrained(i, seed) for i in range(len(known), wanted)]
    if normalisation == "auto":
        normalisation = _usual_normalisation(path)
    description = {
        "normalisation": normalisation,
        "weights": weights if path is None or weights == "torchvision" else path.name,
        **_reach(len(known), wanted),
        "seed": seed,
    }
    return VGGFeatures(convolutions, taps, normalisation, description)


def _reach(known: int, wanted: int) -> dict[str, str | None]:
    return {
        "pretrained_up_to": TAPS[known - 1] if known else None,
        "untrained_from": TAPS[known] if known < wanted else None,
    }


def _check_reach(path: Path, known: int, wanted: int) -> None:
    if known < wanted:
        raise InputError(
            f"{path} ends at {TAPS[known - 1]}, above the tap {TAPS[wanted - 1]}; use shallower taps, a file with "
            "more layers, or untrained_deeper: true."
        )


def _usual_normalisation(path: Path | None) -> str:
    if path is None:
        return "none"
    return "caffe" if path.suffix == ".npz" else "imagenet"


def _weights_file(architecture: str, weights: str | Path, download: bool) -> Path:
    if weights != "torchvision":
        return Path(weights)
    path = cached_weights(architecture, download=download)
    if path is None:
        raise InputError(
            f"torchvision's {architecture} weights are not in torch.hub's cache; set download: true to fetch them "
            "(528 MB), give a local file as 'weights', or use weights: untrained."
        )
    return path


def _read_convolutions(path: Path, architecture: str) -> list[tuple[Tensor, Tensor]]:
    """Leading convolutions that the file holds, batch normalisation folded in."""
    if not path.is_file():
        raise InputError(f"The VGG weights {path} do not exist; give a .pth, .safetensors or .npz file.")
    try:
        if path.suffix in (".pth", ".pt"):
            convolutions = _from_state(torch.load(path, map_location="cpu", weights_only=True), architecture)
        elif path.suffix == ".safetensors":
            from safetensors.torch import load_file

            convolutions = _from_state(load_file(path), architecture)
        elif path.suffix == ".npz":
            convolutions = _from_keras(path, architecture)
        else:
            raise InputError(f"The VGG weights {path} have an unknown suffix; expected .pth, .safetensors or .npz.")
    except InputError:
        raise
    except Exception as error:  # the readers' many error types all mean one thing: not such a file
        raise InputError(f"The VGG weights {path} cannot be read ({type(error).__name__}: {error}).") from error
    if not convolutions:
        raise InputError(
            f"{path} holds no weights of {architecture}; expected torchvision's names, features.0.weight and on."
        )
    for i, (weight, bias) in enumerate(convolutions):
        expected = (_WIDTHS[i], 3 if i == 0 else _WIDTHS[i - 1], 3, 3)
        if weight.shape != expected or bias.shape != expected[:1]:
            raise InputError(
                f"In {path} the convolution of {TAPS[i]} has shape {tuple(weight.shape)}; {architecture} "
                f"has {expected}."
            )
    return convolutions


def _from_state(state: dict[str, Tensor], architecture: str) -> list[tuple[Tensor, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := re.fullmatch(r"(?:features\.)?(\d+)\.(weight|bias|running_mean|running_var)", key):
            layers.setdefault(int(match[1]), {})[match[2]] = value.double()
    normalised = architecture == "vgg16_bn"
    if any("running_mean" in layer for layer in layers.values()) != normalised:
        raise InputError(f"The VGG weights do not belong to {architecture}: the other variant has batch normalisation.")
    convolutions = []
    for index in sorted(i for i, layer in layers.items() if layer["weight"].ndim == 4)[: len(TAPS)]:
        weight, bias = layers[index]["weight"], layers[index]["bias"]
        if normalised:
            norm = layers[index + 1]
            gain = norm["weight"] / torch.sqrt(norm["running_var"] + nn.BatchNorm2d(1).eps)
            weight, bias = (
                weight * gain[:, None, None, None],
                (bias - norm["running_mean"]) * gain + norm["bias"],
            )
        convolutions.append((weight, bias))
    return convolutions


def _from_keras(path: Path, architecture: str) -> list[tuple[Tensor, Tensor]]:
    if architecture != "vgg16":
        raise InputError(f"{path} holds plain VGG16 as Keras has it; use the backbone vgg16, not {architecture}.")
    convolutions = []
    with np.load(path, allow_pickle=False) as file:
        for tap in TAPS:
            weight, bias = f"conv{tap[4:]}", f"bias{tap[4:]}"
            if weight not in file or bias not in file:
                break
            convolutions.append((torch.from_numpy(file[weight].transpose(3, 2, 0, 1)), torch.from_numpy(file[bias])))
    return convolutions


def _untrained(index: int, seed: int) -> tuple[Tensor, Tensor]:
    inputs = 3 if index == 0 else _WIDTHS[index - 1]
    generator = torch.Generator().manual_seed(1000 * seed + index)
    weight = torch.randn((_WIDTHS[index], inputs, 3, 3), generator=generator) * (2 / (9 * inputs)) ** 0.5
    return weight, torch.zeros(_WIDTHS[index])
