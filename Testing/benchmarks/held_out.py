"""Held-out figures: scans, each with a checkpoint that never saw its scanner, against every classical interpolation.

python -m Testing.benchmarks.held_out --scales 2,3 --json held_out.json scan.nii.gz=fold1.safetensors ...

A row a scan and scale: RMSE of the signal (all volumes, brain), mean absolute error of FA and of QA, each relative to
the best interpolation for that very figure, and whether the grid check fired. Where a scan repeats its gradient
table, the difference of its repeats is printed beside them; and for each scale the RMSE that a perfect network would
keep: the noise that truncation removes with the signal, from the repeats' difference beyond the band / sqrt 2.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import DWISuperResLib as dsr
from DWISuperResLib.evaluation import Evaluation, evaluate, volume_groups
from DWISuperResLib.grid import crop


def signal_rmse(evaluation: Evaluation, dwi: dsr.DWI, method: str) -> float:
    """RMSE over all volumes in the brain, from the scores of the single shells."""
    groups = volume_groups(dwi)
    errors = [evaluation.score(method, "signal", "rmse", volumes=name) for name in groups]
    return float(np.sqrt(np.average(np.square(errors), weights=[len(members) for members in groups.values()])))


def score(path: str, checkpoint: str, scale: int, ensemble: bool) -> dict:
    """One row."""
    dwi = dsr.read_dwi(path)
    evaluation = evaluate(dwi, scale, [checkpoint], distances=(), ensemble=ensemble)
    network = next(c.name for c in evaluation.candidates if c.kind == "checkpoint")
    methods = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    measures = {
        "rmse": lambda method: signal_rmse(evaluation, dwi, method),
        "fa": lambda method: evaluation.score(method, "fa", "mae"),
        "qa": lambda method: evaluation.score(method, "qa", "mae"),
    }
    row = {"scan": Path(path).name.split(".")[0], "checkpoint": network, "scale": scale}
    for name, measure in measures.items():
        best = min(methods, key=measure)
        row[name] = measure(network)
        row[f"{name}_best"], row[f"{name}_best_method"] = measure(best), best
        row[f"{name}_change"] = 100 * (measure(network) / measure(best) - 1)
    row["grid"] = any(check.fired for check in evaluation.checks[network] if "grid" in check.name)
    return row


def noise_floor(path: str, scales: list[int]) -> dict | None:
    """The same figures between the two halves of a scan that repeats its gradient table, and what no network can mend.

    None where none does.
    """
    dwi = dsr.read_dwi(path)
    half = dwi.n_volumes // 2
    first, second = (
        replace(dwi, signal=dwi.signal[..., part], bvals=dwi.bvals[part], bvecs=dwi.bvecs[part])
        for part in (slice(half), slice(half, 2 * half))
    )
    # Scanners write the table of each repeat with their own rounding.
    same = np.abs(first.bvals - second.bvals).max() < 50 and np.abs(first.bvecs - second.bvecs).max() < 0.02
    if dwi.n_volumes % 2 or half < 7 or not same:
        return None
    mask = dsr.brain_mask(dwi)
    comparison = dsr.compare(first, second, ("fa", "qa"), mask=mask)
    rows = {row["map"]: row["mae"] for row in comparison.statistics if row["region"] == "brain"}
    difference = (second.signal - first.signal)[mask].astype(np.float64)
    return {
        "rmse": float(np.sqrt(np.mean(difference**2))),
        **rows,
        "floors": {scale: _beyond_band(first, second, mask, scale) / np.sqrt(2) for scale in scales},
    }


def _beyond_band(first: dsr.DWI, second: dsr.DWI, mask: np.ndarray, scale: int) -> float:
    """RMS difference of two repeats in the part of k-space that truncation by `scale` removes."""
    difference = replace(first, signal=second.signal - first.signal)
    kept = dsr.interpolate(dsr.degrade(difference, scale), scale).signal
    beyond = difference.signal - crop(kept, first.spatial_shape)
    return float(np.sqrt(np.mean(beyond[mask].astype(np.float64) ** 2)))


def main(arguments: list[str] | None = None) -> list[dict]:
    """Command line; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="SCAN=CHECKPOINT")
    parser.add_argument("--scales", default="2,3", help="default: 2,3")
    parser.add_argument("--ensemble", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    rows: list[dict] = []
    scales = [int(scale) for scale in options.scales.split(",")]
    print("| scan | scale | signal RMSE | FA error | QA error | best interpolation (RMSE, FA, QA) | grid |")
    print("|---|---|---|---|---|---|---|")
    for pair in options.pairs:
        path, checkpoint = pair.rsplit("=", 1)
        for scale in scales:
            row = score(path, checkpoint, scale, options.ensemble)
            rows.append(row)
            cells = (f"{row[name]:.4g} ({row[f'{name}_change']:+.1f} %)" for name in ("rmse", "fa", "qa"))
            best = ", ".join(f"{row[f'{name}_best_method']} {row[f'{name}_best']:.4g}" for name in ("rmse", "fa", "qa"))
            grid = "yes" if row["grid"] else "no"
            print(f"| {row['scan']} | {scale} | {' | '.join(cells)} | {best} | {grid} |", flush=True)
        if floor := noise_floor(path, scales):
            name = Path(path).name.split(".")[0]
            rows.append({"scan": name, "repeats": floor})
            print(f"| {name}, repeats | - | {floor['rmse']:.4g} | {floor['fa']:.4g} | {floor['qa']:.4g} | - | - |")
            for scale, rmse in floor["floors"].items():
                print(f"| {name}, noise beyond the band | {scale} | {rmse:.4g} | - | - | - | - |")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
