"""Headless training: `python -m DWISuperResLib.train --config FILE [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .apps import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """`dwi-superres train` under another name; returns the exit code.

    Examples
    --------
    >>> main(["--config", "absent.yaml", "--progress", "none"])
    2
    """
    return cli.main(["train", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
