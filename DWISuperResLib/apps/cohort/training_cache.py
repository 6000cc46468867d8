"""The copies that training maps into memory, written by Dask workers: on 10,000 scans one process takes hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import InputError
from ...io.cohort import divide
from ...progress import Reporter
from .layout import require
from .workers import connect


def copy_scans(file: str | Path, overrides: Sequence[str], address: str, report: Reporter) -> int:
    """Write the copies of every scan of a configuration that has none yet; return how many scans there are.

    The workers must see the scans and the folder of the copies (data.cache, else output/cache) under the same names.

    Parameters
    ----------
    file, overrides
        The configuration, as for `training.load_configuration`.
    address : str
        Of a Dask scheduler, "tcp://HOST:PORT".
    report : Reporter

    Raises
    ------
    InputError
        If a scan cannot be trained on, nothing answers at the address, or the workers that had a scan died.
    """
    require("dask", "distributed")
    from distributed import KilledWorker, as_completed

    from ...training import load_configuration

    config = load_configuration(file, overrides)
    data = config.data
    training, held_out = divide(
        data.scans, held_out=data.validation, exclude=data.exclude, subject=data.subject, seed=config.seed
    )
    files = [*training, *held_out]
    cache = Path(data.cache or config.output / "cache").resolve()
    client = connect(address)
    try:
        futures = dict(
            zip(
                client.map(
                    _copy, files, cache=cache, normalisation=config.normalisation, guides=data.guide, native=data.native
                ),
                files,
                strict=True,
            )
        )
        for done, future in enumerate(as_completed(futures, loop=client.loop), start=1):
            try:
                future.result()
            except KilledWorker as error:
                raise InputError(f"Each worker that copied {futures[future]} died; give it more memory.") from error
            report(done / len(files), f"Copied {done} of {len(files)} scans")
    finally:
        client.close(timeout=2)
    return len(files)


def _copy(path: Path, cache: Path, normalisation: str, guides: str | Mapping[str, str] | None, native: bool) -> None:
    """Nothing of the scan travels: the trainer maps the copy from the disk."""
    from ...training.cache import open_scan

    open_scan(path, cache, normalisation, guides, native)
