"""The command line: one function a command, each a few calls into the library and nothing of its own.

Heavy imports stand inside the commands, so that help is instant and the first line of progress comes at once.
Exit codes: 0 done, 2 input that cannot be used, 1 a failure while running, 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import DWISuperResError, InputError
from .progress import MODES, Reporter, reporter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .dwi import DWI


class _Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM; raised in the main thread, so that every unfinished file is removed on the way out."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args(argv)
    except InputError as error:
        json_mode = "--progress=json" in argv or ("--progress", "json") in itertools.pairwise(argv)
        with reporter("json" if json_mode else "none") as report:
            report.error(str(error), "InputError")
        return error.exit_code
    previous = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with reporter(arguments.progress) as report:
            return _run_command(arguments, report)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run_command(arguments: argparse.Namespace, report: Reporter) -> int:
    try:
        arguments.command(arguments, report)
    except _Interrupted as interruption:
        report.error("Cancelled; nothing was written.", "Cancelled")
        return interruption.exit_code
    except DWISuperResError as error:
        if arguments.debug:
            raise
        report.error(str(error), type(error).__name__)
        return error.exit_code
    except Exception as error:
        if arguments.debug:
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        report.error(f"{type(error).__name__}: {reason} (--debug shows where).", type(error).__name__)
        return 1
    return 0


def _interrupt(number: int, frame: object) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):  # a second signal must not interrupt the cleaning up
        signal.signal(each, signal.SIG_IGN)
    raise _Interrupted(number)


def _run(arguments: argparse.Namespace, report: Reporter) -> None:
    if arguments.method and (arguments.ensemble or arguments.consistent or arguments.uncertainty):
        raise InputError("--ensemble, --consistent and --uncertainty belong to networks; leave --method out.")
    outputs = [arguments.output, *([arguments.uncertainty] if arguments.uncertainty else [])]
    _check_outputs(outputs, arguments.overwrite)
    dwi = _read(arguments, report)
    options: dict[str, Any] = {"axis": arguments.axis}
    facts = {"output": arguments.output}
    if arguments.method:
        from .interpolation import interpolate

        report.status(f"Interpolating by {arguments.method}")
        result = interpolate(dwi, arguments.scale, method=arguments.method, **options)
    else:
        report.status("Loading the network")
        from dataclasses import replace

        from .engine import super_resolve, super_resolve_with_uncertainty

        options |= {name: getattr(arguments, name) for name in ("device", "precision", "batch_size", "consistent")}
        options |= {"mask": _read_mask(arguments.mask, dwi), "progress": report.part(0, 0.95)}
        checkpoint = arguments.checkpoint or "default"
        if arguments.uncertainty:
            result, deviation = super_resolve_with_uncertainty(dwi, checkpoint, arguments.scale, **options)
            _write(replace(result, signal=deviation), arguments.uncertainty, arguments, report)
            facts["uncertainty"] = arguments.uncertainty
        else:
            result = super_resolve(dwi, checkpoint, arguments.scale, ensemble=arguments.ensemble, **options)
    _write(result, arguments.output, arguments, report)
    report(1.0, "Done")
    report.result(f"Wrote {arguments.output}: {_grid_text(dwi)} -> {_grid_text(result)}", **facts)


def _degrade(arguments: argparse.Namespace, report: Reporter) -> None:
    _check_outputs([arguments.output], arguments.overwrite)
    dwi = _read(arguments, report)
    from .degradation import degrade

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


def _maps(arguments: argparse.Namespace, report: Reporter) -> None:
    from .io import output_directory, write_image

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        dwi = _read(arguments, report)
        from .microstructure import brain_mask, compute_maps

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


def _compare(arguments: argparse.Namespace, report: Reporter) -> None:
    from .io import output_directory, read_dwi, write_image

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        report.status(f"Reading {arguments.reference}")
        reference = read_dwi(arguments.reference)
        report.status(f"Reading {arguments.test}")
        test = read_dwi(arguments.test)
        from .microstructure import compare
        from .report import write_comparison_report

        mask = _read_mask(arguments.mask, reference)
        report(0.2, "Fitting and comparing maps")
        comparison = compare(reference, test, arguments.maps, mask=mask, fit=arguments.fit)
        report(0.6, "Writing")
        for kind in ("reference", "test", "difference"):
            for name, values in getattr(comparison, kind).items():
                write_image(values, comparison.affine, folder / f"{name}_{kind}.{arguments.format}")
        columns = list(comparison.statistics[0])
        rows = [columns, *([str(row[column]) for column in columns] for row in comparison.statistics)]
        (folder / "statistics.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        write_comparison_report(
            reference, test, folder / "report.html",
            mask=comparison.mask, fit=arguments.fit, run={"reference": arguments.reference, "test": arguments.test},
        )  # fmt: skip
    outdir = arguments.outdir
    report(1.0, "Done")
    report.result(
        f"Wrote {outdir / 'report.html'}, {outdir / 'statistics.tsv'} and the maps beside them",
        outdir=str(outdir),
        report=str(outdir / "report.html"),
        statistics=str(outdir / "statistics.tsv"),
    )


def _evaluate(arguments: argparse.Namespace, report: Reporter) -> None:
    from .io import output_directory

    with output_directory(arguments.outdir, arguments.overwrite) as folder:
        dwi = _read(arguments, report)
        report.status("Loading the networks")
        from .evaluation import evaluate
        from .interpolation import METHODS
        from .report import write_report

        evaluation = evaluate(
            dwi,
            arguments.scale,
            arguments.checkpoint,
            methods=arguments.methods or METHODS,
            model=arguments.model,
            snr=arguments.snr,
            seed=arguments.seed,
            axis=arguments.axis,
            mask=_read_mask(arguments.mask, dwi),
            fit=arguments.fit,
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


def _train(arguments: argparse.Namespace, report: Reporter) -> None:
    report.status("Loading PyTorch and Lightning")
    from .train import train_from_file

    checkpoint = train_from_file(arguments.config, arguments.overrides)
    report.result(f"Wrote {checkpoint}", checkpoint=str(checkpoint))


def _list(arguments: argparse.Namespace, report: Reporter) -> None:
    from .checkpoints import read_card, shipped_checkpoints

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


def _info(arguments: argparse.Namespace, report: Reporter) -> None:
    import dataclasses

    from .checkpoints import describe, read_card

    card = read_card(arguments.checkpoint)
    report.result(describe(card), card=dataclasses.asdict(card))


def _import(arguments: argparse.Namespace, report: Reporter) -> None:
    report.status("Loading PyTorch")
    from .checkpoints import describe, import_fastai

    card = import_fastai(
        arguments.file, arguments.output, scales=arguments.scales, name=arguments.name,
        licence=arguments.licence, provenance=arguments.provenance, overwrite=arguments.overwrite,
    )  # fmt: skip
    report.result(f"Wrote {arguments.output}\n{describe(card)}", output=arguments.output)


def _demo(arguments: argparse.Namespace, report: Reporter) -> None:
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
    from .io import check_output

    for path in paths:
        check_output(path, overwrite=overwrite)


def _read(arguments: argparse.Namespace, report: Reporter) -> DWI:
    from .io import read_dwi

    report.status(f"Reading {arguments.input}")
    return read_dwi(arguments.input, bval=arguments.bval, bvec=arguments.bvec)


def _read_mask(path: str | None, dwi: DWI) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    import numpy as np

    from .io import read_image

    mask, affine = read_image(path)
    if mask.shape != dwi.spatial_shape or not np.allclose(affine, dwi.affine, atol=0.01 * dwi.voxel_sizes.min()):
        raise InputError(
            f"The mask {path} has matrix {mask.shape} and the scan {dwi.spatial_shape}, or they lie at different "
            "places; give a mask on the grid of the scan."
        )
    return mask > 0


def _write(dwi: DWI, path: str, arguments: argparse.Namespace, report: Reporter) -> None:
    from .io import write_dwi

    report.status(f"Writing {path}")
    write_dwi(dwi, path, overwrite=arguments.overwrite)


def _grid_text(dwi: DWI) -> str:
    matrix = " x ".join(map(str, dwi.spatial_shape))
    return f"{matrix} of {' x '.join(f'{size:.3g}' for size in dwi.voxel_sizes)} mm"


class _Parser(argparse.ArgumentParser):
    """Argument errors become the library's own, so that they leave by the same door."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())


