"""The fault matrix itself: what it looks for on the disk, with losses planted."""

import random

import nibabel as nib
import numpy as np
import pytest

from . import __main__ as matrix
from .commands import COMMANDS, Command, fingerprints, half_written, left_over


@pytest.fixture
def outputs(tmp_path):
    image = nib.Nifti1Image(np.random.default_rng(0).random((20, 20, 20), np.float32), np.eye(4))
    nib.save(image, tmp_path / "fa.nii.gz")
    (tmp_path / "report.html").write_text("<html></html>\n")
    (tmp_path / "scores.json").write_text("{}")
    return tmp_path


def test_whole_files_pass_and_cut_ones_are_found(outputs):
    assert half_written(outputs) == []
    for path in list(outputs.iterdir()):
        path.write_bytes(path.read_bytes()[:-9] if path.suffix != ".json" else b"{")
    assert half_written(outputs) == ["fa.nii.gz", "report.html", "scores.json"]


def test_temporary_files_are_left_over_not_half_written(outputs):
    (outputs / ".fa.nii.gz.4711-1f2e3d4c.tmp").write_bytes(b"\x1f\x8b")
    assert half_written(outputs) == []
    assert left_over(outputs) == [".fa.nii.gz.4711-1f2e3d4c.tmp"]


def _script(text):
    return Command("script", lambda i, o: ["-c", f"import os, sys, time\ni, o = {str(i)!r}, {str(o)!r}\n{text}"])


@pytest.fixture
def case_of(tmp_path, monkeypatch):
    """A case of a few lines of Python in place of a command."""

    def make(text):
        command = _script(text)
        line = lambda i, o: [matrix.sys.executable, *command.arguments(i, o)]  # noqa: E731
        object.__setattr__(command, "line", line)
        return matrix.Case(command, tmp_path / "case", random.Random(0))

    return make


WRITE = "open(o + '/scores.json', 'w').write('{}')"


def test_a_command_that_alters_its_input_is_caught(case_of):
    case = case_of(WRITE)
    (case.inputs / "scan.bval").write_text("0")
    assert case.wrong(case.outputs) == ["an input was altered"]


def test_a_file_that_no_run_clears_is_caught(case_of):
    case = case_of(WRITE)
    (case.outputs / ".scores.json.1-12345678.tmp").write_text("")
    assert case.end_kills() == ["after kills: left over: .scores.json.1-12345678.tmp"]


def test_two_that_both_write_are_caught(case_of):
    case = case_of(WRITE)
    assert any("exit codes [0, 0]" in what for what in case.two_at_once())


def test_a_traceback_is_caught(case_of):
    case = case_of(WRITE + "\nif o.endswith('scarce'): raise ValueError")
    assert any("traceback" in what for what in case.little_memory(1.0, 1 << 40))


def test_commands_do_what_they_are_for(tmp_path):
    """Without any fault, one of them: whole outputs, untouched inputs, nothing left over."""
    case = matrix.Case(COMMANDS["maps"], tmp_path / "case", random.Random(0))
    assert {"maps/fa.nii.gz", "maps/mask.nii.gz"} <= case.whole
    assert case.wrong(case.outputs) == []
    assert left_over(case.outputs) == []
    assert set(fingerprints(case.outputs)) == case.whole
