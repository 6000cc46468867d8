"""Headless training: `python -m DWISuperResLib.train --config FILE [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import MissingDependencyError


def train_from_file(config: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Train as a YAML file says, keys overridden by `key=value`; returns the exported checkpoint."""
    try:
        from .training import load_configuration, train
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"Training needs {error.name}, which is not installed; pip install 'dwi-superres[train]'."
        ) from error
    return train(load_configuration(config, overrides))


def main(arguments: Sequence[str] | None = None) -> int:
    """`dwi-superres train` under another name; returns the exit code."""
    from .apps import cli

    return cli.main(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
