"""Outputs that appear whole or not at all: written under a temporary name, then moved into place.

No other module does this.
One run at a time may write an output: it holds a lock, which the system releases even when the process is killed. A
temporary name holds the output's name and the process that made it, `.scan.nii.gz.4711-1f2e3d4c.tmp`; whoever gets the
lock next removes what a killed run left, and puts back what that run had already set aside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import InputError, ProcessingError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LONGEST_LABEL = 150
"""Bytes of a name that a temporary name repeats: file systems allow 255 in all."""
SECONDS_BETWEEN_TRIES = 0.2
_BEYOND_CONTENT = 1 << 20
"""Windows keeps others from reading locked bytes, so the byte that is locked lies behind the process number."""
_OURS = re.compile(r"\..+\.(lock|\d+-[0-9a-f]{8}\.(tmp|old))")


def check_targets(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise InputError unless every file may be written: folder there, nothing in the way, no file named twice."""
    for path in paths:
        _check_folder(path.parent)
        with _named(path):
            if path.is_dir():
                raise InputError(f"{path} is a folder; give the name of a file to write.")
            if path.exists() and not overwrite:
                raise InputError(f"{path} already exists; choose another name or allow overwriting (--overwrite).")
    places = [_place_of(path) for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"Two outputs would both be written to {path}; give them different names.")


@contextmanager
def output_files(
    paths: Sequence[str | os.PathLike], overwrite: bool = False, *, wait: bool = False
) -> Iterator[list[Path]]:
    """Temporary names to write to; on success they become `paths`, all of them, and on any failure none.

    Parameters
    ----------
    paths : sequence of path
        Files of one result, the one that names or needs the others last: it is moved last.
    overwrite : bool
        Replace files that exist.
    wait : bool
        Wait for another run that is writing one of them.

    Raises
    ------
    InputError
        If a file may not be written, or another run is writing it.
    ProcessingError
        If writing fails, a full disk among the reasons.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.json"
    >>> with output_files([target]) as (temporary,):
    ...     _ = temporary.write_text("{}")
    >>> target.read_text()
    '{}'
    """
    targets = [Path(path) for path in paths]
    check_targets(targets, overwrite)
    try:
        with ExitStack() as stack:
            for target in sorted(set(targets)):
                stack.enter_context(_lock(target, target.parent, wait))
            _tidy(targets)
            check_targets(targets, overwrite)  # another run may have ended in the meantime
            token = _token()
            pairs = [(_beside(target, token, "tmp"), target) for target in targets]
            stack.callback(_remove, [temporary for temporary, _ in pairs])
            yield [temporary for temporary, _ in pairs]
            _place(pairs, token)
    except OSError as error:
        raise _failure(targets[-1], error) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file whole or not at all, over one of its name; errors as of `output_files`.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.json"
    >>> write_text(target, "{}")
    >>> target.read_text()
    '{}'
    """
    with output_files([path], overwrite=True) as (temporary,):
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def working_in(folder: str | os.PathLike) -> Iterator[None]:
    """Be the only run that works in a folder, which is made where it is missing, for as long as this lasts.

    Raises
    ------
    InputError
        If another run is working in it, or it cannot be made.

    Examples
    --------
    >>> with working_in("training"), working_in("training"):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    DWISuperResLib.errors.InputError: Another run (process ...) is writing training; wait until ...
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made ({error.strerror}); choose another output.") from error
    with _lock(path, path):
        yield


@contextmanager
def output_directory(path: str | os.PathLike, overwrite: bool = False, *, wait: bool = False) -> Iterator[Path]:
    """Temporary folder whose content becomes that of `path` on success and vanishes on failure.

    It lies beside a folder that does not exist yet, and in one that does: that may be a file system of its own. With
    `overwrite`, what it holds replaces the files of the same names in an existing folder; other files there stay. With
    `wait`, another run that is writing it is waited for.

    Raises
    ------
    InputError
        If `path` is a file, its parent is missing, it holds something and `overwrite` is False, or another run is
        writing it.
    ProcessingError
        If writing fails, a full disk among the reasons.

    Examples
    --------
    >>> with output_directory("report") as temporary:
    ...     _ = (temporary / "page.html").write_text("<p>done</p>")
    >>> [path.name for path in Path("report").iterdir() if not path.name.startswith(".")]
    ['page.html']
    """
    with _named(Path(path)):
        target = Path(path).resolve()
        if target.exists() and not target.is_dir():
            raise InputError(f"{path} is a file; give the name of a folder to write.")
        existing = target.is_dir()
    place = target if existing else target.parent
    _check_folder(place)
    try:
        with ExitStack() as stack:
            stack.enter_context(_lock(target, place, wait))
            # Looked at again, as another run may have made it in the meantime.
            if target.is_dir() and not overwrite and any(not _OURS.fullmatch(entry.name) for entry in target.iterdir()):
                raise InputError(f"The folder {path} is not empty; choose another or allow overwriting (--overwrite).")
            _tidy_folder(target, place)
            token = _token()
            temporary = place / _beside(target, token, "tmp").name
            stack.callback(_remove, [temporary])
            temporary.mkdir()
            yield temporary
            if target.is_dir():
                _fill(target, temporary, token)
            else:
                _place([(temporary, target)], token)
    except OSError as error:
        raise _failure(target, error) from error


