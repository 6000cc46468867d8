"""Where the scans of a BIDS data set lie, which gradient tables belong to them, and where their results go.

pybids indexes the files and their entities. Which table a scan inherits is decided here by the rule of the standard
(https://bids-specification.readthedocs.io/en/stable/common-principles.html#the-inheritance-principle): pybids 0.22
(`get_bval`) also hands a scan the table of another run that lies beside it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...errors import InputError, MissingDependencyError
from ...io import output_files

if TYPE_CHECKING:
    from bids.layout import BIDSFile

BIDS_VERSION = "1.10.0"
_OF_THE_FORMAT = {"extension", "suffix", "datatype"}
_NOT_SUBJECTS = re.compile(r"^/(?!sub-)[^/]+/.")
_NOT_DIFFUSION = re.compile(r"^/sub-[^/]+/(ses-[^/]+/)?(?!dwi/|dwi$|ses-|sub-)[^/]+$")


@dataclass(frozen=True)
class BidsScan:
    """A scan of a data set.

    Attributes
    ----------
    path : str
        Its NIfTI file.
    source : str
        The same from the data set's root, with slashes.
    participant, session : str
        Labels; the session's is empty where there are none.
    bval, bvec : str, optional
        The tables that it inherits; None where it has none.
    problem : str
        One sentence where it cannot be processed.

    Examples
    --------
    >>> scan = BidsScan("/data/sub-01/dwi/sub-01_run-1_dwi.nii.gz", "sub-01/dwi/sub-01_run-1_dwi.nii.gz", "01")
    >>> scan.stem
    'sub-01/dwi/sub-01_run-1_desc-superres'
    """

    path: str
    source: str
    participant: str
    session: str = ""
    bval: str | None = None
    bvec: str | None = None
    problem: str = ""

    @property
    def stem(self) -> str:
        """What the names of its results begin with, from the root of the derivatives: its own name and `desc`."""
        stem = re.sub(r"_dwi\.nii(\.gz)?$", "", self.source)
        made = re.search(r"_desc-([A-Za-z0-9]+)", stem)
        if not made:
            return f"{stem}_desc-superres"
        return f"{stem[: made.start()]}{stem[made.end() :]}_desc-{made[1]}Superres"


def require(*packages: str) -> None:
    """Raise MissingDependencyError, with what to install, unless the packages of cohort runs are there."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise MissingDependencyError(
            f"This needs {' and '.join(missing)}, not installed here; pip install 'dwi-superres[cohort]'."
        )


def find_scans(root: Path, participants: Sequence[str] = (), sessions: Sequence[str] = ()) -> list[BidsScan]:
    """The diffusion scans of a BIDS data set, raw or preprocessed, in the order of their names.

    Parameters
    ----------
    root : path
        Folder with dataset_description.json. Its derivatives, sourcedata and code are left out.
    participants, sessions : sequence of str
        Labels, with or without "sub-" and "ses-"; all by default.

    Raises
    ------
    InputError
        If the folder is no BIDS data set, a label is not in it, or it holds no diffusion scan.
    MissingDependencyError
        Without pybids.
    """
    require("bids")
    wanted = {label.removeprefix("sub-") for label in participants}
    asked = {label.removeprefix("ses-") for label in sessions}
    files = _index(root, wanted)
    images = [file for file in files if _is_scan(file)]
    found = {file.entities["subject"] for file in images}
    if absent := sorted(wanted - found):
        raise InputError(f"{root} holds no diffusion scan of participant {', '.join(absent)}; check the labels.")
    if not images:
        raise InputError(f"{root} holds no diffusion scan: expected sub-*/[ses-*/]dwi/*_dwi.nii.gz.")
    if absent := sorted(asked - {str(file.entities.get("session", "")) for file in images}):
        raise InputError(f"{root} holds no diffusion scan of session {', '.join(absent)}; check the labels.")
    kept = [file for file in images if not asked or str(file.entities.get("session", "")) in asked]
    tables = _gradient_tables(files)
    scans = [_scan(root, file, tables) for file in sorted(kept, key=lambda file: file.path)]
    return _without_doubles(scans)


def _gradient_tables(files: Sequence[BIDSFile]) -> dict[Path, list[BIDSFile]]:
    """Those of b-values and directions, by folder."""
    tables: dict[Path, list[BIDSFile]] = {}
    for file in files:
        if file.entities.get("extension") in (".bval", ".bvec"):
            tables.setdefault(Path(file.path).parent, []).append(file)
    return tables


