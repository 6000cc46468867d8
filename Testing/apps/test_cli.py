"""The command line: files in and out, exit codes, JSON lines, cancelling; the library's own tests cover the numbers."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import Mock, create_autospec

import numpy as np
import pytest

from DWISuperResLib import microstructure, phantoms
from DWISuperResLib.apps import cli, scans
from DWISuperResLib.apps.options import parse
from DWISuperResLib.inference.options import InferenceOptions
from DWISuperResLib.io import read_dwi, read_image, scan_outputs, write_dwi, write_image
from DWISuperResLib.microstructure import compute_maps, map_names
from DWISuperResLib.resampling.degradation import DEGRADATIONS, degrade
from DWISuperResLib.resampling.upsamplers import UPSAMPLERS, interpolate
from DWISuperResLib.studies import STUDIES

ROOT = Path(__file__).parents[2]
SHELLS = ((0, 1), (1000, 7))


@pytest.fixture(scope="module")
def scan():
    return phantoms.phantom((36, 44, 4), (4, 4, 12), shells=SHELLS)


@pytest.fixture
def scan_file(scan, tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_dwi(scan, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small network that was never trained."""
    import torch

    from DWISuperResLib.checkpoints import Card, save_checkpoint
    from DWISuperResLib.networks import build

    arguments = {"scales": [2], "width": 8, "blocks": [1, 1], "neighbours": 0, "guidance": []}
    network = build("sr_unet", **arguments)
    weights = {name: torch.linspace(-0.1, 0.1, w.numel()).reshape(w.shape) for name, w in network.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "untrained.safetensors"
    save_checkpoint(path, weights, Card("untrained", "sr_unet", arguments, (2,)))
    return path


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def json_lines(capfd):
    output = capfd.readouterr().out
    assert output.isascii()
    return [json.loads(line) for line in output.splitlines()]


def test_commands_show_help_with_an_example(capsys):
    commands = ["run", "maps", "compare", "degrade", "evaluate", "train", "demo"]
    commands += ["study layers", "study untrained", "study metrics"]
    commands += ["checkpoints list", "checkpoints info", "checkpoints import", "checkpoints calibrate"]
    for command in commands:
        with pytest.raises(SystemExit) as exit_:
            run(*command.split(), "--help")
        assert exit_.value.code == 0
        assert f"dwi-superres {command}" in capsys.readouterr().out.split("example:")[1]


def test_help_names_every_choice(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # a name must not be broken over two lines
    for command, names in (("run", UPSAMPLERS), ("degrade", DEGRADATIONS), ("maps", map_names())):
        with pytest.raises(SystemExit):
            run(command, "--help")
        text = capsys.readouterr().out
        assert all(name in text for name in names)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".nhdr"])
def test_degrade_and_interpolate_write_what_the_library_computes(scan, scan_file, tmp_path, suffix):
    low, up = tmp_path / f"low{suffix}", tmp_path / f"up{suffix}"
    assert run("degrade", scan_file, low, "--scale", 2, "--snr", 20, "--seed", 3) == 0
    expected = degrade(scan, 2, snr=20, seed=3)
    np.testing.assert_allclose(read_dwi(low).signal, expected.signal, rtol=1e-6)
    assert run("run", low, up, "--method", "cubic") == 0
    written = read_dwi(up)
    np.testing.assert_allclose(written.signal, interpolate(expected, 2, method="cubic").signal, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)


def test_thick_slices_and_iterative_upsamplers_by_the_command_line(scan, scan_file, tmp_path, capfd):
    thick, up = tmp_path / "thick.nii.gz", tmp_path / "up.nii.gz"
    size = float(scan.voxel_sizes[2])
    options = ["--scale", "1x1x2", "--degradation", "profile", "--fwhm", 1.5 * size, "--gap", 0.5 * size]
    assert run("degrade", scan_file, thick, *options) == 0
    expected = degrade(scan, "1x1x2", model="profile", fwhm=1.5 * size)
    np.testing.assert_allclose(read_dwi(thick).signal, expected.signal, rtol=1e-5)
    capfd.readouterr()
    assert run("run", thick, up, "--scale", "1x1x2", "--method", "lrtv", "--progress", "json") == 0
    fractions = [line["fraction"] for line in json_lines(capfd) if line["type"] == "progress"]
    assert fractions == sorted(fractions)
    restored = interpolate(expected, "1x1x2", method="lrtv").signal
    np.testing.assert_allclose(read_dwi(up).signal, restored, atol=1e-4 * restored.max())


