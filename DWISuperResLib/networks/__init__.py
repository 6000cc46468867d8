"""Architectures behind one registry: a checkpoint holds a name and arguments, `build` makes the network.

A network for scans has an attribute `view` (`views.View`) and `forward(x, size)`: normalised channels (B, C, *n) of a
tile as the view shows it, channel 0 the image itself, to (B, 1, *size), as `torch.nn.functional.interpolate` takes a
size: a network that keeps the grid is called with its input's. Every architecture

- takes keyword arguments that JSON can hold (numbers, strings, booleans, lists of these), and refuses those
  that make no sense or no network of sane size with `errors.InputError`: they come from files of strangers;
- can be built under ``torch.device("meta")``, so that a checkpoint is checked before memory is spent on it.
"""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

# Architecture -> module of this package that registers it; imported on first use, since each brings in torch.
_HOMES = {
    "dncnn": "denoisers",
    "dynamic_unet": "dynamic_unet",
    "recnn": "recnn",
    "residual": "denoisers",
    "sr_unet": "sr_unet",
    "srcnn": "recnn",
    "ssfd": "ssfd",
    "swin_unetr": "denoisers",
}

_CLASSES: dict[str, type[nn.Module]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: make a network buildable by `name`.

    Examples
    --------
    >>> from torch import nn
    >>> @register("toy")
    ... class Toy(nn.Module):
    ...     pass
    >>> type(build("toy")) is Toy, "toy" in architectures()
    (True, True)
    >>> del _CLASSES["toy"]
    """

    def add(cls: type[nn.Module]) -> type[nn.Module]:
        _CLASSES[name] = cls
        return cls

    return add


def architectures() -> tuple[str, ...]:
    """Names `build` knows, sorted.

    Examples
    --------
    >>> {"sr_unet", "dynamic_unet"} <= set(architectures())
    True
    """
    return tuple(sorted({*_HOMES, *_CLASSES}))


def build(architecture: str, **arguments: Any) -> nn.Module:
    """Make a network, with freshly initialised weights, in training mode.

    Parameters
    ----------
    architecture : str
        One of `architectures()`.
    **arguments
        The architecture's own.

    Raises
    ------
    InputError
        If the architecture is unknown or does not take these arguments.

    Examples
    --------
    >>> network = build("residual")
    >>> network.view.dimensions, network.training
    (2, True)
    """
    if architecture not in architectures():
        raise InputError(f"Unknown architecture {architecture!r}; expected one of {', '.join(architectures())}.")
    if architecture not in _CLASSES:
        import_module(f".{_HOMES[architecture]}", __name__)
    try:
        return _CLASSES[architecture](**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"Architecture {architecture!r} cannot be built with {arguments}: {error}.") from error


def check_keeps_grid(what: str, x: Tensor, size: Sequence[int]) -> None:
    """InputError unless `size` is that of the images `x` (B, C, *n).

    Examples
    --------
    >>> import torch
    >>> check_keeps_grid("A denoiser", torch.zeros(1, 1, 8, 8), (16, 16))
    Traceback (most recent call last):
    DWISuperResLib.errors.InputError: A denoiser keeps the grid of (8, 8) pixels; it cannot make (16, 16) of it.
    """
    if tuple(size) != tuple(x.shape[2:]):
        raise InputError(f"{what} keeps the grid of {tuple(x.shape[2:])} pixels; it cannot make {tuple(size)} of it.")


def fold(network: nn.Module) -> nn.Module:
    """Bake normalisations into plain weights for inference; in place, leaves eval mode set.

    Weight norm and spectral norm always; batch norm where it comes next after a convolution among a module's children,
    which in the networks here, as in torchvision's, means that it is applied to that convolution's output.

    Examples
    --------
    >>> import torch
    >>> network = build("dncnn")
    >>> x = torch.rand(1, network.view.channels, 8, 8)
    >>> before = network.eval()(x, (8, 8))
    >>> torch.allclose(fold(network)(x, (8, 8)), before, atol=1e-5)
    True
    """
    from torch import nn
    from torch.nn.utils import parametrize
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network.eval()  # in training mode, reading a spectrally normed weight moves its power iteration on
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name)
    for module in list(network.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return network
