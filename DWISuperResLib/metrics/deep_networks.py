"""The networks behind the deep feature distances, and where their weights come from."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError, MissingDependencyError, ProcessingError
from ..losses import build_backbone
from ..losses.vgg import PAPER_TAPS, TAPS
from ..networks.ssfd import SHIPPED, SSFDFeatures
from ..networks.weights import cached_weights, file_sha256
from ..resources import RESOURCES

Weights = str | Path | None
"""A file, "untrained", or what is at hand; see `deep.DeepDistance`."""
_LEARNED = RESOURCES / "Metrics"
"""The learned weights of LPIPS and DISTS; see the README there."""
_MEDVAE = ("medvae_8_4_2d", "stanfordmimi/MedVAE", "model_weights/medvae_8x4.yaml", "model_weights/vae_8x_4c_2D.ckpt")
_MEDVAE_LAYERS = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
}  # fmt: skip

# ImageNet's mean and deviation; LPIPS' own scaling of [-1, 1] is the same.
_MEAN, _DEVIATION = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class DistanceNetwork(nn.Module):
    """A network behind a distance: what it sees in an image, and how far that is from what it sees in another.

    Those of one `trunk`, other than "", and the same weights see the same.
    """

    trunk = ""

    def described(self, grey: Tensor) -> list[Tensor]:
        """Of images (B, 1, H, W), whatever is compared."""
        raise NotImplementedError

    def forward(self, seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """(B,) distances, of what was described."""
        raise NotImplementedError


class _LPIPS(DistanceNetwork):
    """Sum over taps of the mean over pixels of weighted squared differences of features of unit length."""

    def __init__(self, trunk: str, features: nn.Module, linear: list[Tensor] | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.features = features
        self.linear = linear

    def described(self, grey: Tensor) -> list[Tensor]:
        return [_unit(features) for features in self.features(grey).values()]

    def forward(self, seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
        total = seen[0].new_zeros(len(seen[0]))
        for n, (first, second) in enumerate(zip(seen, wanted, strict=True)):
            squared = (first - second) ** 2
            if self.linear is not None:
                squared = squared * self.linear[n].to(squared)
            total = total + squared.sum(1).mean((1, 2))
        return total


def _unit(features: Tensor) -> Tensor:
    """Features over their length along the channels."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