def test_run_gives_what_the_engine_computes_with_the_same_options(scan, scan_file, checkpoint, tmp_path):
    from DWISuperResLib.inference.predict import super_resolve_with_uncertainty

    out, deviation = tmp_path / "sr.nrrd", tmp_path / "deviation.nrrd"
    options = ["--device", "cpu", "--precision", "fp32", "--consistent", "--axis", "k", "--batch-size", 3]
    assert run("run", scan_file, out, "--checkpoint", checkpoint, *options, "--uncertainty", deviation) == 0
    expected, spread = super_resolve_with_uncertainty(
        scan, checkpoint, 2, device="cpu", precision="fp32", consistent=True
    )
    np.testing.assert_allclose(read_dwi(out).signal, expected.signal, atol=1e-4 * expected.signal.max())
    np.testing.assert_allclose(read_dwi(deviation).signal, spread, atol=1e-4 * expected.signal.max())
    assert spread.max() > 1e-3 * expected.signal.max()


def test_maps_of_a_given_mask(scan, scan_file, tmp_path):
    mask = np.zeros(scan.spatial_shape, np.uint8)
    mask[10:26, 12:32, 1:3] = 1
    write_image(mask, scan.affine, tmp_path / "mask.nrrd")
    options = ["--maps", "md,gfa", "--format", "nrrd", "--mask", tmp_path / "mask.nrrd"]
    assert run("maps", scan_file, tmp_path / "maps", *options) == 0
    expected = compute_maps(scan, ("md", "gfa"), mask=mask)
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"md.nrrd", "gfa.nrrd", "mask.nrrd"}
    for name, values in expected.items():
        written, affine = read_image(tmp_path / "maps" / f"{name}.nrrd")
        np.testing.assert_allclose(written, values, rtol=1e-6)
        np.testing.assert_allclose(affine, scan.affine, atol=1e-6)


def test_compare_writes_maps_differences_statistics_and_a_report(scan, scan_file, tmp_path, capfd):
    noisy = tmp_path / "noisy.nrrd"
    write_dwi(degrade(scan, 1, snr=15), noisy)
    assert run("compare", scan_file, noisy, tmp_path / "out", "--maps", "fa,qa", "--progress", "json") == 0
    result = json_lines(capfd)[-1]
    assert result["type"] == "result"
    names = {f"{m}_{kind}.nii.gz" for m in ("fa", "qa") for kind in ("reference", "test", "difference")}
    assert names | {"statistics.tsv", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}
    fa = {kind: read_image(tmp_path / "out" / f"fa_{kind}.nii.gz")[0] for kind in ("reference", "test", "difference")}
    np.testing.assert_allclose(fa["difference"], fa["test"] - fa["reference"], atol=1e-6)
    header, *rows = [line.split("\t") for line in Path(result["statistics"]).read_text().splitlines()]
    brain = dict(zip(header, next(row for row in rows if row[:2] == ["fa", "brain"]), strict=True))
    assert float(brain["mae"]) > 0
    assert int(brain["n"]) > 100
    assert "<html" in Path(result["report"]).read_text(encoding="utf-8")


def test_evaluate_scores_every_method(scan_file, checkpoint, tmp_path):
    options = ["--checkpoint", checkpoint, "--methods", "nearest,sinc", "--device", "cpu", "--distances", "dists"]
    assert run("evaluate", scan_file, tmp_path / "out", *options) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.html", "scores.tsv", "scores.json"}
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in scores["scores"]} == {"nearest", "sinc", "untrained"}
    assert list(scores["conditions"]["deep distances"]) == ["dists"]


