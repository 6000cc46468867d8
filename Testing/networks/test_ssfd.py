"""The SSFD network, its inpainting task, and its encoder as a backbone of the feature loss."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from DWISuperResLib.checkpoints import Card, load_checkpoint, save_checkpoint
from DWISuperResLib.errors import InputError
from DWISuperResLib.losses import build_loss
from DWISuperResLib.networks import build
from DWISuperResLib.networks.ssfd import SHIPPED, TAPS, SSFDFeatures
from DWISuperResLib.training.tasks import TASKS, holes


def authors_encoder() -> nn.Sequential:
    """The layers as published, in a row, with the names of the published state dict in `names`."""
    widths, layers, names = (1, 20, 40, 80, 160, 320), [], []
    for n in range(5):
        home = "firstblock" if n == 0 else f"encoder{n}.conv_block"
        if n:
            layers.append(nn.MaxPool2d(2))
            names.append(None)
        layers += [
            nn.Conv2d(widths[n], widths[n + 1], 3, padding=1), nn.ReLU(),
            nn.Conv2d(widths[n + 1], widths[n + 1], 3, padding=1), nn.ReLU(),
            nn.GroupNorm(10, widths[n + 1]),
        ]  # fmt: skip
        names += [f"{home}.conv1", None, f"{home}.conv2", None, f"{home}.GN"]
    network = nn.Sequential(*layers)
    network.names = names
    return network


def test_authors_weights_give_their_features(tmp_path):
    torch.manual_seed(0)
    network = authors_encoder()
    nn.init.normal_(network[4].weight)  # a group norm that matters
    state = {
        f"{name}.{kind}": value
        for name, layer in zip(network.names, network, strict=True)
        if name
        for kind, value in layer.state_dict().items()
    }
    torch.save(state, tmp_path / "model.ckpt")
    images = torch.rand(2, 1, 48, 40)
    z = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    features = SSFDFeatures(("block4_relu2", "block1_relu2"), weights=tmp_path / "model.ckpt")
    with torch.no_grad():
        found = features(images)
        torch.testing.assert_close(found["block1_relu2"], network[:4](z), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["block4_relu2"], network[:22](z), rtol=1e-4, atol=1e-5)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network[:22]) == 8
    assert list(found) == ["block1_relu2", "block4_relu2"]
    assert features.description["sha256"] == hashlib.sha256((tmp_path / "model.ckpt").read_bytes()).hexdigest()


def test_nothing_beyond_the_deepest_tap_is_built():
    sizes = [sum(p.numel() for p in SSFDFeatures((tap,), weights="untrained").parameters()) for tap in TAPS]
    assert sizes == sorted(sizes)
    assert sizes[0] < 5000 < 1e6 < sizes[-1]


def test_the_network_keeps_any_size_and_scales_with_the_signal():
    network = build("ssfd").eval()
    images = torch.rand(2, 1, 37, 50)
    with torch.no_grad():
        out = network(images, images.shape[2:])
        assert out.shape == images.shape
        torch.testing.assert_close(network(100 * images + 7, images.shape[2:]), 100 * out + 7, rtol=1e-3, atol=1e-2)
        assert torch.isfinite(network(torch.zeros(1, 1, 16, 16), (16, 16))).all()
    for shape, size in (((1, 1, 8, 40), (8, 40)), ((1, 2, 32, 32), (32, 32)), ((1, 1, 32, 32), (64, 64))):
        with pytest.raises(InputError):
            network(torch.rand(shape), size)


def test_a_few_steps_learn_to_fill_holes():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = build("ssfd")
    y, x = np.mgrid[:64, :64]
    full = torch.tensor(np.stack([np.sin(x / a) + np.cos(y / a) + 3 for a in (6, 8, 10, 12)]), dtype=torch.float32)[
        :, None
    ]
    shown = full * torch.from_numpy(np.stack([~holes((64, 64), rng) for _ in full]))[:, None]
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    errors = []
    for _ in range(30):
        error = (network(shown, shown.shape[2:]) - full).abs().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.6 * float((shown - full).abs().mean())
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("shape", [(96, 96), (64, 80), (128, 128)])
def test_holes_cover_half_in_squares_that_keep_their_distance(shape):
    rng = np.random.default_rng(1)
    covered = [holes(shape, rng) for _ in range(8)]
    shares = np.array([c.mean() for c in covered])
    assert (shares >= 0.5).all()
    assert (shares < 0.5 + 256 / np.prod(shape)).all()
    assert len({c.tobytes() for c in covered}) == 8
    again = np.random.default_rng(1)
    np.testing.assert_array_equal(holes(shape, again), covered[0])


def test_hole_centres_are_poisson_disc():
    """No two nearer than 16 px, and in the end no room for another."""
    rng, found = np.random.default_rng(2), []

    class Recorder:
        def choice(self, free):
            found.append(rng.choice(free))
            return found[-1]

    holes((100, 100), Recorder(), share=2.0)
    rows, columns = np.unravel_index(found, (100, 100))
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns) + 1e9 * np.eye(len(rows))
    assert apart.min() >= 16
    y, x = np.mgrid[:100, :100]
    nearest = np.min([np.hypot(y - r, x - c) for r, c in zip(rows, columns, strict=True)], axis=0)
    assert nearest.max() < 16


def test_the_task_zeroes_half_of_every_slice_differently():
    slab = np.random.default_rng(0).random((3, 1, 64, 64), dtype=np.float32) + 1
    shown = TASKS["ssfd"](slab, None, 1, None, np.random.default_rng(5))
    kept = shown != 0
    np.testing.assert_array_equal(shown[kept], slab[kept])
    assert (np.abs(1 - kept.mean((1, 2, 3)) - 0.5) < 0.07).all()
    assert not (kept[0] == kept[1]).all()
    assert shown.dtype == np.float32


def test_a_checkpoint_serves_the_feature_loss(tmp_path):
    torch.manual_seed(0)
    network = build("ssfd")
    path = tmp_path / "mine.safetensors"
    save_checkpoint(path, network.state_dict(), Card("mine", "ssfd", {}, (1,), task="ssfd"), half=True)
    network.load_state_dict(load_checkpoint(path).weights)
    loss = build_loss([{"name": "feature", "backbone": "ssfd", "weights": str(path), "distance": "l2"}])
    prediction = torch.rand(2, 1, 32, 32, requires_grad=True)
    target = torch.rand(2, 1, 32, 32)
    total, _ = loss(prediction, target)
    z = [(i - i.mean((2, 3), keepdim=True)) / i.std((2, 3), keepdim=True) for i in (prediction, target)]
    with torch.no_grad():
        seen, wanted = (network.encoder(i)[1][3] for i in z)
    assert float(total) == pytest.approx(float((seen - wanted).square().mean()), rel=1e-4)
    total.backward()
    assert prediction.grad.abs().max() > 0
    assert loss.description[0]["taps"] == ["block4_relu2"]
    assert loss.description[0]["weights"] == "mine.safetensors"


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(InputError, match="block9"):
        SSFDFeatures(("block9_relu2",), weights="untrained")
    with pytest.raises(InputError, match="do not exist"):
        SSFDFeatures(weights=tmp_path / "none.safetensors")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="cannot be used"):
        SSFDFeatures(weights=tmp_path / "other.pth")
    with pytest.raises(InputError, match="8 px"):
        SSFDFeatures(weights="untrained")(torch.rand(1, 1, 4, 4))


def test_the_shipped_encoder_is_whole_and_small():
    checkpoint = load_checkpoint("ssfd")
    assert checkpoint.card.task == "ssfd"
    assert SHIPPED.stat().st_size < 6e6
    assert checkpoint.card.licence
    assert checkpoint.card.provenance
    assert SSFDFeatures().description["weights"] == "ssfd.safetensors"
    with torch.no_grad():
        scaled = checkpoint.network()(torch.rand(1, 1, 64, 64), (64, 64))
    assert scaled.shape == (1, 1, 64, 64)
