"""One scan of a cohort, from file to files: what a worker does. Only a small record of it travels."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import DWISuperResError, InputError
from ...inference.options import InferenceOptions
from ...provenance import file_hash, versions
from .layout import BidsScan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...checkpoints import Checkpoint
    from ...dwi import DWI

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
SECTION = "DWISuperRes"
"""Of the sidecar: everything that BIDS has no name for."""


@dataclass(frozen=True)
class Job:
    """What is done to every scan.

    Attributes
    ----------
    output : str
        Root of the derivatives, as the workers see it.
    scale, checkpoint, maps, inference
        As for `super_resolve` and `compute_maps`.
    overwrite : bool
        Replace results of other inputs or options.
    """

    output: str
    scale: str = "2"
    checkpoint: str = "default"
    maps: tuple[str, ...] = ("fa", "qa")
    inference: InferenceOptions = InferenceOptions()
    overwrite: bool = False


@dataclass(frozen=True)
class Record:
    """What became of a scan: `kind` is the error's class, `stem` says where the results lie."""

    participant: str
    session: str
    stem: str
    status: str
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    kind: str = ""

    @classmethod
    def of(cls, scan: BidsScan, status: str, **more: Any) -> Record:
        """Of a scan."""
        return cls(scan.participant, scan.session, scan.stem, status, **more)


def process(scan: BidsScan, job: Job) -> Record:
    """Super-resolve a scan, compute its maps, check it and write it all; or find that this has been done.

    It may be called again after it was killed anywhere: results appear whole, and only once.

    Returns
    -------
    Record
        Of status "failed", with a sentence, whatever goes wrong: one scan never stops the others.
    """
    begun = time.perf_counter()
    try:
        if scan.problem:
            raise InputError(scan.problem)
        status, warnings = _process(scan, job, begun)
    except DWISuperResError as error:
        seconds = time.perf_counter() - begun
        return Record.of(scan, FAILED, seconds=seconds, error=str(error), kind=type(error).__name__)
    except Exception as error:
        reason = "not enough memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        sentence = f"{scan.source} could not be processed ({' '.join(reason.split())})."
        seconds = time.perf_counter() - begun
        return Record.of(scan, FAILED, seconds=seconds, error=sentence, kind=type(error).__name__)
    return Record.of(scan, status, seconds=time.perf_counter() - begun, warnings=tuple(warnings))


def _process(scan: BidsScan, job: Job, begun: float) -> tuple[str, Sequence[str]]:
    from ...checkpoints import load_checkpoint
    from ...evaluation.scorer import maps_that_fit
    from ...inference.devices import resolve_device, resolve_precision
    from ...io import output_files, read_dwi

    checkpoint = load_checkpoint(job.checkpoint)
    device = resolve_device(job.inference.device)
    dtype = resolve_precision(job.inference.precision, device)
    facts: dict[str, Any] = {
        "version": __version__,
        "inputs": {Path(p).name: file_hash(p) for p in (scan.path, scan.bval, scan.bvec) if p},
        "checkpoint": {"name": checkpoint.card.name, "sha256": checkpoint.card.sha256},
        "scale": job.scale,
        "maps": list(job.maps),
        # Neither the device nor the batch changes the result, but the precision that the device computes in does.
        "options": asdict(job.inference) | {"device": "", "batch_size": None, "precision": str(dtype or "float32")},
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    sidecar = result_path(job.output, scan.stem)
    known = read_sidecar(sidecar)
    if known and known["key"] == key and _is_whole(sidecar.parent, known["files"]):
        return SKIPPED, known["warnings"]
    low = read_dwi(scan.path, bval=scan.bval, bvec=scan.bvec)
    fitting = maps_that_fit(low, job.maps)
    names = _names(scan.stem, fitting)
    targets = [Path(job.output) / name for name in names.values()]
    sidecar.parent.mkdir(parents=True, exist_ok=True)
    # Files without a sidecar, or not as it says, are what a killed run left.
    unfinished = known is None or known["key"] == key
    # A worker that was given up may still be at it: whoever comes later waits, and finds the same result or none.
    with output_files(targets, overwrite=job.overwrite or unfinished, wait=True) as temporary:
        files = dict(zip(names, zip(temporary, targets, strict=True), strict=True))
        high, found = _compute(low, job, checkpoint, fitting)
        _write(high, found, files)
        content = {
            "Description": f"{scan.source}, super-resolved by the network {checkpoint.card.name}",
            "Sources": [f"bids:raw:{scan.source}"],
            SECTION: {
                "key": key,
                **facts,
                "device": str(device),
                "matrix": list(high.spatial_shape),
                "voxel_sizes_mm": [round(float(size), 4) for size in high.voxel_sizes],
                "warnings": found.warnings,
                "checks": found.checks,
                "changes": found.changes,
                "seconds": round(time.perf_counter() - begun, 3),
                "files": {target.name: file.stat().st_size for file, target in files.values() if file.exists()},
                "versions": versions(),
            },
        }
        text = json.dumps(_for_json(content), indent=1, allow_nan=False, ensure_ascii=False)
        files["json"][0].write_text(text + "\n", encoding="utf-8")
    if known:
        _remove_unasked(sidecar.parent, known["files"], targets)
    return DONE, found.warnings


def _remove_unasked(folder: Path, known: Iterable[str], targets: Sequence[Path]) -> None:
    """Maps of an earlier run that are no longer asked for."""
    for name in set(known) - {target.name for target in targets}:
        (folder / Path(name).name).unlink(missing_ok=True)


def result_path(output: str | Path, stem: str) -> Path:
    """The sidecar of a result, which is moved into place last: where it is, the result is whole."""
    return Path(output) / f"{stem}_dwi.json"


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What a finished scan says of itself; None where there is none that can be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))[SECTION]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    needed = ("key", "files", "warnings", "checks", "changes", "seconds")
    return known if isinstance(known, dict) and all(name in known for name in needed) else None


