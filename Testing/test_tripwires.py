"""What must not drift: CMake's file lists against the tree, what an import loads, where the parts of a package lie."""

import ast
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
        "import DWISuperResLib.gui.warm_child, DWISuperResLib.gui.worker, DWISuperResLib.gui.probe",
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


PARENT = [path for room in ("gui", "mrml") for path in sorted((ROOT / "DWISuperResLib" / room).glob("*.py"))]
"""What runs in Slicer and speaks to its user; the module file with it. The rest is for developers."""
PARENT = [p for p in PARENT if p.name != "self_test.py"] + [ROOT / "DWISuperRes/DWISuperRes.py"]


def calls_of_tr(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return [call for call in calls if call.func.id in ("_", "translate")]


def prose(tree: ast.Module) -> dict[str, int]:
    """Texts with the look of something to be read (two words, or one with a capital), and their lines.

    Left out: what `_` gets, docstrings, keys, what text is compared with, markup, file patterns.
    """
    documented = [n.value for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    keys = [k for n in ast.walk(tree) if isinstance(n, ast.Dict) for k in n.keys if k]
    keys += [n.slice for n in ast.walk(tree) if isinstance(n, ast.Subscript)]
    compared = [n for n in ast.walk(tree) if isinstance(n, ast.Compare)]
    left_out = {id(n) for part in (*calls_of_tr(tree), *documented, *keys, *compared) for n in ast.walk(part)}
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    read = re.compile(r"[a-z]{2,}[.,;:)]? .*[a-z]{2}|^\W*[a-z]{2,}\W* $|^ [a-z]{2,}|^\W*[A-Z][a-z]+\W*$")
    texts = [n for n in texts if id(n) not in left_out and not set("<*") & set(n.value)]
    return {n.value: n.lineno for n in texts if read.search(n.value)}


NO_PROSE = {"Resources", "DWISuperRes contributors"}
"""A folder; the authors' name."""


@pytest.mark.parametrize("path", PARENT, ids=[f"{path.parent.name}/{path.name}" for path in PARENT])
def test_texts_that_a_user_sees_can_be_translated(path):
    """Each is a literal in `_()`: an f-string in it, or a text outside of it, would never be found by a translator."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for call in calls_of_tr(tree):
        assert isinstance(call.args[-1], ast.Constant), f"{path}:{call.lineno}"
    found = {text: line for text, line in prose(tree).items() if text not in NO_PROSE}
    assert not found, f"{path}: {found}"


def test_what_counts_as_a_text_that_a_user_sees():
    code = (
        '"""About this."""\nd = {"no key": _("Some text")}\nd["a key"]\nlabel.text = "Reference"\n'
        'raise E(f"The disk that holds {x} is full")\nif "out of memory" in said: pass\nname = "fa_reference"\n'
        'say(f"{n} volumes: {m}", "vtkMRMLTableNode", "utf-8", "<b>bold text</b>", f"with code {n}")\n'
    )
    assert set(prose(ast.parse(code))) == {"Reference", "The disk that holds ", " is full", " volumes: ", "with code "}


def test_icon_and_screenshot():
    def size(path):
        data = path.read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")

    assert size(ROOT / "Resources/Icons/DWISuperRes.png") == (128, 128)
    assert size(ROOT / "Resources/Screenshots/panel.png")[0] >= 400
    assert (ROOT / "Resources/Icons/DWISuperRes.svg").read_text().startswith("<svg")
