"""Networks that keep the grid: DnCNN, a residual network and a Swin transformer, all predicting the noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError, MissingDependencyError
from . import check_keeps_grid, register
from .views import SliceView


class _Denoiser(nn.Module):
    """Normalised channels (B, C, H, W), channel 0 the slice, to the slice less the noise that `body` sees in it."""

    multiple = 1
    """Of what the body wants height and width to be multiples, at least `smallest`."""
    smallest = 1

    def __init__(self, body: nn.Module, view: SliceView) -> None:
        super().__init__()
        self.view = view
        self.body = body

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Denoise (B, C, H, W) to (B, 1, H, W); `size` is (H, W)."""
        check_keeps_grid("A denoiser", x, size)
        height, width = x.shape[-2:]
        missing = [max(self.smallest, n + -n % self.multiple) - n for n in (width, height)]
        padded = functional.pad(x, (0, missing[0], 0, missing[1]), mode="replicate")
        return x[:, :1].float() - self.body(padded)[..., :height, :width].float()


@register("dncnn")
class DnCNN(_Denoiser):
    """Convolutions with batch norm (Zhang et al. 2017, doi:10.1109/TIP.2017.2662206; 17 layers of 64 channels there).

    Parameters
    ----------
    layers, width : int
    neighbours, guidance
        See `views.SliceView`.

    Examples
    --------
    >>> network = DnCNN()
    >>> network(torch.rand(1, network.view.channels, 8, 8), (8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(self, layers: int = 17, width: int = 64, neighbours: int = 0, guidance: Sequence[str] = ()) -> None:
        _check_sizes(layers=(layers, 2), width=(width, 1))
        view = SliceView(neighbours, tuple(guidance))
        body: list[nn.Module] = [nn.Conv2d(view.channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(layers - 2):
            body += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        body.append(nn.Conv2d(width, 1, 3, padding=1))
        super().__init__(nn.Sequential(*body), view)


@register("residual")
class ResidualNetwork(_Denoiser):
    """Residual blocks without normalisation (Lim et al. 2017, doi:10.1109/CVPRW.2017.151).

    Parameters
    ----------
    blocks, width : int
    neighbours, guidance
        See `views.SliceView`.

    Examples
    --------
    >>> network = ResidualNetwork()
    >>> network(torch.rand(1, network.view.channels, 8, 8), (8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(self, blocks: int = 8, width: int = 64, neighbours: int = 0, guidance: Sequence[str] = ()) -> None:
        _check_sizes(blocks=(blocks, 1), width=(width, 1))
        view = SliceView(neighbours, tuple(guidance))
        body = nn.Sequential(
            nn.Conv2d(view.channels, width, 3, padding=1),
            *(_Block(width) for _ in range(blocks)),
            nn.Conv2d(width, 1, 3, padding=1),
        )
        super().__init__(body, view)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # A tenth, as Lim et al. 2017: deep sums of blocks otherwise grow until training fails.
        return x + 0.1 * self.second(functional.relu(self.first(x)))


@register("swin_unetr")
class SwinDenoiser(_Denoiser):
    """MONAI's Swin UNETR on slices (Hatamizadeh et al. 2022, doi:10.1007/978-3-031-08999-2_22).

    Parameters
    ----------
    features : int
        Channels on the finest level, a multiple of 12 up to 96.
    neighbours, guidance
        See `views.SliceView`.
    """

    multiple = 32
    smallest = 64  # below, one pixel is left on the coarsest level, which instance norm cannot normalise

    def __init__(self, features: int = 24, neighbours: int = 0, guidance: Sequence[str] = ()) -> None:
        try:
            from monai.networks.nets import SwinUNETR
        except ImportError as error:
            raise MissingDependencyError(
                "The transformer needs MONAI, which is not installed; pip install 'dwi-superres[train]'."
            ) from error
        if features not in range(12, 97, 12):
            raise InputError(f"features is {features!r}; expected a multiple of 12 up to 96.")
        view = SliceView(neighbours, tuple(guidance))
        # Its constructor reads values of tensors, which "meta" tensors lack.
        with torch.device("cpu"):
            body = SwinUNETR(in_channels=view.channels, out_channels=1, feature_size=features, spatial_dims=2)
        super().__init__(body, view)


def _check_sizes(**sizes: tuple[int, int]) -> None:
    for name, (value, smallest) in sizes.items():
        if type(value) is not int or not smallest <= value <= 1024:
            raise InputError(f"{name} is {value!r}; expected a whole number from {smallest} to 1024.")
