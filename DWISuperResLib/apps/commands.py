"""What each command does: a few calls into the library, its arguments in, its result out.

Heavy imports stand inside the functions, so that help is instant and the first line of progress comes at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..progress import Reporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..dwi import DWI

_NO_STUDY_OPTIONS = {"command", "study", "data", "output", "progress", "debug"}


def run(arguments: argparse.Namespace, report: Reporter) -> None:
    """Super-resolve a scan, by a network or by interpolation."""
    if arguments.method and (arguments.ensemble or arguments.consistent or arguments.uncertainty):
        raise InputError("--ensemble, --consistent and --uncertainty belong to networks; leave --method out.")
    outputs = [arguments.output, *([arguments.uncertainty] if arguments.uncertainty else [])]
    _check_outputs(outputs, arguments.overwrite)
    dwi = _read(arguments, report)
    options: dict[str, Any] = {"axis": arguments.axis}
    facts: dict[str, Any] = {"output": arguments.output}
    if arguments.method:
        from ..resampling.upsamplers import interpolate

        report.status(f"Interpolating by {arguments.method}")
        result = interpolate(dwi, arguments.scale, method=arguments.method, **options)
    else:
        report.status("Loading the network")
        from ..inference.predict import super_resolve, super_resolve_with_uncertainty

        options |= {name: getattr(arguments, name) for name in ("device", "precision", "batch_size", "consistent")}
        options |= {"mask": _read_mask(arguments.mask, dwi), "progress": report.part(0, 0.95)}
        from ..checkpoints import load_checkpoint
        from ..evaluation.selfchecks import warnings

        checkpoint = load_checkpoint(arguments.checkpoint or "default")
        deviation = None
        if arguments.uncertainty:
            result, deviation = super_resolve_with_uncertainty(dwi, checkpoint, arguments.scale, **options)
            _write(replace(result, signal=deviation), arguments.uncertainty, arguments, report)
            facts["uncertainty"] = arguments.uncertainty
        else:
            result = super_resolve(dwi, checkpoint, arguments.scale, ensemble=arguments.ensemble, **options)
        report(0.95, "Checking the result")
        facts["warnings"] = warnings(dwi, result, checkpoint.card, deviation, arguments.axis)
    _write(result, arguments.output, arguments, report)
    report(1.0, "Done")
    lines = [f"Wrote {arguments.output}: {_grid_text(dwi)} -> {_grid_text(result)}"]
    lines += [f"Warning: {sentence}" for sentence in facts.get("warnings", ())]
    report.result("\n".join(lines), **facts)


def degrade(arguments: argparse.Namespace, report: Reporter) -> None:
    """Lower a scan's resolution."""
    _check_outputs([arguments.output], arguments.overwrite)
    dwi = _read(arguments, report)
    from ..resampling.degradation import degrade

    report.status("Lowering the resolution")
    low = degrade(
        dwi,
        arguments.scale,
        model=arguments.model,
        axis=arguments.axis,
        fwhm=arguments.fwhm,
        snr=arguments.snr,
        seed=arguments.seed,
    )
    _write(low, arguments.output, arguments, report)
    report(1.0, "Done")
    report.result(f"Wrote {arguments.output}: {_grid_text(dwi)} -> {_grid_text(low)}", output=arguments.output)


def maps(arguments: argparse.Namespace, report: Reporter) -> None:
    """Compute microstructure maps."""
    from ..io import output_directory, write_image

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        dwi = _read(arguments, report)
        from ..microstructure import brain_mask, compute_maps

        mask = _read_mask(arguments.mask, dwi)
        if mask is None:
            report.status("Finding the brain")
            mask = brain_mask(dwi)
        report(0.2, f"Fitting {', '.join(arguments.maps)}")
        maps = compute_maps(
            dwi,
            arguments.maps,
            fit=arguments.fit,
            mask=mask,
            balance_shells=arguments.balance_shells,
            qa_scale=arguments.qa_scale,
        )
        for name, values in {**maps, "mask": mask.astype("uint8")}.items():
            write_image(values, dwi.affine, folder / f"{name}.{arguments.format}")
    files = {name: str(arguments.outdir / f"{name}.{arguments.format}") for name in (*maps, "mask")}
    report(1.0, "Done")
    report.result("\n".join(f"Wrote {path}" for path in files.values()), **files)


def compare(arguments: argparse.Namespace, report: Reporter) -> None:
    """Compare two scans on one grid: maps, differences, statistics, report."""
    from ..io import output_directory, read_dwi, write_image

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        report.status(f"Reading {arguments.reference}")
        reference = read_dwi(arguments.reference)
        report.status(f"Reading {arguments.test}")
        test = read_dwi(arguments.test)
        from ..evaluation.report import write_comparison_report

        mask = _read_mask(arguments.mask, reference)
        report(0.2, "Fitting and comparing maps")
        evaluation = write_comparison_report(
            reference, test, folder / "report.html", maps=arguments.maps, mask=mask, fit=arguments.fit,
            run={"reference": arguments.reference, "test": arguments.test},
        )  # fmt: skip
        report(0.9, "Writing")
        comparison = evaluation.comparison(arguments.maps)
        for kind in ("reference", "test", "difference"):
            for name, values in getattr(comparison, kind).items():
                write_image(values, comparison.affine, folder / f"{name}_{kind}.{arguments.format}")
        (folder / "statistics.tsv").write_text(comparison.as_tsv(), encoding="utf-8")
    outdir = arguments.outdir
    report(1.0, "Done")
    report.result(
        f"Wrote {outdir / 'report.html'}, {outdir / 'statistics.tsv'} and the maps beside them",
        outdir=str(outdir),
        report=str(outdir / "report.html"),
        statistics=str(outdir / "statistics.tsv"),
    )


