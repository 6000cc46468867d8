"""The command line: arguments, exit codes, interruption; `commands` holds what each command does.

Exit codes: 0 done, 2 input that cannot be used, 1 a failure while running, 130 and 143 interrupted and terminated.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .. import __version__
from ..errors import DWISuperResError, InputError
from ..progress import MODES, Reporter, reporter
from . import commands


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


def _number_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not (name and value):
        raise ValueError(text)
    return name, value


class _Mapping(argparse.Action):
    """Collect pairs into a dict."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, dict(values))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dwi-superres",
        description="Super-resolve diffusion-weighted MRI, and see what that did to the microstructure.",
        epilog="Scans are NIfTI with .bval and .bvec beside them, or NRRD; both for input and output.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_scan_commands(subparsers)
    _add_evaluation_commands(subparsers)
    _add_study_commands(subparsers)
    _add_checkpoint_commands(subparsers)
    return parser


def _add(
    subparsers, name: str, function, summary: str, example: str, *, writes: bool = True, argument_default=None
) -> argparse.ArgumentParser:
    command = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example:\n  dwi-superres {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argument_default,
    )
    command.set_defaults(command=function)
    command.add_argument("--progress", choices=MODES, default="auto", help="how progress is shown (default: auto)")
    command.add_argument("--debug", action="store_true", default=False, help="show the traceback of an error")
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


def _add_uncompressed(command) -> None:
    command.add_argument("--uncompressed", action="store_true", help="write .nrrd without compression")


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


def _add_scan_commands(subparsers) -> None:
    command = _add(subparsers, "run", commands.run, "super-resolve a scan", "run scan.nii.gz sr.nii.gz --scale 2")
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
    _add_uncompressed(command)

    command = _add(
        subparsers, "maps", commands.maps, "compute microstructure maps", "maps scan.nii.gz maps --maps fa,md,qa"
    )
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("outdir", type=Path, help="folder for fa.nii.gz, ...")
    _add_maps(command)
    _add_gradients(command)
    command.add_argument("--balance-shells", action="store_true", help="QA, ISO and GFA as DSI Studio has them")
    command.add_argument(
        "--qa-scale", type=_number_or_name, metavar="dsi-studio|dipy|NUMBER", help="factor on QA and ISO"
    )

    command = _add(
        subparsers, "compare", commands.compare, "compare the microstructure of two scans on one grid",
        "compare original.nii.gz sr.nii.gz comparison --maps fa,qa",
    )  # fmt: skip
    command.add_argument("reference", help="NIfTI or NRRD")
    command.add_argument("test", help="NIfTI or NRRD on the same grid")
    command.add_argument("outdir", type=Path, help="folder for maps, differences, statistics.tsv and report.html")
    _add_maps(command)

    command = _add(
        subparsers, "degrade", commands.degrade, "lower the in-plane resolution of a scan",
        "degrade scan.nii.gz low.nii.gz --scale 2 --model kspace --snr 25 --seed 1",
    )  # fmt: skip
    command.add_argument("input", help="NIfTI or NRRD")
    command.add_argument("output", help="NIfTI or NRRD")
    _add_scale_and_axis(command)
    _add_degradation(command)
    command.add_argument("--fwhm", type=float, metavar="MM", help="width of the gaussian model")
    _add_gradients(command)
    _add_uncompressed(command)


