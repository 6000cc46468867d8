"""The paper's network against fastai's own, the reference it was published in."""

import copy
import warnings

import pytest
import torch
import torchvision
from torch import nn

from DWISuperResLib.checkpoints import import_fastai, load_checkpoint
from DWISuperResLib.errors import InputError, ProcessingError
from DWISuperResLib.networks import build, fold
from DWISuperResLib.networks.weights import from_fastai
from DWISuperResLib.resampling.operators import operator
from Testing.conftest import oracle

PARAMETERS = 31_305_374


def fastai_unet(size=(64, 64)):
    oracle("fastai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from fastai.vision import all as vision

        options = {"blur": True, "norm_type": vision.NormType.Weight, "self_attention": True, "y_range": (-3, 3)}
        return vision.create_unet_model(vision.resnet18, 3, size, pretrained=False, **options)


@pytest.fixture(scope="module")
def reference():
    """fastai's model, its weights random, its batch statistics those of random images, its sigmoid not saturated."""
    torch.manual_seed(0)
    model = fastai_unet((206, 172))
    model.layers[5].conv2[2].gamma.data.fill_(0.7)  # 0 at first: no attention
    model.layers[12][0].weight_g.data.mul_(0.05)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.9
        for _ in range(2):
            model(torch.rand(2, 3, 64, 48))
    return model.eval()


@pytest.fixture(scope="module")
def ours(reference):
    network = build("dynamic_unet", upsampling="paper")
    network.load_state_dict(from_fastai(reference.state_dict()))
    return network.eval()


def test_parameter_count(reference):
    network = build("dynamic_unet")
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    assert sum(p.numel() for p in reference.parameters()) == PARAMETERS


@pytest.mark.parametrize("size", [(206, 172), (37, 45), (33, 50), (64, 41)])
@torch.inference_mode()
def test_output_is_fastais(reference, ours, size):
    """In double precision: in single, the order of sums moves fastai's own output by 1e-3."""
    theirs, mine = copy.deepcopy(reference).double(), copy.deepcopy(ours).double()
    theirs.layers[-1] = nn.Identity()  # fastai's tensor class rounds to float32
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = theirs(x).as_subclass(torch.Tensor)
    assert 0.1 < expected.std() < 2
    torch.testing.assert_close(mine.refine(x), expected, rtol=0, atol=1e-9)


@torch.inference_mode()
def test_paper_mode_is_the_reference_pipeline(reference, ours):
    x = torch.rand(2, 1, 19, 22, generator=torch.Generator().manual_seed(2))
    full = nn.functional.interpolate(x.repeat(1, 3, 1, 1), (38, 44), mode="bilinear", align_corners=True)
    expected = reference(full).as_subclass(torch.Tensor)[:, :1]
    torch.testing.assert_close(ours(x, (38, 44)), expected, rtol=0, atol=1e-5)


def test_gradients_are_fastais(reference, ours):
    """Training mode: the output, every gradient and every running statistic from the same weights."""
    x = torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(3))
    theirs, mine = fastai_unet().double().train(), build("dynamic_unet").double()
    theirs.load_state_dict(reference.state_dict())
    theirs.layers[-1] = nn.Identity()  # fastai's tensor class rounds to float32
    for name in ("query", "key", "value"):
        # A fixed point of the power iteration: old and new spectral norm update the two vectors in opposite order.
        conv = getattr(theirs.layers[5].conv2[2], name)[0]
        left, _, right = torch.linalg.svd(conv.weight_orig.detach().squeeze(-1), full_matrices=False)
        conv.weight_u.copy_(left[:, 0])
        conv.weight_v.copy_(right[0])
    mine.load_state_dict(from_fastai(theirs.state_dict()))
    expected = theirs(x.double()).as_subclass(torch.Tensor)
    found = mine.refine(x.double())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    expected.square().mean().backward()
    found.square().mean().backward()
    gradients = from_fastai({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-6, atol=1e-12)
    state = from_fastai(theirs.state_dict())
    for name, buffer in mine.named_buffers():
        torch.testing.assert_close(buffer, state[name], rtol=1e-6, atol=1e-12)


def test_initial_weights_are_distributed_as_fastais():
    torch.manual_seed(0)
    theirs = from_fastai(fastai_unet().state_dict())
    mine = build("dynamic_unet").state_dict()
    for name, tensor in theirs.items():
        if tensor.is_floating_point() and tensor.numel() > 5000:
            assert (mine[name].std() / tensor.std() - 1).abs() < 0.05, name
            assert (mine[name].mean() - tensor.mean()).abs() < 0.05 * tensor.std(), name
        elif tensor.ndim == 1 and "attention" not in name and "head" not in name:
            assert torch.equal(mine[name], tensor), name


@torch.inference_mode()
def test_fold_keeps_the_output(ours):
    """In float64: random weights amplify the rounding of float32, which depends on the memory format."""
    x = torch.rand(1, 3, 37, 45, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    folded = build("dynamic_unet").double()
    folded.load_state_dict(ours.state_dict())
    folded.eval()
    expected = folded.refine(x)
    fold(folded)
    assert not any(nn.utils.parametrize.is_parametrized(m) for m in folded.modules())
    # Left are those that no convolution comes right before: of the skip connections and of the bottom.
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == 5
    assert (folded.refine(x) - expected).norm() <= 1e-9 * expected.norm()
    folded.to(memory_format=torch.channels_last)
    found = folded.refine(x.to(memory_format=torch.channels_last))
    assert (found - expected).norm() <= 1e-9 * expected.norm()


@torch.inference_mode()
@pytest.mark.parametrize(("size", "scale"), [((1, 1), 1), ((2, 3), 2), ((7, 5), 3), ((16, 33), 5), ((1, 9), 2)])
def test_any_size_and_scale(ours, size, scale):
    fine = (scale * size[0], scale * size[1])
    assert ours(torch.rand(2, 1, *size), fine).shape == (2, 1, *fine)


@torch.inference_mode()
def test_parts_of_a_batch_make_the_whole(ours, monkeypatch):
    network = copy.deepcopy(ours).double()
    x = torch.rand(5, 1, 20, 18, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = network(x, [2 * n for n in x.shape[2:]])
    monkeypatch.setattr("DWISuperResLib.networks.dynamic_unet._CACHED", 2 * 40 * 36)
    torch.testing.assert_close(network(x, [2 * n for n in x.shape[2:]]), expected, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_traces_into_one_graph(ours):
    x = torch.rand(1, 1, 17, 20)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, (34, 40)), ours(x, (34, 40)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("upsampling", "keeps"), [("linear", True), ("cubic", True), ("paper", False)])
@pytest.mark.parametrize("scale", [2, 3])
def test_upsampling_geometry(upsampling, keeps, scale, monkeypatch):
    """A ramp stays where it is, in cells of the finer grid, unless the paper's upsampling is asked for."""
    network = build("dynamic_unet", upsampling=upsampling)
    monkeypatch.setattr(network, "refine", lambda image: image)
    ramp = torch.arange(12.0).expand(1, 1, 12, 12)
    found = network(ramp, [scale * n for n in ramp.shape[2:]])[0, 0, 6, 3 * scale : -3 * scale]
    exact = ((torch.arange(12 * scale) + 0.5) / scale - 0.5)[3 * scale : -3 * scale]
    assert (torch.abs(found - exact).max() < 0.05) == keeps


def test_linear_upsampling_is_the_librarys_interpolator(monkeypatch):
    network = build("dynamic_unet")
    monkeypatch.setattr(network, "refine", lambda image: image)
    x = torch.rand(1, 1, 9, 7)
    rows, columns = (torch.tensor(operator(n, 3 * n, "linear")).float() for n in (9, 7))
    torch.testing.assert_close(network(x, (27, 21))[0, 0], rows @ x[0, 0] @ columns.T, rtol=0, atol=1e-6)


def test_autocast_keeps_the_output_in_float32(ours):
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert ours.refine(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upsampling": "magic"}, "upsampling"),
        ({"output_range": [1, 1]}, "output_range"),
        ({"output_range": [0]}, "output_range"),
        ({"output_range": 3}, "cannot be built"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        build("dynamic_unet", **arguments)


def test_imagenet_weights_from_a_file(tmp_path):
    torch.manual_seed(5)
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    network = build("dynamic_unet")
    network.load_imagenet(tmp_path / "resnet.pth")
    for name, tensor in network.encoder.state_dict().items():
        assert torch.equal(tensor, resnet.state_dict()[name])
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save(resnet, tmp_path / "pickle.pth")
    for name in ("other.pth", "pickle.pth", "absent.pth"):
        with pytest.raises(InputError, match=name):
            network.load_imagenet(tmp_path / name)


def test_imagenet_download_is_checked_and_its_failure_told(tmp_path, monkeypatch):
    """A wrong file under the right name in torch's cache: torchvision reads it without network and must not use it."""

    def offline(*args, **options):
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ProcessingError, match="no network in tests"):
        build("dynamic_unet").load_imagenet("download")


@pytest.mark.parametrize("form", ["plain", "with optimiser", "parametrizations"])
def test_import_of_what_fastai_saves(form, reference, tmp_path):
    from fastai.vision import all as vision

    path, output = tmp_path / "model.pth", tmp_path / "model.safetensors"
    if form == "parametrizations":
        torch.save(_with_parametrizations(reference.state_dict()), path)
    else:
        optimiser = vision.Adam(list(reference.parameters())[:2], lr=1e-4)
        optimiser.hypers[0]["lr"] = vision.np.float64(1e-4)  # as discriminative rates are
        vision.save_model(path, reference, optimiser, with_opt=form == "with optimiser")
    card = import_fastai(path, output, scales=(3,), provenance="here")
    assert (card.name, card.scales, card.normalisation, card.provenance) == ("model", (3,), "paper", "here")
    checkpoint = load_checkpoint(output)
    x = torch.rand(1, 1, 13, 11, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        full = nn.functional.interpolate(x.repeat(1, 3, 1, 1), (39, 33), mode="bilinear", align_corners=True)
        expected = reference(full).as_subclass(torch.Tensor)[:, :1]
        torch.testing.assert_close(checkpoint.network()(x, [3 * n for n in x.shape[2:]]), expected, rtol=0, atol=1e-5)


def _with_parametrizations(state):
    """The same weights under the names of `torch.nn.utils.parametrizations`."""
    norm = {"weight_g": "original0", "weight_v": "original1"}
    spectral = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    renamed = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        table = spectral if f"{stem}.weight_orig" in state else norm
        renamed[f"{stem}.parametrizations.weight.{table[last]}" if last in table else name] = tensor
    return renamed


def test_import_refuses_what_is_not_the_network(reference, tmp_path):
    weights = dict(reference.state_dict())
    path = tmp_path / "model.pth"
    missing = {name: tensor for name, tensor in weights.items() if name != "layers.12.0.bias"}
    cases = {
        "lack 1 tensors": missing,
        r"extra 1 tensors.*layers\.99": weights | {"layers.99.weight": torch.zeros(1)},
        "has shape": weights | {"layers.12.0.bias": torch.zeros(1)},
        "not finite": weights | {"layers.12.0.bias": torch.full((3,), torch.nan)},
        "no state dict": {"model": {"a": 1}},
        "holds no state": [1, 2],
        "would run code": nn.Linear(1, 1),
    }
    for message, content in cases.items():
        torch.save(content, path)
        with pytest.raises(InputError, match=message):
            import_fastai(path, tmp_path / "out.safetensors")
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"model\.pth"):
        import_fastai(path, tmp_path / "out.safetensors")
    with pytest.raises(InputError, match="no file"):
        import_fastai(tmp_path / "absent.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
