"""Licences and known vulnerabilities of what this library depends on: python -m Testing.audit.

Licences come from the installed packages' metadata, extras included. Vulnerabilities come from pip-audit, or where it
cannot ask the package index, from `advisories.json`, an extract of the PyPA advisory database that
`python -m Testing.audit --extract CLONE` makes of a clone of https://github.com/pypa/advisory-database. Prints a table;
exits 1 on a licence that is not allowed or a vulnerability.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

PROJECT = "dwi-superres"
ADVISORIES = Path(__file__).with_name("advisories.json")

ALLOWED = (
    r"MIT(-CMU)?|MIT License|Expat",
    r"(3-Clause )?BSD([ -][23]-Clause)?( License)?|0BSD|BSD 3-Clause License",
    r"Apache( License)?[ -]2\.0( License)?( WITH LLVM-exception)?|Apache Software License",
    r"(PSF-2\.0|Python Software Foundation License)",
    r"ISC( License.*)?|Zlib|CC0-1\.0|BSL-1\.0|HPND|Unlicense",
)
"""Licences that ask for no more than a notice, as regular expressions."""

ACCEPTED = {
    "certifi": "MPL-2.0 covers its own files alone; unchanged, and not part of what is distributed",
    "pathspec": "MPL-2.0, as certifi; of the type checker only",
    "hypothesis": "MPL-2.0, as certifi; of the tests only",
    "tqdm": "MPL-2.0 and MIT, as certifi",
    "pyside6-essentials": "LGPL-3.0, linked dynamically, of the tests outside of Slicer only",
    "shiboken6": "LGPL-3.0, as PySide6",
    "frozendict": "LGPL-3.0, imported by pybids and unchanged, of the BIDS App only",
    "num2words": "LGPL-2.1, as frozendict",
    "cuda-toolkit": "NVIDIA's licence, comes with PyTorch's own builds for its GPUs; not distributed here",
}
"""Other licences, and why they do no harm."""
NVIDIA = r"nvidia-.*"


def dependencies(project: str) -> dict[str, importlib.metadata.Distribution]:
    """Everything that a project needs and that is installed, its own extras among it, by canonical name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(project, frozenset(extras_of(project)))]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        for text in found[name].requires or ():
            needed = Requirement(text)
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    found.pop(project, None)
    return dict(sorted(found.items()))


def extras_of(project: str) -> list[str]:
    """Names of a project's extras."""
    return importlib.metadata.metadata(project).get_all("Provides-Extra") or []


def licences(package: importlib.metadata.Distribution) -> list[str]:
    """What a package says of its licence: the expression, else the classifiers, else the first line of the field."""
    metadata: Any = package.metadata
    if expression := metadata.get("License-Expression"):
        return [expression]
    prefix = "License :: "
    classified = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or [] if c.startswith(prefix)]
    if named := [c for c in classified if c not in ("DFSG approved", "OSI Approved")]:
        return named
    text = (metadata.get("License") or "").strip()
    return [text.splitlines()[0]] if text else ["unknown"]


def is_allowed(licence: str) -> bool:
    """Whether every part of a licence expression is, or of alternatives one."""
    licence = licence.strip()
    if any(re.fullmatch(pattern, licence) for pattern in ALLOWED):
        return True
    for word, enough in ((r"\s+OR\s+", any), (r"\s+(?:AND|and)\s+", all)):
        if len(parts := _split_outside_brackets(licence, word)) > 1:
            return enough(map(is_allowed, parts))
    return licence.startswith("(") and licence.endswith(")") and is_allowed(licence[1:-1])


def _split_outside_brackets(text: str, word: str) -> list[str]:
    parts, begin = [], 0
    for match in re.finditer(word, text):
        before = text[: match.start()]
        if before.count("(") == before.count(")"):
            parts.append(text[begin : match.start()])
            begin = match.end()
    return [*parts, text[begin:]]


def verdict(name: str, found: list[str]) -> str | None:
    """Why a package's licence is no trouble, or None."""
    if any(map(is_allowed, found)):
        return "allowed"
    if re.fullmatch(NVIDIA, name):
        return ACCEPTED["cuda-toolkit"]
    return ACCEPTED.get(name)


