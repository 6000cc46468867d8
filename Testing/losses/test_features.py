"""Feature losses against the plain formula on torchvision's whole VGG16, and the untrained perceptual
loss."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from DWISuperResLib.errors import InputError
from DWISuperResLib.losses import backbones, build_backbone, build_loss, register_backbone
from DWISuperResLib.losses.features import gram
from DWISuperResLib.losses.vgg import TAPS

PAPER_MODULES = (5, 12, 22, 32, 42)
PLAIN_MODULES = (3, 8, 15, 22, 29)
PAPER_WEIGHTS = (92, 52, 46, 94, 108)


def full_vgg(normalised: bool):
    """torchvision's VGG16 convolutions with random weights and, for the -bn variant, lived-in statistics."""
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(3)
    network = make_layers(cfgs["D"], batch_norm=normalised)
    for module in network:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Per architecture: the whole network, the modules of the paper's taps, and a file of its weights."""
    folder = tmp_path_factory.mktemp("vgg")
    result = {}
    for name, modules in (("vgg16", PLAIN_MODULES), ("vgg16_bn", PAPER_MODULES)):
        network = full_vgg(name == "vgg16_bn")
        path = folder / f"{name}.pth"
        torch.save({f"features.{k}": v for k, v in network.state_dict().items()}, path)
        result[name] = network, modules, path
    return result


def plain_features(network, modules, grey, normalisation):
    """The textbook way: three channels, normalised, through every module."""
    x = grey.expand(-1, 3, -1, -1)
    if normalisation == "imagenet":
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x = (x - mean) / std
    elif normalisation == "caffe":
        x = x * 255 - torch.tensor((103.939, 116.779, 123.68))[:, None, None]
    features = []
    for i, module in enumerate(network):
        x = module(x)
        if i in modules:
            features.append(x)
    return features


def pair(height=40, width=36):
    generator = torch.Generator().manual_seed(0)
    target = torch.rand((2, 1, height, width), generator=generator)
    return target + 0.05 * torch.randn(target.shape, generator=generator), target


@pytest.mark.parametrize("normalisation", ["none", "imagenet", "caffe"])
@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_bn"])
def test_paper_loss_equals_the_plain_formula(reference, architecture, normalisation):
    network, modules, path = reference[architecture]
    prediction, target = pair()
    term = {
        "name": "feature",
        "backbone": architecture,
        "taps": "paper",
        "weights": str(path),
        "normalisation": normalisation,
        "gram_weights": [0, 0, 0.5, 0, 0],
    }
    loss = build_loss([{"name": "l1"}, term])

    ours = prediction.clone().requires_grad_()
    total, _ = loss(ours, target)
    total.backward()

    plain = prediction.clone().requires_grad_()
    expected = (plain - target).abs().mean()
    seen = plain_features(network, modules, plain, normalisation)
    wanted = plain_features(network, modules, target, normalisation)
    for weight, f, g in zip(PAPER_WEIGHTS, seen, wanted, strict=True):
        expected = expected + weight * (f - g).abs().mean()
    grams = [torch.einsum("bihw,bjhw->bij", f, f) / f[0].numel() for f in (seen[2], wanted[2])]
    expected = expected + 20000 * 0.5 * (grams[0] - grams[1]).abs().mean()
    expected.backward()

    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    difference = (ours.grad - plain.grad).norm() / plain.grad.norm()
    assert float(difference) < 0.02  # rounding flips signs of differences next to 0 and ReLUs at their kink


