"""What must not drift: CMake's file lists against the tree, what an import loads, where the parts of a package lie."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from Testing.conftest import oracle

ROOT = Path(__file__).parents[1]


def cmake_list(path: Path, variable: str) -> list[str]:
    return re.search(rf"set\({variable}\s+(.*?)\)", path.read_text(encoding="utf-8"), re.S)[1].split()


def test_cmake_lists_the_module_and_the_resources():
    assert [p.name for p in (ROOT / "DWISuperRes").glob("*.py")] == ["DWISuperRes.py"]
    folders = set(cmake_list(ROOT / "Resources/CMakeLists.txt", "_folders"))
    files = set(cmake_list(ROOT / "Resources/CMakeLists.txt", "_files"))
    present = set((ROOT / "Resources").iterdir())
    elsewhere = {"Screenshots", "ExtensionsIndex"}  # for the README and for Slicer's list of extensions
    assert {p.name for p in present if p.is_dir()} - elsewhere == folders
    assert {p.name for p in present if p.is_file()} - {"CMakeLists.txt"} == files
    top = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for subdirectory in re.findall(r"add_subdirectory\((\w+)\)", top):
        assert (ROOT / subdirectory / "CMakeLists.txt").is_file()
    assert "project(DWISuperRes)" in top
    for name in re.findall(r"main/(Resources/\S+?)\"", top):
        assert (ROOT / name).is_file()


def test_requirements_of_slicer_are_those_of_the_library():
    """No torch (the PyTorch extension installs it), no pins, nothing that pyproject.toml does not have."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "Resources/DWISuperRes-requirements.txt").read_text().splitlines()
    requirements = {line for line in lines if line and not line.startswith("#")}
    assert requirements <= set(project["dependencies"])
    left_out = {re.split("[><=]", d)[0] for d in set(project["dependencies"]) - requirements}
    assert left_out <= {"numpy", "torch", "torchvision", "rich", "pynrrd", "isal"}  # in Slicer, or not needed there


@pytest.mark.parametrize(
    "code",
    [
        "import DWISuperResLib.gui.child, DWISuperResLib.gui.job, DWISuperResLib.gui.probe",
        "from Testing.slicer_host import start; start().load_module()",
        "from Testing.slicer_host import start; start().load_module().DWISuperResWidget()",
    ],
    ids=["child", "module", "panel"],
)
def test_imports_stay_light(code):
    """Neither the module nor its open panel loads what crashes or slows Slicer, and nothing is installed."""
    if "slicer_host" in code:
        oracle("slicer")
    heavy = (
        "torch",
        "torchvision",
        "dipy",
        "nibabel",
        "nrrd",
        "lightning",
        "matplotlib",
        "safetensors",
        "scipy",
        "monai",
    )
    program = (
        f"{code}\nimport sys\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "host = sys.modules.get('Testing.slicer_host.host')\n"
        "print('LOADED', loaded, host._host.installed if host else [])"
    )
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "LOADED [] []" in out.stdout, out.stdout + out.stderr


def test_signals_are_connected_by_attribute():
    """`w.connect("signal()", f)` cannot be tested outside of Slicer; startupCompleted is the documented exception."""
    found = []
    for path in [*(ROOT / "DWISuperResLib/gui").glob("*.py"), ROOT / "DWISuperRes/DWISuperRes.py"]:
        found += re.findall(r'\.connect\("(\w+)', path.read_text(encoding="utf-8"))
    assert found == ["startupCompleted"]


def test_translatable_strings_are_literals():
    """f-strings inside `_()` would never be found in a translation."""
    for path in [*(ROOT / "DWISuperResLib/gui").glob("*.py"), ROOT / "DWISuperRes/DWISuperRes.py"]:
        assert not re.search(r"\b_\(\s*f[\"']", path.read_text(encoding="utf-8")), path


def test_icon_and_screenshot():
    def size(path):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

    assert size(ROOT / "Resources/Icons/DWISuperRes.png") == (128, 128)
    assert size(ROOT / "Resources/Screenshots/panel.png")[0] >= 400
    assert (ROOT / "Resources/Icons/DWISuperRes.svg").read_text().startswith("<svg")
