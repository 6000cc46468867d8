"""Run in the child after super-resolving: what the library's self-checks warn of, as sentences for the panel.

`python -m DWISuperResLib.gui.checks LOW HIGH CHECKPOINT SCALE AXIS [UNCERTAINTY]` prints the protocol of the command
line; AXIS may be empty.
"""

from __future__ import annotations

import sys

from ..checkpoints import read_card
from ..io import read_dwi
from ..progress import reporter
from ..selfchecks import self_checks


def main(low: str, high: str, checkpoint: str, scale: str, axis: str = "", uncertainty: str = "") -> list[str]:
    """A sentence for each check that fired; a failure to check is one, too, and does not cost the result."""
    try:
        deviation = read_dwi(uncertainty).signal if uncertainty else None
        card = read_card(checkpoint)
        checks = self_checks(read_dwi(low), read_dwi(high), card, int(scale), deviation, axis or None)
    except Exception as error:
        return [f"The result could not be checked ({type(error).__name__}: {error})."]
    return [
        f"{check.name[0].upper()}{check.name[1:]} is {check.value:.2g}, the limit {check.threshold:.2g}. {check.advice}"
        for check in checks
        if check.fired
    ]


if __name__ == "__main__":
    with reporter("json") as report:
        report.status("Checking the result")
        report.result("", warnings=main(*sys.argv[1:]))
