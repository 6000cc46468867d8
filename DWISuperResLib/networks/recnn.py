"""Plain convolutions on the interpolated image, of blocks or of slices: SRCNN, and with a residual ReCNN.

The interpolated image lies on the fine grid already, so one network serves any factors along any axes; which ones is a
matter of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from . import check_keeps_grid, register
from .views import BlockView, SliceView

BLOCK = 96
"""Usual edge of a block in voxels: 64 features of it take 0.1 GB in bf16."""


class _Convolutions(nn.Module):
    """Convolutions with ReLU between them, zeros beyond the border, on images of the fine grid.

    Weights are drawn from a normal distribution of variance 2 / (inputs of a convolution's sum), biases begin at zero
    (MSRA; He et al. 2015, doi:10.1109/ICCV.2015.123).
    """

    layers: Any

    def __init__(
        self,
        kernels: Sequence[int],
        filters: Sequence[int],
        dimensions: int,
        guidance: Sequence[str],
        block: int | None,
        overlap: int | None,
        guide: bool,
    ) -> None:
        super().__init__()
        _check_whole(1, 1024, filters=filters)
        _check_whole(1, 15, kernels=kernels)
        if any(k % 2 == 0 for k in kernels):
            raise InputError(f"The kernels are {list(kernels)} voxels wide; expected odd numbers, which have a middle.")
        self.reach = sum(k // 2 for k in kernels)
        self.view = _view(dimensions, tuple(guidance), block, overlap, guide, self.reach)
        layer: Any = nn.Conv3d if dimensions == 3 else nn.Conv2d
        widths = (self.view.channels, *filters, 1)
        self.layers = nn.ModuleList()
        for n_in, n_out, k in zip(widths[:-1], widths[1:], kernels, strict=True):
            convolution = layer(n_in, n_out, k, padding=k // 2)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)
            self.layers.append(convolution)

    @property
    def receptive_field(self) -> int:
        """Edge, in voxels, of what an answer's voxel depends on.

        Examples
        --------
        >>> ReCNN(layers=20).receptive_field
        41
        """
        return 1 + 2 * self.reach

    def features(self, x: Tensor) -> Tensor:
        """(B, C, *n) through all layers but the last, rectified."""
        first, *others = self.layers[:-1]
        x = functional.relu(_of_shifts(first, x), inplace=True)
        for convolution in others:
            x = functional.relu(convolution(x), inplace=True)
        return x


@register("recnn")
class ReCNN(_Convolutions):
    """The interpolated image plus a residual of convolutions of one kernel (Pham et al. 2019).

    doi:10.1016/j.compmedimag.2019.101647: 10 or 20 layers of 64 filters of 3³ voxels.

    Parameters
    ----------
    layers : int
        Convolutions, 2 to 100.
    filters : int
        Channels between them.
    kernel : int
        Edge in voxels, odd.
    dimensions : {2, 3}
        Slices, or blocks of the volume.
    guidance : sequence of str
        See `views.GUIDANCE`.
    block, overlap : int, optional
        Of blocks, see `views.BlockView`; by default as much overlap as makes the result independent of the division,
        at most half a block.
    guide : bool
        Whether a registered image of another contrast or of higher resolution is shown as well (multimodal ReCNN).

    Examples
    --------
    >>> network = ReCNN(layers=3, filters=4)
    >>> network(torch.rand(1, 1, 8, 9, 10), (8, 9, 10)).shape, network.receptive_field
    (torch.Size([1, 1, 8, 9, 10]), 7)
    """

    def __init__(
        self,
        layers: int = 20,
        filters: int = 64,
        kernel: int = 3,
        dimensions: int = 3,
        guidance: Sequence[str] = (),
        block: int | None = None,
        overlap: int | None = None,
        guide: bool = False,
    ) -> None:
        _check_whole(2, 100, layers=[layers])
        super().__init__([kernel] * layers, [filters] * (layers - 1), dimensions, guidance, block, overlap, guide)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Add to (B, C, *n), channel 0 the interpolated image, what interpolation misses; `size` is n."""
        check_keeps_grid("ReCNN", x, size)
        return x[:, :1].float() + _to_one(self.layers[-1], self.features(x))


@register("srcnn")
class SRCNN(_Convolutions):
    """Convolutions from the interpolated image to the answer itself (Dong et al. 2016, doi:10.1109/TPAMI.2015.2439281).

    With blocks it is SRCNN3D (Pham et al. 2017, doi:10.1109/ISBI.2017.7950500).

    Parameters
    ----------
    kernels : sequence of int
        Edge of each convolution in voxels, odd.
    filters : sequence of int
        Channels between them, one fewer.
    dimensions, guidance, block, overlap, guide
        See `ReCNN`.

    Examples
    --------
    >>> network = SRCNN(filters=(4, 2), dimensions=2)
    >>> network(torch.rand(1, 1, 16, 20), (16, 20)).shape, network.receptive_field
    (torch.Size([1, 1, 16, 20]), 13)
    """

    def __init__(
        self,
        kernels: Sequence[int] = (9, 1, 5),
        filters: Sequence[int] = (64, 32),
        dimensions: int = 3,
        guidance: Sequence[str] = (),
        block: int | None = None,
        overlap: int | None = None,
        guide: bool = False,
    ) -> None:
        if len(kernels) != len(filters) + 1 or not 2 <= len(kernels) <= 100:
            raise InputError(
                f"SRCNN has {len(kernels)} kernels and {len(filters)} numbers of filters; expected 2 to 100 kernels "
                "and one number fewer, since the last convolution makes the image."
            )
        super().__init__(kernels, filters, dimensions, guidance, block, overlap, guide)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Make (B, 1, *n) of (B, C, *n), channel 0 the interpolated image; `size` is n."""
        check_keeps_grid("SRCNN", x, size)
        features = self.features(x)
        # Without a residual, an answer in half precision would be rounded to eight bits.
        with torch.autocast(x.device.type, enabled=False):
            last: Any = self.layers[-1]
            return _to_one(last, features.to(last.weight.dtype))


def _of_shifts(convolution: Any, x: Tensor) -> Tensor:
    """What a convolution makes of few channels (B, C, *n), by way of their shifts along the last axis as channels.

    Libraries take channels by the dozen: in bf16 on a processor, 9³ voxels of a single one so cost a fifth of the time.
    """
    weight = convolution.weight
    edge, reach = weight.shape[-1], weight.shape[-1] // 2
    shifts = functional.pad(x, (reach, reach)).unfold(-1, edge, 1).movedim(-1, 2).flatten(1, 2)
    shifts = shifts.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
    padding = [*[reach] * (x.ndim - 3), 0]
    weight = weight.movedim(-1, 2).flatten(1, 2).unsqueeze(-1).contiguous()
    return convolve(shifts, weight, convolution.bias, padding=padding)


def _to_one(convolution: Any, x: Tensor) -> Tensor:
    """What a convolution to one channel makes of (B, C, *n), summed in float32 over shifts along the last axis.

    As above: each voxel of the kernel's last axis is a channel made, and a sum of these, shifted, is the one wanted.
    """
    weight = convolution.weight
    length, edge, reach = x.shape[-1], weight.shape[-1], weight.shape[-1] // 2
    convolve = functional.conv2d if x.ndim == 4 else functional.conv3d
    padding = [*[reach] * (x.ndim - 3), 0]
    made = convolve(x, weight[0].movedim(-1, 0).unsqueeze(-1).contiguous(), padding=padding)
    made = functional.pad(made.to(weight.dtype), (reach, reach))
    total = sum(made[:, shift : shift + 1, ..., shift : shift + length] for shift in range(edge))
    return total + convolution.bias.view(1, 1, *[1] * (x.ndim - 2))


def _view(
    dimensions: int, guidance: tuple[str, ...], block: int | None, overlap: int | None, guide: bool, reach: int
) -> SliceView | BlockView:
    if dimensions == 3:
        size = BLOCK if block is None else block
        overlap = min(-(-8 * reach // 3), size // 2) if overlap is None else overlap
        return BlockView(size, overlap, guidance, guide=guide)
    if dimensions != 2:
        raise InputError(f"dimensions is {dimensions!r}; expected 2 (slices) or 3 (blocks).")
    if block is not None or overlap is not None:
        raise InputError("Slices are shown whole: leave block and overlap out, or set dimensions to 3.")
    return SliceView(0, guidance, guide, kernel="bspline")


def _check_whole(smallest: int, largest: int, **numbers: Sequence[int]) -> None:
    for name, values in numbers.items():
        if not all(type(value) is int and smallest <= value <= largest for value in values):
            raise InputError(f"{name} is {list(values)}; expected whole numbers from {smallest} to {largest}.")