def _index(root: Path, participants: Collection[str]) -> list[BIDSFile]:
    """Every file of suffix dwi that can matter."""
    from bids import BIDSLayout, BIDSLayoutIndexer

    if not (root / "dataset_description.json").is_file():
        raise InputError(f"{root} is no BIDS data set: it holds no dataset_description.json.")
    ignore = [_NOT_SUBJECTS, _NOT_DIFFUSION]
    if participants:
        others = "|".join(f"{re.escape(label)}(?:/|_|$)" for label in sorted(participants))
        ignore.append(re.compile(rf"^/sub-(?!{others})"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pybids, about itself
            # Metadata are not indexed: in 10,000 participants that would take most of an hour.
            indexer = BIDSLayoutIndexer(validate=False, ignore=ignore, index_metadata=False)
            layout = BIDSLayout(str(root), validate=True, config=["bids", "derivatives"], indexer=indexer)
            return layout.get(suffix="dwi", extension=[".nii", ".nii.gz", ".bval", ".bvec"], invalid_filters="allow")
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{root} cannot be read as a BIDS data set ({reason}).") from error


def _is_scan(file: BIDSFile) -> bool:
    entities = file.entities
    is_magnitude = entities.get("part", "mag") == "mag"
    return entities["extension"].startswith(".nii") and "subject" in entities and is_magnitude


def _scan(root: Path, file: BIDSFile, tables: Mapping[Path, Sequence[BIDSFile]]) -> BidsScan:
    path = Path(file.path)
    scan = BidsScan(
        str(path),
        path.relative_to(root.absolute()).as_posix(),
        str(file.entities["subject"]),
        str(file.entities.get("session", "")),
    )
    try:
        return replace(scan, bval=_inherited(root, file, ".bval", tables), bvec=_inherited(root, file, ".bvec", tables))
    except InputError as error:
        return replace(scan, problem=str(error))


def _inherited(root: Path, image: BIDSFile, extension: str, tables: Mapping[Path, Sequence[BIDSFile]]) -> str | None:
    """The table that applies: of the nearest folder upwards, with no entity that the image has not."""
    own = _entities(image)
    for folder in Path(image.path).parents:
        fitting = [
            (len(entities), Path(table.path))
            for table in tables.get(folder, ())
            if table.entities["extension"] == extension and (entities := _entities(table)).items() <= own.items()
        ]
        most = max((count for count, _ in fitting), default=0)
        nearest = [path for count, path in fitting if count == most]
        if len(nearest) > 1:
            names = " and ".join(sorted(path.name for path in nearest))
            raise InputError(f"{names} in {folder} both apply to {Path(image.path).name}; keep one of them.")
        if nearest:
            return str(nearest[0])
        if folder == root.absolute():
            break
    return None


def _entities(file: BIDSFile) -> dict[str, Any]:
    return {name: value for name, value in file.get_entities().items() if name not in _OF_THE_FORMAT}


def _without_doubles(scans: Sequence[BidsScan]) -> list[BidsScan]:
    """A scan stored twice, as .nii and .nii.gz, would write one result twice: neither is processed."""
    counts = Counter(scan.stem for scan in scans)
    return [
        replace(scan, problem=f"{scan.source} is there as .nii and as .nii.gz; keep one of them.")
        if counts[scan.stem] > 1
        else scan
        for scan in scans
    ]


def prepare_output(root: Path, source: Path) -> None:
    """Make the folder of derivatives and describe it, unless that has been done.

    Raises
    ------
    InputError
        If it is the input, lies where nothing may be written, or holds a data set that is not one of derivatives.
    """
    if root.resolve() == source.resolve():
        raise InputError(f"The output {root} is the input; give another folder, such as {source}/derivatives/superres.")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {root} cannot be made ({error.strerror}); choose another output.") from error
    place = root / "dataset_description.json"
    if place.is_file():
        try:
            described = json.loads(place.read_text(encoding="utf-8"))["DatasetType"]
        except (OSError, ValueError, KeyError, TypeError):
            described = "raw"
        if described != "derivative":
            raise InputError(f"{place} does not describe derivatives; choose another output folder.")
        return
    try:
        name = json.loads((source / "dataset_description.json").read_text(encoding="utf-8"))["Name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = source.name
    description = {
        "Name": f"{name}, super-resolved",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "DWISuperRes", "Version": __version__}],
        "SourceDatasets": [{"URL": source.resolve().as_uri()}],
        "DatasetLinks": {"raw": source.resolve().as_uri()},
    }
    try:
        with output_files([place]) as (temporary,):
            temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    except InputError:
        if not place.is_file():  # else another run has described it meanwhile
            raise
