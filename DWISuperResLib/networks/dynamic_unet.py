"""The network of Lohr & Werner 2026 (arXiv:2605.15895): fastai's DynamicUnet on a ResNet18, plainly written.

It refines an image that is first interpolated to its full size. Input and output have three channels; the slice is
all three of the input and the first of the output.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torchvision.models import resnet18

from ..errors import InputError
from . import register
from .views import SliceView
from .weights import cached_weights

# How the slice is brought to its full size: mode and align_corners of `functional.interpolate`. The paper's choice
# moves every pixel but the central one, by up to half a pixel (x2) or a whole one (x3) at the edges.
_UPSAMPLING = {"linear": ("bilinear", False), "cubic": ("bicubic", False), "paper": ("bilinear", True)}

_CACHED = 2**16
"""Pixels that go through the layers of full size at once on a CPU, so that its cache holds them (100 channels each)."""


@register("dynamic_unet")
class DynamicUNet(nn.Module):
    """U-Net with a ResNet18 encoder, sub-pixel upsampling and self-attention; 31,305,374 parameters.

    The same as ``unet_learner(dls, resnet18, n_out=3, blur=True, norm_type=NormType.Weight, self_attention=True,
    y_range=output_range)`` of fastai 2.7 and 2.8, initial weights included.

    Parameters
    ----------
    upsampling : {"linear", "cubic", "paper"}
        Interpolation to full size. "linear" and "cubic" keep the field of view; "paper" is the reference
        implementation's, which does not (bilinear, corners aligned).
    output_range : (float, float)
        The output is a sigmoid between these, in units of the normalised signal.

    Raises
    ------
    InputError
        If `upsampling` or `output_range` is none of these.
    """

    def __init__(self, upsampling: str = "linear", output_range: Sequence[float] = (-3.0, 3.0)) -> None:
        super().__init__()
        if upsampling not in _UPSAMPLING:
            raise InputError(f"upsampling is {upsampling!r}; expected one of {', '.join(_UPSAMPLING)}.")
        if len(output_range) != 2 or not output_range[0] < output_range[1]:
            raise InputError(f"output_range is {output_range}; expected (lowest, highest).")
        self.view = SliceView()
        self.upsampling = upsampling
        self.output_range = tuple(output_range)
        self.encoder = resnet18(weights=None)
        del self.encoder.avgpool, self.encoder.fc
        self.bottom_norm = _batch_norm(512)
        self.bottom1 = _conv(512, 1024, 3)
        self.bottom2 = _conv(1024, 512, 3)
        self.up1 = _UpBlock(512, 256, 512)
        self.up2 = _UpBlock(512, 128, 384)
        self.attention = _SelfAttention(384)
        self.up3 = _UpBlock(384, 64, 256)
        self.up4 = _UpBlock(256, 64, 96)
        self.up5 = _SubPixel(96, 96, blur=False)
        self.residual1 = _conv(99, 99, 3)
        self.residual2 = _conv(99, 99, 3, relu=False)
        self.head = _conv(99, 3, 1, relu=False, bias_std=0.01)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Super-resolve normalised slices (B, 1, H, W) to (B, 1, *size)."""
        if tuple(size) != tuple(x.shape[-2:]):
            mode, align_corners = _UPSAMPLING[self.upsampling]
            x = functional.interpolate(x, tuple(size), mode=mode, align_corners=align_corners)
        return self.refine(x.expand(-1, 3, -1, -1))[:, :1]

    def refine(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) of full size, in and out."""
        encoder = self.encoder
        # Rounded to half precision, the image would lose more than in all later layers together.
        half = encoder.relu(encoder.bn1(_exactly(encoder.conv1, image)))
        quarter = encoder.layer1(encoder.maxpool(half))
        eighth = encoder.layer2(quarter)
        sixteenth = encoder.layer3(eighth)
        x = _relu(self.bottom_norm(encoder.layer4(sixteenth)))
        x = _relu(self.bottom2(_relu(self.bottom1(x))))
        x = self.up1(x, sixteenth)
        x = self.attention(self.up2(x, eighth))
        x = self.up3(x, quarter)
        x = self.up4(x, half)
        size = max(1, _CACHED // image[0, 0].numel()) if x.device.type == "cpu" else len(x)
        logits = torch.cat([self._logits(*part) for part in zip(x.split(size), image.split(size), strict=True)])
        low, high = self.output_range
        return low + (high - low) * torch.sigmoid(logits)

    def _logits(self, x: Tensor, image: Tensor) -> Tensor:
        """Logits (b, 3, H, W) of a few images: the layers of full size, on features of half size."""
        x = _crop(self.up5(x), image)
        # In the features' layout: joined to another one, all of them would be copied out of it.
        last = x.is_contiguous(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        y = self.residual2(_relu(self.residual1(torch.cat([x, image.to(x.dtype)], dim=1))))
        # The image and the logits never in half precision: most signal lies where the sigmoid is near 1/2, in steps of
        # 1/1000 and more. The head is a matrix product, of features and image apart: joined, they would be copied.
        shares = (x.shape[1], image.shape[1])
        weight, logits = self.head.weight, self.head.bias
        assert isinstance(weight, Tensor)
        assert isinstance(logits, Tensor)
        with torch.autocast(x.device.type, enabled=False):
            for part, added, columns in zip(
                (x, image), y.split(shares, 1), weight.flatten(1).split(shares, 1), strict=True
            ):
                pixels = _relu(part + added).permute(0, 2, 3, 1)
                logits = functional.linear(pixels.to(weight.dtype), columns) + logits
        return logits.permute(0, 3, 1, 2)

    def parameter_groups(self) -> list[nn.ModuleList]:
        """Early encoder, late encoder, the rest: fastai's split of a ResNet for discriminative learning rates."""
        early, late = list(self.encoder.children())[:6], list(self.encoder.children())[6:]
        rest = [module for module in self.children() if module is not self.encoder]
        return [nn.ModuleList(early), nn.ModuleList(late), nn.ModuleList(rest)]

    def load_imagenet(self, source: str | os.PathLike[str]) -> None:
        """Start the encoder from ImageNet weights (torchvision's ``ResNet18_Weights.IMAGENET1K_V1``).

        Parameters
        ----------
        source : str or path
            The file ``resnet18-f37072fd.pth``, or the word "download": it is then fetched (45 MB) into torch's cache,
            and its checksum verified.

        Raises
        ------
        InputError
            If the file is not a ResNet18's state dict.
        ProcessingError
            If the download fails or its hash is wrong.
        """
        fetched = cached_weights("resnet18", download=True) if source == "download" else None
        path = fetched or Path(source)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise InputError(f"{source} cannot be read as a PyTorch state dict: {error}.") from error
        try:
            self.encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
        except (RuntimeError, AttributeError, TypeError) as error:
            raise InputError(f"{source} does not hold torchvision's ResNet18 weights: {error}") from error


