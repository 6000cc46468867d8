"""Deep feature distances: how far apart two images are in what a fixed network sees (Adamson et al. 2023).

https://openreview.net/forum?id=AUiZyqYiGb compares them as metrics of MR image quality. Nothing is fetched unasked:
where a network's trained weights are not at hand, its untrained variant runs, which the paper measures as well, and
the result says so.

| name | network | distance |
|---|---|---|
| lpips_vgg, lpips_alex | VGG16, AlexNet; five taps | LPIPS (doi:10.1109/CVPR.2018.00068), learned weights |
| lpips_vgg_unweighted | VGG16; the same taps | LPIPS without the learned linear layer: all channels count alike |
| dists | VGG16 with L2 pooling | DISTS (doi:10.1109/TPAMI.2020.3045810) |
| ssfd | encoder trained on DWI by inpainting, tap block4_relu2 | mean over channels of the mean squared error |
| resnet50_imagenet, _radimagenet, _untrained | ResNet50, layer 23 | mean squared error |
| medvae | Med-VAE 8x, 4 latent channels; mean of the posterior | mean squared error |

Layer 23 of ResNet50 is the 23rd convolution in running order, shortcuts not counted (1 + 3 * 3 + 4 * 3 + 1): the first
of torchvision's `layer3`, read after its batch norm and ReLU, 256 channels at an eighth of the resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from . import deep_networks as networks

DISTANCES: dict[str, Callable[[str | Path | None, int, bool], tuple[networks.DistanceNetwork, str]]] = {
    "lpips_vgg": networks.lpips_vgg,
    "lpips_alex": networks.lpips_alex,
    "lpips_vgg_unweighted": partial(networks.lpips_vgg, weighted=False),
    "dists": networks.dists,
    "ssfd": networks.ssfd,
    "resnet50_imagenet": partial(networks.resnet, trained="resnet50"),
    "resnet50_radimagenet": partial(networks.resnet, trained="radimagenet"),
    "resnet50_untrained": networks.resnet,
    "medvae": networks.medvae,
}
"""Each makes, of weights, seed and download, a network that is shown batches (B, 1, H, W) with values in about [0, 1]
and says which weights it has."""

SMALLEST = 32
"""Least side in px of what is compared: the networks' pooling leaves nothing of less."""
SMALLEST_CROP = 64
"""Images are cropped to the mask, but not below this side in px."""
_BATCH = 8


@dataclass(frozen=True)
class DeepScore:
    """A distance and what it rests on.

    Attributes
    ----------
    name, weights : str
        Which distance; which weights its network has: file name with the start of its sha256, or "untrained (seed
        0)", or both where a file ends above the deepest tap.
    value : float
        Mean over slices; 0 for equal images.
    by_slice : array (S,)
        Of the slices that show the region.
    data_range : float
        Signal that became 1; NaN where each image was scaled on its own.
    """

    name: str
    weights: str
    value: float
    by_slice: NDArray[np.float64]
    data_range: float