@pytest.mark.parametrize(
    ("name", "given", "received"),
    [
        ("layers", ["--snr", "none", "12", "--held-out", "c.nrrd"], {"snr": (None, 12.0), "held_out": ("c.nrrd",)}),
        ("untrained", ["--noise", "5", "--steps", "50", "--held-out", "0.5"],
         {"noise": (5.0,), "steps": 50, "held_out": 0.5}),
        ("metrics", ["--weights", "lpips=a.pth", "--keep-images"],
         {"weights": {"lpips": "a.pth"}, "keep_images": True}),
    ],
)  # fmt: skip
def test_studies_get_what_was_asked_and_their_own_defaults(tmp_path, monkeypatch, capfd, name, given, received):
    """Training takes minutes: the study itself is replaced."""
    study = STUDIES[name]
    called = create_autospec(study.run, return_value=tmp_path / "report.html")
    monkeypatch.setitem(STUDIES, name, replace(study, run=called))
    options = ["--seed", "7", *given, "--progress", "json"]
    assert run("study", name, "a.nii.gz", "b.nii.gz", "--output", tmp_path, *options) == 0
    assert json_lines(capfd)[-1] == {"type": "result", "report": str(tmp_path / "report.html")}
    (asked,), _ = called.call_args
    assert asked == study.options(data=("a.nii.gz", "b.nii.gz"), output=tmp_path, seed=7, **received)


@dataclass(frozen=True)
class MoreOptions(InferenceOptions):
    """As if a field had been added."""

    sharpness: float = field(default=1.0, metadata={"help": "a toy"})


def test_an_added_inference_option_is_an_added_flag(monkeypatch):
    more = dataclass(frozen=True, kw_only=True)(
        type("Run", (scans.Run,), {"__annotations__": {"inference": MoreOptions}, "inference": MoreOptions()})
    )
    options = MoreOptions(device="cpu", ensemble=True, batch_size=3, axis="j", sharpness=2.5)
    read = parse(more, ["in.nii", "out.nii", *options.as_arguments()], "run", "")
    assert read.inference == options


def test_a_registered_upsampler_degradation_and_map_are_found_in_the_help(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setitem(UPSAMPLERS, "toy-upsampler", UPSAMPLERS["linear"])
    monkeypatch.setitem(DEGRADATIONS, "toy-degradation", DEGRADATIONS["area"])
    info = microstructure.MapInfo("toymap", "T", "toy")
    model = microstructure.MapModel("toy", (info,), fit=lambda *_: None, options=ToyOptions)
    without = [microstructure.MapModel(name, (), fit=lambda *_: None) for name in ("first", "second")]
    monkeypatch.setattr(
        microstructure.models,
        "_MODELS",
        microstructure.models._MODELS | {each.name: each for each in (model, *without)},
    )
    for command, words in (
        ("run", ["toy-upsampler"]),
        ("evaluate", ["toy-upsampler", "toy-degradation"]),
        ("degrade", ["toy-degradation"]),
        ("maps", ["toymap", "--toy-length", "how long a toy is"]),
        ("compare", ["toymap"]),
    ):
        with pytest.raises(SystemExit):
            run(command, "--help")
        text = capsys.readouterr().out
        assert all(word in text for word in words)


@dataclass(frozen=True)
class ToyOptions:
    """Of a map that only the test knows."""

    toy_length: float = field(default=1.0, metadata={"help": "how long a toy is"})


def test_checkpoints_list_and_info(checkpoint, capfd):
    assert run("checkpoints", "list", "--progress", "json") == 0
    (line,) = json_lines(capfd)
    from DWISuperResLib.checkpoints import shipped_checkpoints

    assert [card["name"] for card in line["checkpoints"]] == shipped_checkpoints()
    assert run("checkpoints", "list") == 0
    assert "x1x1x2, x1x1x3" in capfd.readouterr().out
    assert run("checkpoints", "info", checkpoint) == 0
    assert "sr_unet" in capfd.readouterr().out


def test_importing_refuses_a_file_that_would_run_code(tmp_path, capfd):
    pickled = tmp_path / "model.pth"
    pickled.write_bytes(b"cbuiltins\neval\n(S'1+1'\ntR.")
    assert run("checkpoints", "import", pickled, tmp_path / "model.safetensors") == 2
    assert "model.pth" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]


