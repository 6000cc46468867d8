"""Deep feature distances against the packages that define them, on trunks of one and the same random weights."""

import hashlib
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from DWISuperResLib.errors import InputError, MissingDependencyError
from DWISuperResLib.metrics import deep, deep_networks
from DWISuperResLib.metrics.deep import DISTANCES, DeepDistance, available_distances, distance, sample_slices
from DWISuperResLib.resources import RESOURCES
from Testing.conftest import oracle

RUNS = [name for name in DISTANCES if name != "medvae"]


@pytest.fixture(scope="module")
def slices():
    """(images, reference), (2, 64, 72) in [0, 1]: smooth patterns, and the same with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :72]
    reference = np.stack([0.5 + 0.4 * np.sin(x / a) * np.cos(y / b) for a, b in ((5, 7), (9, 4))]).astype(np.float32)
    return (reference + 0.1 * rng.normal(size=reference.shape)).astype(np.float32), reference


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    """Whatever this machine's caches hold, the tests see none."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    from torchvision.models import vgg16

    with torch.device("meta"):
        features = vgg16(weights=None).features
    features.to_empty(device="cpu")
    torch.manual_seed(1)
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, std=0.02 if parameter.ndim == 1 else (2 / parameter[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path, features


def rgb(slices):
    return [torch.from_numpy(a)[:, None].expand(-1, 3, -1, -1) for a in slices]


@pytest.mark.parametrize("weighted", [True, False])
def test_lpips_vgg_is_that_of_the_lpips_package(slices, vgg_file, weighted):
    oracle("lpips")
    import lpips

    path, features = vgg_file
    package = lpips.LPIPS(net="vgg", pnet_rand=True, lpips=weighted, verbose=False)
    stored = features.state_dict()
    own = {k: stored[k.split(".", 1)[1]] for k in package.net.state_dict()}
    package.net.load_state_dict(own)
    with torch.no_grad():
        expected = package(*rgb(slices), normalize=True).flatten().numpy()
    found = distance("lpips_vgg" if weighted else "lpips_vgg_unweighted", *slices, weights=path, data_range=1)
    np.testing.assert_allclose(found.by_slice, expected, rtol=1e-4)
    assert found.value == pytest.approx(expected.mean(), rel=1e-4)
    assert found.weights == f"vgg16.pth (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"


def test_lpips_alex_is_that_of_the_lpips_package(slices, tmp_path):
    oracle("lpips")
    import lpips

    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {f"features.{k.split('.', 1)[1]}": v for k, v in package.net.state_dict().items()}
    torch.save(trunk, tmp_path / "alex.pth")
    with torch.no_grad():
        expected = package(*rgb(slices), normalize=True).flatten().numpy()
    found = distance("lpips_alex", *slices, weights=tmp_path / "alex.pth", data_range=1)
    np.testing.assert_allclose(found.by_slice, expected, rtol=1e-4)


@pytest.mark.parametrize(("trunk", "width"), [("vgg", 512), ("alex", 256)])
def test_shipped_lpips_weights_are_those_of_the_lpips_package(trunk, width):
    oracle("lpips")
    import lpips

    package = lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)
    shipped = load_file(RESOURCES / f"Metrics/lpips_{trunk}.safetensors")
    assert shipped["tap4"].shape == (width,)
    for n, linear in enumerate(package.lins):
        assert torch.equal(shipped[f"tap{n}"], linear.model[1].weight.flatten())


def test_shipped_weights_are_those_of_the_readme():
    text = (RESOURCES / "Metrics" / "README.md").read_text(encoding="utf-8")
    shipped = list((RESOURCES / "Metrics").glob("*.safetensors"))
    assert len(shipped) == 3
    for path in shipped:
        assert path.name in text
        assert hashlib.sha256(path.read_bytes()).hexdigest() in text


def test_dists_is_that_of_torchmetrics(slices, vgg_file, monkeypatch):
    from torchmetrics.functional.image import dists

    path, features = vgg_file
    monkeypatch.setattr(dists, "vgg16", lambda weights: type("VGG", (), {"features": features}))
    with torch.no_grad():
        expected = dists.DISTSNetwork()(*rgb(slices)).numpy()
    found = distance("dists", *slices, weights=path, data_range=1)
    np.testing.assert_allclose(found.by_slice, expected, atol=1e-5)


def test_resnet_reads_torchvision_at_its_23rd_convolution(slices, tmp_path):
    from torchvision.models import resnet50

    torch.manual_seed(2)
    network = resnet50(weights=None).eval()
    state = network.state_dict()
    order, seen = [], {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and "downsample" not in name:
            module.register_forward_hook(lambda m, i, o, name=name: order.append(name))
    network.layer3[0].bn1.register_forward_hook(lambda m, i, o: seen.update(tap=o.clip(min=0)))
    with torch.no_grad():
        taps = [(network(images), seen["tap"])[1] for images in rgb(slices)]
    assert order[22] == "layer3.0.conv1"
    expected = (taps[0] - taps[1]).square().mean((1, 2, 3)).numpy()
    torch.save(state, tmp_path / "resnet.pth")
    parts = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}
    radiology = {f"backbone.{parts[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in state.items()}
    torch.save(radiology, tmp_path / "ResNet50.pt")
    for name, file in (("imagenet", "resnet.pth"), ("radimagenet", "ResNet50.pt")):
        found = distance(f"resnet50_{name}", *slices, weights=tmp_path / file, data_range=1)
        np.testing.assert_allclose(found.by_slice, expected, rtol=1e-4)
        assert found.weights.startswith(file)


def test_ssfd_standardises_each_slice(slices):
    compare = DeepDistance("ssfd", weights="untrained")
    images, reference = slices
    found = compare(images, reference)
    assert found.value > 0
    changed = compare(7 * images + 3, reference)
    np.testing.assert_allclose(changed.by_slice, found.by_slice, rtol=1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_untrained_variants_say_so_are_seeded_and_zero_for_equal_images(name, slices):
    images, reference = slices
    compare = DeepDistance(name, weights="untrained", seed=3)
    found = compare(images, reference)
    assert found.weights == "untrained (seed 3)"
    assert found.value > 1e-6
    assert found.by_slice.shape == (2,)
    assert abs(compare(reference, reference).value) < 1e-6
    assert DeepDistance(name, weights="untrained", seed=3)(images, reference).value == found.value
    assert DeepDistance(name, weights="untrained", seed=4)(images, reference).value != found.value


def test_nothing_at_hand_means_untrained_and_nothing_is_fetched(slices, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    for name in ("lpips_vgg", "lpips_alex", "dists", "resnet50_imagenet", "resnet50_radimagenet"):
        assert DeepDistance(name).weights == "untrained (seed 0)"
    assert "resnet50_untrained" in available_distances()
    assert "resnet50_imagenet" not in available_distances()


def test_a_download_is_asked_for_by_address_and_checksum(monkeypatch, tmp_path):
    asked = []

    def fetch(url, path, hash_prefix, progress):
        asked.append((url, hash_prefix))
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(deep_networks.ProcessingError, match="no network"):
        DeepDistance("resnet50_imagenet", download=True)
    assert asked == [("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61")]


def test_a_damaged_cached_file_is_refused(tmp_path):
    cached = tmp_path / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not weights")
    with pytest.raises(InputError, match="damaged"):
        DeepDistance("lpips_alex")


def test_real_shallow_weights_are_named_with_where_they_end(slices, shared_data):
    path = shared_data.parent / "weights" / "vgg16_conv1_1_to_2_2_keras_hwio.npz"
    found = distance("lpips_vgg", *slices, weights=path)
    assert "untrained (seed 0) from relu3_1" in found.weights
    assert found.value > 0


def test_the_mask_blanks_and_crops(slices):
    compare = DeepDistance("lpips_alex", weights="untrained")
    images, reference = (np.pad(a, ((1, 0), (20, 20), (30, 30))) for a in slices)
    mask = np.zeros(reference.shape, bool)
    mask[1:, 20:84, 30:102] = True
    altered = images.copy()
    altered[~mask] += 5
    np.testing.assert_allclose(compare(altered, reference, mask=mask).by_slice, compare(*slices).by_slice, rtol=1e-5)


def test_a_small_region_keeps_64_pixels(slices):
    images, reference = slices
    mask = np.zeros(reference.shape, bool)
    mask[:, 2:5, 60:70] = True
    seen, wanted = deep._region(images, reference, mask)
    assert seen.shape == (2, 64, 64)
    np.testing.assert_array_equal(wanted[wanted != 0], reference[mask])


def test_scaling_each_ignores_brightness_and_over_the_reference_does_not(slices):
    images, reference = slices
    each = DeepDistance("lpips_alex", weights="untrained", scaling="each")
    assert each(2 * reference + 1, reference).value < 1e-8
    assert np.isnan(each(images, reference).data_range)
    shared = DeepDistance("lpips_alex", weights="untrained")
    assert shared(2 * reference, reference).value > 1e-4
    assert shared(images, reference).data_range == reference.max()
    assert shared(10 * images, 10 * reference).value == pytest.approx(shared(images, reference).value, rel=1e-4)


def test_wrong_input_is_one_sentence(slices, tmp_path):
    images, reference = slices
    compare = DeepDistance("ssfd", weights="untrained")
    for shown, options in (
        (images[:1], {}),
        (np.full_like(images, np.nan), {}),
        (images, {"mask": np.zeros(images.shape, bool)}),
        (images, {"data_range": 0.0}),
    ):
        with pytest.raises(InputError):
            compare(shown, reference, **options)
    with pytest.raises(InputError, match="32 px"):
        compare(images[:, :20], reference[:, :20])
    (tmp_path / "bad.pth").write_bytes(b"hostile")
    for name, options in (
        ("nonsense", {}),
        ("ssfd", {"scaling": "none"}),
        ("lpips_alex", {"weights": tmp_path / "missing.pth"}),
        ("lpips_alex", {"weights": tmp_path / "bad.pth"}),
        ("ssfd", {"weights": tmp_path / "bad.pth"}),
        ("resnet50_radimagenet", {"download": True}),
    ):
        with pytest.raises(InputError):
            DeepDistance(name, **options)


def test_medvae_is_an_extra(slices):
    if find_spec("medvae") is None:
        with pytest.raises(MissingDependencyError, match="medvae"):
            DeepDistance("medvae")
    else:
        compare = DeepDistance("medvae", weights="untrained")
        assert compare(*slices).value == compare(*slices).value > 0


def test_sampled_slices_lie_in_the_mask_and_keep_their_place():
    rng = np.random.default_rng(0)
    reference = rng.random((10, 6, 12, 5)).astype(np.float32)
    mask = np.zeros(reference.shape[:3], bool)
    mask[:, 1:, 3:9] = True
    test, kept, inside = sample_slices(reference, reference + 1, mask, 2, slices=2, volumes=2)
    assert test.shape == inside.shape == (4, 10, 6)
    np.testing.assert_array_equal(test, kept + 1)
    assert inside.any((1, 2)).all()
    planes = reference[:, :, :, [0, 4]].transpose(3, 2, 0, 1).reshape(-1, 10, 6)
    assert all((planes == plane).all((1, 2)).any() for plane in kept)