def vulnerabilities(versions: dict[str, str]) -> tuple[str, list[str]]:
    """Where they were looked up, and a line for each."""
    online = _ask_pip_audit(versions) if importlib.util.find_spec("pip_audit") else None
    if online is not None:
        return "pip-audit, today", online
    known = json.loads(ADVISORIES.read_text(encoding="utf-8"))
    lines = [
        f"{name} {version}: {', '.join([advisory['id'], *advisory['aliases']])}"
        for name, version in versions.items()
        for advisory in known["packages"].get(name, ())
        if is_affected(version, advisory["ranges"])
    ]
    return f"{ADVISORIES.name}, as known on {known['date']}", lines


def _ask_pip_audit(versions: dict[str, str]) -> list[str] | None:
    """Lines as of `vulnerabilities`; None where the package index could not be asked about most packages."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
        found = json.loads(answer.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None
    ours = [package for package in found if canonicalize_name(package["name"]) in versions]
    known = [package for package in ours if "vulns" in package]
    if len(known) < len(versions) / 2:
        return None
    return [
        f"{package['name']} {package['version']}: {', '.join([flaw['id'], *flaw['aliases']])}"
        for package in known
        for flaw in package["vulns"]
    ]


def is_affected(version: str, ranges: list[list[list[str]]]) -> bool:
    """Whether a version lies in one of the ranges, each a list of events (kind, version) in order.

    >>> is_affected("2.11.2", [[["introduced", "0"], ["fixed", "2.11.3"]]])
    True
    >>> is_affected("2.11.3", [[["introduced", "0"], ["fixed", "2.11.3"]]])
    False
    """
    ours = Version(version)
    for events in ranges:
        inside = False
        for kind, at in events:
            try:
                limit = Version(at)
            except InvalidVersion:
                continue
            if kind == "introduced" and ours >= limit:
                inside = True
            elif (kind == "fixed" and ours >= limit) or (kind == "last_affected" and ours > limit):
                inside = False
        if inside:
            return True
    return False


def extract(clone: Path, names: list[str]) -> dict[str, Any]:
    """The part of a clone of the advisory database, bare or not, that is about some packages."""
    import yaml

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", clone, *arguments], check=True, capture_output=True, text=True).stdout

    packages: dict[str, list[dict[str, Any]]] = {}
    for path in git("ls-tree", "-r", "--name-only", "HEAD", "vulns").splitlines():
        if (name := canonicalize_name(path.split("/")[1])) not in names:
            continue
        advisory = yaml.safe_load(git("show", f"HEAD:{path}"))
        if "withdrawn" in advisory:
            continue
        ranges = [
            [[kind, str(at)] for event in span["events"] for kind, at in event.items()]
            for affected in advisory["affected"]
            for span in affected.get("ranges", ())
            if span["type"] == "ECOSYSTEM"
        ]
        aliases = [alias for alias in advisory.get("aliases", ()) if alias.startswith(("CVE", "GHSA"))]
        packages.setdefault(name, []).append({"id": advisory["id"], "aliases": aliases, "ranges": ranges})
    commit, date = git("log", "-1", "--format=%H %cs").split()
    return {"source": "https://github.com/pypa/advisory-database", "commit": commit, "date": date, "packages": packages}


def main() -> int:
    """Entry point; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m Testing.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--extract", type=Path, metavar="CLONE", help="write advisories.json anew")
    arguments = parser.parse_args()
    packages = dependencies(PROJECT)
    if arguments.extract:
        known = extract(arguments.extract, list(packages))
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(flaws)}" for name, flaws in known.pop("packages").items())
        ADVISORIES.write_text(f'{json.dumps(known)[:-1]}, "packages": {{\n{rows}\n}}}}\n', encoding="utf-8")
    refused, counts = [], Counter[str]()
    print(f"{'package':28}{'version':16}{'licence':52}verdict")
    for name, package in packages.items():
        found = licences(package)
        reason = verdict(name, found)
        counts["allowed" if reason == "allowed" else "accepted for a reason" if reason else "not allowed"] += 1
        if reason is None:
            refused.append(name)
        print(f"{name:28}{package.version:16}{'; '.join(found)[:50]:52}{reason or 'NOT ALLOWED'}")
    source, flaws = vulnerabilities({name: package.version for name, package in packages.items()})
    print(f"\n{len(packages)} packages: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    print(f"{len(flaws)} known vulnerabilities ({source})")
    for line in flaws:
        print(f"    {line}")
    return int(bool(refused or flaws))


if __name__ == "__main__":
    sys.exit(main())