def _check_folder(folder: Path) -> None:
    with _named(folder):
        if not folder.is_dir():
            raise InputError(f"The folder {folder} does not exist; create it or choose another output.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder {folder} may not be written to; choose another output.")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say what is wrong with a name that the system refuses to look up."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"The name {path.name[:40]}... is too long for this file system; shorten it.") from error
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output.") from error


def _place_of(path: Path) -> Path:
    return path.parent.resolve() / os.path.normcase(path.name)


def _label(target: Path) -> str:
    """What the temporary names of a target begin with: its name, or a part that tells it apart."""
    name = target.name
    if len(os.fsencode(name)) <= LONGEST_LABEL:
        return name
    return f"{name[: LONGEST_LABEL // 8]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _token() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def _beside(target: Path, token: str, kind: str) -> Path:
    return target.with_name(f".{_label(target)}.{token}.{kind}")


@contextmanager
def _lock(target: Path, folder: Path, wait: bool = False) -> Iterator[None]:
    """Be the only one to write `target`, by a lock on a file in `folder`."""
    path = folder / f".{_label(target)}.lock"
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(file):
            if wait:
                os.close(file)
                time.sleep(SECONDS_BETWEEN_TRIES)
                continue
            owner = ""
            os.lseek(file, 0, os.SEEK_SET)
            with suppress(OSError):
                owner = f" (process {os.read(file, 20).decode('ascii', 'replace')})"
            os.close(file)
            raise InputError(
                f"Another run{owner} is writing {target}; wait until it has ended or choose another output."
            )
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)  # whoever held the lock has removed the file since: begin anew
    _HELD.add(file)
    try:
        os.write(file, str(os.getpid()).encode("ascii"))
        yield
    finally:
        _HELD.discard(file)
        if sys.platform == "win32":  # an open file cannot be removed there; who waits for it has opened it already
            os.close(file)
        with suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(file)


_HELD: set[int] = set()
"""Open files of the locks that this process holds."""


def _leave_locks_to_the_parent() -> None:
    # A lock lasts for as long as any process has its file open: the workers of a killed run outlive it by seconds.
    for file in _HELD:
        with suppress(OSError):
            os.close(file)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


def _try_lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(file, _BEYOND_CONTENT, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # A file system without locks must not keep anyone from writing.
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK, errno.EDEADLK)
    return True


def _tidy(targets: Sequence[Path]) -> None:
    """Remove what killed runs left, after putting back the files that an unfinished move had set aside."""
    left: dict[str, list[tuple[Path, Path]]] = {}
    for target in targets:
        for path in target.parent.glob(f".{_escaped(_label(target))}.*"):
            if match := re.fullmatch(r"(\d+-[0-9a-f]{8})\.(tmp|old)", path.name[len(_label(target)) + 2 :]):
                left.setdefault(match[1], []).append((path, target))
    for files in left.values():
        unfinished = any(path.suffix == ".tmp" for path, _ in files)
        for path, target in files:
            if unfinished and path.suffix == ".old":
                os.replace(path, target)
            else:
                _remove([path])


def _tidy_folder(target: Path, place: Path) -> None:
    """The same for the folder at `target`, whose temporary folders lie in `place`."""
    killed = [path for path in place.glob(f".{_escaped(_label(target))}.*.tmp") if _OURS.fullmatch(path.name)]
    tokens = {path.suffixes[-2] for path in killed}
    for path in target.rglob(".*.old") if killed else ():
        if _OURS.fullmatch(path.name) and path.suffixes[-2] in tokens:
            os.replace(path, path.with_name(path.name[1:].removesuffix(f"{path.suffixes[-2]}.old")))
    _remove(killed)


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _fill(target: Path, temporary: Path, token: str) -> None:
    """Move every file of a temporary folder to its place in a folder that exists."""
    files = [file for file in sorted(temporary.rglob("*")) if not file.is_dir()]
    pairs = [(file, target / file.relative_to(temporary)) for file in files]
    made: list[Path] = []
    try:
        for _, file in pairs:
            for folder in reversed([folder for folder in file.parents if not folder.exists()]):
                folder.mkdir()
                made.append(folder)
        _place(pairs, token)
    except BaseException:
        for folder in sorted(made, reverse=True):
            with suppress(OSError):
                folder.rmdir()
        raise


def _place(pairs: Sequence[tuple[Path, Path]], token: str) -> None:
    """Move each temporary file to its target; undo everything if one cannot be moved."""
    # Noted before it is done, as an interruption may come between the two.
    begun: list[tuple[Path, Path]] = []
    saved: list[tuple[Path, Path]] = []
    try:
        for n, (temporary, target) in enumerate(pairs, start=1):
            if n < len(pairs) and target.exists():  # nothing can fail after the last move, so it stays one atomic step
                saved.append((_beside(target, token, "old"), target))
                os.replace(target, saved[-1][0])
            begun.append((temporary, target))
            os.replace(temporary, target)
    except BaseException:
        if pairs[-1][0].exists():
            _undo(begun, saved)
            raise
        _remove(backup for backup, _ in saved)
        raise
    _remove(backup for backup, _ in saved)


def _undo(begun: Sequence[tuple[Path, Path]], saved: Sequence[tuple[Path, Path]]) -> None:
    for temporary, target in begun:
        if not temporary.exists():
            target.unlink(missing_ok=True)
    for backup, target in saved:
        if backup.exists():
            os.replace(backup, target)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _failure(path: Path, error: OSError) -> ProcessingError:
    reason = error.strerror or str(error)
    return ProcessingError(
        f"Writing {path} failed ({reason}); nothing was written: free space or choose another place."
    )