def _number_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dwi-superres",
        description="Super-resolve diffusion-weighted MRI, and see what that did to the microstructure.",
        epilog="Scans are NIfTI with .bval and .bvec beside them, or NRRD; both for input and output.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_scan_commands(commands)
    _add_evaluation_commands(commands)
    _add_checkpoint_commands(commands)
    return parser


def _add(commands, name: str, function, summary: str, example: str, *, writes: bool = True) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  dwi-superres {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=function)
    command.add_argument("--progress", choices=MODES, default="auto", help="how progress is shown (default: auto)")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if writes:
        command.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    return command


def _add_gradients(command) -> None:
    command.add_argument("--bval", metavar="FILE", help="b-values, when not beside the image")
    command.add_argument("--bvec", metavar="FILE", help="gradient directions, when not beside the image")


def _add_device(command) -> None:
    command.add_argument("--device", metavar="auto|cpu|cuda|mps", default="auto", help="default: auto")
    command.add_argument("--precision", metavar="auto|fp32|bf16|fp16", default="auto", help="default: auto")


def _add_inference(command) -> None:
    command.add_argument("--ensemble", action="store_true", help="average over flips and rotations (8x the time)")
    command.add_argument("--consistent", action="store_true", help="make the result, degraded again, equal the input")


def _add_degradation(command) -> None:
    command.add_argument("--model", metavar="kspace|gaussian|area|paper", default="kspace", help="default: kspace")
    command.add_argument("--snr", type=float, help="add Rician noise at this signal-to-noise ratio")
    command.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")


