"""Adding one thing touches one room: what CONTRIBUTING.md registers, in one place each, is found everywhere.

The toys are the snippets of that page, run as they stand there, so that it cannot tell what is not true.
"""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest

from DWISuperResLib import losses, networks
from DWISuperResLib.apps.cli import main
from DWISuperResLib.checkpoints import Card, load_checkpoint, save_checkpoint
from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation.compare import compare
from DWISuperResLib.evaluation.evaluate import evaluate
from DWISuperResLib.evaluation.report import write_report
from DWISuperResLib.inference.predict import super_resolve
from DWISuperResLib.io import FORMATS, read_dwi, read_image, write_dwi
from DWISuperResLib.io.cohort import find_scans
from DWISuperResLib.losses import registry as loss_registry
from DWISuperResLib.metrics import METRICS
from DWISuperResLib.microstructure import compute_maps, models
from DWISuperResLib.phantoms import phantom
from DWISuperResLib.resampling.degradation import DEGRADATIONS, degrade
from DWISuperResLib.resampling.upsamplers import UPSAMPLERS, interpolate
from DWISuperResLib.studies import STUDIES
from DWISuperResLib.training import train, validated
from DWISuperResLib.training.monitors import monitors
from Testing.conftest import oracle

GUIDE = Path(__file__).parents[1] / ".github/CONTRIBUTING.md"
REGISTRIES = (
    DEGRADATIONS,
    FORMATS,
    METRICS,
    STUDIES,
    UPSAMPLERS,
    loss_registry._TERMS,
    models._MODELS,
    networks._CLASSES,
)


@pytest.fixture(scope="module", autouse=True)
def toys():
    """Everything that the guide registers, for this file only."""
    before = [dict(registry) for registry in REGISTRIES]
    snippets = re.findall(r"^### an? (.+?)$.*?^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert [name for name, _ in snippets] == [
        "network", "loss", "map", "metric", "degradation", "upsampler", "file format", "study",
    ]  # fmt: skip
    for name, code in snippets:
        exec(compile(code, f"CONTRIBUTING.md, {name}", "exec"), {"__name__": f"toy_{name}".replace(" ", "_")})
    added = [len(set(registry) - set(old)) for registry, old in zip(REGISTRIES, before, strict=True)]
    assert added == [1] * len(REGISTRIES)
    yield
    for registry, old in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(old)


@pytest.fixture(scope="module")
def scan():
    return phantom((32, 36, 3), (5, 5, 30), supersampling=1, shells=((0, 1), (1000, 8)))


@pytest.fixture
def scan_file(scan, tmp_path):
    write_dwi(scan, tmp_path / "scan.npz")  # the toy format
    return tmp_path / "scan.npz"


def help_of(capsys, monkeypatch, *command):
    monkeypatch.setenv("COLUMNS", "400")
    with contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "toy"),
    [
        (["run"], "toy_upsampler"),
        (["evaluate"], "toy_upsampler"),
        (["maps"], "toy_map"),
        (["compare"], "toy_map"),
        (["maps"], "npz"),
        (["degrade"], "toy_degradation"),
        (["evaluate"], "toy_degradation"),
        (["study"], "toy_study"),
        (["study", "toy_study"], "--rounds"),
    ],
)
def test_the_command_line_offers_it(command, toy, capsys, monkeypatch):
    assert toy in help_of(capsys, monkeypatch, *command)


def test_the_command_line_runs_it(scan, scan_file, tmp_path):
    quiet = ["--progress", "none"]
    low, up, maps = tmp_path / "low.npz", tmp_path / "up.npz", tmp_path / "maps"
    assert main(["degrade", str(scan_file), str(low), "--degradation", "toy_degradation", *quiet]) == 0
    assert main(["run", str(low), str(up), "--method", "toy_upsampler", *quiet]) == 0
    assert main(["maps", str(up), str(maps), "--maps", "toy_map", "--format", "npz", *quiet]) == 0
    expected = interpolate(degrade(scan, 2, model="toy_degradation"), 2, method="toy_upsampler")
    np.testing.assert_array_equal(read_dwi(up).signal, expected.signal)
    mask, _ = read_image(maps / "mask.npz")
    attenuation = expected.signal[..., 1:].mean(-1) / np.maximum(expected.signal[..., 0], 1e-6)
    np.testing.assert_allclose(read_image(maps / "toy_map.npz")[0], np.where(mask > 0, attenuation, 0), rtol=1e-5)