def test_json_mode_reports_every_step_in_ascii(scan_file, checkpoint, tmp_path, capfd, monkeypatch):
    """What a library prints, even from C, must not end up between the lines."""
    from DWISuperResLib.inference import predict as engine

    original = engine.super_resolve

    def chatty(*arguments, **options):
        print("a message from Python")
        os.write(1, b"a message from C\n")
        return original(*arguments, **options)

    monkeypatch.setattr(engine, "super_resolve", chatty)
    out = tmp_path / "größe.nii.gz"
    assert run("run", scan_file, out, "--checkpoint", checkpoint, "--progress", "json") == 0
    captured = capfd.readouterr()
    assert captured.out.isascii()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert lines[0]["type"] == "status"
    assert (lines[-1]["type"], lines[-1]["output"]) == ("result", str(out))
    assert all(isinstance(sentence, str) for sentence in lines[-1]["warnings"])
    fractions = [line["fraction"] for line in lines if line["type"] == "progress"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert "a message from Python" in captured.err
    assert "a message from C" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "{tmp}/absent.nii.gz", "{tmp}/out.nii.gz", "--method", "sinc"], "absent.nii.gz"),
        (["run", "{scan}", "{tmp}/out.jpg", "--method", "sinc"], "not named as an image"),
        (["run", "{scan}", "{scan}", "--method", "sinc"], "already exists"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--method", "magic"], "magic"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--method", "sinc", "--ensemble"], "--ensemble"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--checkpoint", "{tmp}/absent.safetensors"], "absent.safetensors"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--method", "sinc", "--scale", "two"], "The scale is 'two'"),
        (["run", "{scan}"], "OUTPUT"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--batch-size", "few"], "--batch-size"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--checkpoint", ""], "--checkpoint is empty"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--method", "sinc", "--mask", "m.nii"], "--mask and --method exclude"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--uncertainty", "{tmp}/out.nii.gz"], "Two outputs would both"),
        (["run", "{scan}", "{tmp}/out.nii.gz", "--uncertainty", "{tmp}/out.nii"], "Two outputs would both"),
        (["maps", "{scan}", "{tmp}/maps", "--mask", "{empty}"], "is empty: no voxel is above 0"),
        (["maps", "{scan}", "{tmp}/maps", "--maps", ""], "names nothing"),
        (["maps", "{scan}", "{tmp}/maps", "--qa-scale", "0"], "QA scale"),
        (["maps", "{scan}", "{tmp}/maps", "--qa-scale", "-1"], "QA scale"),
        (["maps", "{scan}", "{tmp}/maps", "--qa-scale", "nan"], "QA scale"),
        (["degrade", "{scan}", "{tmp}/out.nii.gz", "--seed", "-1"], "'-1' is no seed"),
        (["degrade", "{scan}", "{tmp}/out.nii.gz", "--snr", "0"], "no number above 0"),
        (["degrade", "{scan}", "{tmp}/out.nii.gz", "--gap", "-1"], "no number from 0 on"),
        (["degrade", "{scan}", "{tmp}/out.nii.gz", "--model", "area"], "--model"),
        (["run", "{tmp}/" + "x" * 300 + ".nii", "{tmp}/out.nii.gz", "--method", "sinc"], "File name too long"),
        (["run", "{scan}", "{tmp}/" + "x" * 300 + ".nii", "--method", "sinc"], "too long for this file system"),
        (["study", "layers", "--output", "{tmp}/study"], "no scans"),
        (["degrade", "{scan}", "{tmp}/out.nii.gz", "--scale", "9"], "1 to 5"),
        (["maps", "{scan}", "{tmp}/maps", "--maps", "fa,colour"], "colour"),
        (["maps", "{scan}", "{tmp}", "--maps", "fa"], "not empty"),
        (["compare", "{scan}", "{low}", "{tmp}/out"], "same grid"),
        (["checkpoints", "info", "absent"], "absent"),
        (["nonsense"], "nonsense"),
    ],
)
def test_bad_input_exits_2_with_one_sentence_and_leaves_nothing(scan, scan_file, tmp_path, arguments, words, capfd):
    low = tmp_path / "low.nrrd"
    write_dwi(degrade(scan, 2), low)
    empty = tmp_path / "empty.nrrd"
    write_image(np.zeros(scan.spatial_shape, np.uint8), scan.affine, empty)
    before = sorted(tmp_path.iterdir())
    filled = [text.format(scan=scan_file, tmp=tmp_path, low=low, empty=empty) for text in arguments]
    assert run(*filled) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dwi-superres: ")
    assert words in error
    assert run(*filled, "--progress", "json") == 2
    last = json_lines(capfd)[-1]
    assert last["type"] == "error"
    assert words in last["message"]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("factor", "words"), [(1e-3, "ms/µm²"), (1e3, "beyond any scanner"), (1e6, "beyond any")])
