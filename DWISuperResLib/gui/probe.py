"""Run in the child before the first computation: does PyTorch work here, and on which device?

The answer says what was `found` and its particulars; `dependencies.torch_words` puts that into the user's language, for
which the child has no means.
"""

from __future__ import annotations

from typing import Any


def main(requested: str) -> dict[str, Any]:
    """The message to print: a result with the device to use, or an error.

    Parameters
    ----------
    requested : "auto", "cpu", "cuda" or "mps"
    """
    try:
        import torch

        version, cuda = torch.__version__, torch.version.cuda
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return _error("missing")
        return _error("partial", reason=str(error))
    except (ImportError, OSError, AttributeError) as error:
        return _error("partial", reason=_line(error))
    if requested == "cpu":
        return _result("cpu", "processor", version=version)
    if requested == "mps" or (requested == "auto" and torch.backends.mps.is_available()):
        return _try(torch, "mps", requested)
    if not torch.cuda.is_available():
        if requested == "auto":
            return _result("cpu", "processor", version=version)
        return _error("no_driver" if cuda else "no_cuda", version=version, cuda=cuda)
    return _try(torch, "cuda", requested, name=torch.cuda.get_device_name())


def _try(torch: Any, device: str, requested: str, **particulars: str) -> dict[str, Any]:
    """A tiny convolution: a GPU too new or too old for this build fails only when a kernel runs."""
    try:
        image = torch.ones(1, 1, 8, 8, device=device)
        total = float(torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3, device=device)).sum())
    except (RuntimeError, AssertionError) as error:
        found = {"version": torch.__version__, "reason": _line(error)}
        return _result("cpu", "gpu_passed_over", **found) if requested == "auto" else _error("gpu_fails", **found)
    if total != 324:
        return _error("gpu_errs", version=torch.__version__)
    return _result(device, device, version=torch.__version__, **particulars)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _result(device: str, found: str, **particulars: Any) -> dict[str, Any]:
    return {"type": "result", "device": device, "found": found, **particulars}


def _error(found: str, **particulars: Any) -> dict[str, Any]:
    return {"type": "error", "kind": "MissingDependencyError", "found": found, **particulars}
