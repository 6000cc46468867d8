"""Networks of the interpolated image, trained: factors drawn for each slab, the recipe's rates, losses of volumes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from DWISuperResLib import io
from DWISuperResLib.checkpoints import load_checkpoint
from DWISuperResLib.errors import InputError
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.losses import build_loss
from DWISuperResLib.networks import build
from DWISuperResLib.networks.views import BlockView, SliceView
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import degrade
from DWISuperResLib.resampling.operators import apply_operators, operator, slice_profile
from DWISuperResLib.resampling.scale import Scale
from DWISuperResLib.training import load_configuration, train, validated
from DWISuperResLib.training.cache import open_scan
from DWISuperResLib.training.module import Training
from DWISuperResLib.training.patches import Batches
from DWISuperResLib.training.run import fitting_terms

CONFIGURATIONS = Path(__file__).parents[2] / "Resources" / "Configurations"
STILL = {"flips": False, "rotations": False, "intensity": [1, 1], "contrast": [1, 1]}
STEADY = {"models": {"profile": 1.0}, "fwhm": [1, 1], "gap": [0, 0], "noise": [0, 0]}
SMALL = {
    ("recnn", 3): {"layers": 3, "filters": 4, "block": 24},
    ("recnn", 2): {"layers": 3, "filters": 4, "dimensions": 2},
    ("srcnn", 3): {"kernels": [3, 1, 3], "filters": [4, 4], "block": 24},
    ("srcnn", 2): {"kernels": [3, 1, 3], "filters": [4, 4], "dimensions": 2},
}


@pytest.fixture(scope="module")
def dwi():
    return phantom((30, 30, 30), (5.0, 5.0, 5.0), supersampling=1, shells=((0, 1), (1000, 6)))


@pytest.fixture(scope="module")
def folder(dwi, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for n in range(2):
        io.write_dwi(dwi, folder / f"sub-{n}_dwi.nii.gz")
    return folder


@pytest.fixture(scope="module")
def scan(folder):
    return open_scan(folder / "sub-0_dwi.nii.gz", folder / "cache", "volume")


def tree(folder, output, architecture, arguments, **sections):
    data = {"scans": [str(folder / "sub-0_dwi.nii.gz")], "validation": [], "cache": str(folder / "cache")}
    return {
        "output": str(output),
        "data": {**data, "slabs": 2, "patches": 2, "patch": 24, "workers": 0},
        "network": {"architecture": architecture, "arguments": arguments},
        "schedule": {"epochs": 1, "steps_per_epoch": 4, "ema": None},
        "validation": {"slices": 12, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
        **sections,
    }


@pytest.mark.parametrize(("architecture", "dimensions"), SMALL)
def test_networks_of_the_fine_grid_train_and_serve_all_factors_between_those_trained(
    dwi, folder, tmp_path, architecture, dimensions
):
    scales = ["2x2x2", "2x2.5x2", "1x1x2", "3x3x3"] if dimensions == 3 else [2, 2.5, 3]
    config = tree(folder, tmp_path / "out", architecture, SMALL[architecture, dimensions], scales=scales)
    config["data"]["validation"] = [str(folder / "sub-1_dwi.nii.gz")]
    checkpoint = load_checkpoint(train(validated(config)))
    card = checkpoint.card
    assert card.view == build(architecture, **SMALL[architecture, dimensions]).view.describe()
    assert card.served_text == ("1x1x2 to 3x3x3" if dimensions == 3 else "2x2x1 to 3x3x1")
    assert np.isfinite(card.scores["val/psnr"])
    untrained = ["1.5x2.25x2.75", "2x3x2"] if dimensions == 3 else ["2.25x2.75x1"]
    for scale in [*scales, *untrained]:
        low = degrade(dwi, scale, axis=2)
        back = Scale.between(low.spatial_shape, dwi.spatial_shape)
        result = super_resolve(low, checkpoint, back, axis=2, device="cpu", precision="fp32")
        assert result.spatial_shape == dwi.spatial_shape
    for scale in ("4x4x4", "2x2x4", 1):
        with pytest.raises(InputError, match=r"serves scales .* to "):
            super_resolve(dwi, checkpoint, scale, axis=2, device="cpu")


def lowered(dwi, scan, triple, kernel):
    """A whole scan, degraded and interpolated back by other means than training's: (N, slices, rows, columns)."""
    low = degrade(dwi, Scale.of_slices(*triple, axis=scan.axis), axis=scan.axis)
    coarse = scan.frame.view(low.signal)
    pairs = zip(coarse.shape[1:], scan.extent, strict=True)
    return apply_operators(coarse, {a: operator(n, m, kernel) for a, (n, m) in enumerate(pairs, 1)})


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_patches_of_a_batch_have_factors_of_their_own(folder, scan, dimensions):
    """Every patch is a place of the scan, lowered by one of the factors; isotropic, anisotropic and fractional ones."""
    dwi = io.read_dwi(folder / "sub-0_dwi.nii.gz")
    triples = [(2, 2, 1), (2.5, 2.5, 1), (3, 2, 1)]
    if dimensions == 3:
        triples = [(2, 2, 2), (2, 2.5, 2), (1, 1, 2), (3, 3, 3)]
    view = BlockView(16, 4) if dimensions == 3 else SliceView(1, kernel="bspline")
    data = {"scans": ["x"], "slabs": 6, "patches": 1, "patch": 24}
    scales = ["x".join(map(str, triple)) for triple in triples]
    dataset = Batches([scan], view, validated({"data": data, "augmentation": STILL, "scales": scales}), None)
    gains = scan.normalisation.gains[:, None, None, None]
    fine = scan.frame.view(dwi.signal) * gains
    candidates = {triple: lowered(dwi, scan, triple, "bspline") * gains for triple in triples}
    found = []
    for index in range(3):
        batch = dataset[index]
        assert batch["input"].shape == (6, view.channels, *[24] * dimensions)
        assert batch["target"].shape == (6, 1, *[24] * dimensions)
        for shown, target in zip(batch["input"], batch["target"], strict=True):
            box = place_of(target[0].numpy(), fine, dimensions)
            errors = {t: float(np.abs(shown[0].numpy() - image[box]).max()) for t, image in candidates.items()}
            nearest = min(errors, key=errors.__getitem__)
            assert errors[nearest] < 1e-3
            found.append(nearest)
    assert set(found) == set(triples)
    assert any(len(set(found[start : start + 6])) > 1 for start in (0, 6, 12))