def _add_scale_and_axis(command) -> None:
    command.add_argument("--scale", type=int, default=2, help="in-plane factor, up to 5 (default: 2)")
    command.add_argument("--axis", metavar="i|j|k", help="slice axis, when the header misleads")


def _add_maps(command) -> None:
    command.add_argument(
        "--maps", type=_names, default=("fa", "qa"), help="some of fa,md,ad,rd,qa,iso,gfa (default: fa,qa)"
    )
    command.add_argument("--fit", metavar="wls|ols|iwls", default="wls", help="tensor fit (default: wls)")
    command.add_argument("--mask", metavar="FILE", help="brain mask (default: found by median Otsu)")
    command.add_argument(
        "--format", choices=("nii.gz", "nii", "nrrd"), default="nii.gz", help="of the maps (default: nii.gz)"
    )


def _add_scan_commands(commands) -> None:
    command = _add(commands, "run", _run, "super-resolve a scan", "run scan.nii.gz sr.nii.gz --scale 2")
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("output", help="NIfTI or NRRD")
    _add_scale_and_axis(command)
    way = command.add_mutually_exclusive_group()
    way.add_argument("--checkpoint", metavar="NAME|FILE", help="network to use (default: default)")
    way.add_argument(
        "--method", metavar="nearest|linear|cubic|bspline|lanczos|sinc", help="interpolate instead of a network"
    )
    _add_gradients(command)
    _add_device(command)
    _add_inference(command)
    command.add_argument(
        "--uncertainty", metavar="FILE", help="also write the voxelwise standard deviation over flips and rotations"
    )
    command.add_argument("--mask", metavar="FILE", help="spend time only where this mask is set")
    command.add_argument("--batch-size", type=int, metavar="N", help="slices at a time (default: what fits)")

    command = _add(commands, "maps", _maps, "compute microstructure maps", "maps scan.nii.gz maps --maps fa,md,qa")
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("outdir", type=Path, help="folder for fa.nii.gz, ...")
    _add_maps(command)
    _add_gradients(command)
    command.add_argument("--balance-shells", action="store_true", help="QA, ISO and GFA as DSI Studio has them")
    command.add_argument(
        "--qa-scale", type=_number_or_name, metavar="dsi-studio|dipy|NUMBER", help="factor on QA and ISO"
    )

    command = _add(
        commands, "compare", _compare, "compare the microstructure of two scans on one grid",
        "compare original.nii.gz sr.nii.gz comparison --maps fa,qa",
    )  # fmt: skip
    command.add_argument("reference", help="NIfTI or NRRD")
    command.add_argument("test", help="NIfTI or NRRD on the same grid")
    command.add_argument("outdir", type=Path, help="folder for maps, differences, statistics.tsv and report.html")
    _add_maps(command)

    command = _add(
        commands, "degrade", _degrade, "lower the in-plane resolution of a scan",
        "degrade scan.nii.gz low.nii.gz --scale 2 --model kspace --snr 25 --seed 1",
    )  # fmt: skip
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("output", help="NIfTI or NRRD")
    _add_scale_and_axis(command)
    _add_degradation(command)
    command.add_argument("--fwhm", type=float, metavar="MM", help="width of the gaussian model")
    _add_gradients(command)


