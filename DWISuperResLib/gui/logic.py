"""What the module does, with or without its panel: super-resolve, simulate, compare, load, export.

From the Python console:

    logic = DWISuperRes.DWISuperResLogic()
    out = logic.superResolve(dwiNode, checkpoint="default", scale=2)
    maps = logic.compare(reference, out)
    maps["fa_difference"], maps["statistics"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from .. import mrml
from ..errors import DWISuperResError, InputError
from ..inference.options import InferenceOptions
from ..resampling.scale import Scale
from .batch import Batch
from .dependencies import Dependencies, torch_words
from .export import check_export, export_comparison
from .file_io import SUFFIXES
from .job import Job, Step, check_space, make_folder
from .paths import child_environment, python_executable, temporary_folder
from .warm_child import WarmChild

POLL_MILLISECONDS = 100
IDLE_MINUTES = 5
"""An idle child keeps PyTorch in memory (some 0.4 GB) for this long."""
SIMULATED_SCALE, ORIGINAL_VOXELS = "DWISuperRes.SimulatedScale", "DWISuperRes.OriginalVoxels"
"""Attributes of a simulated node: by how much its resolution was lowered, and the scale that leads back."""
WARNINGS = "DWISuperRes.Warnings"
"""Attribute of a super-resolved node: what the self-checks warned of, a sentence a line."""

OnJob = Callable[[Any], None]
"""What wants to know of a `Job` or a `Batch`."""


class Logic:
    """One job at a time, computed in a child process that stays for the next one.

    Parameters
    ----------
    python : str, optional
        The Python that computes; PythonSlicer by default.
    dependencies : object with ensure(), ensure_readers() and complete(), optional
    """

    def __init__(self, python: str | None = None, dependencies: Dependencies | None = None):
        self._dependencies = dependencies or Dependencies()
        self._devices: dict[str, str] = {}
        self._scene_observer: tuple[Any, int] | None = None
        self.job: Job | None = None
        """The running or the last job."""
        self._batch: Batch | None = None
        self._child = WarmChild(
            lambda: [python or python_executable(), "-m", "DWISuperResLib.gui.worker"],
            lambda: None if python else child_environment(),
            temporary_folder,
        )
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MILLISECONDS)
        self._timer.timeout.connect(self._poll)
        self._idle = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(IDLE_MINUTES * 60_000)
        self._idle.timeout.connect(self._child.close)

    @property
    def isRunning(self) -> bool:
        """Whether a job is under way."""
        running = self.job is not None and self.job.state == "running"
        return running or (self._batch is not None and self._batch.state == "running")

    def warmUp(self) -> None:
        """Start the child, if it has all it needs, so that the first job does not wait for PyTorch to load."""
        if not self.isRunning and self._dependencies.complete():
            try:
                self._child.start()
            except (OSError, DWISuperResError):
                return  # the first job says what is wrong
            self._idle.start()

    def process(
        self,
        inputVolume,
        outputVolume=None,
        *,
        checkpoint: str = "default",
        scale: float | str = 2,
        guide=None,
        device: str = "auto",
        precision: str = "auto",
        sliceAxis: str = "",
        ensemble: bool = False,
        consistent: bool = False,
        native: bool = False,
        uncertainty: bool = False,
        waitForCompletion: bool = True,
        onProgress: OnJob | None = None,
        onFinished: OnJob | None = None,
    ):
        """Super-resolve a DWI volume node.

        Parameters
        ----------
        inputVolume : vtkMRMLDiffusionWeightedVolumeNode
        outputVolume : vtkMRMLDiffusionWeightedVolumeNode, optional
            Overwritten; a new node by default.
        checkpoint : str
            Name of a shipped checkpoint or path of a .safetensors file.
        scale : number or str
            One of those the checkpoint has: 2 within the slice, or as the command line takes it ("1x1x3").
        guide : vtkMRMLScalarVolumeNode, optional
            For a checkpoint trained with one: a T1w or other image that lies on the scan, its transform included.
        device : "auto", "cpu", "cuda" or "mps"
        precision : "auto", "fp32", "bf16" or "fp16"
        sliceAxis : "", "i", "j" or "k"
            Voxel axis across the slices; from the header by default.
        ensemble, consistent, native, uncertainty : bool
            Average over flips and rotations (test-time augmentation); make the result agree with the input (data
            consistency); take a scan that was interpolated before down to the matrix it holds, from which the scale
            then counts; also make a volume of standard deviations.
        waitForCompletion : bool
            False returns a running `Job` at once; `onProgress` and `onFinished` then get it, on the main thread.

        Returns
        -------
        The output node, or the Job. A table of self-checks, and the standard deviations, are filed under the output.

        Raises
        ------
        InputError, MissingDependencyError, ProcessingError, Cancelled
            With one sentence; while not waiting, only for what is known before the child starts.
        """
        self._check_idle()
        options = InferenceOptions(
            precision=precision, axis=sliceAxis or None, ensemble=ensemble, consistent=consistent, native=native
        )
        return self._process(
            inputVolume, outputVolume, checkpoint, scale, guide, device, options, uncertainty,
            wait=waitForCompletion, on_progress=onProgress, on_finished=onFinished,
        )  # fmt: skip

    def superResolve(self, inputVolume, checkpoint: str = "default", scale: float | str = 2, **options):
        """`process`, waiting for and returning the output node."""
        return self.process(inputVolume, checkpoint=checkpoint, scale=scale, **options)

    def processAll(
        self,
        inputVolumes: Sequence[Any],
        *,
        checkpoint: str = "default",
        scale: float | str = 2,
        device: str = "auto",
        precision: str = "auto",
        sliceAxis: str = "",
        ensemble: bool = False,
        consistent: bool = False,
        native: bool = False,
        uncertainty: bool = False,
        waitForCompletion: bool = True,
        onProgress: OnJob | None = None,
        onFinished: OnJob | None = None,
    ):
        """`process` for several scans, one after another, each into a new node.

        Returns
        -------
        list of output nodes, or the `Batch`. Scans that failed are missing; its `warnings` say why.
        """
        self._check_idle()
        if not inputVolumes:
            raise InputError(_("There is no scan to super-resolve; load diffusion-weighted volumes first."))
        self._dependencies.ensure()
        options = InferenceOptions(
            precision=precision, axis=sliceAxis or None, ensemble=ensemble, consistent=consistent, native=native
        )

        def start(scan, on_progress, on_finished):
            return self._process(
                scan, None, checkpoint, scale, None, device, options, uncertainty,
                wait=False, on_progress=on_progress, on_finished=on_finished,
            )  # fmt: skip

        self._batch = Batch(inputVolumes, start, onProgress, onFinished)
        self._batch.next()
        return self._batch.wait(self._poll) if waitForCompletion else self._batch

    def _process(
        self,
        node: Any,
        target: Any,
        checkpoint: str,
        scale: float | str,
        guide: Any,
        device: str,
        options: InferenceOptions,
        uncertainty: bool,
        *,
        wait: bool,
        on_progress: OnJob | None,
        on_finished: OnJob | None,
    ):
        if node is None:
            raise InputError(_("There is no input; choose a diffusion-weighted volume."))
        wanted = str(scale)
        if node.GetAttribute(SIMULATED_SCALE) == wanted:  # back onto the original's grid, whatever its matrix
            wanted = node.GetAttribute(ORIGINAL_VOXELS)
        growth = _growth(node, wanted, options.axis)
        self._ensure_dependencies()
        folder = self._folder(mrml.size_in_bytes(node) * (1 + growth * (2 if uncertainty else 1)))
        deviations = folder / "uncertainty.nrrd"

        def finish(results):
            name = _("{scan} SR x{scale}").format(scan=node.GetName(), scale=scale)
            present = target is not None and slicer.mrmlScene.IsNodePresent(target)
            output = mrml.read_dwi_nrrd(folder / "output.nrrd", node, target if present else None, name)
            output.SetAttribute("DWISuperRes.Checkpoint", str(checkpoint))
            output.SetAttribute("DWISuperRes.Scale", str(scale))
            output.SetNodeReferenceID(mrml.INPUT_REFERENCE, node.GetID())
            output.SetAttribute(WARNINGS, "\n".join(results[-1]["warnings"]))
            mrml.update_self_checks(output, results[-1].get("checks", ()))
            if uncertainty:
                earlier = mrml.uncertainty_of(output)
                mrml.attach_uncertainty(output, mrml.read_dwi_nrrd(deviations, node, earlier, output.GetName()))
            return output

        arguments = ["run", str(folder / "input.nrrd"), str(folder / "output.nrrd"), "--scale", wanted]
        arguments += ["--checkpoint", str(checkpoint), *options.as_arguments(), "--uncompressed"]
        arguments += ["--uncertainty", str(deviations)] if uncertainty else []
        nodes = {"input.nrrd": node}
        if guide is not None:
            nodes["guide.nrrd"] = (_write_guide, guide, node)
            arguments += ["--guide", str(folder / "guide.nrrd")]
        steps = [*self._probe(device), self._step(arguments, device=device)]
        return self._run(nodes, steps, folder, finish, wait, on_progress, on_finished)

    def simulateLowResolution(
        self,
        inputVolume,
        *,
        scale: float | str = 2,
        degradation: str = "kspace",
        snr: float = 0.0,
        sliceAxis: str = "",
        waitForCompletion: bool = True,
        onProgress: OnJob | None = None,
        onFinished: OnJob | None = None,
    ):
        """Make a test case: the scan at a resolution lower by `scale`, with Rician noise where `snr` > 0.

        Returns and raises as `process`; `degradation` is "kspace", "gaussian", "area", "paper" or another one that
        the library knows.
        """
        self._check_idle()
        if inputVolume is None:
            raise InputError(_("There is no scan to simulate from; choose a reference volume."))
        _growth(inputVolume, scale, sliceAxis or None)
        self._ensure_dependencies()
        folder = self._folder(mrml.size_in_bytes(inputVolume) * 2)
        arguments = ["degrade", str(folder / "input.nrrd"), str(folder / "output.nrrd"), "--scale", str(scale)]
        arguments += ["--degradation", degradation, *(["--snr", str(snr)] if snr > 0 else []), "--uncompressed"]
        arguments += ["--axis", sliceAxis] if sliceAxis else []

        def finish(_results):
            name = _("{scan} low resolution x{scale}").format(scan=inputVolume.GetName(), scale=scale)
            low = mrml.read_dwi_nrrd(folder / "output.nrrd", inputVolume, name=name)
            low.SetAttribute(SIMULATED_SCALE, str(scale))
            sizes = mrml.header(inputVolume).voxel_sizes
            low.SetAttribute(ORIGINAL_VOXELS, "x".join(f"{size:.6f}" for size in sizes) + "mm")
            return low

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
        onProgress: OnJob | None = None,
        onFinished: OnJob | None = None,
    ):
        """Compare the microstructure of two DWI volume nodes; the scene's comparison nodes are made or updated.

        Where the grid of one refines that of the other (before and after), the coarser is first interpolated (sinc).

        Parameters
        ----------
        reference, test : vtkMRMLDiffusionWeightedVolumeNode
        maps : names of maps ("fa", "qa", "md", ...), and "colour_fa" for directions, which brings "fa" along
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
            raise InputError(_("A comparison needs two volumes; choose the reference and the test volume."))
        if reference is test:
            text = _("Reference and test are both {name}; choose two different volumes.")
            raise InputError(text.format(name=reference.GetName()))
        coloured = mrml.COLOUR_FA in maps
        values = [name for name in maps if name != mrml.COLOUR_FA]
        if coloured and "fa" not in values:
            values.insert(0, "fa")
        files, grid, steps = {"reference": "reference.nrrd", "test": "test.nrrd"}, reference, []
        self._ensure_dependencies()
        folder = self._folder((mrml.size_in_bytes(reference) + mrml.size_in_bytes(test)) * 3)
        for part, low, high in (("reference", reference, test), ("test", test, reference)):
            if (scale := mrml.scale_between(low, high)) is not None:
                source, files[part], grid = files[part], f"{part}-interpolated.nrrd", high
                arguments = ["run", str(folder / source), str(folder / files[part]), "--scale", str(scale)]
                steps.append(self._step([*arguments, "--method", "sinc", "--uncompressed"]))
        output = folder / "comparison"
        arguments = ["compare", *(str(folder / files[part]) for part in files), str(output)]
        arguments += ["--maps", ",".join(values), "--format", "nrrd"]
        nodes = {"reference.nrrd": reference, "test.nrrd": test}
        if mask is not None:
            nodes["mask.nrrd"] = (_write_mask, mask, grid)
            arguments += ["--mask", str(folder / "mask.nrrd")]
        steps.append(self._step(arguments))
        colours = {part: folder / f"colours-{part}.npy" for part in files if coloured}
        for part, path in colours.items():  # within the mask that the comparison found
            steps.append(
                self._step(["colours", str(folder / files[part]), str(path), str(output / "fa_reference.nrrd")])
            )

        def finish(_results):
            from ..io import read_image

            images = {}
            for name in values:
                first, second = (read_image(output / f"{name}_{part}.nrrd")[0] for part in ("reference", "test"))
                images[name] = first, second
            pictures = tuple(np.load(path) for path in colours.values()) or None
            return mrml.update_comparison(images, output / "statistics.tsv", output / "report.html", grid, pictures)

        return self._run(nodes, steps, folder, finish, waitForCompletion, onProgress, onFinished)

    def loadDWI(self, path: str, bval: str | None = None, bvec: str | None = None):
        """Load a scan (.nrrd, .nhdr, .nii, .nii.gz with .bval and .bvec) into a new DWI volume node."""
        if path.lower().endswith(SUFFIXES):
            self._dependencies.ensure_readers()
        from ..io import read_dwi

        name = Path(path).name
        for suffix in (".gz", ".nii", ".nrrd", ".nhdr"):
            name = name.removesuffix(suffix)
        with slicer.util.WaitCursor():
            return mrml.add_dwi_node(read_dwi(path, bval=bval, bvec=bvec), name)

    def export(self, folder: str | Path) -> list[Path]:
        """Write the scene's comparison: maps (NIfTI), statistics.tsv and report.html. Existing files are replaced."""
        check_export(Path(folder))
        self._dependencies.ensure_readers()
        return export_comparison(Path(folder))

    def cancel(self) -> None:
        """End the running job, if any, and the child with it."""
        if self.job is not None and self.job.state == "running":
            self.job.cancel()
            self._stop_watching()

    def close(self) -> None:
        """End what runs and the child; the logic can be used again, with a new child."""
        self.cancel()
        self._idle.stop()
        self._child.close()

    def _check_idle(self) -> None:
        if self.isRunning:
            raise InputError(_("Another computation is running; wait for it or cancel it first."))

    def _ensure_dependencies(self) -> None:
        if self._dependencies.ensure():  # a child that runs does not see what was installed meanwhile
            self._child.close()

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
            if device is None:
                return list(arguments)
            if results:
                self._devices[device] = results[0]["device"]
            return [*arguments, "--device", self._devices[device]]

        return Step(command)

    def _probe(self, device: str) -> list[Step]:
        """Once a session and device, find out in the child whether PyTorch works there."""
        return [] if device in self._devices else [Step(lambda _results: ["probe", device], 0.0, torch_words)]

    def _run(self, nodes, steps, folder, finish, wait, on_progress, on_finished):
        self._stop_watching()
        self._idle.stop()
        job = Job(steps, folder, finish, launch=self._child.run, on_progress=on_progress, on_finished=on_finished)
        self.job = job
        try:
            for name, node in nodes.items():
                if isinstance(node, tuple):
                    write, own, beside = node
                    write(own, beside, folder / name)
                else:
                    mrml.write_dwi_nrrd(node, folder / name)
        except Exception:
            job.discard()
            raise
        scene = slicer.mrmlScene
        self._scene_observer = scene, scene.AddObserver(scene.StartCloseEvent, lambda *_event: self.cancel())
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
        self._idle.start()
        if self._scene_observer is not None:
            scene, tag = self._scene_observer
            scene.RemoveObserver(tag)
            self._scene_observer = None


def _growth(node: Any, scale: float | str, axis: Any) -> float:
    """How many times as many voxels the finer grid has; InputError where `scale` is none."""
    shape = node.GetImageData().GetDimensions() if node.GetImageData() is not None else (1, 1, 1)
    fine = Scale.parse(scale, mrml.header(node), axis).fine_shape(shape)
    return float(np.prod(fine) / np.prod(shape))


def _write_mask(mask: Any, grid: Any, path: Path) -> None:
    from ..io import write_image

    write_image(mrml.mask_array(mask, grid), mrml.ijk_to_ras(grid), path)


def _write_guide(guide: Any, scan: Any, path: Path) -> None:
    from ..io import write_volume

    write_volume(mrml.volume_from_node(guide, scan), path, compress=False)