def test_b_values_in_other_units_are_told_with_the_result(scan, tmp_path, factor, words, capfd):
    low = tmp_path / "scan.nii.gz"
    write_dwi(scan, low)
    np.savetxt(tmp_path / "scan.bval", [scan.bvals * factor])
    assert run("degrade", low, tmp_path / "out.nii.gz", "--progress", "json") == 0
    (warning,) = json_lines(capfd)[-1]["warnings"]
    assert words in warning
    assert run("degrade", low, tmp_path / "out.nii.gz", "--overwrite") == 0
    captured = capfd.readouterr()
    assert words in captured.err
    assert words in captured.out.splitlines()[-1]


def test_a_slice_axis_that_is_only_assumed_is_told(scan, tmp_path, capfd):
    isotropic = replace(scan, affine=np.diag([2.0, 2, 2, 1]), acquisition_axis=None)
    for name, dwi, told in (
        ("isotropic", isotropic, True),
        ("named", replace(isotropic, acquisition_axis=0), False),
        ("thick", scan, False),
    ):
        write_dwi(dwi, tmp_path / f"{name}.nii.gz")
        arguments = ("degrade", tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_low.nii.gz")
        assert run(*arguments) == 0
        assert ("Slice axis k, assumed" in capfd.readouterr().err) == told
        assert run(*arguments, "--overwrite", "--axis", "k") == 0
        assert "assumed" not in capfd.readouterr().err


def test_a_second_run_into_one_output_fails_with_a_sentence(scan_file, tmp_path, capfd):
    out = tmp_path / "out.nii.gz"
    with scan_outputs([out]) as write:
        assert run("run", scan_file, out, "--method", "sinc", "--overwrite") == 2
        assert not out.exists()
        write(out, read_dwi(scan_file))
    assert f"Another run (process {os.getpid()}) is writing" in capfd.readouterr().err


def test_a_signal_between_two_outputs_leaves_neither(scan_file, checkpoint, tmp_path, capfd, monkeypatch):
    from DWISuperResLib.io import nifti

    write, calls = nifti.write_voxels, []

    def interrupt_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise cli._Interrupted(signal.SIGINT)
        write(*arguments)

    monkeypatch.setattr(nifti, "write_voxels", interrupt_second)
    before = sorted(tmp_path.iterdir())
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--uncertainty", tmp_path / "deviation.nii"]
    assert run("run", scan_file, tmp_path / "out.nii", *options) == 130
    assert "nothing was written" in capfd.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def command_line(*arguments, **options):
    command = [sys.executable, "-m", "DWISuperResLib", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("mode", ["auto", "json", "none"])
@pytest.mark.parametrize("gone", ["reader", "stdout", "stderr", "all"])
def test_work_is_done_and_said_though_nobody_listens(mode, gone, scan_file, tmp_path):
    out = tmp_path / "out.nii.gz"
    redirection = {"reader": "| true", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}[gone]
    arguments = f"run {scan_file} {out} --method sinc --progress {mode}"
    script = f"set -o pipefail; {sys.executable} -m DWISuperResLib {arguments} {redirection}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_dwi(out).spatial_shape == (72, 88, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["scan.nii.gz", "scan.bval", "scan.bvec", "out.nii.gz", "out.bval", "out.bvec"]
    )
    for word in ("Traceback", "Exception", "BrokenPipe"):
        assert word not in done.stderr
    if gone == "reader":
        assert f"Wrote {out}" in done.stderr
    if gone == "stderr":
        assert str(out) in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_names_that_the_output_cannot_encode_or_that_drive_a_terminal(encoding, scan_file, tmp_path):
    arguments = ("run", scan_file, tmp_path / "Kate\u0159ina\x1b[2J.nrrd", "--method", "nearest")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    with command_line(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        text, errors = (part.decode(encoding) for part in process.communicate())
    assert process.returncode == 0, errors
    assert "\x1b" not in text + errors
    assert ("Kate\u0159ina" if encoding == "utf-8" else "Kate\\u0159ina") in text


def test_help_in_an_encoding_without_boxes():
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    with command_line("run", "--help", stdout=subprocess.PIPE, env=environment) as process:
        text = process.communicate()[0].decode("cp1252")
    assert process.returncode == 0
    assert "--ensemble" in text
    assert "\\u2" not in text


def test_failures_of_the_system_are_sentences(capfd, monkeypatch):
    from DWISuperResLib import checkpoints

    for error, words in (
        (MemoryError(), "not enough memory"),
        (PermissionError(13, "Permission denied", "/some/file"), "/some/file cannot be used (Permission denied)"),
    ):
        monkeypatch.setattr(checkpoints, "read_card", Mock(side_effect=error))
        assert run("checkpoints", "info", "default") == 1
        assert words in capfd.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), SystemError("error return without exception set")])
