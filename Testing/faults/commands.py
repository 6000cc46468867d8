"""The commands that faults are made to, on small phantoms, and what may be on disk after each."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import yaml

ROOT = Path(__file__).parents[2]
TEMPORARY = re.compile(r"\.(tmp|old|lock|part)$")
LONGEST = 900
"""Seconds after which a command hangs."""


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes
    ----------
    name : str
    arguments : callable
        Of the folder with the inputs and the folder for the outputs.
    lasting : bool
        Whether its outputs grow while it runs, as a training's do, so that some of them stay when it is stopped.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    lasting: bool = False

    def line(self, inputs: Path, outputs: Path) -> list[str]:
        """What to start."""
        return [sys.executable, "-m", "DWISuperResLib", *self.arguments(inputs, outputs)]


COMMANDS = {
    command.name: command
    for command in (
        Command(
            "run",
            lambda i, o: [
                *("run", str(i / "scan.nii.gz"), str(o / "sr.nii.gz"), "--overwrite"),
                *("--device", "cpu", "--precision", "fp32"),
            ],
        ),
        Command(
            "maps",
            lambda i, o: ["maps", str(i / "scan.nii.gz"), str(o / "maps"), "--maps", "fa,md,qa,iso", "--overwrite"],
        ),
        Command(
            "compare",
            lambda i, o: [
                *("compare", str(i / "scan.nii.gz"), str(i / "other.nii.gz"), str(o / "comparison"), "--overwrite"),
            ],
        ),
        Command(
            "train",
            lambda i, o: ["train", "--config", str(i / "training.yaml"), f"output={o / 'training'}", "resume=true"],
            lasting=True,
        ),
    )
}


def make_inputs(folder: Path) -> None:
    """Two scans of one phantom, and a training of seconds on both."""
    from DWISuperResLib import phantom, write_dwi

    folder.mkdir(parents=True)
    for name, seed in (("scan", 0), ("other", 1)):
        dwi = phantom((36, 44, 6), (4, 4, 8), shells=((0, 1), (1000, 7)), snr=30.0, seed=seed, supersampling=1)
        write_dwi(dwi, folder / f"{name}.nii.gz")
    tree: dict[str, Any] = {
        "data": {
            "scans": [str(folder / "scan.nii.gz")], "validation": [str(folder / "other.nii.gz")],
            "slabs": 2, "patches": 2, "patch": 24, "workers": 0,
        },
        "network": {"architecture": "sr_unet", "arguments": {"width": 8, "scales": [2]}},
        "schedule": {"epochs": 4, "steps_per_epoch": 6},
        "validation": {"slices": 1, "images": False},
        "machine": {"accelerator": "cpu", "precision": "fp32", "progress": False},
    }  # fmt: skip
    (folder / "training.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def fingerprints(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def left_over(folder: Path) -> list[str]:
    """Names under a folder that only an unfinished run has."""
    names = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(name) for name in names if any(TEMPORARY.search(part) for part in name.parts))


def half_written(folder: Path) -> list[str]:
    """Files under their final names that are not whole; temporary ones are not looked at."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and not any(TEMPORARY.search(part) for part in path.relative_to(folder).parts)
        and not _is_whole(path)
    )


def _is_whole(path: Path) -> bool:
    try:
        if path.name.endswith(".nii.gz"):
            with gzip.open(path) as stream:
                stream.read()  # to its checksum
            nib.load(path).get_fdata()
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            from DWISuperResLib.checkpoints import load_checkpoint

            load_checkpoint(path)
        elif path.suffix == ".ckpt":
            import torch

            torch.load(path, map_location="cpu", weights_only=False)  # this process's own training wrote it
        elif path.suffix in (".bval", ".bvec", ".tsv"):
            return path.read_bytes().endswith(b"\n")
    except Exception:
        return False
    return True


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (None: it hung), what it said on stderr, its result on stdout, seconds."""

    code: int | None
    said: str
    result: str
    seconds: float

    @property
    def sentence(self) -> str:
        """The last line on stderr."""
        lines = self.said.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def traceback(self) -> bool:
        """Whether it showed one."""
        return "Traceback (most recent call last)" in self.said


class Running:
    """A command that was started in a process group of its own."""

    def __init__(self, line: Sequence[str], log: Path, prepare: Callable[[], None] | None = None) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "500"}
        self._log = log
        self._began = time.monotonic()
        self._results = log.with_name(f"{log.name}.result")
        with log.open("wb") as file, self._results.open("wb") as results:
            self.process = subprocess.Popen(
                line, stdout=results, stderr=file, cwd=log.parent, env=environment, preexec_fn=prepare
            )

    def wait(self) -> Ended:
        """Until it ends, or hangs and is killed."""
        try:
            code: int | None = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = None
        said, result = (path.read_text(encoding="utf-8", errors="replace") for path in (self._log, self._results))
        return Ended(code, said, result, time.monotonic() - self._began)
