"""Commands on scans: run, maps, compare, degrade. A few calls into the library, arguments in, result out.

Heavy imports stand inside the functions, so that help is instant and the first line of progress comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..inference.options import InferenceOptions
from ..progress import Reporter
from .options import (
    Writing,
    argument,
    degradations,
    image_formats,
    map_options,
    maps,
    names_of,
    option,
    options_of,
    positive,
    seed,
    upsamplers,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..dwi import DWI

SCALES = "2|2.5|1x1x3|1.25mm"
SCALE_HELP = "in-plane factor up to 5, a factor for each voxel axis, or a voxel size"
METHOD_OPTIONS = {"axis", "native"}
"""Inference options that interpolation has, too."""


@dataclass(frozen=True, kw_only=True)
class Run(Writing):
    """Super-resolve a scan."""

    example: ClassVar[str] = "run scan.nii.gz sr.nii.gz --scale 2"
    input: str = argument("NIfTI or NRRD")
    output: str = argument("NIfTI or NRRD")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    checkpoint: str | None = option("network to use (default: default)", None, metavar="NAME|FILE")
    method: str | None = option("interpolate instead of using a network", None, choices=upsamplers)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    inference: InferenceOptions = InferenceOptions()
    uncertainty: str | None = option(
        "also write the voxelwise standard deviation over flips and rotations, scaled as the checkpoint's card has it",
        None,
        metavar="FILE",
    )
    mask: str | None = option("spend time only where this mask is set", None, metavar="FILE")
    uncompressed: bool = option("write .nrrd without compression", False)

    def __call__(self, report: Reporter) -> None:
        """By a network or by interpolation."""
        from ..io import scan_outputs

        method = self.method
        if method:
            self._refuse_network_options()
        outputs = [path for path in (self.uncertainty, self.output) if path is not None]
        with scan_outputs(outputs, overwrite=self.overwrite, compress=not self.uncompressed) as write:
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
                result = interpolate(dwi, self.scale, method=method, axis=inference.axis)
            else:
                result, deviation, found = self._super_resolve(dwi, inference, mask, report)
                facts |= found
            report.status(f"Writing {self.output}")
            if deviation is not None:
                write(outputs[0], replace(result, signal=deviation))
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
        changed += [name for name in ("checkpoint", "uncertainty", "mask") if getattr(self, name)]
        if changed:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
            raise InputError(f"{flags} and --method exclude one another, as only networks have them; leave one out.")

    def _super_resolve(
        self, dwi: DWI, inference: InferenceOptions, mask: NDArray[np.bool_] | None, report: Reporter
    ) -> tuple[DWI, NDArray[np.float32] | None, dict[str, list]]:
        report.status("Loading the network")
        from ..checkpoints import load_checkpoint
        from ..evaluation.selfchecks import checks_and_warnings
        from ..inference.predict import super_resolve, super_resolve_with_uncertainty

        checkpoint = load_checkpoint(self.checkpoint or "default")
        options = {**asdict(inference), "mask": mask, "progress": report.part(0, 0.95)}
        deviation = None
        if self.uncertainty:
            result, deviation = super_resolve_with_uncertainty(dwi, checkpoint, self.scale, **options)
        else:
            result = super_resolve(dwi, checkpoint, self.scale, **options)
        report(0.95, "Checking the result")
        checks, warnings = checks_and_warnings(dwi, result, checkpoint.card, deviation, inference.axis)
        return result, deviation, {"warnings": warnings, "checks": [asdict(check) for check in checks]}


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
            dwi = read(self.input, report, self.bval, self.bvec)
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
            reference, test = read(self.reference, report), read(self.test, report)
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
    input: str = argument("NIfTI or NRRD")
    output: str = argument("NIfTI or NRRD")
    scale: str = option(SCALE_HELP, "2", metavar=SCALES)
    axis: str | None = option("slice axis, when the header misleads", None, metavar="i|j|k")
    degradation: str = option("what lowers the resolution", "kspace", choices=degradations)
    fwhm: float | None = option("width of the gaussian degradation", None, metavar="MM", parse=positive)
    snr: float | None = option("add Rician noise at this signal-to-noise ratio", None, parse=positive)
    seed: int = option("of the noise", 0, parse=seed)
    bval: str | None = option("b-values, when not beside the image", None, metavar="FILE")
    bvec: str | None = option("gradient directions, when not beside the image", None, metavar="FILE")
    uncompressed: bool = option("write .nrrd without compression", False)

    def __call__(self, report: Reporter) -> None:
        """As a scanner with larger voxels would have measured it."""
        from ..io import scan_outputs

        with scan_outputs([self.output], overwrite=self.overwrite, compress=not self.uncompressed) as write:
            dwi = read(self.input, report, self.bval, self.bvec)
            tell_slice_axis(dwi, self.axis, report)
            from ..resampling.degradation import degrade

            report.status("Lowering the resolution")
            low = degrade(
                dwi, self.scale,
                model=self.degradation, axis=self.axis, fwhm=self.fwhm, snr=self.snr, seed=self.seed,
            )  # fmt: skip
            report.status(f"Writing {self.output}")
            write(self.output, low)
        report(1.0, "Done")
        report.result(f"Wrote {self.output}: {grid_text(dwi)} -> {grid_text(low)}", output=self.output)


def read(path: str, report: Reporter, bval: str | None = None, bvec: str | None = None) -> DWI:
    """Read a scan, and say where its b-values are hardly in s/mm²."""
    from ..io import b_value_warning, read_dwi

    report.status(f"Reading {path}")
    dwi = read_dwi(path, bval=bval, bvec=bvec)
    if warning := b_value_warning(dwi.bvals):
        report.warn(f"{path}: {warning}")
    return dwi


def tell_slice_axis(dwi: DWI, axis: int | str | None, report: Reporter) -> None:
    """Say which axis the slices are taken to lie along, where neither the header nor the user does."""
    from ..resampling.grid import AXIS_NAMES, slice_axis, slice_axis_is_assumed

    if axis is None and slice_axis_is_assumed(dwi):
        report.status(f"Slice axis {AXIS_NAMES[slice_axis(dwi)]}, assumed: the header does not tell it, --axis does")


def read_mask(path: str | None, dwi: DWI) -> NDArray[np.bool_] | None:
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


def grid_text(dwi: DWI) -> str:
    """Matrix and voxel size for people."""
    matrix = " x ".join(map(str, dwi.spatial_shape))
    return f"{matrix} of {' x '.join(f'{size:.3g}' for size in dwi.voxel_sizes)} mm"
