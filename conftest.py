"""The examples of docstrings are tests: each runs in an empty folder of its own, where it may write files."""

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def folder_of_an_example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))
