"""Sphinx: the API reference from the docstrings; `make docs` builds it, and it opens from the disk."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import DWISuperResLib  # noqa: E402

project, author = "DWISuperRes", "DWISuperRes contributors"
version = release = DWISuperResLib.__version__
extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["api/doors.md"]  # included
html_theme = "furo"
html_title = f"DWISuperRes {release}"
html_show_sourcelink = False
html_copy_source = False
autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}  # of a registry: all that it holds
add_module_names = False
autosummary_generate = False
autodoc_typehints = "none"  # numpydoc's parameter lists say types and shapes
autodoc_inherit_docstrings = False  # Lightning's are long, and not ours
numpydoc_show_class_members = False
default_role = "code"

ROOMS = (
    "io",
    "resampling",
    "networks",
    "losses",
    "microstructure",
    "metrics",
    "checkpoints",
    "inference",
    "evaluation",
    "training",
    "studies",
)


def _modules(room: str) -> list[str]:
    folder = ROOT / "DWISuperResLib" / room
    return [f"DWISuperResLib.{room}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def _page(room: str) -> str:
    """The page of a room: its package, then its modules."""
    package = f"DWISuperResLib.{room}"
    lines = [f"# The room {room}", ""]
    for module in (package, *_modules(room)):
        lines += [
            f"## {module.removeprefix('DWISuperResLib.')}",
            "",
            "```{eval-rst}",
            f".. automodule:: {module}",
            "   :members:",
            "   :ignore-module-all:",
            "```",
            "",
        ]
    return "\n".join(lines)


def _doors() -> str:
    """The public names, each with where it lives and what it is."""
    rows = ["| Name | |", "|---|---|"]
    for name in DWISuperResLib.__all__:
        thing = getattr(DWISuperResLib, name)
        if callable(thing):
            summary = (thing.__doc__ or "").split("\n")[0].replace("|", "\\|")
            rows.append(f"| {{py:obj}}`dsr.{name} <{thing.__module__}.{name}>` | {summary} |")
    return "\n".join(rows) + "\n"


def write_pages(app: object) -> None:
    """A page a room and the table of the doors, written anew where they changed."""
    target = ROOT / "docs" / "api"
    target.mkdir(exist_ok=True)
    for name, text in [*((room, _page(room)) for room in ROOMS), ("doors", _doors())]:
        page = target / f"{name}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def plain(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """In our docstrings |x| is an absolute value and *size an argument: no markup."""
    for n, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"\||(?<![*\w])\*(?=[a-z])", r"\\\g<0>", part) for part in parts[::2]]
            lines[n] = "".join(parts)


def setup(app) -> None:  # type: ignore[no-untyped-def]
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", plain, priority=100)  # before numpydoc
