"""Feature losses: distances between what a fixed network sees in two images, over any registered backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..networks.ssfd import SSFDFeatures
from . import untrained, vgg
from .registry import register_loss

GRAM_FACTOR = 20000.0
"""Factor of the gram term in the reference implementation of arXiv 2605.15895 (its gram weights are all
zero)."""

PAPER_WEIGHTS = (92.0, 52.0, 46.0, 94.0, 108.0)
"""Weights of arXiv 2605.15895 for `vgg.PAPER_TAPS`."""

Factory = TypeVar("Factory", bound=Callable[..., Any])

_BACKBONES: dict[str, Callable[..., Any]] = {}


def register_backbone(name: str) -> Callable[[Factory], Factory]:
    """Decorate a factory of a backbone.

    The factory takes `taps` (names, or None for its default) and its own options, and returns a module
    that maps images (B, 1, H, W) to a dict of tap name to features (B, C, h, w), runs no layer beyond the
    deepest tap, and carries `taps` (tuple of names) and `description` (JSON values for a checkpoint's card).

    Examples
    --------
    >>> @register_backbone("toy")
    ... def toy(taps=None):
    ...     return nn.Identity()
    >>> "toy" in backbones()
    True
    >>> del _BACKBONES["toy"]
    """

    def decorate(factory: Factory) -> Factory:
        _BACKBONES[name] = factory
        return factory

    return decorate


def backbones() -> tuple[str, ...]:
    """Names of the registered backbones.

    Examples
    --------
    >>> backbones()
    ('vgg16', 'vgg16_bn', 'untrained', 'ssfd')
    """
    return tuple(_BACKBONES)


def build_backbone(name: str, taps: Sequence[str] | None = None, **options: Any) -> Any:
    """Build a backbone: frozen, in evaluation mode; see `register_backbone`.

    Raises
    ------
    InputError
        If the name or an option is unknown, or an option has a value that the backbone cannot use.

    Examples
    --------
    >>> features = build_backbone("untrained", ["conv2"], channels=4)(torch.zeros(1, 1, 8, 8))
    >>> features["conv2"].shape
    torch.Size([1, 4, 8, 8])
    """
    if name not in _BACKBONES:
        raise InputError(f"The backbone {name!r} is unknown; choose from {', '.join(_BACKBONES)}.")
    factory = _BACKBONES[name]
    try:
        inspect.signature(factory).bind(taps=taps, **options)
    except TypeError as error:
        takes = [p for p in inspect.signature(factory).parameters if p != "taps"]
        raise InputError(f"The options of the backbone {name!r} do not fit: {error}; it takes {takes}.") from None
    return factory(taps=taps, **options).eval().requires_grad_(False)


register_backbone("vgg16")(partial(vgg.vgg_features, "vgg16"))
register_backbone("vgg16_bn")(partial(vgg.vgg_features, "vgg16_bn"))
register_backbone("untrained")(untrained.UntrainedFeatures)
register_backbone("ssfd")(SSFDFeatures)


def _of_weight(
    taps: Sequence[str], tap_weights: Sequence[float] | None, gram_weights: Sequence[float] | None
) -> tuple[list[str], list[float], list[float]]:
    """Taps that count, and their weights; InputError if there is none, or one is named twice."""
    own = _checked_weights("tap_weights", tap_weights, len(taps), 1.0)
    gram = _checked_weights("gram_weights", gram_weights, len(taps), 0.0)
    kept = [i for i in range(len(taps)) if own[i] or gram[i]]
    if not kept or len(set(taps)) < len(taps):
        raise InputError(f"The taps {list(taps)} hold none of weight above 0, or one twice; repair the list.")
    return [taps[i] for i in kept], [own[i] for i in kept], [gram[i] for i in kept]


@register_loss("feature")
class FeatureLoss(nn.Module):
    """sum_i w_i d(F_i(prediction), F_i(target)) + 20000 sum_i g_i mean|G_i(prediction) - G_i(target)|.

    F_i are the features at tap i, d the mean absolute (l1) or mean squared (l2) difference, G = F Fᵀ / (c
    h w) the gram matrix (arXiv 2605.15895; with `untrained` and l2: the uPL of
    doi:10.1371/journal.pone.0318992).

    Parameters
    ----------
    backbone : str
        "vgg16", "vgg16_bn", "untrained", or another registered one.
    taps : sequence of str, "paper", or None
        Layers to read; "paper": relu1_2, relu2_2, relu3_3, relu4_3, relu5_3; None: the backbone's default
        (VGG: relu1_2, untrained: every layer).
    tap_weights, gram_weights : sequence of float, optional
        One w_i and g_i for each tap; w_i default to the paper's with its taps, else 1; g_i to 0. A tap
        with both at 0 is dropped, so it costs nothing.
    distance : {"l1", "l2"}
    relative : bool
        Divide each tap's distance by the target's mean absolute (l1) or mean squared (l2) feature, so that
        terms of backbones of different scale compare.
    **options
        Options of the backbone.

    Examples
    --------
    >>> loss = FeatureLoss("untrained", ["conv1"])
    >>> image = torch.rand(1, 1, 8, 8)
    >>> float(loss(image, image))
    0.0
    """

    def __init__(
        self,
        backbone: str = "vgg16_bn",
        taps: Sequence[str] | str | None = None,
        tap_weights: Sequence[float] | None = None,
        gram_weights: Sequence[float] | None = None,
        distance: str = "l1",
        relative: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if distance not in ("l1", "l2"):
            raise InputError(f"The feature distance is {distance!r}; expected l1 or l2.")
        if taps == "paper":
            taps, tap_weights = vgg.PAPER_TAPS, PAPER_WEIGHTS if tap_weights is None else tap_weights
        elif isinstance(taps, str):
            taps = (taps,)
        if taps is not None:
            taps, tap_weights, gram_weights = _of_weight(taps, tap_weights, gram_weights)
        elif tap_weights is not None or gram_weights is not None:
            raise InputError("The weights of a feature loss are given without its taps; name the taps.")
        self.backbone = build_backbone(backbone, taps, **options)
        self.taps = tuple(taps or self.backbone.taps)
        self.tap_weights = tuple(tap_weights or [1.0] * len(self.taps))
        self.gram_weights = tuple(gram_weights or [0.0] * len(self.taps))
        self.distance = _mean_absolute if distance == "l1" else functional.mse_loss
        self.relative = bool(relative)
        self.description = {
            "backbone": backbone,
            "taps": list(self.taps),
            "tap_weights": list(self.tap_weights),
            "gram_weights": list(self.gram_weights),
            "distance": distance,
            "relative": self.relative,
            **self.backbone.description,
        }

    def train(self, mode: bool = True) -> FeatureLoss:
        """Keep the backbone in evaluation mode whatever the trainer sets."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Loss of images (B, N, H, W) or (B, N, D, H, W); the N images of a sample are seen one by one."""
        with torch.no_grad():
            wanted = self.backbone(target.flatten(0, 1).unsqueeze(1))
        seen = self.backbone(prediction.flatten(0, 1).unsqueeze(1))
        total = prediction.new_zeros(())
        for tap, weight, gram_weight in zip(self.taps, self.tap_weights, self.gram_weights, strict=True):
            if weight:
                distance = self.distance(seen[tap], wanted[tap])
                if self.relative:
                    size = self.distance(wanted[tap], torch.zeros_like(wanted[tap]))
                    distance = distance / size.clamp_min(torch.finfo(size.dtype).tiny)
                total = total + weight * distance
            if gram_weight:
                gram_distance = functional.l1_loss(gram(seen[tap]), gram(wanted[tap]))
                total = total + GRAM_FACTOR * gram_weight * gram_distance
        return total


def _mean_absolute(seen: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of features (B, C, h, w), in their own precision; the mean itself in float32.

    A mean over everything would write its gradient out element by element, in an order that the features do not have,
    and `l1_loss` would make float32 copies of bf16 features: four times as long.
    """
    difference = (seen - wanted).abs()
    # A sum of many channels may be more than float16 holds.
    by_pixel = difference.sum(1, dtype=torch.float32 if difference.dtype == torch.float16 else None)
    return by_pixel.mean(dtype=torch.float32) / seen.shape[1]


register_loss("untrained")(partial(FeatureLoss, "untrained", distance="l2"))


def gram(features: Tensor) -> Tensor:
    """Gram matrices F Fᵀ / (c h w), shape (B, C, C), of features (B, C, h, w).

    Examples
    --------
    >>> gram(torch.ones(1, 2, 3, 4))
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def _checked_weights(name: str, weights: Sequence[float] | None, count: int, default: float) -> list[float]:
    values = [default] * count if weights is None else [float(w) for w in weights]
    if len(values) != count or not all(0 <= w < float("inf") for w in values):
        raise InputError(f"{name} is {values}; expected {count} numbers of 0 or more, one for each tap.")
    return values