def evaluate(arguments: argparse.Namespace, report: Reporter) -> None:
    """Degrade a scan, upsample it every way, score and report."""
    from ..io import output_directory

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        dwi = _read(arguments, report)
        report.status("Loading the networks")
        from ..evaluation.evaluate import evaluate
        from ..evaluation.report import write_report

        evaluation = evaluate(
            dwi,
            arguments.scale,
            arguments.checkpoint,
            methods=arguments.methods,
            model=arguments.model,
            snr=arguments.snr,
            seed=arguments.seed,
            axis=arguments.axis,
            mask=_read_mask(arguments.mask, dwi),
            fit=arguments.fit,
            distances=arguments.distances,
            device=arguments.device,
            precision=arguments.precision,
            ensemble=arguments.ensemble,
            consistent=arguments.consistent,
            progress=report.part(0, 0.9),
        )
        report(0.9, "Writing")
        evaluation.write_scores(folder)
        write_report(evaluation, folder / "report.html", run={"scan": arguments.input})
    files = {name: str(arguments.outdir / name) for name in ("report.html", "scores.tsv", "scores.json")}
    report(1.0, "Done")
    report.result("\n".join(f"Wrote {path}" for path in files.values()), **files)


def train(arguments: argparse.Namespace, report: Reporter) -> None:
    """Train as a configuration file says."""
    report.status("Loading PyTorch and Lightning")
    from ..train import train_from_file

    checkpoint = train_from_file(arguments.config, arguments.overrides)
    report.result(f"Wrote {checkpoint}", checkpoint=str(checkpoint))


def study(arguments: argparse.Namespace, report: Reporter) -> None:
    """Run a study with the options that were given; the study has its own defaults."""
    report.status("Loading PyTorch")
    from ..studies import STUDIES

    study = STUDIES.find(arguments.study)
    given = {name: value for name, value in vars(arguments).items() if name not in _NO_STUDY_OPTIONS}
    page = study.run(study.options(data=arguments.data, output=arguments.output, **given), progress=report)
    report.result(f"Wrote {page}", report=str(page))


def list_checkpoints(arguments: argparse.Namespace, report: Reporter) -> None:
    """List the checkpoints that ship."""
    from ..checkpoints import read_card, shipped_checkpoints

    cards = {name: read_card(name) for name in shipped_checkpoints()}
    lines = [
        f"{name:24} {card.task:18} x{', x'.join(map(str, card.scales)) or '-':12} {card.architecture}"
        for name, card in cards.items()
    ]
    checkpoints = [
        {"name": name, "task": card.task, "scales": card.scales, "architecture": card.architecture}
        for name, card in cards.items()
    ]
    report.result("\n".join(lines) or "No checkpoint ships with this copy of the library.", checkpoints=checkpoints)


def show_checkpoint(arguments: argparse.Namespace, report: Reporter) -> None:
    """Show a checkpoint's card."""
    import dataclasses

    from ..checkpoints import describe, read_card

    card = read_card(arguments.checkpoint)
    report.result(describe(card), card=dataclasses.asdict(card))


def import_weights(arguments: argparse.Namespace, report: Reporter) -> None:
    """Convert fastai weights."""
    report.status("Loading PyTorch")
    from ..checkpoints import describe, import_fastai

    card = import_fastai(
        arguments.file, arguments.output, scales=arguments.scales, name=arguments.name,
        licence=arguments.licence, provenance=arguments.provenance, overwrite=arguments.overwrite,
    )  # fmt: skip
    report.result(f"Wrote {arguments.output}\n{describe(card)}", output=arguments.output)


def demo(arguments: argparse.Namespace, report: Reporter) -> None:
    """Run the demo."""
    report.status("Preparing the demo")
    from .demo import demo

    page = demo(
        arguments.input,
        arguments.output,
        scale=arguments.scale,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        overwrite=arguments.overwrite,
        progress=report,
    )
    report.result(f"Open {page.resolve().as_uri()}", report=str(page))


def _check_outputs(paths: Sequence[str], overwrite: bool) -> None:
    """Refuse, before anything is computed, what could not be written afterwards."""
    from ..io import check_output

    for path in paths:
        check_output(path, overwrite=overwrite)


def _read(arguments: argparse.Namespace, report: Reporter) -> DWI:
    from ..io import read_dwi

    report.status(f"Reading {arguments.input}")
    return read_dwi(arguments.input, bval=arguments.bval, bvec=arguments.bvec)


def _read_mask(path: str | None, dwi: DWI) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    import numpy as np

    from ..io import read_image

    mask, affine = read_image(path)
    if mask.shape != dwi.spatial_shape or not np.allclose(affine, dwi.affine, atol=0.01 * dwi.voxel_sizes.min()):
        raise InputError(
            f"The mask {path} has matrix {mask.shape} and the scan {dwi.spatial_shape}, or they lie at different "
            "places; give a mask on the grid of the scan."
        )
    return mask > 0


def _write(dwi: DWI, path: str, arguments: argparse.Namespace, report: Reporter) -> None:
    from ..io import write_dwi

    report.status(f"Writing {path}")
    write_dwi(dwi, path, overwrite=arguments.overwrite, compress=not arguments.uncompressed)


def _grid_text(dwi: DWI) -> str:
    matrix = " x ".join(map(str, dwi.spatial_shape))
    return f"{matrix} of {' x '.join(f'{size:.3g}' for size in dwi.voxel_sizes)} mm"