def test_too_little_memory_to_read_the_arguments_is_a_sentence(error, capfd, monkeypatch):
    monkeypatch.setattr("DWISuperResLib.apps.cli._declared", Mock(side_effect=error))
    assert run("maps", "scan.nii", "out") == 1
    assert "not enough memory" in capfd.readouterr().err
    with pytest.raises(type(error)):
        run("maps", "scan.nii", "out", "--debug")


def test_outputs_are_refused_before_anything_is_read(tmp_path, scan_file, capfd):
    existing = tmp_path / "out.nii.gz"
    existing.write_bytes(b"precious")
    assert run("run", tmp_path / "absent.nii.gz", existing, "--method", "sinc") == 2
    assert "already exists" in capfd.readouterr().err
    assert existing.read_bytes() == b"precious"
    assert run("run", scan_file, existing, "--method", "sinc", "--overwrite") == 0
    assert read_dwi(existing).spatial_shape == (72, 88, 4)


def test_a_mask_on_another_grid_is_refused(scan, scan_file, tmp_path, capfd):
    write_image(np.ones((3, 3, 3), np.uint8), scan.affine, tmp_path / "mask.nii.gz")
    assert run("maps", scan_file, tmp_path / "maps", "--mask", tmp_path / "mask.nii.gz") == 2
    assert "mask" in capfd.readouterr().err


