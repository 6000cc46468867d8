"""`--require-oracles`: what is skipped without it fails with it."""

import os
import sys
from pathlib import Path

import pytest

from Testing.conftest import ORACLES

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest
from Testing.conftest import oracle

@pytest.mark.parametrize("name", ["mrtrix3", "chromium"])
def test_of_a_program(name):
    oracle(name)

def test_of_scans(shared_data):
    pass
"""


@pytest.mark.parametrize(("options", "outcome"), [([], {"skipped": 3}), (["--require-oracles"], "failed")])
def test_missing_oracles_skip_or_fail(pytester, monkeypatch, options, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    monkeypatch.setenv("DWISUPERRES_SHARED", str(pytester.path / "nowhere"))
    pytester.makeconftest("from Testing.conftest import pytest_addoption, pytest_configure, shared_data")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(*options, "-rsfE")
    if outcome == "failed":
        result.assert_outcomes(failed=2, errors=1)
        result.stdout.fnmatch_lines(["*--require-oracles: needs MRtrix3*"])
    else:
        result.assert_outcomes(**outcome)
        result.stdout.fnmatch_lines(["*needs MRtrix3*", "*needs Chromium*", "*needs the development data in*"])


def test_a_module_without_its_oracle_is_an_error(pytester, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    pytester.makeconftest("from Testing.conftest import pytest_addoption, pytest_configure")
    pytester.makepyfile("from Testing.conftest import oracle\noracle('mrtrix3')\ndef test(): pass")
    pytester.runpytest_subprocess().assert_outcomes(skipped=1)
    pytester.runpytest_subprocess("--require-oracles").assert_outcomes(errors=1)


def test_every_skip_for_want_of_something_goes_through_the_one_helper():
    """Other skips are for what a system or a machine is (Windows, a graphics card), not for what could be installed."""
    for path in sorted((ROOT / "Testing").rglob("*.py")):
        if path.name in ("conftest.py", Path(__file__).name):
            continue
        text = path.read_text(encoding="utf-8")
        assert "importorskip(" not in text.replace('importorskip("resource"', ""), path
        assert "skipif(shutil.which" not in text, path
        assert "skipif(importlib" not in text, path


def test_every_oracle_says_what_to_install():
    for name, (_, what) in ORACLES.items():
        assert name in what.lower().replace("development data", "scans"), name