class DeepDistance:
    """A distance with its network loaded; call it with slices.

    Parameters
    ----------
    name : str
        One of `DISTANCES`.
    weights : str or path, optional
        File of the network's weights: torchvision's names (.pth, .safetensors; VGG16 also .npz as for the feature
        loss), RadImageNet's ResNet50.pt, a checkpoint of `dwi-superres train` or the authors' state dict for SSFD, the
        .ckpt for Med-VAE; "untrained"; by default what is at hand: SSFD's shipped checkpoint, torchvision's files in
        torch.hub's cache, Med-VAE's in Hugging Face's, else untrained.
    seed : int
        Of untrained weights.
    download : bool
        Fetch trained weights that are not at hand; torchvision's are checked against their checksum.
    scaling : {"reference", "each"}
        reference: both images over one data range, so a change of brightness counts; each: every slice of either from
        its own minimum and maximum to [0, 1], as in the paper's public code. SSFD standardises each slice in any case.
    device : str

    Raises
    ------
    InputError
        If the name or the scaling is unknown, or a file is missing, damaged or of another network.
    MissingDependencyError
        If medvae is not installed.
    ProcessingError
        If a download fails.

    Examples
    --------
    >>> compare = DeepDistance("lpips_alex", weights="untrained")
    >>> image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    >>> compare(image, image).value, compare.weights
    (0.0, 'untrained (seed 0)')
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        seed: int = 0,
        download: bool = False,
        scaling: str = "reference",
        device: str = "cpu",
    ) -> None:
        if name not in DISTANCES:
            raise InputError(f"Unknown deep distance {name!r}; expected one of {', '.join(DISTANCES)}.")
        if scaling not in ("reference", "each"):
            raise InputError(f"The scaling is {scaling!r}; expected reference or each.")
        self.name, self.scaling, self.device = name, scaling, device
        network, self.weights = DISTANCES[name](weights, seed, download)
        self.compare = network.eval().requires_grad_(False).to(device)
        self._kept: tuple[NDArray, list[list[torch.Tensor]]] | None = None

    def __call__(
        self,
        images: ArrayLike,
        reference: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        data_range: float | None = None,
    ) -> DeepScore:
        """Distance of slices from their reference.

        Parameters
        ----------
        images, reference : array (S, H, W)
            In the same units; zero is black.
        mask : array of bool (S, H, W), optional
            What is outside becomes black in both; slices and borders without any of it are left out, though not below
            64 px a side.
        data_range : float, optional
            Signal that becomes 1; by default the reference's largest in the mask.

        Raises
        ------
        InputError
            If shapes do not fit, values are not finite, the region is empty or smaller than 32 px, or it is black.
        """
        return measure_distances([self], images, reference, mask=mask, data_range=data_range)[0]

    @property
    def sees(self) -> tuple[str, str, str, str]:
        """Network, weights, scaling and device: distances of which these are equal see the same in an image."""
        return self.compare.trunk or self.name, self.weights, self.scaling, self.device

    def _described(self, slices: NDArray) -> Iterator[list[torch.Tensor]]:
        """What the network sees in slices (S, H, W), a few at a time."""
        for part in torch.from_numpy(slices)[:, None].split(_BATCH):
            yield self.compare.described(part.to(self.device))

    def _reference(self, slices: NDArray) -> list[list[torch.Tensor]]:
        """The same of a reference, kept for the next images: many are compared with one."""
        if self._kept is None or not np.array_equal(self._kept[0], slices):
            self._kept = slices, list(self._described(slices))
        return self._kept[1]


def measure_distances(
    distances: Sequence[DeepDistance],
    images: ArrayLike,
    reference: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    data_range: float | None = None,
) -> list[DeepScore]:
    """Distances that see the same (`alike`), as each of them called alone; the network that they share looks once.

    Examples
    --------
    >>> both = [DeepDistance(name, weights="untrained") for name in ("lpips_vgg", "lpips_vgg_unweighted")]
    >>> image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    >>> [score.value for score in measure_distances(both, image, image)]
    [0.0, 0.0]
    """
    first = distances[0]
    seen, wanted, scale = _scaled(*_region(images, reference, mask), first.scaling, data_range)
    values: list[list[torch.Tensor]] = [[] for _ in distances]
    with torch.inference_mode():
        for of_images, of_reference in zip(first._described(seen), first._reference(wanted), strict=True):
            for each, parts in zip(distances, values, strict=True):
                parts.append(each.compare(of_images, of_reference).double().cpu())
    slices = [torch.cat(parts).numpy() for parts in values]
    return [
        DeepScore(each.name, each.weights, float(found.mean()), found, scale)
        for each, found in zip(distances, slices, strict=True)
    ]


def alike(distances: Sequence[DeepDistance]) -> list[list[DeepDistance]]:
    """Those that see the same in an image, together.

    Examples
    --------
    >>> names = ("lpips_vgg", "lpips_alex", "lpips_vgg_unweighted")
    >>> [len(group) for group in alike([DeepDistance(name, weights="untrained") for name in names])]
    [2, 1]
    """
    groups: dict[tuple[str, ...], list[DeepDistance]] = {}
    for each in distances:
        groups.setdefault(each.sees, []).append(each)
    return list(groups.values())


def _scaled(seen: NDArray, wanted: NDArray, scaling: str, data_range: float | None) -> tuple[NDArray, NDArray, float]:
    """Both in about [0, 1], and the signal that became 1."""
    if scaling == "each":
        return _stretched(seen), _stretched(wanted), float("nan")
    scale = float(wanted.max()) if data_range is None else float(data_range)
    if not scale > 0:
        raise InputError(f"The data range is {scale:g}; expected a positive signal, so check the region.")
    return seen / scale, wanted / scale, scale


def distance(name: str, images: ArrayLike, reference: ArrayLike, **options: Any) -> DeepScore:
    """One distance, once: `DeepDistance(name, ...)(images, reference, mask=..., data_range=...)`.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    >>> distance("lpips_alex", image, image, weights="untrained").value
    0.0
    """
    region = {key: options.pop(key) for key in ("mask", "data_range") if key in options}
    return DeepDistance(name, **options)(images, reference, **region)


def available_distances() -> tuple[str, ...]:
    """Distances that tell something apart here: not the trained ResNets and Med-VAE where their weights are not at
    hand, since their untrained variant is `resnet50_untrained`.

    Examples
    --------
    >>> "resnet50_untrained" in available_distances()
    True
    """
    absent = {"resnet50_radimagenet"}
    if networks.trunk_file("resnet50", None, False) is None:
        absent.add("resnet50_imagenet")
    if networks.medvae_files(False) is None:
        absent.add("medvae")
    return tuple(name for name in DISTANCES if name not in absent)


def sample_slices(
    reference: NDArray, test: NDArray, mask: NDArray[np.bool_], slice_axis: int, *, slices: int = 8, volumes: int = 4
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Slices spread evenly over the mask, of volumes spread evenly: (S, H, W) of test, reference and mask.

    Parameters
    ----------
    reference, test : array (X, Y, Z, N)
    mask : array of bool (X, Y, Z)
    slice_axis : int
    slices, volumes : int
        At most so many of each: a deep network costs a thousand times what PSNR does.

    Examples
    --------
    >>> scan = np.ones((8, 8, 12, 30))
    >>> sample_slices(scan, scan, np.ones((8, 8, 12), bool), 2, slices=3, volumes=2)[0].shape
    (6, 8, 8)
    """
    area = mask.sum(axis=tuple(a for a in range(3) if a != slice_axis))
    shown = np.flatnonzero(area > area.max() / 4)
    chosen = shown[np.unique(np.linspace(0, len(shown) - 1, min(slices, len(shown)) + 2)[1:-1].round().astype(int))]
    count = reference.shape[3]
    members = np.unique(np.linspace(0, count - 1, min(volumes, count)).round().astype(int))
    stacks = [
        np.moveaxis(np.take(a, chosen, slice_axis)[..., members], (3, slice_axis), (0, 1)) for a in (test, reference)
    ]
    first, second = (np.ascontiguousarray(a.reshape(-1, *a.shape[2:]), np.float32) for a in stacks)
    inside = np.moveaxis(np.take(mask, chosen, slice_axis), slice_axis, 0)
    return first, second, np.tile(inside, (len(members), 1, 1))