def test_the_command_line_runs_a_study(scan_file, tmp_path):
    output = tmp_path / "study"
    arguments = ["study", "toy_study", str(scan_file), "--output", str(output), "--rounds", "3", "--progress", "none"]
    assert main(arguments) == 0
    assert "Toy study" in (output / "report.html").read_text(encoding="utf-8")


def test_folders_are_searched_for_the_format(scan_file):
    assert scan_file in find_scans([str(scan_file)])


def test_errors_name_it(scan):
    with pytest.raises(InputError, match="toy_upsampler"):
        interpolate(scan, 2, method="nothing")
    with pytest.raises(InputError, match="toy_degradation"):
        degrade(scan, 2, model="nothing")
    with pytest.raises(InputError, match="toy_map"):
        compute_maps(scan, ("nothing",))
    with pytest.raises(InputError, match=r"\.npz"):
        read_dwi("scan.nothing")
    with pytest.raises(InputError, match="toy_network"):
        networks.build("nothing")
    with pytest.raises(InputError, match="toy_loss"):
        losses.build_loss([{"name": "nothing"}])


def test_the_report_shows_it(scan, tmp_path):
    methods = ("linear", "toy_upsampler")
    evaluation = evaluate(scan, 2, (), methods=methods, model="toy_degradation", distances=())
    assert evaluation.conditions["degradation"]["model"] == "toy_degradation"
    for method in methods:
        assert evaluation.score(method, "fa", "toy_metric") > 0
    write_report(evaluation, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for what in ("toy_degradation", "toy_upsampler", "largest error"):
        assert what in page, what
    assert "toy_metric" in evaluation.as_tsv()


def test_the_comparison_shows_it(scan, tmp_path):
    test = interpolate(degrade(scan, 2), 2)
    comparison = compare(scan, test, ("fa", "toy_map"))
    (row,) = [r for r in comparison.statistics if r["map"] == "toy_map" and r["region"] == "brain"]
    mask, difference = comparison.mask, comparison.difference["toy_map"]
    assert row["toy_metric"] == pytest.approx(np.abs(difference[mask]).max(), rel=1e-6)
    assert row["mae"] == pytest.approx(np.abs(difference[mask]).mean(), rel=1e-5)


def test_training_offers_it_and_its_checkpoint_is_used(scan, scan_file, tmp_path):
    assert {"toy_metric", "fa_toy_metric"} <= set(monitors())
    low = degrade(scan, 2)
    configuration = validated(
        {
            "name": "toy",
            "output": str(tmp_path / "training"),
            "data": {"scans": [str(scan_file)], "validation": [], "patch": 16, "workers": 0, "slabs": 1, "patches": 1},
            "network": {"architecture": "toy_network", "arguments": {"width": 4}},
            "degradation": {"models": {"toy_degradation": 1}},
            "loss": [{"name": "toy_loss", "power": 2.0}],
            "schedule": {"epochs": 1, "steps_per_epoch": 1},
            "machine": {"accelerator": "cpu", "progress": False},
            "validation": {"monitor": "toy_metric"},
        }
    )
    checkpoint = load_checkpoint(train(configuration))
    assert checkpoint.card.architecture == "toy_network"
    assert "toy_loss" in str(checkpoint.card.loss)
    assert super_resolve(low, checkpoint, 2, device="cpu").spatial_shape == scan.spatial_shape
    with pytest.raises(InputError, match="toy_degradation"):
        validated({"data": {"scans": ["scan.nii"]}, "degradation": {"models": {"nothing": 1}}})


def test_a_checkpoint_keeps_the_network(tmp_path):
    network = networks.build("toy_network", width=4)
    save_checkpoint(tmp_path / "toy.safetensors", network.state_dict(), Card("toy", "toy_network", {"width": 4}, (2,)))
    assert load_checkpoint(tmp_path / "toy.safetensors").card.view == network.view.describe()


def test_the_panel_offers_it():
    oracle("slicer")
    from Testing.slicer_host import start

    start()
    from DWISuperResLib.gui import choices

    assert ("TOY", "toy_map") in choices.maps()
    assert choices.map_help("toy_map") == "mean attenuation"
    assert ("the nearest voxel alone", "toy_degradation") in choices.degradations()
