"""What the module does, with or without its panel: super-resolve, simulate, compare, load, export.

From the Python console:

    logic = DWISuperRes.DWISuperResLogic()
    out = logic.superResolve(dwiNode, checkpoint="default", scale=2)
    maps = logic.compare(reference, out)
    maps["fa_difference"], maps["statistics"]
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util

from .. import mrml
from ..errors import InputError
from .dependencies import Dependencies
from .job import Job, Step, check_space, make_folder
from .paths import child_environment, python_executable, temporary_folder

POLL_MILLISECONDS = 100
WARNINGS = "DWISuperRes.Warnings"
"""Attribute of a super-resolved node: what the self-checks warned of, a sentence a line."""


class Logic:
    """One job at a time, computed in a child process.

    Parameters
    ----------
    python : str, optional
        The Python that computes; PythonSlicer by default.
    dependencies : object with ensure() and ensure_readers(), optional
    """

    def __init__(self, python: str | None = None, dependencies: Dependencies | None = None):
        self._python = python
        self._dependencies = dependencies or Dependencies()
        self._devices: dict[str, str] = {}
        self._scene_observer: tuple[Any, int] | None = None
        self.job: Job | None = None
        """The running or the last job."""
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self._poll)

    @property
    def isRunning(self) -> bool:
        """Whether a job is under way."""
        return self.job is not None and self.job.state == "running"

    def process(
        self,
        inputVolume,
        outputVolume=None,
        *,
        checkpoint: str = "default",
        scale: int = 2,
        device: str = "auto",
        precision: str = "auto",
        sliceAxis: str = "",
        ensemble: bool = False,
        consistent: bool = False,
        uncertainty: bool = False,
        waitForCompletion: bool = True,
        onProgress: Callable[[Job], None] | None = None,
        onFinished: Callable[[Job], None] | None = None,
    ):
        """Super-resolve a DWI volume node in-plane.

        Parameters
        ----------
        inputVolume : vtkMRMLDiffusionWeightedVolumeNode
        outputVolume : vtkMRMLDiffusionWeightedVolumeNode, optional
            Overwritten; a new node by default.
        checkpoint : str
            Name of a shipped checkpoint or path of a .safetensors file.
        scale : int
            In-plane factor, one of those the checkpoint has.
        device : "auto", "cpu", "cuda" or "mps"
        precision : "auto", "fp32", "bf16" or "fp16"
        sliceAxis : "", "i", "j" or "k"
            Voxel axis across the slices; from the header by default.
        ensemble, consistent, uncertainty : bool
            Average over flips and rotations; make the result agree with the input; also make a volume of standard
            deviations.
        waitForCompletion : bool
            False returns a running `Job` at once; `onProgress` and `onFinished` then get it, on the main thread.

        Returns
        -------
        The output node, or the Job.

        Raises
        ------
        InputError, MissingDependencyError, ProcessingError, Cancelled
            With one sentence; while not waiting, only for what is known before the child starts.
        """
        self._check_idle()
        if inputVolume is None:
            raise InputError("There is no input; choose a diffusion-weighted volume.")
        options = ["--scale", str(scale), "--checkpoint", str(checkpoint), "--precision", precision, "--uncompressed"]
        options += ["--axis", sliceAxis] if sliceAxis else []
        options += [f"--{name}" for name, on in (("ensemble", ensemble), ("consistent", consistent)) if on]
        self._dependencies.ensure()
        folder = self._folder(mrml.size_in_bytes(inputVolume) * (1 + scale**2 * (2 if uncertainty else 1)))
        deviations = folder / "uncertainty.nrrd"
        options += ["--uncertainty", str(deviations)] if uncertainty else []

        def finish(results):
            name = f"{inputVolume.GetName()} SR x{scale}"
            present = outputVolume is not None and slicer.mrmlScene.IsNodePresent(outputVolume)
            output = mrml.read_dwi_nrrd(folder / "output.nrrd", inputVolume, outputVolume if present else None, name)
            output.SetAttribute("DWISuperRes.Checkpoint", str(checkpoint))
            output.SetAttribute("DWISuperRes.Scale", str(scale))
            output.SetNodeReferenceID("DWISuperRes.Input", inputVolume.GetID())
            output.SetAttribute(WARNINGS, "\n".join(results[-1]["warnings"]))
            if uncertainty:
                mrml.read_dwi_nrrd(deviations, inputVolume, name=f"{output.GetName()} uncertainty")
            return output

        arguments = ["run", str(folder / "input.nrrd"), str(folder / "output.nrrd"), *options]
        steps = [*self._probe(device), self._step(arguments, device=device)]
        return self._run({"input.nrrd": inputVolume}, steps, folder, finish, waitForCompletion, onProgress, onFinished)

    def superResolve(self, inputVolume, checkpoint: str = "default", scale: int = 2, **options):
        """`process`, waiting for and returning the output node."""
        return self.process(inputVolume, checkpoint=checkpoint, scale=scale, **options)

    def simulateLowResolution(
        self,
        inputVolume,
        *,
        scale: int = 2,
        model: str = "kspace",
        snr: float = 0.0,
        sliceAxis: str = "",
        waitForCompletion: bool = True,
        onProgress: Callable[[Job], None] | None = None,
        onFinished: Callable[[Job], None] | None = None,
    ):
        """Make a test case: the scan at an in-plane resolution lower by `scale`, with Rician noise where `snr` > 0.

        Returns and raises as `process`; `model` is "kspace", "gaussian", "area" or "paper".
        """
        self._check_idle()
        if inputVolume is None:
            raise InputError("There is no scan to simulate from; choose a reference volume.")
        self._dependencies.ensure()
        folder = self._folder(mrml.size_in_bytes(inputVolume) * 2)
        arguments = ["degrade", str(folder / "input.nrrd"), str(folder / "output.nrrd"), "--scale", str(scale)]
        arguments += ["--model", model, *(["--snr", str(snr)] if snr > 0 else []), "--uncompressed"]
        arguments += ["--axis", sliceAxis] if sliceAxis else []

        def finish(_results):
            name = f"{inputVolume.GetName()} low resolution x{scale}"
            return mrml.read_dwi_nrrd(folder / "output.nrrd", inputVolume, name=name)

        nodes, steps = {"input.nrrd": inputVolume}, [self._step(arguments)]
        return self._run(nodes, steps, folder, finish, waitForCompletion, onProgress, onFinished)

    def compare(
        self,
        reference,
        test,
        maps: Sequence[str] = ("fa", "qa"),
        *,
        mask=None,
        waitForCompletion: bool = True,
        onProgress: Callable[[Job], None] | None = None,
        onFinished: Callable[[Job], None] | None = None,
    ):
        """Compare the microstructure of two DWI volume nodes; the scene's comparison nodes are made or updated.

        Where one is an in-plane refinement of the other (before and after), the coarser is first interpolated (sinc).

        Parameters
        ----------
        reference, test : vtkMRMLDiffusionWeightedVolumeNode
        maps : some of "fa", "qa", "md", "iso", "gfa"
        mask : vtkMRMLLabelMapVolumeNode or vtkMRMLSegmentationNode, optional
            Found automatically by default.

        Returns
        -------
        dict of node by name ("fa_reference", "fa_test", "fa_difference", ..., "statistics", "report"), or the Job.

        Raises
        ------
        As `process`.
        """
        self._check_idle()
        if reference is None or test is None:
            raise InputError("A comparison needs two volumes; choose the reference and the test volume.")
        if reference is test:
            raise InputError(f"Reference and test are both {reference.GetName()}; choose two different volumes.")
        files, grid, before = {"reference": "reference.nrrd", "test": "test.nrrd"}, reference, []
        for part, low, high in (("reference", reference, test), ("test", test, reference)):
            if (relation := mrml.scale_between(low, high)) is not None:
                before.append((part, *relation))
                grid = high
        self._dependencies.ensure()
        folder = self._folder((mrml.size_in_bytes(reference) + mrml.size_in_bytes(test)) * 3)
        steps = []
        for part, scale, axis in before:
            source, files[part] = files[part], f"{part}-interpolated.nrrd"
            arguments = ["run", str(folder / source), str(folder / files[part]), "--scale", str(scale)]
            steps.append(self._step([*arguments, "--axis", axis, "--method", "sinc", "--uncompressed"]))
        output = folder / "comparison"
        arguments = ["compare", *(str(folder / files[part]) for part in ("reference", "test")), str(output)]
        arguments += ["--maps", ",".join(maps), "--format", "nrrd"]
        nodes = {"reference.nrrd": reference, "test.nrrd": test}
        if mask is not None:
            nodes["mask.nrrd"] = (mask, grid)
            arguments += ["--mask", str(folder / "mask.nrrd")]
        steps.append(self._step(arguments))

        def finish(_results):
            from ..io import read_image

            images = {}
            for name in maps:
                first, second = (read_image(output / f"{name}_{part}.nrrd")[0] for part in ("reference", "test"))
                images[name] = first, second
            return mrml.update_comparison(images, output / "statistics.tsv", output / "report.html", grid)

        return self._run(nodes, steps, folder, finish, waitForCompletion, onProgress, onFinished)

    def loadDWI(self, path: str, bval: str | None = None, bvec: str | None = None):
        """Load a scan (.nrrd, .nhdr, .nii, .nii.gz with .bval and .bvec) into a new DWI volume node."""
        if path.endswith((".nii", ".nii.gz")):
            self._dependencies.ensure_readers()
        from ..io import read_dwi

        name = Path(path).name
        for suffix in (".gz", ".nii", ".nrrd", ".nhdr"):
            name = name.removesuffix(suffix)
        with slicer.util.WaitCursor():
            return mrml.add_dwi_node(read_dwi(path, bval=bval, bvec=bvec), name)

    def export(self, folder: str | Path) -> list[Path]:
        """Write the scene's comparison: maps (NIfTI), statistics.tsv and report.html. Existing files are replaced."""
        nodes = mrml.comparison_nodes()
        if not nodes:
            raise InputError("There is nothing to export yet; compare two volumes first.")
        folder = Path(folder)
        if folder == Path() or not folder.is_dir():
            raise InputError(f"The folder {str(folder)!r} does not exist; choose where to export to.")
        self._dependencies.ensure_readers()
        from ..io import output_files, write_image

        written = []
        for role, node in nodes.items():
            if node.IsA("vtkMRMLScalarVolumeNode"):
                written.append(folder / f"{role}.nii.gz")
                array = slicer.util.arrayFromVolume(node).transpose(2, 1, 0)
                write_image(array, mrml.ijk_to_ras(node), written[-1], overwrite=True)
        texts = [folder / "statistics.tsv", folder / "report.html"]
        with output_files(texts, overwrite=True) as (table, report):
            with table.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, delimiter="\t", lineterminator="\n").writerows(mrml.statistics_rows())
            report.write_text(nodes["report"].GetText(), encoding="utf-8")
        return [*written, *texts]

    def cancel(self) -> None:
        """End the running job, if any."""
        if self.job is not None and self.isRunning:
            self.job.cancel()
            self._stop_watching()

    def _check_idle(self) -> None:
        if self.isRunning:
            raise InputError("Another computation is running; wait for it or cancel it first.")

    @staticmethod
    def _folder(needed: float) -> Path:
        folder = make_folder(temporary_folder())
        try:
            check_space(folder, needed)
        except Exception:
            folder.rmdir()
            raise
        return folder

    def _step(self, arguments: Sequence[str], device: str | None = None) -> Step:
        """A command of the library; its device is what the probe found for the one asked for."""

        def command(results: list[dict[str, Any]]) -> list[str]:
            chosen = []
            if device is not None:
                if results:
                    self._devices[device] = results[0]["device"]
                chosen = ["--device", self._devices[device]]
            return [*self._module("DWISuperResLib"), *arguments, *chosen, "--progress", "json"]

        return Step(command)

    def _probe(self, device: str) -> list[Step]:
        """Once a session and device, find out in the child whether PyTorch works there."""
        if device in self._devices:
            return []
        return [Step(lambda _: [*self._module("DWISuperResLib.gui.probe"), device], weight=0.0)]

    def _module(self, name: str) -> list[str]:
        return [self._python or python_executable(), "-m", name]

    def _run(self, nodes, steps, folder, finish, wait, on_progress, on_finished):
        job = Job(
            steps,
            folder,
            finish,
            environment=None if self._python else child_environment(),
            on_progress=on_progress,
            on_finished=on_finished,
        )
        self.job = job
        try:
            for name, node in nodes.items():
                if isinstance(node, tuple):
                    _write_mask(node[0], node[1], folder / name)
                else:
                    mrml.write_dwi_nrrd(node, folder / name)
        except Exception:
            job.discard()
            raise
        scene = slicer.mrmlScene
        self._scene_observer = scene, scene.AddObserver(scene.StartCloseEvent, lambda *_: self.cancel())
        job.start()
        if not wait:
            self._timer.start()
            return job
        try:
            return job.wait()
        finally:
            self._stop_watching()

    def _poll(self) -> None:
        if self.job is not None:
            self.job.poll()
        if not self.isRunning:
            self._stop_watching()

    def _stop_watching(self) -> None:
        self._timer.stop()
        if self._scene_observer is not None:
            scene, tag = self._scene_observer
            scene.RemoveObserver(tag)
            self._scene_observer = None


def _write_mask(mask, grid, path: Path) -> None:
    from ..io import write_image

    write_image(mrml.mask_array(mask, grid), mrml.ijk_to_ras(grid), path)
