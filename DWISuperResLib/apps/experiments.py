"""Commands that measure and train: evaluate, train, study, demo. Thin, as `scans` is."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from ..errors import InputError
from ..inference.options import InferenceOptions
from ..progress import Reporter
from .options import Common, Writing, argument, degradations, names_of, option, positive, seed, upsamplers
from .scans import SCALE_HELP, SCALES, read, read_mask, tell_slice_axis


@dataclass(frozen=True, kw_only=True)
class Evaluate(Writing):
    """Degrade a scan, upsample it every way, and measure how close each comes."""

    example: ClassVar[str] = "evaluate scan.nii.gz evaluation --scale 2 --checkpoint default mine.safetensors"
    input: str = argument("NIfTI or NRRD")
    outdir: Path = argument("folder for report.html, scores.tsv and scores.json")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: tuple[str, ...] = option("networks", ("default",), metavar="NAME|FILE")
    methods: tuple[str, ...] | None = option(
        "upsamplers, names with commas between them (default: all)", None,
        choices=upsamplers, parse=names_of(upsamplers),
    )  # fmt: skip
    distances: str | None = option(
        "deep feature distances, names with commas between them (default: all at hand)", None, metavar="NAMES"
    )
    degradation: str = option("what lowers the resolution", "kspace", choices=degradations)
    snr: float | None = option("add Rician noise at this signal-to-noise ratio", None, parse=positive)
    seed: int = option("of the noise", 0, parse=seed)
    fit: str = option("tensor fit: wls, ols or iwls", "wls")
    mask: str | None = option("brain mask (default: found by median Otsu)", None, metavar="FILE")
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    inference: InferenceOptions = InferenceOptions()

    def __call__(self, report: Reporter) -> None:
        """Scores and a report."""
        from ..io import output_directory

        with output_directory(self.outdir, self.overwrite) as folder:
            dwi = read(self.input, report, self.bval, self.bvec)
            tell_slice_axis(dwi, self.inference.axis, report)
            report.status("Loading the networks")
            from ..evaluation.evaluate import evaluate
            from ..evaluation.report import write_report

            evaluation = evaluate(
                dwi,
                self.scale,
                self.checkpoint,
                methods=self.methods or tuple(upsamplers()),
                model=self.degradation,
                snr=self.snr,
                seed=self.seed,
                mask=read_mask(self.mask, dwi),
                fit=self.fit,
                distances=None if self.distances is None else tuple(self.distances.lower().split(",")),
                progress=report.part(0, 0.9),
                **changed(self.inference),
            )
            report(0.9, "Writing")
            evaluation.write_scores(folder)
            write_report(evaluation, folder / "report.html", run={"scan": self.input})
        files = {name: str(self.outdir / name) for name in ("report.html", "scores.tsv", "scores.json")}
        report(1.0, "Done")
        report.result("\n".join(f"Wrote {path}" for path in files.values()), **files)


@dataclass(frozen=True, kw_only=True)
class Demo(Writing):
    """Low resolution, super-resolution, maps, differences, one report."""

    example: ClassVar[str] = "demo --input scan.nii.gz --output demo"
    input: str | None = option("NIfTI or NRRD (default: a numerical phantom)", None, metavar="SCAN")
    output: Path = option("folder for the scans, maps, scores and report.html", Path("demo"), metavar="DIR")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: str = option("network to use", "default", metavar="NAME|FILE")
    inference: InferenceOptions = InferenceOptions()

    def __call__(self, report: Reporter) -> None:
        """On a scan or on the phantom."""
        report.status("Preparing the demo")
        from .demo import demo

        page = demo(
            self.input, self.output, scale=self.scale, checkpoint=self.checkpoint, overwrite=self.overwrite,
            progress=report, **changed(self.inference),
        )  # fmt: skip
        report.result(f"Open {page.resolve().as_uri()}", report=str(page))


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train a network as a configuration file says."""

    example: ClassVar[str] = "train --config Resources/Configurations/default.yaml schedule.epochs=5"
    cancelled: ClassVar[str] = "Cancelled; resume=true goes on from the last state that was saved."
    config: str = option("YAML, see Resources/Configurations", metavar="FILE")
    overrides: tuple[str, ...] = argument("replace single values of the file: key=value", ())

    def __call__(self, report: Reporter) -> None:
        """Until its checkpoint is written."""
        report.status("Loading PyTorch and Lightning")
        from ..train import train_from_file

        checkpoint = train_from_file(self.config, self.overrides)
        report.result(f"Wrote {checkpoint}", checkpoint=str(checkpoint))


def number_or_none(text: str) -> float | None:
    """Parser of a noise level, `none` for no noise."""
    return None if text.lower() == "none" else positive(text)


def pair(text: str) -> tuple[str, str]:
    """Parser of NAME=VALUE."""
    name, _, value = text.partition("=")
    if not (name and value):
        raise ValueError(f"{text!r} is not of the form NAME=FILE")
    return name, value


