"""Commands on scans: run, maps, compare, degrade. A few calls into the library, arguments in, result out.

Heavy imports stand inside the functions, so that help is instant and the first line of progress comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..inference.options import InferenceOptions
from ..progress import Reporter
from .options import (
    Writing,
    argument,
    count,
    degradations,
    image_formats,
    map_options,
    maps,
    names_of,
    needs_training_parts,
    not_negative,
    option,
    options_of,
    positive,
    seed,
    upsamplers,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..checkpoints import Checkpoint
    from ..dwi import DWI, Volume
    from ..inference.predict import Room

SCALES = "2|2.5|1x1x3|1.25mm"
SCALE_HELP = "in-plane factor up to 5, a factor for each voxel axis, or a voxel size"
UNCHECKED_HELP = "take the guide even where it does not seem to lie on the scan's anatomy"
GUIDE_HELP = "for a guided checkpoint: a T1w or other image that lies on the scan's anatomy"
METHOD_OPTIONS = {"axis", "native"}
"""Inference options that interpolation has, too."""


@dataclass(frozen=True, kw_only=True)
class Run(Writing):
    """Super-resolve a scan."""

    example: ClassVar[str] = "run scan.nii.gz sr.nii.gz --scale 2"
    input: str = argument("NIfTI or NRRD: a DWI, or a structural image without gradients")
    output: str = argument("NIfTI or NRRD")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: str | None = option("network to use (default: default)", None, metavar="NAME|FILE")
    method: str | None = option(
        "interpolate instead of using a network; lrtv and nmu iterate, up to minutes a volume", None, choices=upsamplers
    )
    guide: str | None = option(GUIDE_HELP, None, metavar="FILE")
    unchecked_guide: bool = option(UNCHECKED_HELP, False)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    inference: InferenceOptions = InferenceOptions()
    adapt: float | None = option(
        "first train the network on the scan itself for so long: through-plane (1x1x3), where slices are finer than "
        "they are thick", None, metavar="MINUTES", parse=positive,
    )  # fmt: skip
    adapt_steps: int | None = option(
        "in place of minutes: so many steps, to repeat what --adapt did", None, metavar="N", parse=count
    )
    uncertainty: str | None = option(
        "also write the voxelwise standard deviation over flips and rotations, scaled as the checkpoint's card has it",
        None,
        metavar="FILE",
    )
    mask: str | None = option("spend time only where this mask is set", None, metavar="FILE")
    uncompressed: bool = option("write .nrrd without compression", False)

    def __call__(self, report: Reporter) -> None:
        """By a network or by interpolation."""
        from ..io import is_structural, scan_outputs
        from ..io.outputs import check_targets

        method = self.method
        if method:
            self._refuse_network_options()
        outputs = [path for path in (self.uncertainty, self.output) if path is not None]
        check_targets([Path(path) for path in outputs], self.overwrite)
        structural = is_structural(self.input, bval=self.bval, bvec=self.bvec)
        with scan_outputs(
            outputs, structural=structural, overwrite=self.overwrite, compress=not self.uncompressed
        ) as write:
            given = read(self.input, report, self.bval, self.bvec)
            tell_slice_axis(given, self.inference.axis, report)
            mask = read_mask(self.mask, given)
            from ..inference.native import at_native

            dwi, inference, mask = at_native(given, self.inference, mask)
            if dwi is not given:
                report.status(f"Native resolution: {grid_text(given)} -> {grid_text(dwi)}")
            facts: dict[str, Any] = {"output": self.output}
            deviation = None
            if method:
                from ..resampling.upsamplers import interpolate

                report.status(f"Interpolating by {method}")
                axis, part = inference.axis, report.part(0, 0.95)
                result = interpolate(dwi, self.scale, method=method, axis=axis, progress=part)
            else:
                room = partial(write.room, self.output)
                result, deviation, found = self._super_resolve(dwi, inference, mask, room, report)
                facts |= found
            report.status(f"Writing {self.output}")
            if deviation is not None:
                write(outputs[0], result.like(replace(result.series, signal=deviation)))
                facts["uncertainty"] = self.uncertainty
            write(self.output, result)
        report(1.0, "Done")
        report.result(f"Wrote {self.output}: {grid_text(given)} -> {grid_text(result)}", **facts)

    def _refuse_network_options(self) -> None:
        changed = [
            part.name
            for part in fields(self.inference)
            if part.name not in METHOD_OPTIONS and getattr(self.inference, part.name) != part.default
        ]
        own = ("checkpoint", "guide", "unchecked_guide", "adapt", "adapt_steps", "uncertainty", "mask")
        changed += [name for name in own if getattr(self, name)]
        if changed:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
            raise InputError(f"{flags} and --method exclude one another, as only networks have them; leave one out.")

    def _super_resolve(
        self,
        dwi: DWI | Volume,
        inference: InferenceOptions,
        mask: NDArray[np.bool_] | None,
        room: Room,
        report: Reporter,
    ) -> tuple[DWI | Volume, NDArray[np.float32] | None, dict[str, Any]]:
        report.status("Loading the network")
        from ..checkpoints import load_checkpoint
        from ..evaluation.selfchecks import checks_and_warnings
        from ..inference.predict import super_resolve, super_resolve_with_uncertainty

        checkpoint = load_checkpoint(self.checkpoint or "default")
        facts: dict[str, Any] = {}
        begins = 0.0
        if self.adapt is not None or self.adapt_steps is not None:
            begins = 0.8
            checkpoint, facts["adapted"] = self._adapted(dwi.series, checkpoint, inference, report, begins)
        guide = read_guide(self.guide, self.unchecked_guide)
        options = {**asdict(inference), **guide, "mask": mask, "room": room, "progress": report.part(begins, 0.95)}
        deviation = None
        if self.uncertainty:
            result, deviation = super_resolve_with_uncertainty(dwi, checkpoint, self.scale, **options)
        else:
            result = super_resolve(dwi, checkpoint, self.scale, **options)
        report(0.95, "Checking the result")
        checks, warnings = checks_and_warnings(dwi, result, checkpoint.card, deviation, inference.axis)
        return result, deviation, {**facts, "warnings": warnings, "checks": [asdict(check) for check in checks]}

    def _adapted(
        self, dwi: DWI, checkpoint: Checkpoint, inference: InferenceOptions, report: Reporter, end: float
    ) -> tuple[Checkpoint, dict[str, Any]]:
        """The checkpoint, trained on the scan, and what was done."""
        try:
            from ..training.adapt import adapt
        except ModuleNotFoundError as error:
            raise needs_training_parts("--adapt", error) from error
        adapted, told = adapt(
            dwi, checkpoint, self.scale, minutes=self.adapt, steps=self.adapt_steps, axis=inference.axis,
            device=inference.device, progress=report.part(0, end),
        )  # fmt: skip
        kept = f"step {told.kept} was best" if told.kept else "none was better than the start"
        report.status(
            f"Adapted in {told.steps} steps ({told.minutes:g} minutes), of which {kept}: loss on slices held back "
            f"{told.before:.4g} before, {told.after:.4g} after; --adapt-steps {told.steps} repeats it"
        )
        return adapted, asdict(told)


@dataclass(frozen=True, kw_only=True)
class Maps(Writing):
    """Compute microstructure maps."""

    example: ClassVar[str] = "maps scan.nii.gz maps --maps fa,md,qa"
    input: str = argument("NIfTI or NRRD")
    outdir: Path = argument("folder for fa.nii.gz, ...")
    maps: tuple[str, ...] = option("names with commas between them", ("fa", "qa"), choices=maps, parse=names_of(maps))
    options: Mapping[str, Any] = options_of(map_options)
    mask: str | None = option("brain mask (default: found by median Otsu)", None, metavar="FILE")
    format: str = option("of the maps", "nii.gz", choices=image_formats)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")

    def __call__(self, report: Reporter) -> None:
        """Compute and write them with the mask they were computed in."""
        from ..io import output_directory, write_image

        with output_directory(self.outdir, self.overwrite) as folder:
            dwi = read_weighted(self.input, report, self.bval, self.bvec)
            from ..microstructure import brain_mask, compute_maps

            mask = read_mask(self.mask, dwi)
            if mask is None:
                report.status("Finding the brain")
                mask = brain_mask(dwi)
            report(0.2, f"Fitting {', '.join(self.maps)}")
            computed = compute_maps(dwi, self.maps, mask=mask, **self.options)
            for name, values in {**computed, "mask": mask.astype("uint8")}.items():
                write_image(values, dwi.affine, folder / f"{name}.{self.format}")
        files = {name: str(self.outdir / f"{name}.{self.format}") for name in (*computed, "mask")}
        report(1.0, "Done")
        report.result("\n".join(f"Wrote {path}" for path in files.values()), **files)


@dataclass(frozen=True, kw_only=True)
class Compare(Writing):
    """Compare the microstructure of two scans on one grid."""

    example: ClassVar[str] = "compare original.nii.gz sr.nii.gz comparison --maps fa,qa"
    reference: str = argument("NIfTI or NRRD")
    test: str = argument("NIfTI or NRRD on the same grid")
    outdir: Path = argument("folder for maps, differences, statistics.tsv and report.html")
    maps: tuple[str, ...] = option("names with commas between them", ("fa", "qa"), choices=maps, parse=names_of(maps))
    fit: str = option("tensor fit: wls, ols or iwls", "wls")
    mask: str | None = option("brain mask (default: found by median Otsu)", None, metavar="FILE")
    format: str = option("of the maps", "nii.gz", choices=image_formats)

    def __call__(self, report: Reporter) -> None:
        """Maps, differences, statistics, report."""
        from ..io import output_directory, write_image

        with output_directory(self.outdir, self.overwrite) as folder:
            reference, test = read_weighted(self.reference, report), read_weighted(self.test, report)
            from ..evaluation.report import write_comparison_report

            mask = read_mask(self.mask, reference)
            report(0.2, "Fitting and comparing maps")
            evaluation = write_comparison_report(
                reference, test, folder / "report.html", maps=self.maps, mask=mask, fit=self.fit,
                run={"reference": self.reference, "test": self.test},
            )  # fmt: skip
            report(0.9, "Writing")
            comparison = evaluation.comparison(self.maps)
            for kind in ("reference", "test", "difference"):
                for name, values in getattr(comparison, kind).items():
                    write_image(values, comparison.affine, folder / f"{name}_{kind}.{self.format}")
            (folder / "statistics.tsv").write_text(comparison.as_tsv(), encoding="utf-8")
        page, statistics = self.outdir / "report.html", self.outdir / "statistics.tsv"
        report(1.0, "Done")
        report.result(
            f"Wrote {page}, {statistics} and the maps beside them",
            outdir=str(self.outdir), report=str(page), statistics=str(statistics),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Degrade(Writing):
    """Lower the resolution of a scan."""

    example: ClassVar[str] = "degrade scan.nii.gz low.nii.gz --scale 2 --degradation kspace --snr 25 --seed 1"
    input: str = argument("NIfTI or NRRD: a DWI, or a structural image without gradients")
    output: str = argument("NIfTI or NRRD")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    axis: str | None = option("slice axis, when the header misleads", None, metavar="i|j|k")
    degradation: str = option("what lowers the resolution", "kspace", choices=degradations)
    fwhm: float | None = option(
        "width of the gaussian degradation; slice thickness of the profile", None, metavar="MM", parse=positive
    )
    gap: float | None = option("between slices, of the profile degradation", None, metavar="MM", parse=not_negative)
    snr: float | None = option("add Rician noise at this signal-to-noise ratio", None, parse=positive)
    seed: int = option("of the noise", 0, parse=seed)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    uncompressed: bool = option("write .nrrd without compression", False)

    def __call__(self, report: Reporter) -> None:
        """As a scanner with larger voxels would have measured it."""
        from ..io import is_structural, scan_outputs
        from ..io.outputs import check_targets

        check_targets([Path(self.output)], self.overwrite)
        structural = is_structural(self.input, bval=self.bval, bvec=self.bvec)
        with scan_outputs(
            [self.output], structural=structural, overwrite=self.overwrite, compress=not self.uncompressed
        ) as write:
            dwi = read(self.input, report, self.bval, self.bvec)
            tell_slice_axis(dwi, self.axis, report)
            from ..resampling.degradation import degrade

            report.status("Lowering the resolution")
            low = degrade(
                dwi, self.scale,
                model=self.degradation, axis=self.axis, fwhm=self.fwhm, gap=self.gap, snr=self.snr, seed=self.seed,
            )  # fmt: skip
            report.status(f"Writing {self.output}")
            write(self.output, low)
        report(1.0, "Done")
        report.result(f"Wrote {self.output}: {grid_text(dwi)} -> {grid_text(low)}", output=self.output)


def read(path: str, report: Reporter, bval: str | None = None, bvec: str | None = None) -> DWI | Volume:
    """Read a scan or a structural image."""
    from ..io import read_scan

    report.status(f"Reading {path}")
    scan = read_scan(path, bval=bval, bvec=bvec)
    _warn_of_b_values(path, scan.series, report)
    return scan


def read_weighted(path: str, report: Reporter, bval: str | None = None, bvec: str | None = None) -> DWI:
    """Read a scan for what needs gradients."""
    from ..io import read_dwi

    report.status(f"Reading {path}")
    dwi = read_dwi(path, bval=bval, bvec=bvec)
    _warn_of_b_values(path, dwi, report)
    return dwi


def _warn_of_b_values(path: str, dwi: DWI, report: Reporter) -> None:
    """Where they are hardly in s/mm²."""
    from ..io import b_value_warning

    if warning := b_value_warning(dwi.bvals):
        report.warn(f"{path}: {warning}")


def tell_slice_axis(scan: DWI | Volume, axis: int | str | None, report: Reporter) -> None:
    """Say which axis the slices are taken to lie along, where neither the header nor the user does."""
    from ..resampling.grid import AXIS_NAMES, slice_axis, slice_axis_is_assumed

    if axis is None and slice_axis_is_assumed(scan.series):
        axis = AXIS_NAMES[slice_axis(scan.series)]
        report.status(f"Slice axis {axis}, assumed: the header does not tell it, --axis does")


def read_mask(path: str | None, dwi: DWI | Volume) -> NDArray[np.bool_] | None:
    """A mask on the grid of the scan; None where none was given."""
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
    if not (mask > 0).any():
        raise InputError(f"The mask {path} is empty: no voxel is above 0; give one that covers the brain.")
    return mask > 0


def read_guide(path: str | None, unchecked: bool) -> dict[str, Any]:
    """What `super_resolve` and `evaluate` are given of a guide, if there is one."""
    if path is None:
        if unchecked:
            raise InputError("--unchecked-guide says how a guide is taken, and there is none; add --guide.")
        return {}
    from ..io import read_volume

    return {"guide": read_volume(path), "unchecked_guide": unchecked}


def grid_text(dwi: DWI | Volume) -> str:
    """Matrix and voxel size for people."""
    matrix = " x ".join(map(str, dwi.spatial_shape))
    return f"{matrix} of {' x '.join(f'{size:.3g}' for size in dwi.voxel_sizes)} mm"