def _is_whole(folder: Path, sizes: Mapping[str, int]) -> bool:
    try:
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except OSError:
        return False


def _names(stem: str, maps: Sequence[str]) -> dict[str, str]:
    """Of every file of a result, from the root of the derivatives; the sidecar last."""
    from ...microstructure import map_models

    models = {info.name: model.name for model in map_models() for info in model.maps}
    return {
        "bval": f"{stem}_dwi.bval",
        "bvec": f"{stem}_dwi.bvec",
        "dwi": f"{stem}_dwi.nii.gz",
        "mask": f"{stem}Brain_mask.nii.gz",
        **{name: f"{stem}_model-{models[name]}_param-{name}_dwimap.nii.gz" for name in maps},
        "json": f"{stem}_dwi.json",
    }


@dataclass(frozen=True, eq=False)
class _Findings:
    """What is known of a result beside its signal."""

    mask: NDArray[np.bool_]
    maps: Mapping[str, NDArray[np.float32]]
    changes: Mapping[str, Mapping[str, Any]]
    checks: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]


def _compute(low: DWI, job: Job, checkpoint: Checkpoint, maps: Sequence[str]) -> tuple[DWI, _Findings]:
    from ...evaluation.change import finer_mask, map_changes
    from ...evaluation.selfchecks import checks_and_warnings
    from ...inference.native import at_native
    from ...inference.predict import super_resolve
    from ...io import b_value_warning
    from ...microstructure import brain_mask, compute_maps
    from ...resampling.grid import AXIS_NAMES, slice_axis, slice_axis_is_assumed

    axis = job.inference.axis
    warnings = [warning] if (warning := b_value_warning(low.bvals)) else []
    if axis is None and slice_axis_is_assumed(low):
        warnings.append(f"Slice axis {AXIS_NAMES[slice_axis(low)]} is assumed: the header does not tell it.")
    if left_out := [name for name in job.maps if name not in maps]:
        warnings.append(f"The gradient table is too small for {', '.join(left_out)}: not computed.")
    low, inference, _ = at_native(low, job.inference)
    axis = inference.axis
    high = super_resolve(low, checkpoint, job.scale, **asdict(inference))
    brain = brain_mask(low)
    inside = finer_mask(brain, high.spatial_shape)
    computed = compute_maps(high, maps, mask=inside)
    scalar = {name: values for name, values in computed.items() if values.ndim == 3}
    changes = map_changes(low, scalar, brain, axis) if scalar and inside.any() else {}
    checks, told = checks_and_warnings(low, high, checkpoint.card, axis=axis)
    found = [asdict(check) for check in checks]
    return high, _Findings(inside, computed, changes, found, [*warnings, *told])


def _write(high: DWI, found: _Findings, files: Mapping[str, tuple[Path, Path]]) -> None:
    import numpy as np

    from ...io.formats import format_of

    path = files["dwi"][1]
    form = format_of(path)
    form.write_scan(high, [files[name][0] for name in ("bval", "bvec", "dwi")], path, True)
    images: dict[str, NDArray] = {**found.maps, "mask": found.mask.astype(np.uint8)}
    for name, values in images.items():
        dtype = np.dtype("u1" if name == "mask" else "<f4")
        form.write_image(values, high.affine, [files[name][0]], files[name][1], dtype)


def _for_json(value: Any) -> Any:
    """JSON knows no NaN and no NumPy: None stands for what could not be measured."""
    if isinstance(value, Mapping):
        return {key: _for_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
