"""Held-out figures: scans, each with a checkpoint that never saw its scanner, against every classical interpolation.

python -m Testing.benchmarks.held_out --scales 2,3 --json held_out.json scan.nii.gz=fold1.safetensors ...
python -m Testing.benchmarks.held_out --scales 1x1x2,1x1x3 --degradation profile scan.nii.gz=through_plane.safetensors

A row a scan and scale: RMSE of the signal (all volumes, brain), mean absolute error of FA and of QA, each relative to
the best interpolation for that very figure, and whether the grid check fired. Under it, what a perfect network would
keep of each error: the noise that the degradation removes with the signal; and the share of the recoverable error that
the network removes, (best interpolation - network) / (best interpolation - noise alone). Where a scan repeats its
gradient table, the difference of its repeats follows.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import DWISuperResLib as dsr
from DWISuperResLib.evaluation.evaluate import Evaluation, evaluate
from DWISuperResLib.evaluation.scorer import Scorer, volume_groups
from DWISuperResLib.inference.projection import Projection
from DWISuperResLib.networks.views import shell_fit
from DWISuperResLib.resampling.degradation import DEGRADATIONS
from DWISuperResLib.resampling.grid import slice_axis

MEASURES = ("rmse", "fa", "qa")


def signal_rmse(evaluation: Evaluation, dwi: dsr.DWI, method: str) -> float:
    """RMSE over all volumes in the brain, from the scores of the single shells."""
    groups = volume_groups(dwi)
    errors = [evaluation.score(method, "signal", "rmse", volumes=name) for name in groups]
    return float(np.sqrt(np.average(np.square(errors), weights=[len(members) for members in groups.values()])))


def score(dwi: dsr.DWI, mask: np.ndarray, checkpoint: str, scale: str, model: str, ensemble: bool) -> dict:
    """Errors of the checkpoint and of the best interpolation for each measure."""
    evaluation = evaluate(dwi, scale, [checkpoint], model=model, mask=mask, distances=(), ensemble=ensemble)
    network = next(c.name for c in evaluation.candidates if c.kind == "checkpoint")
    methods = [c.name for c in evaluation.candidates if c.kind == "interpolation"]
    measures = {
        "rmse": lambda method: signal_rmse(evaluation, dwi, method),
        "fa": lambda method: evaluation.score(method, "fa", "mae"),
        "qa": lambda method: evaluation.score(method, "qa", "mae"),
    }
    row: dict = {"checkpoint": network}
    for name, measure in measures.items():
        best = min(methods, key=measure)
        row[name] = measure(network)
        row[f"{name}_best"], row[f"{name}_best_method"] = measure(best), best
        row[f"{name}_change"] = 100 * (measure(network) / measure(best) - 1)
    row["grid"] = any(check.fired for check in evaluation.checks[network] if "grid" in check.name)
    return row


def noise_floor(scorer: Scorer, scale: str, model: str, draws: int = 8) -> dict:
    """Errors that stay even where all but the noise that the degradation removes is restored: RMSE, FA and QA.

    A perfect network differs from the original by the original's noise. Other draws of that noise, without what of it
    the low resolution tells, are added to the original: residuals of the volumes under a fit over the directions, with
    random signs (wild bootstrap; Whitcher et al. 2008, doi:10.1002/hbm.20395). What the fit misses of the signal counts
    as noise.
    """
    dwi, mask = scorer.reference, scorer.mask
    coarse, axis = dsr.degrade(dwi, scale, model=model).spatial_shape, slice_axis(dwi)
    without = Projection(coarse, dwi.spatial_shape, {"model": model}, axis, torch.device("cpu"))
    nothing = np.zeros(coarse, np.float32)
    errors = []
    for seed in range(draws):
        noise = _bootstrapped_residuals(dwi, seed)
        beyond = np.stack([without(volume, nothing) for volume in np.moveaxis(noise, 3, 0)], axis=3)
        other = replace(dwi, signal=np.maximum(dwi.signal + beyond, 0))
        rmse = float(np.sqrt(np.mean(beyond[mask].astype(np.float64) ** 2)))
        errors.append({"rmse": rmse, **_map_errors(scorer, other)})
    return {key: float(np.mean([each[key] for each in errors])) for key in MEASURES}


def recovered(row: dict) -> dict[str, float]:
    """Share of the recoverable error that the network removes, of a row with its floor; NaN where noise leaves none.

    >>> row = {"floor": {"rmse": 2.0, "fa": 0.1, "qa": 0.0}, "rmse": 6.0, "fa": 0.1, "qa": 0.3}
    >>> recovered(row | {"rmse_best": 10.0, "fa_best": 0.1, "qa_best": 0.2})
    {'rmse': 0.5, 'fa': nan, 'qa': -0.5}
    """
    shares = {}
    for key in MEASURES:
        recoverable = row[f"{key}_best"] - row["floor"][key]
        shares[key] = (row[f"{key}_best"] - row[key]) / recoverable if recoverable > 0 else float("nan")
    return shares


def _bootstrapped_residuals(dwi: dsr.DWI, seed: int) -> np.ndarray:
    """Residuals of the shells' fits over the directions, at full variance and with random signs."""
    fit = shell_fit(dwi.bvals, dwi.bvecs)
    freedom = 1 - np.diag(fit)
    generator = np.random.default_rng(seed)
    # A b0 volume alone is fitted exactly; it is given the residual of another volume.
    shown = np.flatnonzero(freedom > 0.05)
    source = np.where(freedom > 0.05, np.arange(dwi.n_volumes), generator.choice(shown, dwi.n_volumes))
    scaled = (np.eye(dwi.n_volumes) - fit)[source] / np.sqrt(freedom[source])[:, None]
    signs = generator.choice((-1.0, 1.0), dwi.n_volumes)
    return dwi.signal @ (signs[:, None] * scaled).T.astype(np.float32)