def _add_evaluation_commands(subparsers) -> None:
    command = _add(
        subparsers, "evaluate", commands.evaluate,
        "degrade a scan, upsample it every way, and measure how close each comes",
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
    command.add_argument("--distances", type=_names, help="deep feature distances (default: all at hand)")
    _add_degradation(command)
    _add_gradients(command)
    command.add_argument("--fit", metavar="wls|ols|iwls", default="wls", help="tensor fit (default: wls)")
    command.add_argument("--mask", metavar="FILE", help="brain mask (default: found by median Otsu)")
    _add_device(command)
    _add_inference(command)

    command = _add(
        subparsers, "train", commands.train, "train a network as a configuration file says",
        "train --config Resources/Configurations/default.yaml schedule.epochs=5", writes=False,
    )  # fmt: skip
    command.add_argument("--config", required=True, metavar="FILE", help="YAML, see Resources/Configurations")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="replaces one value of the file")

    command = _add(
        subparsers, "demo", commands.demo, "low resolution, super-resolution, maps, differences, one report",
        "demo --input scan.nii.gz --output demo",
    )  # fmt: skip
    command.add_argument("--input", metavar="SCAN", help="NIfTI or NRRD (default: a numerical phantom)")
    command.add_argument("--output", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    command.add_argument("--scale", type=int, default=2, help="in-plane factor (default: 2)")
    command.add_argument("--checkpoint", metavar="NAME|FILE", default="default", help="default: default")
    command.add_argument("--device", metavar="auto|cpu|cuda|mps", default="auto", help="default: auto")


def _add_study_commands(subparsers) -> None:
    group = subparsers.add_parser("study", help="repeat an experiment of the papers")
    studies = group.add_subparsers(metavar="STUDY", required=True, parser_class=_Parser)
    command = _add_study(studies, "layers", "find which VGG layers of a feature loss bring grid artefacts")
    _add_study_training(command)
    command.add_argument("--losses", nargs="+", metavar="LOSS", help="some of L1, Feat0 to Feat4, abl0 to abl3")
    command.add_argument("--weights", metavar="torchvision|FILE", help="of VGG16 (default: torchvision)")
    command.add_argument(
        "--snr", type=_number_or_none, nargs="+", metavar="none|SNR", help="noise levels (default: none 15 8)"
    )
    command.add_argument("--model", metavar="kspace|gaussian|area|paper", help="default: kspace")

    command = _add_study(studies, "untrained", "denoise with untrained feature losses beside the usual ones")
    _add_study_training(command)
    command.add_argument(
        "--noise", type=float, nargs="+", metavar="PERCENT",
        help="Rician noise in percent of the mean b0 signal (default: 1 5 10 20)",
    )  # fmt: skip

    command = _add_study(studies, "metrics", "rank image metrics by how well they follow the error of FA and QA")
    command.add_argument("--scales", type=int, nargs="+", metavar="N", help="in-plane factors (default: 2 3)")
    command.add_argument("--snr", type=float, nargs="+", help="noise levels (default: 20 10)")
    command.add_argument("--checkpoints", nargs="*", metavar="NAME|FILE", help="networks (default: all that ship)")
    command.add_argument("--distances", nargs="+", metavar="NAME", help="deep distances (default: all at hand)")
    command.add_argument(
        "--weights", nargs="+", type=_pair, action=_Mapping, metavar="NAME=FILE",
        help="weights of a distance, or NAME=untrained",
    )  # fmt: skip
    command.add_argument("--download", action="store_true", help="fetch trained weights that are not at hand")
    command.add_argument("--readers", metavar="CSV", help="scores of human readers: scan, version, reader, score")
    command.add_argument("--slices", type=int, help="slices of each scan (default: 6)")
    command.add_argument("--keep-images", action="store_true", help="write every version, for readers")


def _add_study(studies, name: str, summary: str) -> argparse.ArgumentParser:
    example = f"study {name} scans/*.nii.gz --output {name}"
    command = _add(studies, name, commands.study, summary, example, writes=False, argument_default=argparse.SUPPRESS)
    command.set_defaults(study=name)
    command.add_argument("data", nargs="+", help="DWI files, folders searched for them, or patterns")
    command.add_argument("--output", required=True, type=Path, metavar="DIR", help="study folder; resumed if it exists")
    command.add_argument("--seed", type=int, help="default: 42")
    return command


def _add_study_training(command) -> None:
    command.add_argument("--held-out", nargs="+", metavar="SCAN", help="scans to test on (default: a fifth)")
    command.add_argument("--subject", metavar="REGEX", help="tells subjects apart by their path")
    length = command.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="time to spend (default: 60)")
    length.add_argument("--steps", type=int, help="training steps of a run instead")
    command.add_argument("--patch", type=int, metavar="PX", help="side of a training patch (default: 64)")
    command.add_argument("--batch", type=int, help="patches in a batch (default: 4)")
    command.add_argument("--test-slices", type=int, help="slices of each held-out scan")
    command.add_argument("--accelerator", metavar="auto|cpu|gpu|mps", help="default: auto")


def _add_checkpoint_commands(subparsers) -> None:
    group = subparsers.add_parser("checkpoints", help="list, show or import checkpoints")
    actions = group.add_subparsers(metavar="ACTION", required=True, parser_class=_Parser)
    _add(actions, "list", commands.list_checkpoints, "list the checkpoints that ship", "checkpoints list", writes=False)
    command = _add(
        actions, "info", commands.show_checkpoint, "show a checkpoint's card", "checkpoints info default", writes=False
    )
    command.add_argument("checkpoint", metavar="NAME|FILE")
    command = _add(
        actions, "import", commands.import_weights, "convert fastai weights of the paper's network",
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
