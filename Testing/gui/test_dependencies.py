"""Python packages the child needs: what is asked, said and installed; nothing real is."""

import importlib
import subprocess
import sys

import pytest

from Testing.conftest import oracle

oracle("slicer")

import slicer

from DWISuperResLib.errors import Cancelled, MissingDependencyError, ProcessingError
from Testing.slicer_host import start


@pytest.fixture
def host():
    host = start()
    host.new_scene()
    yield host
    host.main_window = "a window"
    host.new_scene()


@pytest.fixture
def dependencies(host, monkeypatch):
    from DWISuperResLib.gui import dependencies

    missing = {"dipy>=1.12"}
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: requirement not in missing)

    def pip_ensure(requirements, **options):
        host.installed.append(requirements)
        missing.clear()

    monkeypatch.setattr(slicer.packaging, "pip_ensure", pip_ensure)
    monkeypatch.setattr(dependencies, "torch_state", lambda: "present")
    return dependencies


def test_asked_once_and_installed(dependencies, host):
    for _ in range(2):
        dependencies.Dependencies().ensure()
    assert len(host.questions) == 1
    assert "dipy>=1.12" in host.questions[0]
    assert "GB" in host.questions[0]
    assert host.installed == [["dipy>=1.12"]]


def test_declined(dependencies, host):
    host.answer = False
    with pytest.raises(Cancelled, match="not installed"):
        dependencies.Dependencies().ensure()
    assert not host.installed


def test_nobody_to_ask(dependencies, host):
    host.main_window = None
    with pytest.raises(MissingDependencyError, match="with a window"):
        dependencies.Dependencies().ensure()
    assert not host.questions


def test_torch_through_its_extension(dependencies, host, monkeypatch):
    monkeypatch.setattr(dependencies, "torch_state", lambda: "missing")
    with pytest.raises(MissingDependencyError, match="Extensions Manager"):
        dependencies.Dependencies().ensure()
    calls = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            calls.append(options)
            return None if len(calls) == 1 else "torch"

    extension = type(sys)("PyTorchUtils")
    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    with pytest.raises(Cancelled, match="PyTorch was not installed"):
        dependencies.Dependencies().ensure()
    dependencies.Dependencies().ensure()
    assert calls[-1] == {"torchVersionRequirement": ">=2.2"}
    assert "PyTorch" in host.questions[-1]


def test_half_installed_torch(dependencies, host, monkeypatch):
    monkeypatch.setattr(dependencies, "torch_state", lambda: "partial")
    with pytest.raises(MissingDependencyError, match="partly installed"):
        dependencies.Dependencies().ensure()
    assert not host.questions


def test_pip_failure_shows_its_last_line(dependencies, monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "pip", output="Collecting dipy\nERROR: no matching distribution\n")

    monkeypatch.setattr(slicer.packaging, "pip_ensure", fail)
    with pytest.raises(ProcessingError, match="no matching distribution"):
        dependencies.Dependencies().ensure()


def test_torch_state_without_importing_it(host, monkeypatch, tmp_path):
    from DWISuperResLib.gui.dependencies import torch_state

    def state():
        importlib.invalidate_caches()
        return torch_state()

    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert state() == "missing"
    package, metadata = tmp_path / "torch", tmp_path / "torch-2.9.0.dist-info"
    package.mkdir()
    assert state() == "partial"  # a folder without __init__.py
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    assert state() == "partial"  # no metadata
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.0\n")
    assert state() == "partial"  # metadata without a list of files
    (metadata / "RECORD").write_text("torch/__init__.py,,\n")
    assert state() == "present"
