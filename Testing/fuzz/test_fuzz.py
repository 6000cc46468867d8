"""The fuzzer itself: its corpus passes, and it notices what it is there for."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from DWISuperResLib.errors import InputError

from . import targets
from .__main__ import mutate
from .targets import TARGETS, import_readers, outcome_of, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read_or_refused_in_words(name, tmp_path):
    import_readers(name, tmp_path)
    kinds = {outcome_of(TARGETS[name], data, tmp_path, seconds=60).kind for data in seeds(name)}
    assert "read" in kinds
    assert kinds <= {"read", "refused"}


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_are_read_or_refused_in_words(name, tmp_path):
    rng, corpus = random.Random(0), seeds(name)
    import_readers(name, tmp_path)
    found = [outcome_of(TARGETS[name], mutate(rng.choice(corpus), rng, corpus), tmp_path, 60) for _ in range(150)]
    assert [outcome for outcome in found if outcome.kind == "crash"] == []
    assert len(set(found)) > 3


def _refuses(data, folder):
    raise InputError(f"{folder} holds 3 of 'these'; expected 4.")


def _crashes(data, folder):
    raise KeyError("x")


def _takes_long(data, folder):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def _takes_memory(data, folder):
    raise MemoryError


@pytest.mark.parametrize(
    ("target", "kind", "detail"),
    [
        (_refuses, "refused", "FILE holds N of TEXT; expected N"),
        (_crashes, "crash", "KeyError"),
        (_takes_long, "crash", "TooSlowError"),
        (_takes_memory, "crash", "MemoryError"),
    ],
)
def test_outcomes_are_told_apart(target, kind, detail, tmp_path):
    found = outcome_of(target, b"", tmp_path, seconds=0.2)
    assert (found.kind, found.detail.startswith(detail)) == (kind, True)


def test_a_run_finds_a_planted_fault_and_goes_on_after_a_process_that_dies(tmp_path):
    """The whole command, with a reader that fails on some inputs and takes its process down on others."""
    planted = tmp_path / "planted.py"
    planted.write_text(
        "import os, sys\n"
        "from Testing.fuzz import __main__ as fuzzer, targets\n"
        "def card(data, folder):\n"
        "    if data[:1] > b'{': raise ValueError('planted')\n"
        "    if data[:1] == b'[': os._exit(7)\n"
        "targets.TARGETS['card'] = card\n"
        "sys.exit(fuzzer.main())\n"
    )
    output = tmp_path / "child"
    output.mkdir()
    root = Path(targets.__file__).parents[2]
    command = [sys.executable, planted, "--child", "card", "--seconds", "20", "--folder", tmp_path, "--output", output]
    ended = subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, timeout=200)
    counts = json.loads((output / "counts.json").read_text()) if (output / "counts.json").exists() else {}
    assert ended.returncode == 7 or any("ValueError" in what for what in counts["crashes"])
    assert (tmp_path / "current").exists()
