"""The whole way in one call: scan, low resolution, super-resolution, maps, differences, report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.evaluate import evaluate
from ..evaluation.report import write_report
from ..inference.native import at_native
from ..inference.options import InferenceOptions
from ..io import b_value_warning, output_directory, read_dwi, write_dwi, write_image
from ..microstructure import angular_error
from ..phantoms import phantom, phantom_truth
from ..resampling.degradation import degrade

if TYPE_CHECKING:
    from ..dwi import DWI
    from ..evaluation.evaluate import Evaluation
    from ..resampling.scale import ScaleLike

METHODS = ("nearest", "sinc")
"""What super-resolution is compared with: the low resolution as it is, and the strongest interpolation."""
SINGLE_FIBRE = 0.7
"""Volume fraction of one bundle from which a voxel of the phantom has one known direction."""


def demo(
    scan: str | os.PathLike[str] | None,
    output: str | os.PathLike[str],
    *,
    scale: ScaleLike = 2,
    checkpoint: str = "default",
    overwrite: bool = False,
    progress: Callable[[float, str], None] = lambda fraction, message: None,
    **options: Any,
) -> Path:
    """Lower a scan's resolution, super-resolve it, and show in one page how close that comes to the original.

    Parameters
    ----------
    scan : path, optional
        NIfTI or NRRD; None scans the numerical phantom.
    output : path
        Folder for the scans, the maps of FA and QA, their differences, the scores and report.html.
    scale, checkpoint
        As for `inference.predict.super_resolve`.
    overwrite : bool
        Replace what the folder holds.
    progress : callable (fraction, message)
    **options
        Of `InferenceOptions`.

    Returns
    -------
    Path of the report, one self-contained page.

    Raises
    ------
    InputError
        If the scan, the checkpoint or the folder cannot be used.
    """
    with output_directory(output, overwrite) as folder:
        progress(0.0, "Scanning the phantom" if scan is None else f"Reading {scan}")
        dwi = phantom() if scan is None else read_dwi(scan)
        if warning := b_value_warning(dwi.bvals):
            progress(0.0, f"Warning: {warning}")
        dwi, inference, _ = at_native(dwi, InferenceOptions(**options))
        if scan is None:
            write_dwi(dwi, folder / "original.nii.gz")
        write_dwi(degrade(dwi, scale, axis=inference.axis), folder / "low_resolution.nii.gz")

        def keep(kind: str, result: DWI) -> None:
            if kind == "checkpoint":
                write_dwi(result, folder / "super_resolved.nii.gz")

        evaluation = evaluate(
            dwi, scale, [checkpoint], methods=METHODS, keep=keep,
            progress=lambda fraction, message: progress(0.1 + 0.75 * fraction, message),
            **asdict(inference),
        )  # fmt: skip
        progress(0.85, "Writing maps")
        _write_maps(evaluation, folder)
        evaluation.write_scores(folder)
        progress(0.9, "Drawing the report")
        facts = {"scan": "numerical phantom" if scan is None else os.fspath(scan)}
        write_report(evaluation, folder / "report.html", run=facts | (fibre_errors(evaluation) if scan is None else {}))
    progress(1.0, "Done")
    return Path(output) / "report.html"


def fibre_errors(evaluation: Evaluation) -> dict[str, str]:
    """Median angle between the measured and the true direction in the phantom's single fibres, for each method."""
    shape = evaluation.mask.shape
    truth = phantom_truth(shape, np.diag(evaluation.affine)[:3].tolist())
    main = truth.fibres.argmax(-1)
    true = np.take_along_axis(truth.directions, main[..., None, None], axis=3)[..., 0, :]
    single = evaluation.mask & (truth.fibres.max(-1) > SINGLE_FIBRE)
    return {
        f"median angle to the true fibres, {candidate.name}": (
            f"{np.median(angular_error(candidate.direction[single], true[single])):.2f}°"
        )
        for candidate in (evaluation.reference, *evaluation.candidates)
        if candidate.direction is not None
    }


def _write_maps(evaluation: Evaluation, folder: Path) -> None:
    network = evaluation.candidates[-1]
    for name in ("fa", "qa"):
        reference, test = evaluation.reference.maps[name], network.maps[name]
        for kind, values in (("reference", reference), ("super_resolved", test), ("difference", test - reference)):
            write_image(values, evaluation.affine, folder / f"{name}_{kind}.nii.gz")
    write_image(evaluation.mask, evaluation.affine, folder / "mask.nii.gz")