class _UpBlock(nn.Module):
    """Double the size, join the encoder's features of that size, convolve twice."""

    def __init__(self, features: int, skip: int, out: int) -> None:
        super().__init__()
        self.up = _SubPixel(features, features // 2, blur=True)
        self.norm = _batch_norm(skip)
        self.conv1 = _conv(features // 2 + skip, out, 3)
        self.conv2 = _conv(out, out, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # fastai's ReLU follows the joining; `up` ends in means of one's results already.
        x = torch.cat([_crop(self.up(x), skip), _relu(self.norm(skip))], dim=1)
        return _relu(self.conv2(_relu(self.conv1(x))))


class _SubPixel(nn.Module):
    """Double the size by sub-pixel convolution, initialised as nearest neighbour (ICNR, arXiv:1707.02937).

    `blur` averages 2 x 2 pixels afterwards, against checkerboards (arXiv:1806.02658).
    """

    def __init__(self, features: int, out: int, *, blur: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(features, 4 * out, 1)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        coarse = nn.init.kaiming_normal_(conv.weight.detach()[::4].clone())
        with torch.no_grad():
            conv.weight.copy_(coarse.repeat_interleave(4, dim=0))
        self.conv = weight_norm(conv)
        self.blur = blur

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pixel_shuffle(_relu(self.conv(x)), 2)
        if self.blur:
            # fastai repeats the first row and column first; the mean without them is the same.
            x = functional.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)[..., :-1, :-1]
        return x


class _SelfAttention(nn.Module):
    """Self-attention over pixels as in SAGAN (arXiv:1805.08318), on (B, C, H, W); starts as the identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query = _linear(features, features // 8)
        self.key = _linear(features, features // 8)
        self.value = _linear(features, features)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        # fastai sums over the pixels of `query` for each pixel of `key`, the reverse of what the names suggest.
        # Written out: the library's attention is slow where keys and values differ in size.
        weights = torch.softmax(self.key(pixels) @ self.query(pixels).mT, dim=-1)
        mixed = weights @ self.value(pixels)
        return x + (self.gamma * mixed).to(x.dtype).transpose(1, 2).reshape(x.shape)


def _conv(features: int, out: int, size: int, *, relu: bool = True, bias_std: float = 0.0) -> nn.Module:
    """Weight-normed convolution, initialised for the ReLU that follows, if one does."""
    conv = nn.Conv2d(features, out, size, padding=size // 2)
    if relu:
        nn.init.kaiming_uniform_(conv.weight)
    nn.init.normal_(conv.bias, std=bias_std)  # type: ignore[arg-type]
    return weight_norm(conv)


def _linear(features: int, out: int) -> nn.Module:
    """Spectrally normed matrix."""
    linear = nn.Linear(features, out, bias=False)
    nn.init.kaiming_normal_(linear.weight)
    return spectral_norm(linear)


def _batch_norm(features: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(features)
    nn.init.constant_(norm.bias, 1e-3)
    return norm


def _relu(x: Tensor) -> Tensor:
    """In place: of the largest tensors, one less is written anew."""
    return functional.relu(x, inplace=True)


def _exactly(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply `layer` in its own precision; only the result is in autocast's."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    with torch.autocast(device, enabled=False):
        return layer(x).to(dtype)


def _crop(x: Tensor, like: Tensor) -> Tensor:
    """Drop the row or column by which doubling overshoots an odd size.

    fastai resizes by nearest neighbour here, which for one pixel less drops the last.
    """
    return x[..., : like.shape[-2], : like.shape[-1]]