def repeats(dwi: dsr.DWI, mask: np.ndarray) -> dict | None:
    """The same figures between the two halves of a scan that repeats its gradient table; None where none does."""
    half = dwi.n_volumes // 2
    first, second = (
        replace(dwi, signal=dwi.signal[..., part], bvals=dwi.bvals[part], bvecs=dwi.bvecs[part])
        for part in (slice(half), slice(half, 2 * half))
    )
    # Scanners write the table of each repeat with their own rounding.
    same = np.abs(first.bvals - second.bvals).max() < 50 and np.abs(first.bvecs - second.bvecs).max() < 0.02
    if dwi.n_volumes % 2 or half < 7 or not same:
        return None
    difference = (second.signal - first.signal)[mask].astype(np.float64)
    return {"rmse": float(np.sqrt(np.mean(difference**2))), **_map_errors(_scorer(first, mask), second)}


def _scorer(dwi: dsr.DWI, mask: np.ndarray) -> Scorer:
    return Scorer(dwi, mask, maps=("fa", "qa"), regions=("brain",))


def _map_errors(scorer: Scorer, test: dsr.DWI) -> dict[str, float]:
    scores = scorer(test)
    return {name: scores.value(name, "mae") for name in scorer.maps}


def main(arguments: list[str] | None = None) -> list[dict]:
    """Command line; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="SCAN=CHECKPOINT")
    parser.add_argument("--scales", default="2,3", help="in-plane, or a factor for each voxel axis; default: 2,3")
    parser.add_argument("--degradation", default="kspace", choices=list(DEGRADATIONS))
    parser.add_argument("--ensemble", action="store_true")
    parser.add_argument("--draws", type=int, default=8, help="of the noise that a perfect network keeps; default: 8")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    rows: list[dict] = []
    print("| scan | scale | signal RMSE | FA error | QA error | best interpolation (RMSE, FA, QA) | grid |")
    print("|---|---|---|---|---|---|---|")
    for pair in options.pairs:
        path, checkpoint = pair.rsplit("=", 1)
        name = Path(path).name.split(".")[0]
        dwi = dsr.read_dwi(path)
        mask = dsr.brain_mask(dwi)
        scorer = _scorer(dwi, mask)
        for scale in options.scales.split(","):
            row = score(dwi, mask, checkpoint, scale, options.degradation, options.ensemble)
            row |= {
                "scan": name,
                "scale": scale,
                "floor": noise_floor(scorer, scale, options.degradation, options.draws),
            }
            rows.append(row)
            cells = (f"{row[key]:.4g} ({row[f'{key}_change']:+.1f} %)" for key in MEASURES)
            best = ", ".join(f"{row[f'{key}_best_method']} {row[f'{key}_best']:.4g}" for key in MEASURES)
            grid = "yes" if row["grid"] else "no"
            print(f"| {name} | {scale} | {' | '.join(cells)} | {best} | {grid} |")
            cells = (f"{v:.4g} ({100 * (v / row[f'{key}_best'] - 1):+.1f} %)" for key, v in row["floor"].items())
            print(f"| {name}, noise alone | {scale} | {' | '.join(cells)} | - | - |")
            row["recovered"] = recovered(row)
            cells = (f"{100 * share:.0f} %" for share in row["recovered"].values())
            print(f"| {name}, recovered | {scale} | {' | '.join(cells)} | - | - |", flush=True)
        if difference := repeats(dwi, mask):
            rows.append({"scan": name, "repeats": difference})
            print(f"| {name}, repeats | - | {' | '.join(f'{v:.4g}' for v in difference.values())} | - | - |")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return rows


if __name__ == "__main__":
    main()
