"""Where things are: resource files from a build and from the source tree, Slicer's Python, temporary files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import slicer
import slicer.util
from slicer.i18n import tr as _

from ..errors import MissingDependencyError
from .child import LIBRARY_PARENT


def resource(name: str) -> str:
    """Path of a file in Resources, which lies beside the library both in the source tree and when installed."""
    return str(LIBRARY_PARENT / "Resources" / name)


def python_executable() -> str:
    """The Python that computes: PythonSlicer.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=str(Path(sys.executable).parent))
    if not found:
        raise MissingDependencyError(_("PythonSlicer was not found beside 3D Slicer; install 3D Slicer again."))
    return found


def child_environment() -> dict[str, str]:
    """The environment Slicer was started in; PythonSlicer adds its own."""
    return {**slicer.util.startupEnvironment(), "PYTHONUNBUFFERED": "1"}


def temporary_folder() -> str | None:
    """The parent of temporary folders that the user set in Slicer; None for the system's."""
    return slicer.app.temporaryPath or None