class _AlexNetFeatures(nn.Module):
    """The five ReLUs of torchvision's AlexNet, for grey images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        wide = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
        names = ("0", "3", "6", "8", "10")
        self.features = nn.ModuleDict({n: nn.Conv2d(*sizes) for n, sizes in zip(names, wide, strict=True)})

    def forward(self, grey: Tensor) -> dict[str, Tensor]:
        x = (grey - _MEAN.to(grey)) / _DEVIATION.to(grey)
        found = {}
        for name, convolution in self.features.items():
            x = functional.relu(convolution(functional.max_pool2d(x, 3, 2) if name in ("3", "6") else x))
            found[name] = x
        return found


class _DISTS(DistanceNetwork):
    """1 - sum over taps and channels of weighted similarities of means and of (co)variances."""

    window: Tensor

    def __init__(self, vgg: Any, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.vgg = vgg
        window = torch.hann_window(5, periodic=False)[1:-1]
        self.register_buffer("window", torch.outer(window, window) / window.sum() ** 2)
        total = alpha.sum() + beta.sum()
        widths = [3, 64, 128, 256, 512, 512]
        self.alpha, self.beta = ((v / total).split(widths) for v in (alpha, beta))

    def forward(self, seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
        similarity = seen[0].new_zeros(len(seen[0]))
        for n, (alpha, beta) in enumerate(zip(self.alpha, self.beta, strict=True)):
            (first, *of_first), (second, *of_second) = (found[3 * n : 3 * n + 3] for found in (seen, wanted))
            (mean, variance), (wanted_mean, wanted_variance) = of_first, of_second
            pixels = first.shape[2] * first.shape[3]
            covariance = torch.einsum("bchw,bchw->bc", first, second) / pixels - mean * wanted_mean
            structure = (2 * covariance + 1e-6) / (variance + wanted_variance + 1e-6)
            texture = (2 * mean * wanted_mean + 1e-6) / (mean**2 + wanted_mean**2 + 1e-6)
            similarity = similarity + texture @ alpha.to(texture) + structure @ beta.to(structure)
        return 1 - similarity

    def described(self, grey: Tensor) -> list[Tensor]:
        """The image itself and the five taps, each with its means and variances (B, C).

        L2 pooling (a blurred mean square) stands in place of the maximum.
        """
        found, x = [grey.expand(-1, 3, -1, -1)], grey
        for n, tap in enumerate(TAPS):
            if n and tap.endswith("_1"):
                window = self.window.to(x).expand(x.shape[1], 1, -1, -1)
                x = (functional.conv2d(x * x, window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
            x = functional.conv2d(x, getattr(self.vgg, f"weight{n}"), getattr(self.vgg, f"bias{n}"), padding=1)
            if n == 0:
                ones = grey.new_ones((1, 1, *grey.shape[2:]))
                x = x + functional.conv2d(ones, self.vgg.shift_weight, padding=1)
            x = functional.relu(x)
            if tap in PAPER_TAPS:
                found.append(x)
        spreads = [torch.var_mean(features, (2, 3), correction=0) for features in found]
        return [
            part for features, (variance, mean) in zip(found, spreads, strict=True)
            for part in (features, mean, variance)
        ]  # fmt: skip


class _SquaredError(DistanceNetwork):
    """Mean squared difference of one feature map, channels and pixels alike."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def described(self, grey: Tensor) -> list[Tensor]:
        return [self.features(grey)]

    def forward(self, seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
        return (seen[0] - wanted[0]).square().mean((1, 2, 3))


class _ResNet50Layer23(nn.Module):
    """torchvision's ResNet50 up to its 23rd convolution; see the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        with torch.device("meta"):
            whole = resnet50(weights=None)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2 = whole.layer1, whole.layer2
        first = whole.layer3[0]
        self.layer3 = nn.Sequential(nn.ModuleDict({"conv1": first.conv1, "bn1": first.bn1}))
        self.to_empty(device="cpu")

    def forward(self, grey: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(grey.expand(-1, 3, -1, -1))))
        x = self.layer2(self.layer1(functional.max_pool2d(x, 3, 2, 1)))
        last: Any = self.layer3[0]
        return functional.relu(last["bn1"](last["conv1"](x)))


class _SSFD(nn.Module):
    def __init__(self, encoder: SSFDFeatures) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, grey: Tensor) -> Tensor:
        return self.encoder(grey)["block4_relu2"]


class _MedVAE(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, grey: Tensor) -> Tensor:
        missing = [-n % 8 for n in reversed(grey.shape[2:])]
        padded = functional.pad(grey, (0, missing[0], 0, missing[1]))
        return self.model.encode((padded.expand(-1, 3, -1, -1) - 0.5) / 0.5).mode()


def lpips_vgg(weights: Weights, seed: int, download: bool, weighted: bool = True) -> tuple[DistanceNetwork, str]:
    """LPIPS on VGG16, with or without its learned linear layer."""
    features, label = _vgg(weights, seed, download)
    return _LPIPS("vgg", features, _linear("vgg") if weighted else None), label


def lpips_alex(weights: Weights, seed: int, download: bool) -> tuple[DistanceNetwork, str]:
    """LPIPS on AlexNet."""
    features = _AlexNetFeatures()
    path = trunk_file("alexnet", weights, download)
    return _LPIPS("alex", features, _linear("alex")), _fill(features, path, seed)


def dists(weights: Weights, seed: int, download: bool) -> tuple[DistanceNetwork, str]:
    """DISTS on VGG16."""
    learned = load_file(_LEARNED / "dists.safetensors")
    features, label = _vgg(weights, seed, download)
    return _DISTS(features, learned["alpha"], learned["beta"]), label


def ssfd(weights: Weights, seed: int, download: bool) -> tuple[DistanceNetwork, str]:
    """SSFD; its shipped encoder needs no download."""
    if weights is None:
        weights = "shipped" if SHIPPED.is_file() else "untrained"
    path = {"shipped": SHIPPED, "untrained": None}.get(str(weights), Path(weights))
    return _SquaredError(_SSFD(SSFDFeatures(weights=weights, seed=seed))), _label(path, seed)


def resnet(weights: Weights, seed: int, download: bool, trained: str = "") -> tuple[DistanceNetwork, str]:
    """ResNet50 at layer 23; `trained`: resnet50 (ImageNet) or radimagenet, else always untrained."""
    features = _ResNet50Layer23()
    path = trunk_file(trained, weights, download) if trained else None
    return _SquaredError(features), _fill(features, path, seed)


def medvae(weights: Weights, seed: int, download: bool) -> tuple[DistanceNetwork, str]:
    """Med-VAE (arXiv:2502.14753); untrained with the layers of the trained one."""
    if find_spec("medvae") is None:
        raise MissingDependencyError(
            "The Med-VAE distance needs medvae, which is not installed; pip install 'dwi-superres[medvae]'."
        )
    files = None if weights == "untrained" else medvae_files(download)
    if files is None and weights not in (None, "untrained"):
        raise InputError(
            "Med-VAE's configuration is not in Hugging Face's cache; let it be downloaded once, or use weights: "
            "untrained."
        )
    if files is None:
        from medvae.models import AutoencoderKL_2D

        model = AutoencoderKL_2D(_MEDVAE_LAYERS, embed_dim=4)
        return _SquaredError(_MedVAE(model)), _fill(model, None, seed)
    from medvae.utils.factory import build_model

    config, checkpoint = files[0], files[1] if weights is None else Path(weights)
    torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)  # medvae itself may unpickle anything
    model = build_model(_MEDVAE[0], str(config), str(checkpoint))
    return _SquaredError(_MedVAE(model)), _label(checkpoint, seed)


def medvae_files(download: bool) -> tuple[Path, Path] | None:
    """Med-VAE's configuration and weights in Hugging Face's cache; None where they are not."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if download:
        try:
            found = [hf_hub_download(repo_id=_MEDVAE[1], filename=name) for name in _MEDVAE[2:]]
        except Exception as error:  # the hub's own error types are many
            raise ProcessingError(f"Med-VAE could not be fetched from Hugging Face: {error}.") from error
    else:
        found = [try_to_load_from_cache(_MEDVAE[1], name) for name in _MEDVAE[2:]]
    return (Path(found[0]), Path(found[1])) if all(isinstance(f, str) for f in found) else None


def trunk_file(architecture: str, weights: Weights, download: bool) -> Path | None:
    """The file of a network's weights; None for untrained ones.

    Without `weights`, torchvision's file in torch.hub's cache, fetched first if `download` is set; its checksum is
    verified.

    Examples
    --------
    >>> trunk_file("vgg16", "untrained", False) is None
    True
    """
    if weights == "untrained":
        return None
    if weights is not None:
        return Path(weights)
    if architecture == "radimagenet":
        if download:
            raise InputError(
                "RadImageNet's weights have no address to fetch them from; get ResNet50.pt from its authors "
                "(github.com/BMEII-AI/RadImageNet) and give the file."
            )
        return None
    return cached_weights(architecture, download=download)


def _vgg(weights: Weights, seed: int, download: bool) -> tuple[Any, str]:
    path = trunk_file("vgg16", weights, download)
    options: dict[str, Any] = {"normalisation": "imagenet", "weights": "untrained", "seed": seed}
    if path is not None:
        options |= {"weights": path, "untrained_deeper": True}
        if path.suffix == ".npz":  # as Keras has them
            options["normalisation"] = "caffe"
    features = build_backbone("vgg16", PAPER_TAPS, **options)
    label = _label(path, seed)
    if path is not None and (first := features.description["untrained_from"]):
        label += f", untrained (seed {seed}) from {first}"
    return features, label


def _linear(trunk: str) -> list[Tensor]:
    """Learned channel weights of LPIPS 0.1, (C, 1, 1) for each tap."""
    learned = load_file(_LEARNED / f"lpips_{trunk}.safetensors")
    return [learned[f"tap{n}"][:, None, None] for n in range(5)]


def _fill(network: nn.Module, path: Path | None, seed: int) -> str:
    """Give a network its weights, from a file (torchvision's or RadImageNet's names) or a seed; returns the label."""
    if path is None:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                wide = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 / wide) ** 0.5, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        return _label(None, seed)
    if not path.is_file():
        raise InputError(f"The weights {path} do not exist; give a .pth or .safetensors file.")
    try:
        if path.suffix == ".safetensors":
            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        renamed = {_torchvision_name(name): tensor for name, tensor in stored.items()}
        counters = [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
        wanted = {name: renamed[name] for name in network.state_dict() if name not in counters}
        network.load_state_dict(wanted, strict=False)
    except Exception as error:  # the readers' many error types all mean one thing: not such a file
        raise InputError(f"The weights {path} cannot be used ({type(error).__name__}: {error}).") from error
    return _label(path, seed)


def _torchvision_name(name: str) -> str:
    """RadImageNet's ResNet is a sequence: backbone.0 is conv1, backbone.1 bn1, backbone.4 layer1 and on."""
    name = re.sub(r"^(module\.)?(backbone\.)?", "", name)
    parts = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    first, separator, rest = name.partition(".")
    return parts.get(first, first) + separator + rest


def _label(path: Path | None, seed: int) -> str:
    return f"untrained (seed {seed})" if path is None else f"{path.name} (sha256 {file_sha256(path)[:12]})"