def _add_evaluation_commands(commands) -> None:
    command = _add(
        commands, "evaluate", _evaluate, "degrade a scan, upsample it every way, and measure how close each comes",
        "evaluate scan.nii.gz evaluation --scale 2 --checkpoint default mine.safetensors",
    )  # fmt: skip
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("outdir", type=Path, help="folder for report.html, scores.tsv and scores.json")
    _add_scale_and_axis(command)
    command.add_argument(
        "--checkpoint", nargs="*", metavar="NAME|FILE", default=["default"], help="networks (default: default)"
    )
    command.add_argument(
        "--methods", type=_names, help="some of nearest,linear,cubic,bspline,lanczos,sinc (default: all)"
    )
    _add_degradation(command)
    _add_gradients(command)
    command.add_argument("--fit", metavar="wls|ols|iwls", default="wls", help="tensor fit (default: wls)")
    command.add_argument("--mask", metavar="FILE", help="brain mask (default: found by median Otsu)")
    _add_device(command)
    _add_inference(command)

    command = _add(
        commands, "train", _train, "train a network as a configuration file says",
        "train --config Resources/Configurations/default.yaml schedule.epochs=5", writes=False,
    )  # fmt: skip
    command.add_argument("--config", required=True, metavar="FILE", help="YAML, see Resources/Configurations")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="replaces one value of the file")

    command = _add(
        commands, "demo", _demo, "low resolution, super-resolution, maps, differences, one report",
        "demo --input scan.nii.gz --output demo",
    )  # fmt: skip
    command.add_argument("--input", metavar="SCAN", help="NIfTI or NRRD (default: a numerical phantom)")
    command.add_argument("--output", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    command.add_argument("--scale", type=int, default=2, help="in-plane factor (default: 2)")
    command.add_argument("--checkpoint", metavar="NAME|FILE", default="default", help="default: default")
    command.add_argument("--device", metavar="auto|cpu|cuda|mps", default="auto", help="default: auto")


def _add_checkpoint_commands(commands) -> None:
    group = commands.add_parser("checkpoints", help="list, show or import checkpoints")
    actions = group.add_subparsers(metavar="ACTION", required=True, parser_class=_Parser)
    _add(actions, "list", _list, "list the checkpoints that ship", "checkpoints list", writes=False)
    command = _add(actions, "info", _info, "show a checkpoint's card", "checkpoints info default", writes=False)
    command.add_argument("checkpoint", metavar="NAME|FILE")
    command = _add(
        actions, "import", _import, "convert fastai weights of the paper's network",
        "checkpoints import model.pth model.safetensors",
    )  # fmt: skip
    command.add_argument("file", help=".pth state dict of fastai")
    command.add_argument("output", help=".safetensors")
    command.add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=[2],
        metavar="N",
        help="in-plane factors it was trained for (default: 2)",
    )
    command.add_argument("--name", help="for the card (default: the file's)")
    command.add_argument("--licence", default="", help="for the card")
    command.add_argument("--provenance", default="", help="for the card: where the weights come from")
