"""QA and FA of a whole brain against DIPY and MRtrix3.

    python -m Testing.benchmarks.microstructure [scan.nii.gz] [--repeats 5] [--json FILE]

Without a scan, the numerical phantom at 2 mm (1 b0, 20 + 21 directions). All use the same number of threads (torch's).
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from DWISuperResLib.dwi import DWI
from DWISuperResLib.io import read_dwi, write_dwi, write_image
from DWISuperResLib.microstructure import brain_mask, compute_maps
from DWISuperResLib.phantoms import phantom
from Testing.benchmarks.harness import Result, compare, missing_programs, parser, report, run_command

DIPY_VOXELS = 2000
"""DIPY takes voxel after voxel, so its time for the brain follows from this many of them."""


def main(argv: list[str] | None = None) -> list[Result]:
    """Measure, print the table."""
    options = parser(__doc__)
    options.add_argument("scan", nargs="?", type=Path, help="NIfTI with .bval and .bvec beside it")
    arguments = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan = arguments.scan or folder / "phantom.nii.gz"
        if not arguments.scan:
            write_dwi(
                phantom((80, 96, 56), (2, 2, 2.5), supersampling=1, shells=((0, 1), (1000, 20), (2000, 21))), scan
            )
        dwi = read_dwi(scan)
        mask = brain_mask(dwi)
        print(
            f"{scan.name}: {mask.sum()} voxels in the mask, {dwi.n_volumes} volumes, {torch.get_num_threads()} threads"
        )
        results = [
            *against_dipy(dwi, mask, arguments.repeats),
            *against_mrtrix(scan, folder, arguments.repeats),
        ]
    report(results, arguments.json)
    return results


def against_dipy(dwi: DWI, mask: np.ndarray, repeats: int) -> list[Result]:
    """QA and FA in memory, inside a given mask."""
    from dipy.core.gradients import gradient_table
    from dipy.data import default_sphere
    from dipy.direction.peaks import peaks_from_model
    from dipy.reconst.dti import TensorModel
    from dipy.reconst.gqi import GeneralizedQSamplingModel

    gradients = gradient_table(dwi.bvals, bvecs=dwi.bvecs, b0_threshold=50)
    signals = dwi.signal[mask]
    some = signals[:: max(1, len(signals) // DIPY_VOXELS)]
    model = GeneralizedQSamplingModel(gradients, method="standard", sampling_length=1.25)
    peaks = partial(peaks_from_model, model, some, default_sphere, relative_peak_threshold=0.5, min_separation_angle=25)
    return [
        compare(
            "QA, whole brain",
            lambda: compute_maps(dwi, ("qa",), mask=mask),
            f"DIPY {version('dipy')} peaks_from_model",
            peaks,
            repeats=repeats,
            goal=200,
            share=len(some) / len(signals),
            note=f"DIPY measured on {len(some)} voxels and scaled to {len(signals)}; its default, one process",
        ),
        compare(
            "FA by WLS, whole brain",
            lambda: compute_maps(dwi, ("fa",), mask=mask),
            f"DIPY {version('dipy')} TensorModel",
            lambda: TensorModel(gradients).fit(signals).fa,
            repeats=repeats,
            goal=25,
        ),
    ]


def against_mrtrix(scan: Path, folder: Path, repeats: int) -> list[Result]:
    """FA by IWLS from file to file: reading, mask, fit, writing; MRtrix3's three programs against one function."""
    task = "FA by IWLS, file to file with mask"
    peer = "MRtrix3 dwi2mask, the two below"
    if reason := missing_programs("dwi2mask", "dwi2tensor", "tensor2metric"):
        return [Result(task, peer, skipped=reason)]
    common = ["-quiet", "-force", "-nthreads", torch.get_num_threads()]
    stem = str(scan).removesuffix(".gz").removesuffix(".nii")
    gradients = ["-fslgrad", f"{stem}.bvec", f"{stem}.bval"]
    mask, tensor, fa = (folder / name for name in ("mask.nii.gz", "tensor.mif", "fa_mrtrix.nii.gz"))

    def mrtrix(*, find_mask: bool = True) -> None:
        if find_mask:
            run_command("dwi2mask", *common, *gradients, scan, mask)
        run_command("dwi2tensor", *common, *gradients, "-mask", mask, scan, tensor)
        run_command("tensor2metric", *common, "-mask", mask, "-fa", fa, tensor)

    def ours(*, find_mask: bool = True) -> None:
        dwi = read_dwi(scan)
        inside = brain_mask(dwi) if find_mask else np.asarray(nib.load(mask).dataobj) > 0
        maps = compute_maps(dwi, ("fa",), fit="iwls", mask=inside)
        write_image(maps["fa"], dwi.affine, folder / "fa.nii.gz", overwrite=True)

    def command() -> None:
        folder_out = folder / "maps"
        program = [sys.executable, "-m", "DWISuperResLib"]
        run_command(*program, "maps", scan, folder_out, "--maps", "fa", "--fit", "iwls", "--overwrite")

    return [
        compare(task, ours, peer, mrtrix, repeats=repeats, goal=1),
        compare(
            "  the same, given MRtrix3's mask",
            partial(ours, find_mask=False),
            "MRtrix3 dwi2tensor, tensor2metric",
            partial(mrtrix, find_mask=False),
            repeats=repeats,
            goal=1,
        ),
        compare(
            "  the same with mask, as one shell command",
            command,
            peer,
            mrtrix,
            repeats=repeats,
            goal=1.5,
            note="starting Python included",
        ),
    ]


if __name__ == "__main__":
    main()
