"""Training losses, composed by name and weight.

`build_loss([{"name": "l1"}, {"name": "feature", "weight": 2.0, "taps": ["relu1_2"]}])` returns a module
that is called with a prediction and a target and returns the total and its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from . import microstructure, pixel  # noqa: F401  (their terms register themselves)
from .features import FeatureLoss, backbones, build_backbone, register_backbone
from .registry import build_term, losses, register_loss

__all__ = [
    "CompositeLoss",
    "FeatureLoss",
    "backbones",
    "build_backbone",
    "build_loss",
    "losses",
    "register_backbone",
    "register_loss",
]


class CompositeLoss(nn.Module):
    """Weighted sum of loss terms.

    Attributes
    ----------
    description : list of dict
        Every term with its weight and its options, seeds and the origin of pretrained weights among them;
        plain JSON values, for a checkpoint's card.
    needs_gradients : bool
        True where a term compares signals across directions: `forward` then takes (B, N, H, W) and the
        gradient table.
    needs_float32 : bool
        True where a term loses too much in half precision.

    Examples
    --------
    >>> loss = build_loss([{"name": "l1"}, {"name": "fa", "weight": 0.1}])
    >>> loss.needs_gradients, list(loss.weights)
    (True, ['l1', 'fa'])
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float], description: list[dict]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.description = description
        self.needs_gradients = any(getattr(term, "needs_gradients", False) for term in terms.values())
        self.needs_float32 = any(getattr(term, "needs_float32", False) for term in terms.values())

    def forward(
        self, prediction: Tensor, target: Tensor, gradients: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and the weighted share of each term.

        Parameters
        ----------
        prediction, target : tensor, shape (B, N, H, W), or (B, 1, D, H, W) for losses of volumes
            N is 1 for slices; the volumes of one scan, in one common intensity unit, for microstructure
            terms.
        gradients : tuple of tensors (N,) and (N, 3), optional
            b-values in s/mm² and directions of the N volumes; microstructure terms need them.

        Returns
        -------
        total : scalar tensor
        parts : dict of detached scalar tensors that add up to the total
        """
        if prediction.shape != target.shape:
            raise InputError(
                f"The prediction has shape {tuple(prediction.shape)} and the target {tuple(target.shape)}; "
                "a loss compares images of one shape."
            )
        if self.needs_gradients and gradients is None:
            raise InputError("A microstructure loss needs the gradient table: pass gradients=(bvals, bvecs).")
        parts = {}
        for label, term in self.terms.items():
            value = (
                term(prediction, target, gradients)
                if getattr(term, "needs_gradients", False)
                else term(prediction, target)
            )
            parts[label] = self.weights[label] * value
        total = torch.stack(list(parts.values())).sum()
        return total, {label: value.detach() for label, value in parts.items()}


def build_loss(terms: Sequence[Mapping[str, Any]]) -> CompositeLoss:
    """Compose a loss.

    Parameters
    ----------
    terms : sequence of mappings
        Each `{"name": ..., "weight": 1.0, "label": name, **options}`. Names: see `losses()`; a hyphen
        equals an underscore. `label` tells two terms of one name apart. Options are those of the term's
        class.

    Raises
    ------
    InputError
        If a name or an option is unknown, a weight is not a positive number, or two terms share a label.

    Examples
    --------
    >>> loss = build_loss([{"name": "l1"}, {"name": "l2", "weight": 0.5}])
    >>> total, parts = loss(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0))
    >>> float(total), float(parts["l2"])
    (4.0, 2.0)
    """
    if not terms:
        raise InputError('The loss has no terms; give at least one, such as [{"name": "l1"}].')
    modules: dict[str, nn.Module] = {}
    weights: dict[str, float] = {}
    description = []
    for term in terms:
        options = dict(term)
        name = str(options.pop("name", "")).replace("-", "_").lower()
        weight = options.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not (isfinite(weight) and weight > 0):
            raise InputError(f"The weight of the loss term {name!r} is {weight!r}; expected a number above 0.")
        label = str(options.pop("label", name))
        if label in modules:
            raise InputError(f"Two loss terms are called {label!r}; tell them apart with 'label'.")
        modules[label] = build_term(name, options)
        weights[label] = float(weight)
        resolved = getattr(modules[label], "description", options)
        description.append({"name": name, "weight": float(weight), "label": label, **resolved})
    return CompositeLoss(modules, weights, description)
