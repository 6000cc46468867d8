"""Collect the texts of the module for translators, as Qt Linguist's .ts file, from `_()` calls and the .ui file.

    python Resources/Translations/update.py            rewrites DWISuperRes_en-US.ts

A language is a copy of that file named after it (DWISuperRes_de-DE.ts), its translations filled in with Qt Linguist and
compiled by lrelease. Contexts are those of `slicer.i18n.getContext` (package and file) and of the form's class.
"""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("DWISuperRes_en-US.ts")
SOURCES = ("DWISuperRes", "DWISuperResLib/gui", "DWISuperResLib/mrml")


def texts_of_python(path: Path) -> list[str]:
    """Literal texts in calls of `_`, in the order of the file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [
        call.args[0]
        for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset))
        if isinstance(call.func, ast.Name) and call.func.id == "_" and call.args
    ]
    return [text.value for text in found if isinstance(text, ast.Constant) and isinstance(text.value, str)]


def texts_of_form(path: Path) -> list[str]:
    """Texts of a .ui file that are meant for people."""
    strings = ET.parse(path).getroot().iter("string")
    return [s.text for s in strings if s.text and s.get("notr") != "true"]


def collect() -> dict[str, list[str]]:
    """Texts by context, each once."""
    contexts: dict[str, list[str]] = {}
    for folder in SOURCES:
        for path in sorted((ROOT / folder).glob("*.py")):
            package = f"{path.parent.name}." if path.with_name("__init__.py").is_file() else ""
            if texts := texts_of_python(path):
                contexts[f"{package}{path.stem}"] = list(dict.fromkeys(texts))
    contexts.setdefault("DWISuperRes", [])
    form = [t for t in texts_of_form(ROOT / "Resources/UI/DWISuperRes.ui") if t not in contexts["DWISuperRes"]]
    contexts["DWISuperRes"] += dict.fromkeys(form)
    return contexts


def template(contexts: dict[str, list[str]]) -> str:
    """The .ts file, nothing translated."""
    root = ET.Element("TS", version="2.1", sourcelanguage="en_US", language="en_US")
    for name, texts in sorted(contexts.items()):
        context = ET.SubElement(root, "context")
        ET.SubElement(context, "name").text = name
        for text in texts:
            message = ET.SubElement(context, "message")
            ET.SubElement(message, "source").text = text
            ET.SubElement(message, "translation", type="unfinished")
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n{ET.tostring(root, encoding="unicode")}\n'


if __name__ == "__main__":
    TEMPLATE.write_text(template(collect()), encoding="utf-8")
    sys.exit(0)
