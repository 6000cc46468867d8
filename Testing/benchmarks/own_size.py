"""What users do: scans as they came from the scanner, refined by a network; do the self-checks warn?

    python -m Testing.benchmarks.own_size --checkpoint default SCAN [SCAN ...]

A row a scan: its voxel size, and of every self-check of a plain run the value and the limit, those that fire in bold;
beside them the grid index of QA, which a run does not look at. There is no reference at such sizes, so no error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import DWISuperResLib as dsr
from DWISuperResLib import io
from DWISuperResLib.evaluation.selfchecks import Check, self_checks
from DWISuperResLib.metrics.grid_artefacts import grid_artefact_index
from DWISuperResLib.resampling.grid import in_plane_axes, regridded_mask, slice_axis

QA_SLICES = 8
COLUMNS = {
    "grid, signal": "grid artefacts in signal",
    "grid, FA": "grid artefacts in FA",
    "consistency": "consistency",
    "domain": "domain",
}


def qa_grid(low: dsr.DWI, high: dsr.DWI) -> Check:
    """The grid index of QA in a few slices through the brain."""
    axis = slice_axis(low)
    mask = regridded_mask(dsr.brain_mask(low), high.spatial_shape)
    area = mask.sum(axis=in_plane_axes(axis))
    full = np.flatnonzero(area > 0.5 * area.max())
    chosen = full[np.unique(np.linspace(0, len(full) - 1, QA_SLICES).round().astype(int))]
    thin = dsr.DWI(np.take(high.signal, chosen, axis), high.affine, high.bvals, high.bvecs, axis)
    region = np.take(mask, chosen, axis)
    qa = dsr.compute_maps(thin, ("qa",), mask=region)["qa"]
    index = grid_artefact_index(np.moveaxis(qa, axis, 0), np.moveaxis(region, axis, 0))
    period = max(index.excess_db, key=lambda p: index.excess_db[p] - index.threshold_db[p])
    excess, limit = index.excess_db[period], index.threshold_db[period]
    return Check("grid artefacts in QA (dB)", excess, limit, excess > limit, "")


def cell(checks: list[Check]) -> str:
    """The check nearest to its limit, or furthest beyond."""
    if not checks:
        return "-"
    worst = max(checks, key=lambda check: (check.fired, check.value - check.threshold))
    text = f"{worst.value:.3g} ({worst.threshold:.3g})"
    return f"**{text} {worst.name.removeprefix('domain: ')}**" if worst.fired else text


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns how many scans any check warned of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--scale", default="2")
    options = parser.parse_args(arguments)
    checkpoint = dsr.load_checkpoint(options.checkpoint)
    warned = 0
    print(f"| scan | voxel size, mm | {' | '.join(COLUMNS)} | grid, QA |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for path in options.scans:
        low = io.read_scan(path).series
        high = dsr.super_resolve(low, checkpoint, options.scale)
        checks = self_checks(low, high, checkpoint.card)
        cells = [cell([c for c in checks if c.name.startswith(prefix)]) for prefix in COLUMNS.values()]
        if any(c.name == "grid artefacts in FA (dB)" for c in checks):
            qa = qa_grid(low, high)
            checks.append(qa)
            cells.append(cell([qa]))
        else:
            cells.append("-")
        warned += any(check.fired for check in checks)
        sizes = " x ".join(f"{size:.3g}" for size in low.voxel_sizes)
        print(f"| {path.name.split('.')[0]} | {sizes} | {' | '.join(cells)} |", flush=True)
    print(f"{warned} of {len(options.scans)} scans bring a warning.")
    return warned


if __name__ == "__main__":
    main()
