"""Features of a small convolutional network that was never trained (doi:10.1371/journal.pone.0318992)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError

_INITIALISATIONS: dict[str, Callable[[Tensor], Any] | None] = {
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": partial(nn.init.orthogonal_, gain=2**0.5),
    "default": None,
}
_CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLINGS: dict[tuple[int, str], Callable[..., Tensor]] = {
    (2, "max"): functional.max_pool2d,
    (3, "max"): functional.max_pool3d,
    (2, "average"): functional.avg_pool2d,
    (3, "average"): functional.avg_pool3d,
}


class UntrainedFeatures(nn.Module):
    """Convolution - ReLU, `depth` times, pooling by 2 in between; taps conv1 ... follow the ReLU.

    The mean squared distance of all taps is the publication's PL = sum_j |phi_j(y') - phi_j(y)|² / (C_j
    H_j W_j D_j). It leaves open the number of channels, which layers enter and where the ReLU stands:
    these are our choices.

    Parameters
    ----------
    taps : sequence of str, optional
        Default: all.
    dimensions : {2, 3}
        2: images (B, 1, H, W); 3: volumes (B, 1, D, H, W).
    depth : int
        3 to 7 convolutions.
    kernel : {3, 5, 7}
    pooling : {"none", "max", "average", "stride"}
        "stride": the convolutions but the first move by 2.
    channels : int
        Of every convolution.
    initialisation : str
        kaiming_normal, kaiming_uniform, xavier_normal, xavier_uniform, orthogonal (biases zero), or
        default (PyTorch's).
    seed : int
        Fixes the weights, whatever the global generator's state, which stays as it was.

    Examples
    --------
    >>> features = UntrainedFeatures(dimensions=3, depth=3, channels=4)(torch.zeros(1, 1, 4, 6, 5))
    >>> features["conv3"].shape
    torch.Size([1, 4, 4, 6, 5])
    """

    def __init__(
        self,
        taps: Sequence[str] | None = None,
        *,
        dimensions: int = 2,
        depth: int = 5,
        kernel: int = 3,
        pooling: str = "none",
        channels: int = 32,
        initialisation: str = "kaiming_normal",
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("dimensions", dimensions, (2, 3)),
            ("depth", depth, range(3, 8)),
            ("kernel", kernel, (3, 5, 7)),
            ("pooling", pooling, ("none", "max", "average", "stride")),
            ("initialisation", initialisation, tuple(_INITIALISATIONS)),
            ("channels", channels, range(1, 1025)),
        ):
            if value not in allowed:
                choices = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else list(allowed)
                raise InputError(f"The untrained network's {name} is {value!r}; expected {choices}.")
        names = [f"conv{i + 1}" for i in range(depth)]
        self.taps = tuple(names if taps is None else taps)
        if unknown := set(self.taps) - set(names):
            raise InputError(f"The untrained network has no taps {sorted(unknown)}; choose from {', '.join(names)}.")
        self.dimensions, self.pooling = dimensions, pooling
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convolutions = nn.ModuleDict(
                {
                    name: _CONVOLUTIONS[dimensions](
                        1 if i == 0 else channels,
                        channels,
                        kernel,
                        stride=2 if pooling == "stride" and i else 1,
                        padding=kernel // 2,
                    )
                    for i, name in enumerate(names[: 1 + max(names.index(tap) for tap in self.taps)])
                }
            )
            if (initialise := _INITIALISATIONS[initialisation]) is not None:
                for convolution in self.convolutions.values():
                    initialise(cast(Tensor, convolution.weight))
                    nn.init.zeros_(cast(Tensor, convolution.bias))
        self.description = {
            "dimensions": dimensions,
            "depth": depth,
            "kernel": kernel,
            "pooling": pooling,
            "channels": channels,
            "initialisation": initialisation,
            "seed": seed,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features (B, channels, ...) by tap."""
        pools = len(self.convolutions) - 1 if self.pooling != "none" else 0
        if x.ndim != self.dimensions + 2 or min(x.shape[2:]) < 2**pools:
            raise InputError(
                f"The untrained network got an input of shape {tuple(x.shape)}; expected {self.dimensions} "
                "spatial axes "
                f"of at least {2**pools} px, so use larger patches, a lower depth or no pooling."
            )
        features = {}
        pool = _POOLINGS.get((self.dimensions, self.pooling))
        for i, (name, convolution) in enumerate(self.convolutions.items()):
            if i and pool is not None:
                x = pool(x, 2)
            x = functional.relu(convolution(x))
            if name in self.taps:
                features[name] = x
        return features
