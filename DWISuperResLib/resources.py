"""Where checkpoints, templates and configurations lie: beside the package in a clone and in Slicer, else in it."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
RESOURCES = next(
    (p for p in (_PACKAGE.parent / "Resources", _PACKAGE / "Resources") if (p / "Checkpoints").is_dir()), _PACKAGE
)