def _region(images: ArrayLike, reference: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray, NDArray]:
    """Both (S, H, W) float32, cut to the mask."""
    seen, wanted = (np.asarray(a, np.float32) for a in (images, reference))
    if seen.shape != wanted.shape or seen.ndim != 3:
        raise InputError(f"The images have shape {seen.shape}, the reference {wanted.shape}; expected both (S, H, W).")
    if not (np.isfinite(seen).all() and np.isfinite(wanted).all()):
        raise InputError("The images hold values that are not finite; replace them first.")
    if mask is not None:
        inside = np.asarray(mask, bool)
        if inside.shape != seen.shape or not inside.any():
            raise InputError(
                f"The mask has shape {inside.shape} and {int(inside.sum())} pixels; expected {seen.shape} with the "
                "region marked."
            )
        box = [np.flatnonzero(inside.any((1, 2)))]
        for axis in (1, 2):
            hit = np.flatnonzero(inside.any((0, 3 - axis)))
            low, size = int(hit[0]), max(int(hit[-1]) + 1 - int(hit[0]), min(SMALLEST_CROP, inside.shape[axis]))
            start = min(max(0, (low + int(hit[-1]) + 1 - size) // 2), inside.shape[axis] - size)
            box.append(np.arange(start, start + size))
        cut = np.ix_(*box)
        seen, wanted = seen[cut] * inside[cut], wanted[cut] * inside[cut]
    if min(seen.shape[1:]) < SMALLEST or not len(seen):
        raise InputError(f"The slices are {seen.shape} in the region; deep distances need sides of {SMALLEST} px.")
    return seen, wanted


def _stretched(slices: NDArray) -> NDArray:
    """Each slice from its own minimum and maximum to [0, 1]."""
    low, high = slices.min((1, 2), keepdims=True), slices.max((1, 2), keepdims=True)
    return (slices - low) / np.maximum(high - low, np.finfo(np.float32).tiny)