@dataclass(frozen=True, kw_only=True)
class Study(Common):
    """What every study takes; an option that is not given has the study's own default."""

    cancelled: ClassVar[str] = "Cancelled; the study goes on from here when started again."
    function: ClassVar[str]
    data: tuple[str, ...] = argument("DWI files, folders searched for them, or patterns")
    output: Path = option("study folder; resumed if it exists", metavar="DIR")
    seed: int | None = option("default: 42", None, parse=seed)

    def __call__(self, report: Reporter) -> None:
        """Run what is not done yet."""
        if not self.data:
            raise InputError("There are no scans; name DWI files, folders or patterns before the options.")
        report.status("Loading PyTorch")
        module, name = self.function.split(":")
        run = getattr(import_module(f"..studies.{module}", __package__), name)
        common = {each.name for each in fields(Common)} | {"data", "output"}
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in common}
        if given.get("weights") and not isinstance(given["weights"], str):
            given["weights"] = dict(given["weights"])
        page = run(
            list(self.data), self.output, progress=report,
            **{name: value for name, value in given.items() if value not in (None, False)},
        )  # fmt: skip
        report.result(f"Wrote {page}", report=str(page))


@dataclass(frozen=True, kw_only=True)
class TrainingStudy(Study):
    """What studies take that train networks."""

    held_out: tuple[str, ...] | None = option("scans to test on (default: a fifth)", None, metavar="SCAN")
    subject: str | None = option("tells subjects apart by their path", None, metavar="REGEX")
    minutes: float | None = option("time to spend (default: 60)", None, parse=positive)
    steps: int | None = option("training steps of a run instead", None)
    patch: int | None = option("side of a training patch (default: 64)", None, metavar="PX")
    batch: int | None = option("patches in a batch (default: 4)", None)
    test_slices: int | None = option("slices of each held-out scan", None)
    accelerator: str | None = option("default: auto", None, metavar="auto|cpu|gpu|mps")

    def __call__(self, report: Reporter) -> None:
        """Run what is not done yet."""
        if self.minutes is not None and self.steps is not None:
            raise InputError("--minutes and --steps exclude one another; leave one out.")
        super().__call__(report)


@dataclass(frozen=True, kw_only=True)
class LayerStudy(TrainingStudy):
    """Find which VGG layers of a feature loss bring grid artefacts."""

    example: ClassVar[str] = "study layers scans/*.nii.gz --output layers"
    function: ClassVar[str] = "layers:run_layer_study"
    losses: tuple[str, ...] | None = option("some of L1, Feat0 to Feat4, abl0 to abl3", None, metavar="LOSS")
    weights: str | None = option("of VGG16 (default: torchvision)", None, metavar="torchvision|FILE")
    snr: tuple[float | None, ...] | None = option(
        "noise levels (default: none 15 8)", None, metavar="none|SNR", parse=number_or_none, many=True
    )
    model: str | None = option("default: kspace", None, choices=degradations)


@dataclass(frozen=True, kw_only=True)
class UntrainedStudy(TrainingStudy):
    """Denoise with untrained feature losses beside the usual ones."""

    example: ClassVar[str] = "study untrained scans/*.nii.gz --output untrained"
    function: ClassVar[str] = "untrained:run_untrained_study"
    noise: tuple[float, ...] | None = option(
        "Rician noise in percent of the mean b0 signal (default: 1 5 10 20)", None, metavar="PERCENT"
    )


@dataclass(frozen=True, kw_only=True)
class MetricStudy(Study):
    """Rank image metrics by how well they follow the error of FA and QA."""

    example: ClassVar[str] = "study metrics scans/*.nii.gz --output metrics"
    function: ClassVar[str] = "metrics:run_metric_study"
    scales: tuple[int, ...] | None = option("in-plane factors (default: 2 3)", None, metavar="N")
    snr: tuple[float, ...] | None = option("noise levels (default: 20 10)", None)
    checkpoints: tuple[str, ...] | None = option("networks (default: all that ship)", None, metavar="NAME|FILE")
    distances: tuple[str, ...] | None = option("deep distances (default: all at hand)", None, metavar="NAME")
    weights: tuple[tuple[str, str], ...] | None = option(
        "weights of a distance, or NAME=untrained", None, metavar="NAME=FILE", parse=pair, many=True
    )
    download: bool = option("fetch trained weights that are not at hand", False)
    readers: str | None = option("scores of human readers: scan, version, reader, score", None, metavar="CSV")
    slices: int | None = option("slices of each scan (default: 6)", None)
    keep_images: bool = option("write every version, for readers", False)


def changed(options: InferenceOptions) -> dict[str, Any]:
    """The options that differ from their defaults, as arguments."""
    values = {each.name: (getattr(options, each.name), each.default) for each in fields(options)}
    return {name: value for name, (value, default) in values.items() if value != default}
