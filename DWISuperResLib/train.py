"""Headless training: `python -m DWISuperResLib.train --config FILE [key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import DWISuperResError, MissingDependencyError


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
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m DWISuperResLib.train", description="Train a network.")
    parser.add_argument("--config", required=True, help="YAML configuration, see Resources/Configurations")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for instance schedule.epochs=5")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    try:
        exported = train_from_file(options.config, options.overrides)
    except DWISuperResError as error:
        if options.debug:
            raise
        print(f"dwi-superres: {error}", file=sys.stderr)
        return error.exit_code
    print(exported)
    return 0


if __name__ == "__main__":
    sys.exit(main())