@pytest.mark.parametrize("normalisation", ["imagenet", "caffe"])
def test_folded_first_convolution_is_exact_to_the_border(reference, normalisation):
    network, _, path = reference["vgg16"]
    grey = pair(12, 14)[1]
    (expected,) = plain_features(network[:2], (1,), grey, normalisation)
    ours = build_backbone("vgg16", ["relu1_1"], weights=path, normalisation=normalisation)(grey)["relu1_1"]
    assert float((ours - expected).abs().max() / expected.abs().max()) < 1e-5
    border = torch.ones(12, 14, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert expected[..., border].abs().max() > 0


def test_only_layers_up_to_the_deepest_tap_exist_and_run(reference):
    backbone = build_backbone("vgg16_bn", ["relu2_1", "relu1_2"], weights=reference["vgg16_bn"][2])
    assert [n for n, _ in backbone.named_buffers() if n.startswith("weight")] == ["weight0", "weight1", "weight2"]
    assert list(backbone(torch.rand(1, 1, 8, 8))) == ["relu1_2", "relu2_1"]
    assert backbone.state_dict() == {}  # training checkpoints carry no VGG


def test_target_features_carry_no_gradient():
    x = torch.rand(1, 1, 16, 16, requires_grad=True)
    y = torch.rand(1, 1, 16, 16, requires_grad=True)
    build_loss([{"name": "feature", "weights": "untrained"}])(x, y)[0].backward()
    assert y.grad is None
    assert x.grad.abs().sum() > 0


def test_taps_of_weight_zero_are_dropped():
    loss = build_loss([{"name": "feature", "taps": "paper", "tap_weights": [92, 0, 0, 0, 0], "weights": "untrained"}])
    assert loss.terms["feature"].taps == ("relu1_2",)
    assert loss.description[0]["tap_weights"] == [92.0]


def test_relative_distance_does_not_depend_on_the_backbones_scale(reference):
    prediction, target = pair()
    weights = torch.load(reference["vgg16"][2], weights_only=True)
    term = {"name": "feature", "backbone": "vgg16", "weights": str(reference["vgg16"][2]), "relative": True}
    first = build_loss([term])
    second = build_loss([term])
    backbone = second.terms["feature"].backbone
    backbone.weight1.mul_(10)
    backbone.bias1.mul_(10)
    assert "features.0.weight" in weights
    assert float(first(prediction, target)[0]) == pytest.approx(float(second(prediction, target)[0]), rel=1e-5)


def test_volumes_of_a_sample_are_seen_one_by_one():
    prediction, target = pair()
    loss = build_loss([{"name": "feature", "weights": "untrained"}])
    assert torch.equal(loss(prediction, target)[0], loss(prediction.transpose(0, 1), target.transpose(0, 1))[0])


def test_gram_matrix_of_a_closed_form():
    features = torch.stack([torch.full((2, 3), 2.0), torch.full((2, 3), -1.0)])[None]
    assert torch.allclose(gram(features)[0], torch.tensor([[4.0, -2.0], [-2.0, 1.0]]) / 2)


def test_weights_in_safetensors_equal_those_in_pth(reference, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "vgg.safetensors"
    save_file(torch.load(reference["vgg16_bn"][2], weights_only=True), path)
    x = torch.rand(1, 1, 16, 16)
    first, second = (build_backbone("vgg16_bn", ["relu2_2"], weights=p) for p in (path, reference["vgg16_bn"][2]))
    assert torch.equal(first(x)["relu2_2"], second(x)["relu2_2"])


def keras_file(folder, blocks=2):
    rng = np.random.default_rng(0)
    widths = {"1_1": (3, 64), "1_2": (64, 64), "2_1": (64, 128), "2_2": (128, 128)}
    arrays = {f"conv{k}": rng.normal(0, 0.1, (3, 3, *w)).astype(np.float32) for k, w in widths.items()}
    arrays |= {f"bias{k}": rng.normal(0, 0.1, w[1]).astype(np.float32) for k, w in widths.items()}
    path = folder / "keras.npz"
    np.savez(path, **arrays)
    return path, arrays


def test_keras_file_is_read_as_caffe(tmp_path):
    path, arrays = keras_file(tmp_path)
    grey = pair()[1]
    x = grey.expand(-1, 3, -1, -1) * 255 - torch.tensor((103.939, 116.779, 123.68))[:, None, None]
    for k in ("1_1", "1_2"):
        weight = torch.from_numpy(arrays[f"conv{k}"].transpose(3, 2, 0, 1))
        x = functional.relu(functional.conv2d(x, weight, torch.from_numpy(arrays[f"bias{k}"]), padding=1))
    backbone = build_backbone("vgg16", ["relu1_2"], weights=path)
    assert backbone.description["normalisation"] == "caffe"
    assert float((backbone(grey)["relu1_2"] - x).abs().max() / x.max()) < 1e-5


def test_real_weights_see_edges(shared_data):
    """ImageNet's first block answers to an edge, not to a constant: the file is read in the right order."""
    path = shared_data.parent / "weights" / "vgg16_conv1_1_to_2_2_keras_hwio.npz"
    backbone = build_backbone("vgg16", ["relu1_1", "relu2_2"], weights=path)
    flat, edge = torch.full((1, 1, 32, 32), 0.5), torch.full((1, 1, 32, 32), 0.5)
    edge[..., 16:] = 0.9
    responses = [backbone(x)["relu1_1"][0, :, 8:24, 15:17].amax((1, 2)) for x in (flat, edge)]
    selective = (responses[1] > 5 * responses[0] + 5).sum()
    assert int(selective) >= 10  # many filters are edge detectors; a scrambled kernel gives about none


def test_deeper_taps_than_the_file_holds_need_consent(tmp_path):
    path, _ = keras_file(tmp_path)
    with pytest.raises(InputError, match="ends at relu2_2, above the tap relu3_3"):
        build_backbone("vgg16", ["relu3_3"], weights=path)
    mixed = build_backbone("vgg16", ["relu1_2", "relu3_3"], weights=path, untrained_deeper=True, seed=4)
    assert mixed.description["pretrained_up_to"] == "relu2_2"
    assert mixed.description["untrained_from"] == "relu3_1"
    untrained = build_backbone("vgg16", ["relu3_3"], weights="untrained", seed=4)
    assert torch.equal(mixed.weight4, untrained.weight4)
    assert not torch.equal(mixed.weight0, untrained.weight0)


def test_untrained_vgg_is_fixed_by_its_seed():
    x = torch.rand(1, 1, 16, 16)
    first, same, other = (
        build_backbone("vgg16", ["relu1_2"], weights="untrained", seed=s)(x)["relu1_2"] for s in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_torchvision_weights_are_checked_and_never_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="download: true"):
        build_backbone("vgg16_bn", weights="torchvision")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16_bn-6c64b313.pth").write_bytes(b"damaged")
    with pytest.raises(InputError, match="is damaged"):
        build_backbone("vgg16_bn", weights="torchvision")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "alexnet"}, "'alexnet' is unknown; choose from vgg16"),
        ({"taps": ["relu6_1"]}, "no taps .'relu6_1'."),
        ({"taps": ["relu1_2", "relu1_2"]}, "twice"),
        ({"taps": "paper", "tap_weights": [1, 2]}, "expected 5 numbers"),
        ({"taps": "paper", "tap_weights": [0] * 5}, "none of weight"),
        ({"tap_weights": [1]}, "name the taps"),
        ({"taps": "relu1_2", "tap_weights": [-1]}, "0 or more"),
        ({"distance": "cosine"}, "expected l1 or l2"),
        ({"normalisation": "zscore"}, "expected auto, none"),
        ({"weights": "nowhere.pth"}, "do not exist"),
        ({"colour": True}, "'colour'"),
    ],
)
def test_bad_options_are_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        build_loss([{"name": "feature", "weights": "untrained", **options}])


