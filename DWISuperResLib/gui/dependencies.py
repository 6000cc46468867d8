"""The Python packages the child needs: what is missing, asking once, installing; torch by its extension only."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Mapping
from typing import Any

import slicer
import slicer.util
from slicer.i18n import tr as _

from ..errors import Cancelled, MissingDependencyError, ProcessingError
from .paths import resource

TORCH = ">=2.2"
REQUIREMENTS = "DWISuperRes-requirements.txt"
READERS = ("nibabel", "pynrrd")
"""What reading and writing files in the Slicer process needs."""


class Dependencies:
    """Finds out without importing anything; installs only what the user agreed to."""

    def complete(self) -> bool:
        """Whether everything is there; asks and installs nothing."""
        return torch_state() == "present" and not _missing(_requirements())

    def ensure(self) -> bool:
        """Everything the computation needs; True if something was installed.

        Raises
        ------
        Cancelled
            If the user declines.
        MissingDependencyError, ProcessingError
            If the PyTorch extension is missing, PyTorch is only half installed, or installing fails.
        """
        torch = torch_state()
        if torch == "partial":
            raise MissingDependencyError(torch_words({"found": "partial", "reason": _("some files are missing")}))
        packages = _missing(_requirements())
        if torch == "present" and not packages:
            return False
        lines = [_("Super-resolution needs Python packages that are not installed yet:"), ""]
        if torch == "missing":
            lines.append(_("- PyTorch, runs the networks (about 0.3 GB; 3 GB with support for NVIDIA GPUs)"))
        if packages:
            lines.append(
                _("- {names}, for reading files and for diffusion maps (about 0.2 GB)").format(
                    names=", ".join(packages)
                )
            )
        lines += [
            "",
            _("They are installed into this 3D Slicer; this takes some minutes and needs an internet connection."),
        ]
        self._confirm("\n".join(lines))
        if torch == "missing":
            self._install_torch()
        if packages:
            self._install(packages)
        return True

    def ensure_readers(self) -> None:
        """What "Load DWI" needs; errors as for `ensure`."""
        packages = _missing([r for r in _requirements() if r.startswith(READERS)])
        if packages:
            question = _("Such files need Python packages: {names} (about 5 MB). Install them now?")
            self._confirm(question.format(names=", ".join(packages)))
            self._install(packages)

    def _confirm(self, question: str) -> None:
        if slicer.app.testingEnabled() or slicer.util.mainWindow() is None:  # nobody is there to answer
            raise MissingDependencyError(
                _("Python packages are missing; press Apply once in the module DWISuperRes of 3D Slicer with a window.")
            )
        if not slicer.util.confirmOkCancelDisplay(question, windowTitle="DWISuperRes"):
            raise Cancelled(_("The Python packages were not installed, so nothing was computed."))

    def _install_torch(self) -> None:
        try:
            import PyTorchUtils
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                _(
                    "The extension PyTorch is not installed; install it in the Extensions Manager, "
                    "restart 3D Slicer and press Apply again."
                )
            ) from error
        try:
            installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(torchVersionRequirement=TORCH)
        except subprocess.CalledProcessError as error:
            raise ProcessingError(_install_failed("PyTorch", error)) from error
        if installed is None:
            raise Cancelled(_("PyTorch was not installed, so nothing was computed."))

    def _install(self, packages: list[str]) -> None:
        import slicer.packaging

        try:
            slicer.packaging.pip_ensure(packages, prompt_install=False, requester="DWISuperRes")
        except subprocess.CalledProcessError as error:
            raise ProcessingError(_install_failed(", ".join(packages), error)) from error
        if still := _missing(packages):
            raise ProcessingError(
                _("{names} could not be installed; see the Python console for pip's messages.").format(
                    names=", ".join(still)
                )
            )


def torch_state() -> str:
    """ "present", "missing" or "partial" (files without metadata or the reverse, as an interrupted install leaves)."""
    try:
        spec = importlib.util.find_spec("torch")
    except ValueError:  # a broken module object is already loaded
        return "partial"
    try:
        files = importlib.metadata.files("torch")
        has_metadata = True
    except importlib.metadata.PackageNotFoundError:
        files, has_metadata = None, False
    if spec is None and not has_metadata:
        return "missing"
    return "present" if spec is not None and spec.origin and has_metadata and files is not None else "partial"


def torch_words(answer: Mapping[str, Any]) -> str:
    """A sentence on what `probe` found of PyTorch and its devices, and what to do about it."""
    again = _(
        "open the module PyTorch Utils, press Uninstall PyTorch, restart 3D Slicer and press Apply again (on Windows, "
        "first install 3D Slicer in a short folder such as C:\\Slicer)"
    )
    texts = {
        "missing": _("PyTorch is not installed; press Apply again to install it."),
        "partial": _("PyTorch is only partly installed ({reason}); {again}."),
        "processor": _("PyTorch {version} on the processor"),
        "cuda": _("PyTorch {version} on {name}"),
        "mps": _("PyTorch {version} on the Apple GPU"),
        "gpu_passed_over": _("PyTorch {version} on the processor, since it does not work with this GPU ({reason})"),
        "gpu_fails": _("PyTorch {version} does not work with this GPU ({reason}); choose the device CPU, or {again}."),
        "gpu_errs": _("This GPU computes wrong numbers with PyTorch {version}; choose the device CPU."),
        "no_cuda": _("PyTorch {version} is built for processors only; choose the device CPU."),
        "no_driver": _(
            "PyTorch {version} is built for CUDA {cuda} and finds no GPU it can use; update the NVIDIA driver, or "
            "choose the device CPU."
        ),
    }
    return texts[answer["found"]].format(again=again, **answer)


def _requirements() -> list[str]:
    import slicer.packaging

    return [str(requirement) for requirement in slicer.packaging.load_requirements(resource(REQUIREMENTS))]


def _missing(requirements: list[str]) -> list[str]:
    import slicer.packaging

    return [requirement for requirement in requirements if not slicer.packaging.pip_check(requirement)]


def _install_failed(names: str, error: subprocess.CalledProcessError) -> str:
    output = error.output if isinstance(error.output, str) else ""
    said = [line for line in output.splitlines() if line.strip()]
    last = said[-1] if said else _("pip ended with code {n}").format(n=error.returncode)
    text = _("{names} could not be installed ({reason}); check the internet connection and the proxy, then try again.")
    return text.format(names=names, reason=last)
