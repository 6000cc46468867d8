"""Our default network: a small U-Net on the low-resolution grid that predicts what interpolation misses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product

import torch
from torch import nn
from torch.nn import functional

from ..errors import InputError
from ..resampling.operators import operator
from . import register
from .views import SliceView


@register("sr_unet")
class SRUNet(nn.Module):
    """Residual U-Net with one sub-pixel head a scale.

    All work but the last layer is done on the low-resolution grid (Shi et al. 2016, doi:10.1109/CVPR.2016.207), so a
    slice costs scale² times less than on the full grid; the heads share the body (Lim et al. 2017,
    doi:10.1109/CVPRW.2017.151). The output is the sinc interpolation of the slice plus the predicted residual; with
    `band_limited` inputs, plus the part of it beyond the slice's k-space, so that what was measured stays as measured
    (range-null space decomposition, Schwab et al. 2019, doi:10.1088/1361-6420/aaf14a).

    Parameters
    ----------
    scales : sequence of int or pair of int
        Factors served: one for both axes of an image, or a pair, for either order of rows and columns: [1, 2] refines
        one axis of it, as images do that hold the slice axis.
    width : int
        Channels on the finest level; each level below has twice as many at half the resolution.
    blocks : sequence of int
        Residual blocks per level, finest first; the finest level has that many again on the way up.
    neighbours, guidance, guide
        See `views.SliceView`.
    band_limited : bool
        Low resolution means a smaller k-space matrix (degradation model kspace). Off where the input is blurred or
        aliased and the network has to mend that too.

    Examples
    --------
    >>> network = SRUNet(width=4, blocks=(1, 1))
    >>> network(torch.rand(1, network.view.channels, 8, 9), (16, 18)).shape
    torch.Size([1, 1, 16, 18])
    """

    def __init__(
        self,
        scales: Sequence[int | Sequence[int]] = (2, 3),
        width: int = 32,
        blocks: Sequence[int] = (1, 2, 3),
        neighbours: int = 1,
        guidance: Sequence[str] = ("mean_b0", "mean_dwi"),
        band_limited: bool = True,
        guide: bool = False,
    ) -> None:
        super().__init__()
        pairs = _pairs(scales)
        numbers = [n for pair in pairs for n in pair] + [width, *blocks]
        if not all(isinstance(n, int) and 0 < n <= 512 for n in numbers) or not scales or not blocks:
            raise InputError(
                f"scales {scales}, width {width!r} and blocks {blocks} must be whole numbers from 1 to 512."
            )
        if width * 2 ** len(blocks) > 4096:
            raise InputError(f"width {width} on {len(blocks)} levels is over 4096 channels; take fewer.")
        self.view = SliceView(neighbours, tuple(guidance), guide)
        self.scales = pairs
        self.band_limited = band_limited
        widths = [width * 2**level for level in range(len(blocks))]
        self.head = nn.Conv2d(self.view.channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(_stage(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(widths))
        self.bottom = _stage(widths[-1], blocks[-1])
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(_stage(w, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.tails = nn.ModuleDict({_name(pair): _SubPixel(width, pair) for pair in self.scales})

    def forward(self, x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """Super-resolve normalised channels (B, C, H, W), channel 0 the slice, to (B, 1, *size).

        `size` is a multiple of (H, W) by one of the scales, or less than one pixel of (H, W) off it, as whole pixels
        over a field of view may ask for.
        """
        height, width = x.shape[-2:]
        factors = self._factors_for((height, width), size)
        if factors not in self.scales:
            return self(x.mT, (size[1], size[0])).mT
        multiple = 2 ** len(self.down)
        padded = functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        features = self.head(padded)
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            features = stage(features)
            skips.append(features)
            features = down(features)
        features = self.bottom(features)
        for stage, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            features = stage(_doubled(features, up, skips.pop()))
        residual = resized(self.tails[_name(factors)](features[..., :height, :width]), size)
        if self.band_limited:  # without what k-space truncation to the input's matrix would keep of it
            residual = residual - resized(resized(residual, (height, width)), residual.shape[-2:])
        return resized(x[:, :1], size) + residual

    def _factors_for(self, shape: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
        """Those of rows and columns; in descending order where they are of a pair that is to be transposed."""
        served = sorted({*self.scales, *((b, a) for a, b in self.scales)})
        misses = {f: max(abs(m - s * n) / s for n, m, s in zip(shape, size, f, strict=True)) for f in served}
        best = min(misses, key=misses.__getitem__)
        if misses[best] >= 1:
            raise InputError(
                f"The network makes images {', '.join(map(_name, self.scales))} times as large, but was asked for "
                f"{tuple(size)} of {tuple(shape)} pixels; choose one of its scales."
            )
        return best


def _pairs(scales: Sequence[int | Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Each factor for both axes as a pair, too."""
    pairs = [(s, s) if isinstance(s, int) else tuple(s) for s in scales]
    if any(len(pair) != 2 or pair[0] > pair[1] for pair in pairs) or len(set(pairs)) < len(pairs):
        raise InputError(f"scales are {scales}; expected numbers or ascending pairs of them, each once.")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _name(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def resized(images: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Mirrored sinc interpolation of (B, 1, H, W) to `size`, or its left inverse to fewer pixels, in float32."""
    (height, width), (rows, columns) = images.shape[-2:], map(int, size)
    images = images.float()
    with torch.autocast(images.device.type, enabled=False):
        if rows != height:
            images = _operator(height, rows, images.device) @ images
        if columns != width:
            images = images @ _operator(width, columns, images.device).T
    return images


@lru_cache(maxsize=64)
def _operator(n_in: int, n_out: int, device: torch.device) -> torch.Tensor:
    # Kept from call to call; what is made in inference mode could not serve training later.
    with torch.inference_mode(False):
        return torch.tensor(operator(n_in, n_out, "mirrored_sinc"), dtype=torch.float32, device=device)


def _start_at_zero(layer: nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        _start_at_zero(self.second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(x), inplace=True)).add_(x)


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(blocks)))


def _doubled(features: torch.Tensor, up: nn.Module, skip: torch.Tensor) -> torch.Tensor:
    """`pixel_shuffle(up(features), 2) + skip` in one pass: both have their channels last, so with those of a pixel's
    phases beside one another nothing but runs of them moves."""
    (count, fine, height, width), (rows, columns) = skip.shape, features.shape[-2:]
    assert isinstance(up, nn.Conv2d)
    assert up.bias is not None
    weight, bias = (t.unflatten(0, (fine, 4)).transpose(0, 1).flatten(0, 1) for t in (up.weight, up.bias))
    phases = functional.conv2d(features, weight, bias).permute(0, 2, 3, 1)
    phases = phases.reshape(count, rows, columns, 2, 2 * fine).transpose(2, 3)
    pixels = skip.permute(0, 2, 3, 1).reshape(count, rows, 2, columns, 2 * fine) + phases
    return pixels.reshape(count, height, width, fine).permute(0, 3, 1, 2)


class _SubPixel(nn.Module):
    """Features to the residual on the fine grid; the last convolution mixes sub-pixel phases, against grids."""

    def __init__(self, width: int, factors: tuple[int, int], fine: int = 16) -> None:
        super().__init__()
        self.factors, self.fine = factors, fine
        self.expand = nn.Conv2d(width, fine * factors[0] * factors[1], 3, padding=1)
        self.last = nn.Conv2d(fine, 1, 3, padding=1)
        _start_at_zero(self.last)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # The last convolution belongs to the fine grid. On the coarse one it takes phases to phases: of the same
        # products the same sums, and only one image of each phase is moved to the fine grid, not `fine` of them.
        phases = functional.relu(self.expand(features), inplace=True)
        places = _coarse_taps(self.factors, features.device)
        weight = torch.einsum("oct,tpqs->pcqs", self.last.weight.flatten(2), places.to(self.last.weight.dtype))
        weight = weight.reshape(len(weight), -1, 3, 3)
        assert self.last.bias is not None
        images = functional.conv2d(phases, weight, self.last.bias.expand(len(weight)), padding=1).float()
        count, _, height, width = images.shape
        rows, columns = self.factors
        images = images.view(count, rows, columns, height, width).permute(0, 3, 1, 4, 2)
        return images.reshape(count, 1, height * rows, width * columns)


@lru_cache(maxsize=16)
def _coarse_taps(factors: tuple[int, int], device: torch.device) -> torch.Tensor:
    """(9, P, P, 9) of 0 and 1: tap t of 3 x 3 around a pixel of phase p on the fine grid is a pixel of phase q under
    tap s on the coarse one; P phases a coarse pixel."""
    rows, columns = factors
    with torch.inference_mode(False):
        places = torch.zeros(3, 3, rows, columns, rows, columns, 3, 3, device=device)
    for u, v, a, b in product(range(3), range(3), range(rows), range(columns)):
        (down, c), (right, d) = divmod(a + u - 1, rows), divmod(b + v - 1, columns)
        places[u, v, a, b, c, d, down + 1, right + 1] = 1
    return places.reshape(9, rows * columns, rows * columns, 9)