def test_files_that_do_not_fit_are_refused(reference, tmp_path):
    with pytest.raises(InputError, match="do not belong to vgg16_bn"):
        build_backbone("vgg16_bn", weights=reference["vgg16"][2])
    (tmp_path / "noise.pth").write_bytes(b"not a file of weights")
    with pytest.raises(InputError, match="cannot be read"):
        build_backbone("vgg16", weights=tmp_path / "noise.pth")
    (tmp_path / "vgg.onnx").touch()
    with pytest.raises(InputError, match="unknown suffix"):
        build_backbone("vgg16", weights=tmp_path / "vgg.onnx")
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3), "features.0.bias": torch.zeros(8)}, tmp_path / "s.pth")
    with pytest.raises(InputError, match=r"shape \(8, 3, 3, 3\)"):
        build_backbone("vgg16", weights=tmp_path / "s.pth")
    with pytest.raises(InputError, match="use the backbone vgg16"):
        build_backbone("vgg16_bn", weights=keras_file(tmp_path)[0])


def test_images_smaller_than_the_poolings_are_refused():
    backbone = build_backbone("vgg16", ["relu3_1"], weights="untrained")
    with pytest.raises(InputError, match="at least 4 px"):
        backbone(torch.zeros(1, 1, 3, 8))


def test_every_tap_has_its_stride_and_width():
    features = build_backbone("vgg16", TAPS, weights="untrained")(torch.rand(1, 1, 32, 32))
    assert tuple(features) == TAPS
    for block, width in zip("12345", (64, 128, 256, 512, 512), strict=True):
        side = 32 // 2 ** (int(block) - 1)
        assert features[f"relu{block}_1"].shape == (1, width, side, side)


def test_other_backbones_can_be_registered(monkeypatch):
    from DWISuperResLib.losses import features

    monkeypatch.setattr(features, "_BACKBONES", dict(features._BACKBONES))

    @register_backbone("identity")
    class Identity(torch.nn.Module):
        taps = ("image",)
        description = {"gain": 1}  # noqa: RUF012

        def __init__(self, taps=None):
            super().__init__()

        def forward(self, x):
            return {"image": x}

    assert "identity" in backbones()
    x, y = pair()
    total, _ = build_loss([{"name": "feature", "backbone": "identity"}])(x, y)
    assert torch.allclose(total, functional.l1_loss(x, y))


# --- untrained perceptual loss
# ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_upl_equals_its_formula(dimensions):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand((2, 1, *[12] * dimensions), generator=generator) for _ in range(2))
    loss = build_loss([{"name": "untrained", "dimensions": dimensions, "depth": 3, "channels": 4, "seed": 5}])
    convolutions = loss.terms["untrained"].backbone.convolutions.values()
    convolve = functional.conv2d if dimensions == 2 else functional.conv3d
    expected = 0.0
    a, b = x, y
    for convolution in convolutions:
        a, b = (convolve(v, convolution.weight, convolution.bias, padding=1).clamp_min(0) for v in (a, b))
        expected += float(((a - b) ** 2).sum() / (a[0].numel() * 2))
    assert float(loss(x, y)[0]) == pytest.approx(expected, rel=1e-5)


