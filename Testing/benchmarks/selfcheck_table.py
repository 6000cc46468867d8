"""How often each self-check fires when it should and when it should not, on real scans with injected faults.

    python Testing/benchmarks/selfcheck_table.py ../shared/data [--checkpoint default] [--table FILE.tsv]

Every scan is lowered in resolution by 2 and super-resolved. Its domain ranges are those of the *other* scans (scans of
one session count as one), so that it is judged as a scan from a scanner never seen. Networks run on six slices of ten
volumes, where domains do not count. Faults: grids multiplied into the output; a checkpoint whose last layers were
trained to draw one; a checkpoint with noise on its weights; the output of a wrong scale; an input of a wrong voxel
size; a uniform phantom; inverted contrast; b-values of another protocol; half the head missing; heavy noise.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import DWISuperResLib as dsr
from DWISuperResLib.checkpoints import Card, Checkpoint, load_checkpoint
from DWISuperResLib.dwi import DWI
from DWISuperResLib.errors import InputError
from DWISuperResLib.evaluation.selfchecks import domain_range, domain_statistics, self_checks
from DWISuperResLib.inference.predict import super_resolve, super_resolve_with_uncertainty
from DWISuperResLib.resampling.degradation import rician
from DWISuperResLib.resampling.operators import operator

SCALE = 2
SESSIONS = {"siemens_decub_hfp": "siemens_decub", "siemens_decub_hfs": "siemens_decub"}
KINDS = {
    "grid signal": "grid artefacts in signal",
    "grid FA": "grid artefacts in FA",
    "consistency": "consistency",
    "voxel size": ("domain: in-plane", "domain: slice"),
    "b-value": "domain: b-value",
    "SNR": "domain: SNR",
    "intensities": "domain: intensities",
    "anatomy": "domain: anatomy",
    "spread": "ensemble spread of the signal",
    "FA spread": "ensemble spread of FA",
}
SHOULD_FIRE = {
    "grid of 2 voxels, 5 %": ("grid signal", "grid FA"),
    "grid of 4 voxels, 5 %": ("grid signal", "grid FA"),
    "grid of 8 voxels, 5 %": ("grid signal", "grid FA"),
    "checkpoint that makes grids": ("grid signal", "grid FA"),
    "output of scale 3": ("consistency",),
    "voxels of 1 mm in the header": ("voxel size", "anatomy"),
    "uniform phantom": ("intensities",),
    "inverted contrast": ("intensities",),
    "b-values x 4": ("b-value", "intensities"),
    "half the head": ("anatomy",),
    "heavy noise": ("SNR",),
    "heavy noise (network)": ("FA spread",),
    "unsettled checkpoint": ("spread", "FA spread"),
}


def read(path: Path) -> DWI:
    """A scan, at most 20 weighted volumes and one b0 of it."""
    dwi = dsr.read_dwi(path)
    kept = np.sort(np.concatenate((np.flatnonzero(dwi.is_b0)[:1], np.flatnonzero(~dwi.is_b0)[:20])))
    return select(dwi, kept)


def select(dwi: DWI, volumes) -> DWI:
    return replace(
        dwi, signal=np.asfortranarray(dwi.signal[..., volumes]), bvals=dwi.bvals[volumes], bvecs=dwi.bvecs[volumes]
    )


def low_faults(low: DWI) -> Iterator[tuple[str, DWI]]:
    """Inputs that no checkpoint was made for."""
    rng = np.random.default_rng(0)
    size = np.diag([*(1.0 / low.voxel_sizes), 1.0])
    yield "voxels of 1 mm in the header", replace(low, affine=low.affine @ size)
    yield "b-values x 4", replace(low, bvals=low.bvals * 4)
    top = np.quantile(low.signal, 0.999, axis=(0, 1, 2))
    head = low.signal > 0.1 * top
    yield "inverted contrast", replace(low, signal=np.where(head, np.maximum(1.1 * top - low.signal, 0), low.signal))
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in low.spatial_shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    water = inside[..., None] * 1000 * np.exp(-low.bvals * 2e-3)
    yield "uniform phantom", replace(low, signal=rician(water.astype(np.float32), 20.0, rng))
    third = low.signal.copy()
    third[:, :, : low.spatial_shape[2] * 5 // 9] = 0
    yield "half the head", replace(low, signal=third)
    yield "heavy noise", replace(low, signal=rician(low.signal, 0.25 * low.foreground_b0(), rng))


def high_faults(low: DWI, high: DWI) -> Iterator[tuple[str, DWI]]:
    """Outputs with something wrong."""
    i, j = np.indices(high.spatial_shape[:2])
    for period in (2, 4, 8):
        # Every other volume, as a network's grid differs with contrast.
        wave = np.cos(2 * np.pi * i / period) * np.cos(2 * np.pi * j / period)
        gain = 1 + 0.05 * wave[:, :, None, None] * (np.arange(high.n_volumes) % 2)
        yield f"grid of {period} voxels, 5 %", replace(high, signal=high.signal * gain.astype(np.float32))
    wrong = []
    for axis in (0, 1):
        n = low.spatial_shape[axis]
        middle = slice(n // 2, n // 2 + SCALE * n)
        wrong.append(operator(n, 3 * n, "linear")[middle])
    signal = np.einsum("ai,bj,ijzn->abzn", *wrong, low.signal, optimize=True)
    yield "output of scale 3", replace(high, signal=signal.astype(np.float32))


def makes_grids(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, its last layers trained for a hundred steps to draw a grid of 10 % of the mean signal."""
    torch.manual_seed(0)
    network = checkpoint.network()
    tail = network.tails[str(SCALE)].requires_grad_(True)
    images = torch.nn.functional.interpolate(torch.rand(4, network.view.channels, 8, 8), size=32, mode="bicubic")
    checks = 0.1 * (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64))
    with torch.no_grad():
        target = network(images, checks.shape) + checks
    optimiser = torch.optim.Adam(tail.parameters(), 3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(network(images, checks.shape), target).backward()
        optimiser.step()
    return replace(checkpoint, weights={key: value.detach() for key, value in network.state_dict().items()})


def unsettled(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with noise on its weights: what it adds depends on how the slice is turned."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: value + 0.5 * value.std() * torch.randn(value.shape, generator=generator) if value.ndim > 1 else value
        for key, value in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=weights)


def thin(low: DWI) -> DWI:
    """Six slices in the middle of one b0 and nine weighted volumes."""
    middle = low.spatial_shape[2] // 2
    affine = low.affine.copy()
    affine[:3, 3] += low.affine[:3, 2] * (middle - 3)
    part = select(low, np.arange(min(10, low.n_volumes)))
    return replace(part, signal=np.asfortranarray(part.signal[:, :, middle - 3 : middle + 3]), affine=affine)


def fired(checks) -> dict[str, bool]:
    found = {}
    for kind, prefix in KINDS.items():
        states = [check.fired for check in checks if check.name.startswith(prefix)]
        if states:
            found[kind] = any(states)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--table", type=Path, help="write value, threshold and outcome of every single check")
    arguments = parser.parse_args()
    paths = {path.parent.name: path for path in sorted(arguments.data.glob("*/*.nii.gz"))}
    scans = {name: read(path) for name, path in paths.items()}
    lows = {name: dsr.degrade(dwi, SCALE) for name, dwi in scans.items()}
    statistics = {name: domain_statistics(low) for name, low in lows.items()}
    try:
        checkpoint = load_checkpoint(arguments.checkpoint)
    except InputError as error:
        print(f"No network: {error} The sinc interpolation stands in for it.")
        checkpoint = None
    drawing = makes_grids(checkpoint) if checkpoint else None
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    lines = ["scan\tfault\tcheck\tvalue\tthreshold\tfired"]

    def count(name: str, fault: str, checks) -> None:
        for kind, state in fired(checks).items():
            counts[fault][kind][0] += state
            counts[fault][kind][1] += 1
        lines.extend(f"{name}\t{fault}\t{c.name}\t{c.value:.4g}\t{c.threshold:.4g}\t{int(c.fired)}" for c in checks)

    for name, low in lows.items():
        print(f"... {name}", flush=True)
        others = [o for o in scans if SESSIONS.get(o, o) != SESSIONS.get(name, name)]
        card = make_card(checkpoint, [lows[o] for o in others], [statistics[o] for o in others])
        sinc = dsr.interpolate(low, SCALE)
        count(name, "none (sinc)", self_checks(low, sinc, card))
        for fault, faulty in high_faults(low, sinc):
            count(name, fault, self_checks(low, faulty, card))
        for fault, faulty in low_faults(low):
            count(name, fault, self_checks(faulty, dsr.interpolate(faulty, SCALE), card))
        if checkpoint is not None and drawing is not None:
            part = thin(low)
            noisy = dict(low_faults(part))["heavy noise"]
            for fault, source in (("none (network)", part), ("heavy noise (network)", noisy)):
                high, spread = super_resolve_with_uncertainty(source, checkpoint, SCALE, axis=2)
                count(name, fault, self_checks(source, high, None, spread, axis=2))
            high, spread = super_resolve_with_uncertainty(part, unsettled(checkpoint), SCALE, axis=2)
            count(name, "unsettled checkpoint", self_checks(part, high, None, spread, axis=2))
            grids = super_resolve(part, drawing, SCALE, axis=2)
            count(name, "checkpoint that makes grids", self_checks(part, grids, None, axis=2))
    if arguments.table:
        arguments.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    show(counts)


def make_card(checkpoint: Checkpoint | None, lows: list[DWI], statistics: list[dict[str, float]]) -> Card:
    """A card as if trained on these scans."""
    ranges = domain_range(statistics)
    sizes = np.array([low.voxel_sizes for low in lows])
    weighted = np.concatenate([low.bvals for low in lows])
    base = checkpoint.card if checkpoint else Card("sinc", "sr_unet", {"scales": [SCALE]}, (SCALE,))
    return replace(
        base,
        voxel_sizes={
            "in_plane": [float(sizes[:, :2].min()), float(sizes[:, :2].max())],
            "slice": [float(sizes[:, 2].min()), float(sizes[:, 2].max())],
        },
        bvals=(float(weighted.min()), float(weighted.max())),
        snr=tuple(ranges.pop("snr")),
        statistics=ranges,
    )


def show(counts) -> None:
    kinds = [kind for kind in KINDS if any(kind in row for row in counts.values())]
    print("\nfired / scans (* = should fire)")
    print("\t".join(["fault".ljust(28), *kinds, "any expected"]))
    for fault in sorted(counts, key=lambda f: (f in SHOULD_FIRE, f)):
        expected = SHOULD_FIRE.get(fault, ())
        cells = [
            f"{counts[fault][kind][0]}/{counts[fault][kind][1]}{'*' if kind in expected else ''}"
            if kind in counts[fault]
            else "-"
            for kind in kinds
        ]
        best = max((counts[fault][kind] for kind in expected if kind in counts[fault]), default=None)
        print("\t".join([fault.ljust(28), *cells, f"{best[0]}/{best[1]}" if best else "-"]))
    for label, wanted in (("hits", True), ("false alarms", False)):
        total = [
            cell
            for fault, row in counts.items()
            for kind, cell in row.items()
            if (kind in SHOULD_FIRE.get(fault, ())) == wanted and (wanted or fault.startswith("none"))
        ]
        print(f"{label}: {sum(c[0] for c in total)} of {sum(c[1] for c in total)} checks")


if __name__ == "__main__":
    main()
