"""The demo: everything it promises is written, and what it says about the phantom's fibres is true."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from DWISuperResLib import phantoms
from DWISuperResLib.apps import cli, demo
from DWISuperResLib.checkpoints import Card, save_checkpoint
from DWISuperResLib.evaluation.evaluate import evaluate
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.io import read_dwi, read_image, write_dwi
from DWISuperResLib.networks import build
from DWISuperResLib.resampling.degradation import degrade

SHAPE = (34, 42, 4)
VOXEL = (4.0, 4.0, 5.0)
FILES = {"mask.nii.gz", "report.html", "scores.tsv", "scores.json"}
FILES |= {f"{scan}.{suffix}" for scan in ("low_resolution", "super_resolved") for suffix in ("nii.gz", "bval", "bvec")}
FILES |= {f"{name}_{kind}.nii.gz" for name in ("fa", "qa") for kind in ("reference", "super_resolved", "difference")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    arguments = {"scales": [2], "width": 8, "blocks": [1, 1], "neighbours": 0, "guidance": []}
    weights = {
        k: torch.zeros_like(v) if "tails" in k else v for k, v in build("sr_unet", **arguments).state_dict().items()
    }
    path = tmp_path_factory.mktemp("checkpoint") / "nothing.safetensors"
    save_checkpoint(path, weights, Card("nothing", "sr_unet", arguments, (2,)))
    return path


def test_demo_on_the_phantom(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "phantom", partial(phantoms.phantom, SHAPE, VOXEL))
    arguments = ["demo", "--output", str(tmp_path / "demo"), "--checkpoint", str(checkpoint), "--device", "cpu"]
    assert cli.main(arguments) == 0
    assert (tmp_path / "demo" / "report.html").as_uri() in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= FILES | {"original.nii.gz"}
    original = read_dwi(tmp_path / "demo" / "original.nii.gz")
    result = read_dwi(tmp_path / "demo" / "super_resolved.nii.gz")
    expected = super_resolve(degrade(original, 2), checkpoint, 2, device="cpu")
    np.testing.assert_allclose(result.signal, expected.signal, atol=1e-4 * expected.signal.max())
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("median angle to the true fibres") >= 4
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert cli.main(arguments) == 2


def test_demo_on_a_scan_with_a_matrix_that_is_no_multiple_of_the_scale(checkpoint, tmp_path):
    scan = phantoms.phantom((33, 41, 4), VOXEL, shells=((0, 1), (1000, 12)))
    write_dwi(scan, tmp_path / "scan.nrrd")
    page = demo.demo(tmp_path / "scan.nrrd", tmp_path / "out", checkpoint=str(checkpoint), device="cpu")
    assert page == tmp_path / "out" / "report.html"
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    maps = {kind: read_image(tmp_path / "out" / f"fa_{kind}.nii.gz")[0] for kind in ("reference", "super_resolved")}
    difference, affine = read_image(tmp_path / "out" / "fa_difference.nii.gz")
    np.testing.assert_allclose(difference, maps["super_resolved"] - maps["reference"], atol=1e-6)
    np.testing.assert_allclose(affine, scan.affine, atol=1e-5)
    assert read_dwi(tmp_path / "out" / "super_resolved.nii.gz").spatial_shape == scan.spatial_shape


def test_fibre_errors_are_small_without_noise_and_grow_with_it():
    medians = []
    for snr in (None, 10):
        scan = phantoms.phantom((34, 42, 8), VOXEL, snr=snr)
        errors = demo.fibre_errors(evaluate(scan, 2, (), methods=("nearest",)))
        medians.append([float(text.rstrip("°")) for text in errors.values()])
    (clean, clean_low), (noisy, noisy_low) = medians
    assert clean < 2
    assert clean < clean_low
    assert noisy > 2 * clean
    assert noisy < 20
    assert noisy_low < 20
