"""The network of the self-supervised feature distance (SSFD): a U-Net that fills in what was cut out of an image.

Adamson et al. 2021 (https://openreview.net/forum?id=dgMvTzf6M_3). Its encoder, trained without labels, is the
feature extractor of a distance between images and of a feature loss.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..resources import RESOURCES
from . import check_keeps_grid, register
from .views import SliceView

WIDTHS = (20, 40, 80, 160, 320)
GROUPS = 10
TAPS = tuple(f"block{n}_relu2" for n in range(1, len(WIDTHS) + 1))
"""The second ReLU of each block, before its group norm; `block4_relu2` follows the eighth convolution."""

SHIPPED = RESOURCES / "Checkpoints" / "ssfd.safetensors"


class Block(nn.Module):
    """Convolution - ReLU - convolution - ReLU (the tap) - group norm; returns what follows the norm, and the tap."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(GROUPS, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tap = functional.relu(self.conv2(functional.relu(self.conv1(x))))
        return self.norm(tap), tap


class Encoder(nn.Module):
    """Blocks of 20, 40, 80, ... channels with max-pooling by 2 in between."""

    def __init__(self, depth: int = len(WIDTHS)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairwise((1, *WIDTHS[:depth])))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised outputs and taps of every block, of images (B, 1, H, W) of zero mean and unit variance."""
        outputs, taps = [], []
        for n, block in enumerate(self.blocks):
            x, tap = block(functional.max_pool2d(x, 2) if n else x)
            outputs.append(x)
            taps.append(tap)
        return outputs, taps


@register("ssfd")
class SSFD(nn.Module):
    """The whole U-Net, as it is trained: an image with holes in, the image without them out.

    The decoder is lighter than the encoder (one convolution a level, on sums with the encoder's outputs): it is
    needed in training only.
    """

    view = SliceView()

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        upwards = list(pairwise(reversed(WIDTHS)))
        self.narrow = nn.ModuleList(nn.Conv2d(wide, thin, 1) for wide, thin in upwards)
        self.mix = nn.ModuleList(nn.Conv2d(thin, thin, 3, padding=1) for _, thin in upwards)
        self.head = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Images (B, 1, H, W) in any unit, sides of at least 16 px; `size` is (H, W)."""
        check_keeps_grid("SSFD", x, size)
        if x.ndim != 4 or x.shape[1] != 1 or min(x.shape[2:]) < 16:
            raise InputError(
                f"SSFD got an input of shape {tuple(x.shape)}; expected (B, 1, H, W) with sides of at least 16 px."
            )
        shown, mean, deviation = standardise(x)
        outputs, _ = self.encoder(shown)
        decoded = outputs.pop()
        for narrow, mix, skip in zip(self.narrow, self.mix, reversed(outputs), strict=True):
            raised = functional.interpolate(narrow(decoded), skip.shape[2:], mode="bilinear", align_corners=False)
            decoded = functional.relu(mix(raised + skip))
        return self.head(decoded).float() * deviation + mean


class SSFDFeatures(nn.Module):
    """Features of the encoder by tap, of images standardised one by one; runs no block beyond the deepest tap.

    Parameters
    ----------
    taps : sequence of str, optional
        Of `TAPS`; default block4_relu2.
    weights : str or path
        "shipped": the checkpoint `ssfd`; "untrained": PyTorch's initialisation from `seed`; else a file: a checkpoint
        of this library, or the state dict (.pth, .ckpt) of the authors' encoder.
    seed : int
        Of untrained weights.

    Raises
    ------
    InputError
        If a tap is unknown, or the file is missing or holds other weights.
    """

    def __init__(self, taps: Sequence[str] | None = None, *, weights: str | Path = "shipped", seed: int = 0) -> None:
        super().__init__()
        taps = ("block4_relu2",) if taps is None else tuple(taps)
        if unknown := [tap for tap in taps if tap not in TAPS]:
            raise InputError(f"SSFD has no taps {unknown}; choose from {', '.join(TAPS)}.")
        self.taps = tuple(sorted(taps, key=TAPS.index))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(TAPS.index(self.taps[-1]) + 1)
        self.description: dict[str, Any] = {"weights": str(weights), "seed": seed}
        if weights != "untrained":
            path = SHIPPED if weights == "shipped" else Path(weights)
            self._load(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.description = {"weights": path.name, "sha256": digest}

    def forward(self, grey: Tensor) -> dict[str, Tensor]:
        """Features (B, C, h, w) by tap of images (B, 1, H, W)."""
        smallest = 2 ** (len(self.encoder.blocks) - 1)
        if grey.ndim != 4 or grey.shape[1] != 1 or min(grey.shape[2:]) < smallest:
            raise InputError(
                f"SSFD up to {self.taps[-1]} got an input of shape {tuple(grey.shape)}; expected (B, 1, H, W) with "
                f"sides of at least {smallest} px."
            )
        found = self.encoder(standardise(grey)[0])[1]
        return {tap: found[TAPS.index(tap)] for tap in self.taps}

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"The SSFD weights {path} do not exist; give a file, or use weights: untrained.")
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                stored = load_file(path)
            else:
                stored = torch.load(path, map_location="cpu", weights_only=True)
            renamed = {_own_name(name): tensor.float() for name, tensor in stored.items()}
            wanted = {name: renamed[name] for name in self.encoder.state_dict()}
            self.encoder.load_state_dict(wanted)
        except Exception as error:  # the readers' many error types all mean one thing: not such a file
            raise InputError(f"The SSFD weights {path} cannot be used ({type(error).__name__}: {error}).") from error


def standardise(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 1, H, W) less their mean over their standard deviation, each on its own; mean; deviation."""
    mean = images.mean((2, 3), keepdim=True)
    deviation = images.std((2, 3), keepdim=True).clamp_min(1e-6)
    return (images - mean) / deviation, mean, deviation


def _own_name(name: str) -> str:
    """Weight names of the authors' encoder (meddlr), or of a checkpoint, as the encoder here has them."""
    name = re.sub(r"^firstblock\.", "blocks.0.", name.removeprefix("encoder."))
    return re.sub(r"^encoder(\d)\.conv_block\.", r"blocks.\1.", name).replace(".GN.", ".norm.")
