"""Outputs that appear whole or not at all: written under a temporary name in the same folder, then moved into place."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, ProcessingError


def check_targets(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError unless every file may be written: folder there, nothing in the way."""
    for path in paths:
        _check_folder(path.parent)
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file to write.")
        if path.exists() and not overwrite:
            raise InputError(f"{path} already exists; choose another name or allow overwriting (--overwrite).")


@contextmanager
def output_files(paths: Sequence[Path], overwrite: bool) -> Iterator[list[Path]]:
    """Temporary names to write to; on success they become `paths`, all of them, and on any failure none.

    Raises
    ------
    InputError
        If a file may not be written.
    ProcessingError
        If writing fails, a full disk among the reasons.
    """
    check_targets(paths, overwrite)
    temporary = [path.with_name(f".{secrets.token_hex(6)}.tmp") for path in paths]
    try:
        yield temporary
        _place(list(zip(temporary, paths, strict=True)))
    except OSError as error:
        raise _failure(paths[-1], error) from error
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


@contextmanager
def output_directory(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Temporary sibling folder that becomes `path` on success and vanishes on failure.

    With `overwrite`, what it holds replaces the files of the same names in an existing folder; other files there stay.

    Raises
    ------
    InputError
        If `path` is a file, its parent is missing, or it holds something and `overwrite` is False.
    ProcessingError
        If writing fails, a full disk among the reasons.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise InputError(f"{path} is a file; give the name of a folder to write.")
    _check_folder(target.parent)
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"The folder {path} is not empty; choose another or allow overwriting (--overwrite).")
    temporary = target.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        if target.is_dir():
            files = [file for file in sorted(temporary.rglob("*")) if not file.is_dir()]
            pairs = [(file, target / file.relative_to(temporary)) for file in files]
            for _, file in pairs:
                file.parent.mkdir(parents=True, exist_ok=True)
            _place(pairs)
        else:
            _place([(temporary, target)])
    except OSError as error:
        raise _failure(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist; create it or choose another output.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder {folder} may not be written to; choose another output.")


def _place(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move each temporary file to its target; undo everything if one cannot be moved."""
    placed: list[Path] = []
    saved: list[tuple[Path, Path]] = []
    try:
        for n, (temporary, target) in enumerate(pairs, start=1):
            if n < len(pairs) and target.exists():  # nothing can fail after the last move, so it stays one atomic step
                backup = target.with_name(f".{secrets.token_hex(6)}.old")
                os.replace(target, backup)
                saved.append((backup, target))
            os.replace(temporary, target)
            placed.append(target)
    except BaseException:
        for target in placed:
            target.unlink()
        for backup, target in saved:
            os.replace(backup, target)
        raise
    for backup, _ in saved:
        backup.unlink()


def _failure(path: Path, error: OSError) -> ProcessingError:
    reason = error.strerror or str(error)
    return ProcessingError(
        f"Writing {path} failed ({reason}); nothing was written: free space or choose another place."
    )
