"""Licences and advisories: what is refused, and that the extract of the advisories is read."""

import json

import pytest

from Testing import audit


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-3-Clause AND (MIT OR GPL-2.0)", True),
        ("GPL-2.0 AND (MIT OR BSD-3-Clause)", False),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("unknown", False),
        ("MIT AND GPL-3.0-only", False),
    ],
)
def test_licences_that_ask_for_more_than_a_notice_are_not_allowed(licence, allowed):
    assert audit.is_allowed(licence) == allowed


def test_every_dependency_of_this_library_is_allowed_or_accepted():
    packages = audit.dependencies(audit.PROJECT)
    assert {"numpy", "torch", "nibabel", "dipy"} <= set(packages)
    assert [name for name, package in packages.items() if not audit.verdict(name, audit.licences(package))] == []


def test_a_vulnerable_version_is_found_in_the_extract(monkeypatch):
    monkeypatch.setattr(audit, "_ask_pip_audit", lambda versions: None)
    source, found = audit.vulnerabilities({"jinja2": "2.11.2", "numpy": "2.4.0"})
    assert json.loads(audit.ADVISORIES.read_text())["date"] in source
    assert any("jinja2 2.11.2: PYSEC-2021-66, CVE-2020-28493" in line for line in found)
    assert not any(line.startswith("numpy") for line in found)


def test_versions_at_the_ends_of_a_range():
    ranges = [[["introduced", "1.0"], ["fixed", "1.2"]], [["introduced", "2.0"], ["last_affected", "2.1"]]]
    affected = [v for v in ("0.9", "1.0", "1.1.9", "1.2", "2.0", "2.1", "2.1.1") if audit.is_affected(v, ranges)]
    assert affected == ["1.0", "1.1.9", "2.0", "2.1"]