def test_an_unexpected_failure_exits_1_and_shows_its_traceback_only_when_asked(scan_file, tmp_path, capfd, monkeypatch):
    from DWISuperResLib.resampling import upsamplers as interpolation

    def broken(*arguments, **options):
        raise RuntimeError("the flux\ncapacitor broke")

    monkeypatch.setattr(interpolation, "interpolate", broken)
    arguments = ("run", scan_file, tmp_path / "out.nii.gz", "--method", "sinc")
    assert run(*arguments) == 1
    error = capfd.readouterr().err
    assert "RuntimeError: the flux capacitor broke" in error
    assert "Traceback" not in error
    with pytest.raises(RuntimeError, match="capacitor"):
        run(*arguments, "--debug")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_and_leaves_no_file(scan_file, tmp_path, capfd, monkeypatch, number, code):
    from DWISuperResLib import microstructure

    def interrupted(*arguments, **options):
        signal.raise_signal(number)
        pytest.fail("the signal was ignored")

    monkeypatch.setattr(microstructure, "compute_maps", interrupted)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    before = sorted(tmp_path.iterdir())
    assert run("maps", scan_file, tmp_path / "maps", "--progress", "json") == code
    assert json_lines(capfd)[-1]["kind"] == "Cancelled"
    assert sorted(tmp_path.iterdir()) == before
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
def test_terminating_the_process_stops_it_at_once(tmp_path, checkpoint):
    table = phantoms.phantom((1, 1, 1), shells=((0, 4), (1000, 60)))
    noise = np.random.default_rng(0).uniform(1, 2, (64, 64, 20, 64))
    write_dwi(replace(table, signal=noise), tmp_path / "large.nii")
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "DWISuperResLib", "run", str(tmp_path / "large.nii"), str(tmp_path / "sr.nii.gz")]
    command += ["--checkpoint", str(checkpoint), "--device", "cpu", "--batch-size", "1", "--progress", "json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if json.loads(line)["type"] == "progress":
                break
        process.send_signal(signal.SIGTERM)
        rest = [json.loads(line) for line in process.stdout]
        assert process.wait(timeout=60) == 143
    assert rest[-1]["kind"] == "Cancelled"
    assert sorted(tmp_path.iterdir()) == before


def test_an_interpolated_scan_is_told_and_taken_down(scan, checkpoint, tmp_path, capfd):
    filled, out, native = (tmp_path / f"{name}.nrrd" for name in ("filled", "out", "native"))
    write_dwi(interpolate(scan, 2), filled)
    options = ["--checkpoint", checkpoint, "--device", "cpu", "--precision", "fp32", "--progress", "json"]
    assert run("run", filled, out, *options) == 0
    told = " ".join(json_lines(capfd)[-1]["warnings"])
    assert "This scan of 72 x 88 x 4 holds" in told
    assert "--native takes it down first." in told
    assert run("run", filled, native, "--native", *options) == 0
    assert "holds" not in " ".join(json_lines(capfd)[-1]["warnings"])
    assert read_dwi(out).spatial_shape == (144, 176, 4)
    assert max(np.abs(np.subtract(read_dwi(native).spatial_shape, (72, 88, 4)))) <= 4
    assert run("run", filled, tmp_path / "sinc.nrrd", "--native", "--method", "sinc") == 0
    assert read_dwi(tmp_path / "sinc.nrrd").spatial_shape == read_dwi(native).spatial_shape


def test_a_calibrated_checkpoint_is_calibrated(scan_file, checkpoint, tmp_path, capfd):
    from DWISuperResLib.checkpoints import load_checkpoint
    from DWISuperResLib.evaluation.evaluate import evaluate

    out = tmp_path / "calibrated.safetensors"
    options = ["--device", "cpu", "--precision", "fp32", "--progress", "json"]
    assert run("checkpoints", "calibrate", checkpoint, scan_file, out, *options) == 0
    factor = json_lines(capfd)[-1]["factor"]
    before, after = load_checkpoint(checkpoint), load_checkpoint(out)
    assert (before.card.uncertainty_factor, after.card.uncertainty_factor) == (1.0, factor)
    assert all((after.weights[name] == values).all() for name, values in before.weights.items())
    how = {"methods": (), "distances": (), "device": "cpu", "precision": "fp32", "ensemble": True}
    evaluation = evaluate(read_dwi(scan_file), 2, (out,), **how)
    found = evaluation.reliability["untrained"]
    assert found.factor == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(found.coverage, found.calibrated, atol=0.01)
    assert json.loads(evaluation.as_json())["reliability"]["untrained"]["noise"] == pytest.approx(found.noise)
