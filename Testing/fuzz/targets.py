"""What is fuzzed: every reader of files from strangers, fed with bytes.

A reader may return, or raise InputError. Anything else is a crash: another exception, more memory or more time than
the limits.
"""

from __future__ import annotations

import re
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from DWISuperResLib.errors import InputError

CORPUS = Path(__file__).with_name("corpus")
SECONDS_AN_INPUT = 5
VOLUMES = 7
"""Of the scan that gradient tables are read beside."""

Target = Callable[[bytes, Path], None]
"""Reads the bytes as a file in the folder."""


class TooSlowError(BaseException):
    """An input took longer than the limit; no `except Exception` of a reader may swallow it."""


@dataclass(frozen=True)
class Outcome:
    """What became of an input: "read", "refused" (with the kind of refusal) or "crash" (with what and where)."""

    kind: str
    detail: str = ""


def nrrd(data: bytes, folder: Path) -> None:
    """A NRRD scan: header and voxels."""
    from DWISuperResLib.io import read_dwi

    read_dwi(_written(folder / "scan.nrrd", data))


def nifti(data: bytes, folder: Path) -> None:
    """A NIfTI scan beside good tables."""
    from DWISuperResLib.io import read_dwi

    if not (folder / "scan.bval").exists():
        shutil.copy(CORPUS / "tables.bval", folder / "scan.bval")
        shutil.copy(CORPUS / "tables.bvec", folder / "scan.bvec")
    read_dwi(_written(folder / "scan.nii", data))


def tables(data: bytes, folder: Path) -> None:
    """Tables of b-values and directions, a line of === between them, beside a good scan."""
    from DWISuperResLib.io import read_dwi

    if not (folder / "scan.nii").exists():
        shutil.copy(CORPUS / "nifti" / "scan.nii", folder / "scan.nii")
    bval, _, bvec = data.partition(b"===\n")
    _written(folder / "scan.bval", bval)
    _written(folder / "scan.bvec", bvec)
    read_dwi(folder / "scan.nii")


def checkpoint(data: bytes, folder: Path) -> None:
    """A checkpoint: the header of safetensors, the card in it, the weights."""
    from DWISuperResLib.checkpoints import load_checkpoint, read_card

    path = _written(folder / "model.safetensors", data)
    read_card(path)
    load_checkpoint(path)


def card(data: bytes, folder: Path) -> None:
    """A card's JSON alone, which a mutation of a whole checkpoint seldom reaches past the header's lengths."""
    from DWISuperResLib.checkpoints import Card

    Card.from_json(data.decode("utf-8", "replace"))


def configuration(data: bytes, folder: Path) -> None:
    """A training's YAML."""
    from DWISuperResLib.training.configuration import load_configuration

    load_configuration(_written(folder / "training.yaml", data))


TARGETS: dict[str, Target] = {t.__name__: t for t in (nrrd, nifti, tables, checkpoint, card, configuration)}


def seeds(name: str) -> list[bytes]:
    """The corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def import_readers(name: str, folder: Path) -> None:
    """Read the seeds without limits: what readers import is no part of what an input may take."""
    for data in seeds(name):
        with suppress(InputError):
            TARGETS[name](data, folder)


def outcome_of(target: Target, data: bytes, folder: Path, seconds: float = SECONDS_AN_INPUT) -> Outcome:
    """Run one input within the time limit; the memory limit is the process's."""
    began = time.monotonic()
    try:
        with _alarm(seconds):
            target(data, folder)
    except InputError as error:
        found = Outcome("refused", _kind_of(str(error)))
    except (Exception, TooSlowError) as error:
        found = Outcome("crash", f"{type(error).__name__} at {_place_of(error)}")
    else:
        found = Outcome("read")
    # Where the time passed within one call of C, the alarm came too late to stop it.
    return Outcome("crash", "TooSlowError") if time.monotonic() - began > seconds + 1 else found


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _kind_of(message: str) -> str:
    """A message without what differs from input to input: quotations, paths, numbers."""
    message = re.sub(r"^Configuration: .*?: ", "Configuration: KEY: ", message)
    message = re.sub(r"\S*/\S+", "FILE", message)
    message = re.sub(r"(['\"]).*\1", "TEXT", message, flags=re.DOTALL)
    message = re.sub(r"\(.*\)|\[.*\]", "", message, flags=re.DOTALL)
    return re.sub(r"[-+.\w]*\d[-+.\w]*", "N", message)[:160]


def _place_of(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "DWISuperResLib" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