def test_patches_of_large_volumes_are_lowered_in_a_part_of_them(tmp_path):
    """As if the whole volume had been lowered, from either of the two voxels at which the coarse grid may begin."""
    dwi = phantom((48, 48, 64), (3.0, 3.0, 3.2), supersampling=1, shells=((0, 1), (1000, 6)))
    io.write_dwi(dwi, tmp_path / "large.nii.gz")
    scan = open_scan(tmp_path / "large.nii.gz", tmp_path, "volume")
    data = {"scans": ["x"], "slabs": 1, "patches": 2, "patch": 16}
    tree = {"data": data, "augmentation": STILL, "scales": ["1x1x2"], "degradation": STEADY}
    config = validated(tree)
    dataset = Batches([scan], BlockView(16, 4), config, None)
    fine = scan.frame.view(dwi.signal) * scan.normalisation.gains[:, None, None, None]
    (along,) = (a for a, f in enumerate(scan.factors(config.served[0]), 1) if f != 1)
    n = fine.shape[along]
    assert n == 64  # the part is 48 wide
    candidates = []
    for first in (0, 1):
        taken = slice(first, first + (n - first) // 2 * 2)
        inside = tuple(taken if a == along else slice(None) for a in range(4))
        m = taken.stop - taken.start
        low = apply_operators(fine[inside], {along: slice_profile(m, m // 2, 2.0)})
        image = np.full_like(fine, np.inf)
        image[inside] = apply_operators(low, {along: operator(m // 2, m, "bspline")})
        candidates.append(image)
    corners = set()
    for index in range(20):
        batch = dataset[index]
        for shown, target in zip(batch["input"], batch["target"], strict=True):
            box = place_of(target[0].numpy(), fine, 3)
            corners.add(tuple(edge.start for edge in box[1:]))
            assert min(np.abs(shown[0].numpy() - image[box]).max() for image in candidates) < 0.01
    assert len(corners) > 20


def place_of(target, fine, dimensions):
    """Where in (N, slices, rows, columns) a patch was cut out."""
    whole = target if dimensions == 3 else target[None]
    corners = np.argwhere(np.isclose(fine, whole[0, 0, 0], atol=1e-6))
    for n, *corner in corners:
        box = (n, *(slice(c, c + edge) for c, edge in zip(corner, whole.shape, strict=True)))
        if fine[box].shape == whole.shape and np.allclose(fine[box], whole, atol=1e-5):
            return box if dimensions == 3 else (n, corner[0], *box[2:])
    raise AssertionError("the patch is no part of the scan")


def test_patches_keep_their_edge_whatever_the_factor(scan):
    """25 is no multiple of 2: on the coarse grid a patch has whole voxels, on the fine one any edge."""
    for view, edge in ((BlockView(16, 4), 23), (SliceView(0, kernel="bspline"), 23), (SliceView(0), 22)):
        data = {"scans": ["x"], "slabs": 1, "patches": 1, "patch": 23}
        batch = Batches([scan], view, validated({"data": data, "scales": ["2x2x1"]}), None)[0]
        assert set(batch["target"].shape[2:]) == {edge}


def test_patches_that_are_no_squares_turn_together(dwi, tmp_path):
    flat = dataclasses.replace(dwi, signal=dwi.signal[:, :16])
    io.write_dwi(flat, tmp_path / "flat.nii.gz")
    scan = open_scan(tmp_path / "flat.nii.gz", tmp_path, "volume")
    config = validated({"data": {"scans": ["x"], "slabs": 3, "patch": 24}, "scales": ["2x2x2", "2x1x1"]})
    dataset = Batches([scan], BlockView(16, 4), config, None)
    shapes = {tuple(dataset[n]["target"].shape[2:]) for n in range(60)}
    assert shapes <= {(24, 16, 24), (24, 24, 16)}
    assert len(shapes) == 2


def test_the_recipes_are_the_papers():
    for name, parameters in (("recnn", 1995329), ("srcnn3d", 52801)):
        config = load_configuration(CONFIGURATIONS / f"{name}.yaml", ["data.scans=[x]"])
        network = build(config.network.architecture, **config.network.arguments)
        assert sum(p.numel() for p in network.parameters()) == parameters
        assert config.data.patch == 25
        assert config.data.slabs * config.data.patches == 64
        assert config.schedule.epochs * config.schedule.steps_per_epoch * 64 == 20 * 10 * 3200
        module = Training(config, network, build_loss(config.loss))
        optimizer = module.configure_optimizers()
        assert type(optimizer) is torch.optim.Adam
        assert optimizer.defaults["betas"] == (0.9, 0.999)
        trainer = type("Trainer", (), {"optimizers": [optimizer], "global_step": 7})()  # Lightning refers to it weakly
        module.trainer = trainer
        module.log = lambda *_: None
        module.on_train_batch_start({}, 0)
        rates = {group["kind"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({"matrices": 1e-4, "vectors": 1e-5})
    sgd = load_configuration(CONFIGURATIONS / "recnn.yaml", ["data.scans=[x]", "schedule.optimizer=sgd"])
    assert type(Training(sgd, network, build_loss(sgd.loss)).configure_optimizers()) is torch.optim.SGD


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_untrained_loss_trains_blocks_as_it_trains_slices(folder, scan, tmp_path, dimensions):
    arguments = SMALL["recnn", dimensions]
    term = {"name": "untrained", "depth": 3, "channels": 4, "seed": 1}
    config = validated(
        tree(
            folder, tmp_path / "out", "recnn", arguments, scales=["2x2x2" if dimensions == 3 else 2], loss=[term],
            schedule={"epochs": 1, "steps_per_epoch": 30, "ema": None, "learning_rate": 3e-3}, seed=4,
        )
    )  # fmt: skip
    torch.manual_seed(config.seed)
    before = build("recnn", **arguments)
    checkpoint = load_checkpoint(train(config))
    assert checkpoint.card.loss["terms"][0]["dimensions"] == dimensions
    loss = build_loss([{**term, "dimensions": dimensions}])
    batch = Batches([scan], before.view, config, None)[1000]
    with torch.no_grad():
        losses = [
            float(loss(network(batch["input"], batch["target"].shape[2:]), batch["target"])[0])
            for network in (before, checkpoint.network())
        ]
    assert losses[1] < 0.9 * losses[0]


def test_features_of_slices_are_no_loss_for_blocks():
    data = {"scans": ["x"]}
    for term in ({"name": "feature"}, {"name": "feature", "backbone": "ssfd"}, {"name": "untrained", "dimensions": 2}):
        with pytest.raises(InputError, match="reads features of slices, which recnn does not make"):
            fitting_terms(validated({"data": data, "loss": [term], "network": {"architecture": "recnn"}}), 3)
    with pytest.raises(InputError, match="reads features of blocks"):
        fitting_terms(validated({"data": data, "loss": [{"name": "untrained", "dimensions": 3}]}), 2)
    mixed = [{"name": "l1"}, {"name": "feature", "backbone": "untrained"}]
    assert [t.get("dimensions") for t in fitting_terms(validated({"data": data, "loss": mixed}), 3)] == [None, 3]
