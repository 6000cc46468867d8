"""The card of a trained network: everything the training knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning
import torch

from .. import __version__
from ..checkpoints import Card
from ..evaluation.selfchecks import domain_range, domain_statistics
from ..resampling.degradation import degrade
from ..resampling.scale import Scale
from .cache import Scan
from .configuration import Configuration
from .module import Training
from .patches import DWIData

SCANS_DESCRIBED = 20
"""On the card, at most."""


def make_card(config: Configuration, data: DWIData, module: Training, reached: dict[str, Any]) -> Card:
    """The card of a network as it was when `reached` was noted: everything the training knows."""
    scans = data.scans
    weighted = [b for scan in scans if not scan.is_simulated for b in scan.bvals]
    holes = {"holes": "16 x 16 px, Poisson-disc distributed, over half of every slice"}
    drawn: dict[str, Any] = holes if config.task == "ssfd" else config.degradation.model_dump(mode="json")
    degradation = {"model": max(drawn["models"], key=drawn["models"].get)} if config.task == "super-resolution" else {}
    statistics = describe_scans(config, [s for s in scans if not s.is_simulated], degradation.get("model"))
    return Card(
        name=config.name,
        architecture=config.network.architecture,
        arguments=config.network.arguments,
        factors=config.served,
        task=config.task,
        normalisation=config.normalisation,
        degradation=degradation | drawn,
        voxel_sizes=_voxel_sizes(config, data),
        bvals=(min(weighted), max(weighted)),
        snr=_with_noise(statistics.pop("snr", []), config.degradation.noise[1]),
        statistics=statistics,
        loss={"terms": module.loss.description},
        scores={"monitored": config.validation.monitor, **reached["scores"]},
        training={
            **_sources(data),
            "steps": reached["step"],
            "minutes": round(reached["seconds"] / 60, 2),
            "seed": config.seed,
            "start_from": config.network.start_from or "",
            "augmentation": config.augmentation.model_dump(mode="json"),
            "schedule": config.schedule.model_dump(mode="json"),
            "versions": {"dwi-superres": __version__, "torch": torch.__version__, "lightning": lightning.__version__},
        },
        licence=config.licence,
        provenance=config.provenance,
    )


def _voxel_sizes(config: Configuration, data: DWIData) -> dict[str, list[float]]:
    """Ranges, in mm, within slices and across them, of what the network is given."""
    sizes = [
        scan.coarse_sizes(triple)
        for scan in data.scans
        for triple in config.served
        if data.view.dimensions == 3 or scan.stacked in scan.planes(triple, config.data)
    ]
    planes, across = [size for pair, _ in sizes for size in pair], [size for _, size in sizes]
    coarsest = config.augmentation.resample[1]
    return {
        "in_plane": [round(min(planes), 3), round(max(planes) * coarsest, 3)],
        "slice": [round(min(across), 3), round(max(across), 3)],
    }


def _with_noise(snr: Sequence[float], percent: float) -> tuple[float, ...]:
    """Range of the SNR with the most noise that training adds to its input, in percent of b0."""
    if not snr:
        return ()
    low, high = snr
    return float(f"{1 / math.hypot(1 / low, percent / 100):.4g}"), high


def _sources(data: DWIData) -> dict[str, list[str]]:
    """Names of the files, by what they were used for."""
    names = {
        "scans": {scan.path: scan.path.name for scan in data.scans if not scan.is_simulated},
        "structural": {scan.path: scan.path.name for scan in data.scans if scan.is_simulated},
        "held_out": {scan.path: scan.path.name for scan in data.validation_scans},
        "guides": {scan.guide_path: scan.guide_path.name for scan in data.scans if scan.guide_path},
    }
    return {use: sorted(found.values()) for use, found in names.items() if found or use in ("scans", "held_out")}


def describe_scans(config: Configuration, scans: list[Scan], model: str | None) -> dict[str, list[float]]:
    """Ranges of the training scans' statistics at the resolution the network is given, of some scans."""
    distinct = list({scan.path: scan for scan in reversed(scans)}.values())
    found = []
    for scan in distinct[:: -(-len(distinct) // SCANS_DESCRIBED)]:
        dwi = scan.dwi()
        for triple in config.served:
            scale = Scale.of_slices(*triple, axis=scan.axis)
            low = dwi if model is None else degrade(dwi, scale, model=model, axis=scan.axis)
            found.append(domain_statistics(low, axis=scan.axis))
    return domain_range(found)
