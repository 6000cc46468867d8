"""The house keeps its rules: who may import whom, what is said of public names, how long a function may wind."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import DWISuperResLib

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "DWISuperResLib"
SLICER = {"slicer", "vtk", "qt", "ctk"}

# From the bottom up; a room may import those below its own row, and within a row only what is said beside it.
ROWS = (
    {"errors", "registry", "resources", "dwi", "progress", "provenance", "scratch"},
    {"io", "resampling", "microstructure", "metrics", "losses", "networks", "phantoms"},
    {"checkpoints", "inference", "evaluation", "training"},
    {"studies", "apps", "mrml", "gui", "train"},
)
BESIDE = {
    "io": set(),
    "resampling": set(),
    "networks": {"resampling"},
    "microstructure": {"resampling"},
    "losses": {"microstructure", "networks"},
    "metrics": {"microstructure", "resampling", "networks", "losses"},
    "phantoms": {"resampling"},
    "checkpoints": set(),
    "inference": {"checkpoints"},
    "evaluation": {"checkpoints", "inference"},
    "training": {"checkpoints", "inference", "evaluation"},
    "studies": set(),
    "apps": {"studies"},
    "mrml": set(),
    "gui": {"mrml", "apps"},
    "train": {"apps"},
}
NEEDS_SLICER = ("gui", "mrml")


def room_of(path: Path) -> str:
    parts = path.relative_to(LIBRARY).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything that a file imports, anywhere in it; relative ones made absolute."""
    package = ("DWISuperResLib", *path.relative_to(LIBRARY).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            found += [(module, alias.name) for alias in node.names]
    return found


def library_imports(path: Path) -> list[tuple[str, list[str]]]:
    """(room, further names) of what a file imports from the library."""
    found = []
    for module, name in imports(path):
        parts = [*module.split("."), *([name] if name else [])]
        if parts[0] == "DWISuperResLib" and len(parts) > 1:
            found.append((parts[1], parts[2:]))
    return found


FILES = sorted(LIBRARY.rglob("*.py"))
ROOMED = [path for path in FILES if path.parent != LIBRARY or path.stem not in ("__init__", "__main__")]


@pytest.mark.parametrize("room", sorted({room_of(path) for path in ROOMED}))
def test_no_import_points_up(room):
    (row,) = [n for n, rooms in enumerate(ROWS) if room in rooms]
    below = set().union(*ROWS[:row])
    beside = ROWS[0] if row == 0 else BESIDE[room]
    wrong = {
        f"{path.relative_to(ROOT)} imports {other}"
        for path in ROOMED
        if room_of(path) == room
        for other, _ in library_imports(path)
        if other not in below | beside | {room} and not other.startswith("__") and other not in DWISuperResLib.__all__
    }
    assert not wrong, wrong


def test_neighbours_do_not_lean_on_each_other():
    leaning = dict(BESIDE)
    while leaning:  # take away whoever leans on nobody that is left
        free = [room for room, others in leaning.items() if not others & leaning.keys()]
        assert free, f"a ring of imports: {sorted(leaning)}"
        for room in free:
            del leaning[room]


def test_no_private_name_of_another_room_is_imported():
    wrong = {
        f"{path.relative_to(ROOT)} imports {'.'.join([other, *names])}"
        for path in FILES
        for other, names in library_imports(path)
        if other != room_of(path) and any(name.startswith("_") and not name.startswith("__") for name in names)
    }
    assert not wrong, wrong


def test_no_private_attribute_of_another_room_is_used():
    """`io.streams._something`, where `streams` came by an import, is the same trespass as importing the name."""
    wrong = set()
    for path in FILES:
        foreign = {names[-1] for other, names in library_imports(path) if names and other != room_of(path)}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            trespass = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in foreign
            if trespass and node.attr.startswith("_") and not node.attr.startswith("__"):
                wrong.add(f"{path.relative_to(ROOT)}:{node.lineno} {node.value.id}.{node.attr}")
    assert not wrong, wrong


def test_only_mrml_and_gui_know_slicer():
    for path in FILES:
        known = {module.split(".")[0] for module, _ in imports(path)} & SLICER
        allowed = {"mrml": {"slicer", "vtk"}, "gui": SLICER}.get(room_of(path), set())
        assert known <= allowed, path


def public_names() -> list[tuple[str, str]]:
    """The doors, and what each room's `__all__` lists."""
    found = [("DWISuperResLib", name) for name in DWISuperResLib.__all__]
    for init in sorted(LIBRARY.glob("*/__init__.py")):
        room = f"DWISuperResLib.{init.parent.name}"
        if init.parent.name not in NEEDS_SLICER:
            found += [(room, name) for name in getattr(import_module(room), "__all__", ())]
    return found


@pytest.mark.parametrize(("module", "name"), public_names(), ids=".".join)
def test_public_names_have_a_docstring_and_an_example_that_runs(module, name):
    thing = getattr(import_module(module), name)
    if not (inspect.isfunction(thing) or inspect.isclass(thing)):
        return
    own = [thing, *(vars(thing).values() if inspect.isclass(thing) else ())]
    texts = [inspect.getdoc(getattr(each, "__func__", each)) or "" for each in own if each.__doc__]
    assert inspect.getdoc(thing), f"{module}.{name} has no docstring"
    assert any(">>>" in text for text in texts), f"{module}.{name} has no example"


def test_every_public_function_and_class_of_the_library_has_a_docstring():
    """Also in gui and mrml, which are parsed, not imported; protocols of one line and overrides by a base excepted."""
    bare = {
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    }
    assert not bare, bare


def test_no_function_is_above_the_limit_of_complexity():
    """Ruff counts (C901); this holds that it is asked to, everywhere."""
    import tomllib

    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "C901" in lint["select"]
    assert "C901" not in lint["ignore"]
    assert lint["mccabe"]["max-complexity"] <= 15
    assert not [path for path in FILES if "noqa: C901" in path.read_text(encoding="utf-8")]
