"""Run in the child before the first computation: does PyTorch work here, and on which device? In words."""

from __future__ import annotations

REINSTALL = (
    "open the module PyTorch Utils, press Uninstall PyTorch, restart 3D Slicer and press Apply again "
    "(on Windows, first install 3D Slicer in a short folder such as C:\\Slicer)"
)


def main(requested: str) -> dict[str, object]:
    """The message to print: a result with the device to use, or an error."""
    try:
        import torch

        version, cuda = torch.__version__, torch.version.cuda
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return _error("PyTorch is not installed; press Apply again to install it.")
        return _error(f"PyTorch is only partly installed (no module {error.name}); {REINSTALL}.")
    except (ImportError, OSError, AttributeError) as error:
        return _error(f"PyTorch is only partly installed ({_line(error)}); {REINSTALL}.")
    if requested == "cpu":
        return _result("cpu", f"PyTorch {version} on the processor")
    if requested == "mps" or (requested == "auto" and torch.backends.mps.is_available()):
        return _try(torch, "mps", requested, f"PyTorch {version} on the Apple GPU")
    if not torch.cuda.is_available():
        if requested == "auto":
            return _result("cpu", f"PyTorch {version} on the processor")
        reason = (
            "is built for processors only" if cuda is None else f"is built for CUDA {cuda} and finds no GPU it can use"
        )
        return _error(f"PyTorch {version} {reason}; update the NVIDIA driver, or choose the device CPU.")
    return _try(torch, "cuda", requested, f"PyTorch {version} on {torch.cuda.get_device_name()}")


def _try(torch, device: str, requested: str, text: str) -> dict[str, object]:
    """A tiny convolution: a GPU too new or too old for this build fails only when a kernel runs."""
    try:
        image = torch.ones(1, 1, 8, 8, device=device)
        total = float(torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3, device=device)).sum())
    except (RuntimeError, AssertionError) as error:
        why = f"PyTorch {torch.__version__} does not work with this GPU ({_line(error)})"
        if requested == "auto":
            return _result("cpu", f"{why}; using the processor", warnings=[f"{why}, so the processor was used."])
        return _error(f"{why}; choose the device CPU, or {REINSTALL}.")
    if total != 324:
        return _error(f"This GPU computes wrong numbers with PyTorch {torch.__version__}; choose the device CPU.")
    return _result(device, text)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _result(device: str, message: str, **more: object) -> dict[str, object]:
    return {"type": "result", "device": device, "message": message, **more}


def _error(message: str) -> dict[str, object]:
    return {"type": "error", "message": message, "kind": "MissingDependencyError"}