def test_upl_of_volumes_differentiates_as_the_formula_does():
    """As a training gives them: volumes of unequal sides, the last axis fastest or the channels."""
    generator = torch.Generator().manual_seed(1)
    target = torch.rand((2, 1, 7, 10, 9), generator=generator)
    x = (target + 0.1 * torch.randn(target.shape, generator=generator)).requires_grad_()
    loss = build_loss([{"name": "untrained", "dimensions": 3, "depth": 3, "channels": 3, "pooling": "max", "seed": 2}])
    loss(x, target)[0].backward()
    plain = x.detach().clone().requires_grad_()
    expected, (a, b) = 0.0, (plain, target)
    for i, convolution in enumerate(loss.terms["untrained"].backbone.convolutions.values()):
        if i:
            a, b = (functional.max_pool3d(v, 2) for v in (a, b))
        a, b = (functional.conv3d(v, convolution.weight, convolution.bias, padding=1).clamp_min(0) for v in (a, b))
        expected = expected + ((a - b) ** 2).mean()
    expected.backward()
    torch.testing.assert_close(x.grad, plain.grad)
    assert x.grad.abs().max() > 0
    last = x.detach().to(memory_format=torch.channels_last_3d)
    assert float(loss(last, target)[0]) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_upl_is_fixed_by_its_seed_alone():
    x, y = pair()
    values = []
    for seed, disturbance in ((1, 0), (1, 9), (2, 0)):
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        values.append(float(build_loss([{"name": "untrained", "seed": seed}])(x, y)[0]))
        assert torch.equal(torch.get_rng_state(), state)
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("pooling", ["none", "max", "average", "stride"])
@pytest.mark.parametrize("depth", [3, 7])
def test_upl_layers_have_the_expected_sizes(depth, pooling, kernel):
    backbone = build_backbone("untrained", depth=depth, kernel=kernel, pooling=pooling, channels=2)
    sides = [f.shape[-1] for f in backbone(torch.rand(1, 1, 64, 64)).values()]
    assert sides == [64 if pooling == "none" else 64 >> i for i in range(depth)]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("initialisation", "variance"),
    [
        ("kaiming_normal", lambda i, o: 2 / i),
        ("kaiming_uniform", lambda i, o: 2 / i),
        ("xavier_normal", lambda i, o: 2 / (i + o)),
        ("xavier_uniform", lambda i, o: 2 / (i + o)),
        ("orthogonal", lambda i, o: 2 / i),
        ("default", lambda i, o: 1 / (3 * i)),
    ],
)
def test_upl_initialisations_have_their_variance(initialisation, variance, dimensions):
    backbone = build_backbone("untrained", dimensions=dimensions, depth=3, channels=32, initialisation=initialisation)
    weight = backbone.convolutions["conv2"].weight
    fan = 32 * 3**dimensions
    assert float(weight.var()) == pytest.approx(variance(fan, fan), rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 2}, "depth is 2; expected 3 to 7"),
        ({"kernel": 4}, "kernel is 4"),
        ({"pooling": "median"}, "pooling is 'median'"),
        ({"initialisation": "zeros"}, "initialisation is 'zeros'"),
        ({"dimensions": 1}, "dimensions is 1"),
        ({"taps": ["conv9"]}, "no taps .'conv9'."),
        ({"layers": 3}, "'layers'"),
    ],
)
def test_bad_upl_options_are_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        build_loss([{"name": "untrained", **options}])


def test_upl_refuses_images_of_other_dimensions():
    with pytest.raises(InputError, match="3 spatial axes"):
        build_loss([{"name": "untrained", "dimensions": 3}])(*pair())
    with pytest.raises(InputError, match="at least 64 px"):
        build_loss([{"name": "untrained", "depth": 7, "pooling": "max"}])(*pair())


def test_description_holds_what_fixes_the_loss():
    import json

    loss = build_loss(
        [{"name": "l1"}, {"name": "untrained", "seed": 7}, {"name": "feature", "weights": "untrained", "seed": 3}]
    )
    l1, upl, feature = json.loads(json.dumps(loss.description))
    assert l1 == {"name": "l1", "weight": 1.0, "label": "l1"}
    assert (upl["seed"], upl["depth"], upl["initialisation"]) == (7, 5, "kaiming_normal")
    assert (feature["seed"], feature["untrained_from"], feature["pretrained_up_to"]) == (3, "relu1_1", None)
