"""The registry of loss terms; a term is registered where it is written."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..errors import InputError

Factory = TypeVar("Factory", bound=Callable[..., nn.Module])

_TERMS: dict[str, Callable[..., nn.Module]] = {}


def register_loss(name: str) -> Callable[[Factory], Factory]:
    """Decorate a class, or a function that makes a module, as the loss term of that name.

    Its parameters are the term's options in a training configuration, so each has a default. The module maps a
    prediction and a target (B, N, H, W), or (B, 1, D, H, W), to a scalar, and may say what it needs and is:

    - `needs_gradients`: True if it compares signals across directions; it is then also given the gradient table,
      and the N images are the volumes of one scan.
    - `needs_float32`: True if it loses too much in half precision.
    - `description`: its options, resolved, as JSON values for a checkpoint's card.

    Examples
    --------
    >>> @register_loss("largest_error")
    ... class LargestError(nn.Module):
    ...     def forward(self, prediction, target):
    ...         return (prediction - target).abs().max()
    >>> "largest_error" in losses()
    True
    >>> del _TERMS["largest_error"]
    """

    def decorate(factory: Factory) -> Factory:
        if name in _TERMS:
            raise ValueError(f"There is a loss term {name!r} already; choose another name.")
        _TERMS[name] = factory
        return factory

    return decorate


def losses() -> tuple[str, ...]:
    """Names of the loss terms.

    Examples
    --------
    >>> {"l1", "ssim", "feature", "fa"} <= set(losses())
    True
    """
    return tuple(_TERMS)


def build_term(name: str, options: dict[str, Any]) -> nn.Module:
    """One loss term.

    Raises
    ------
    InputError
        If the name or an option is unknown, or an option has a value that the term cannot use.

    Examples
    --------
    >>> build_term("charbonnier", {"epsilon": 0.1}).epsilon
    0.1
    """
    if name not in _TERMS:
        raise InputError(f"The loss term {name!r} is unknown; choose from {', '.join(_TERMS)}.")
    signature = inspect.signature(_TERMS[name])
    try:
        signature.bind(**options)
    except TypeError as error:
        raise InputError(f"The options of the loss term {name!r} do not fit: {error}; it takes {signature}.") from None
    return _TERMS[name](**options)
