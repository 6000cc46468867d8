"""Commands that measure and train: evaluate, train, demo. Thin, as `scans` is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ..inference.options import InferenceOptions
from ..progress import Reporter
from .options import (
    Common,
    Writing,
    argument,
    degradations,
    names_of,
    needs_training_parts,
    option,
    positive,
    seed,
    upsamplers,
)
from .scans import GUIDE_HELP, SCALE_HELP, SCALES, UNCHECKED_HELP, read, read_guide, read_mask, tell_slice_axis


@dataclass(frozen=True, kw_only=True)
class Evaluate(Writing):
    """Degrade a scan, upsample it every way, and measure how close each comes."""

    example: ClassVar[str] = "evaluate scan.nii.gz evaluation --scale 2 --checkpoint default mine.safetensors"
    input: str = argument("NIfTI or NRRD: a DWI, or a structural image without gradients")
    outdir: Path = argument("folder for report.html, scores.tsv and scores.json")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: tuple[str, ...] = option("networks", ("default",), metavar="NAME|FILE")
    guide: str | None = option(GUIDE_HELP, None, metavar="FILE")
    unchecked_guide: bool = option(UNCHECKED_HELP, False)
    methods: tuple[str, ...] | None = option(
        "upsamplers, names with commas between them (default: all but lrtv and nmu, which iterate for minutes)", None,
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
                methods=self.methods,
                model=self.degradation,
                snr=self.snr,
                seed=self.seed,
                **read_guide(self.guide, self.unchecked_guide),
                mask=read_mask(self.mask, dwi),
                fit=self.fit,
                distances=None if self.distances is None else tuple(self.distances.lower().split(",")),
                progress=report.part(0, 0.9),
                **asdict(self.inference),
            )
            for check in evaluation.checks["reference"]:
                if check.fired:
                    report.warn(check.warning)
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
            progress=report, **asdict(self.inference),
        )  # fmt: skip
        report.result(f"Open {page.resolve().as_uri()}", report=str(page))


@dataclass(frozen=True, kw_only=True)
class Train(Common):
    """Train a network as a configuration file says."""

    example: ClassVar[str] = "train --config Resources/Configurations/default.yaml schedule.epochs=5"
    cancelled: ClassVar[str] = "Training was cancelled."
    config: str = option("YAML, see Resources/Configurations", metavar="FILE")
    overrides: tuple[str, ...] = argument("replace single values of the file: key=value", ())
    scheduler: str | None = option(
        "address of a Dask scheduler whose workers copy the scans for training first", None, metavar="tcp://HOST:PORT"
    )

    def __call__(self, report: Reporter) -> None:
        """Until its checkpoint is written."""
        report.status("Loading PyTorch and Lightning")
        try:
            from ..training import load_configuration, train
        except ModuleNotFoundError as error:
            raise needs_training_parts("Training", error) from error
        if self.scheduler:
            from .cohort.training_cache import copy_scans

            copy_scans(self.config, self.overrides, self.scheduler, report)
        checkpoint = train(load_configuration(self.config, self.overrides))
        report.result(f"Wrote {checkpoint}", checkpoint=str(checkpoint))
