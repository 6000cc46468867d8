"""Colour FA in the child: the principal direction as red (left-right), green (front-back) and blue (up-down) times FA.

Pajevic & Pierpaoli 1999, doi:10.1002/(SICI)1522-2594(199909)42:3<526::AID-MRM15>3.0.CO;2-J.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DWISuperResError


def main(scan: str, output: str, mask: str = "") -> dict[str, object]:
    """Write colour FA of a scan as a NumPy file, (X, Y, Z, 3) uint8; the message to print."""
    from ..io import read_dwi, read_image
    from ..microstructure import brain_mask, compute_maps

    try:
        dwi = read_dwi(scan)
        inside = read_image(mask)[0] > 0 if mask else brain_mask(dwi)
        maps = compute_maps(dwi, ("fa", "direction"), mask=inside)
    except DWISuperResError as error:
        return {"type": "error", "message": str(error), "kind": type(error).__name__}
    with open(output, "wb") as file:
        np.save(file, colour_fa(maps["fa"], maps["direction"]))
    return {"type": "result", "output": output}


def colour_fa(fa: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colours (..., 3) of FA (...) from 0 to 1 and unit directions (..., 3) in RAS; the sign of a direction is none.

    Examples
    --------
    >>> colour_fa(np.array([1.0, 0.5]), np.array([[-1.0, 0, 0], [0, 0, 1]])).tolist()
    [[255, 0, 0], [0, 0, 128]]
    """
    return np.rint(255 * np.clip(fa[..., None] * np.abs(directions), 0, 1)).astype(np.uint8)
