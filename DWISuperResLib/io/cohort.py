"""The scans of a cohort: found by files, folders and patterns, and divided so that no subject is on both sides."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError


def find_scans(patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[Path]:
    """DWI files named by files, folders (searched for NIfTI with a gradient table, and NRRD) and patterns.

    Structural images are taken where they are named one by one: a folder of scans often holds some.

    Raises
    ------
    InputError
        If an entry matches nothing.

    Examples
    --------
    >>> from DWISuperResLib import phantom, write_dwi
    >>> write_dwi(phantom((4, 4, 4), supersampling=1), "scan.nii.gz")
    >>> [path.name for path in find_scans(["."])]
    ['scan.nii.gz']
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = _matches(pattern)
        if not paths:
            raise InputError(f"{pattern} holds no DWI: expected NIfTI with .bval and .bvec beside it, or NRRD.")
        found.update(dict.fromkeys(paths))
    dropped = {path for pattern in exclude for path in _matches(pattern)}
    return [path for path in found if path not in dropped]


def divide(
    scans: Sequence[str],
    *,
    held_out: Sequence[str] | float,
    exclude: Sequence[str] = (),
    subject: str | None = None,
    seed: int = 0,
) -> tuple[list[Path], list[Path]]:
    """Scans to train on and scans held out, no subject among both.

    Parameters
    ----------
    scans, exclude : sequence of str
        As for `find_scans`.
    held_out : sequence of str, or float
        Scans, or the fraction of subjects.
    subject : str, optional
        Regular expression, see `subject_of`.
    seed : int
        Of the choice of subjects.

    Raises
    ------
    InputError
        If a subject of a listed scan is trained on as well, or nothing is left to train on.

    Examples
    --------
    >>> from DWISuperResLib import phantom, write_dwi
    >>> for name in ("a", "b", "c"):
    ...     write_dwi(phantom((4, 4, 4), supersampling=1), f"{name}.nii.gz")
    >>> training, held_out = divide(["."], held_out=["b.nii.gz"])
    >>> [path.name for path in training], [path.name for path in held_out]
    (['a.nii.gz', 'c.nii.gz'], ['b.nii.gz'])
    """
    files = find_scans(scans, exclude)
    subjects = {path: subject_of(path, subject) for path in files}
    if isinstance(held_out, float | int):
        distinct = sorted(set(subjects.values()))
        count = round(held_out * len(distinct)) if len(distinct) > 1 else 0
        if held_out > 0 and len(distinct) > 1:
            count = min(max(count, 1), len(distinct) - 1)
        chosen = set(np.random.default_rng(seed).permutation(distinct)[:count].tolist())
        kept = [path for path in files if subjects[path] in chosen]
    else:
        kept = find_scans(held_out)
    training = [path for path in files if path not in kept]
    if shared := {subjects[path] for path in training} & {subject_of(path, subject) for path in kept}:
        raise InputError(
            f"Subject {min(shared)!r} is among the training and the validation scans; hold out all its scans."
        )
    if not training:
        raise InputError("No scans are left for training; hold out or exclude fewer.")
    return training, kept


def find_guide(scan: Path, guides: str | Mapping[str, str] | None) -> Path | None:
    """The registered structural image that belongs to a scan; None where there are no guides.

    Parameters
    ----------
    scan : path
    guides : str or mapping of str to str, optional
        A pattern relative to the scan's folder, with {name} for the scan's file name without suffix; or, for every
        scan, by its path or file name, the guide's path.

    Raises
    ------
    InputError
        Unless exactly one file is found.

    Examples
    --------
    >>> for name in ("sub-1_dwi.nii.gz", "sub-1_dwi_T1w.nii.gz"):
    ...     Path(name).touch()
    >>> find_guide(Path("sub-1_dwi.nii.gz"), "{name}_T1w.nii*").name
    'sub-1_dwi_T1w.nii.gz'
    >>> find_guide(Path("sub-1_dwi.nii.gz"), {"sub-1_dwi.nii.gz": "sub-1_dwi_T1w.nii.gz"}).name
    'sub-1_dwi_T1w.nii.gz'
    """
    if guides is None:
        return None
    if isinstance(guides, str):
        named = guides.replace("{name}", glob.escape(scan.name.split(".")[0]))
        pattern = str(Path(glob.escape(str(scan.parent))) / named)
        found = sorted(Path(match).resolve() for match in glob.glob(pattern))
    else:
        by_path = {Path(key).expanduser().resolve(): value for key, value in guides.items()}
        wanted = by_path.get(scan.resolve(), guides.get(scan.name))
        pattern = wanted or "an entry of its own"
        found = [Path(wanted).expanduser().resolve()] if wanted and Path(wanted).expanduser().is_file() else []
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "nothing"
        raise InputError(f"The guide of {scan} is {listed}; expected one file, by {pattern}: mend data.guide.")
    return found[0]


def subject_of(path: Path, pattern: str | None = None) -> str:
    """What a scan's path matches of `pattern`, else of a BIDS `sub-` entity, else the path itself.

    Examples
    --------
    >>> subject_of(Path("study/sub-07/dwi/sub-07_dwi.nii.gz"))
    'sub-07'
    """
    match = re.search(pattern or r"sub-[A-Za-z0-9]+", str(path))
    return match.group() if match else str(path)


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        candidates = [p for p in path.rglob("*") if p.is_file()]
    else:
        candidates = []
        for match in map(Path, glob.glob(str(path), recursive=True)):
            candidates += [p for p in match.rglob("*") if p.is_file()] if match.is_dir() else [match]
    return sorted({p.resolve() for p in candidates if _is_dwi(p)})


def _is_dwi(path: Path) -> bool:
    """NIfTI with a gradient table beside it, or NRRD whose header says DWMRI; a T1 or a mask is neither."""
    if path.name.endswith((".nii", ".nii.gz")):
        stem = path.name.split(".nii")[0]
        return any((path.parent / name).is_file() for name in (f"{stem}.bval", f"{stem}.bvals", "bvals"))
    if path.suffix in (".nrrd", ".nhdr"):
        with path.open("rb") as file:
            return b"DWMRI_gradient" in file.read(1 << 16)
    return False
