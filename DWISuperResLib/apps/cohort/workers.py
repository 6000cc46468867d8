"""Dask workers: processes of this machine, or those of a scheduler that runs somewhere, and scans handed to them."""

from __future__ import annotations

import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ProcessingError
from .layout import BidsScan, require
from .scan import FAILED, Job, Record, process

if TYPE_CHECKING:
    from distributed import Client, Future

GPU = "GPU"
"""Dask resource that a worker with a GPU declares: `dask worker ADDRESS --nthreads 1 --resources GPU=1`."""
CONNECT_SECONDS = 20
RETURN_SECONDS = 600
"""A scheduler that went away is waited for so long."""
_FEWEST_AHEAD = 16
_SILENT = logging.CRITICAL


@contextmanager
def local_workers(count: int | None, device: str) -> Iterator[str]:
    """Worker processes of one thread each, restarted when they die; yields their scheduler's address.

    Parameters
    ----------
    count : int, optional
        By default one for each GPU that `device` allows, else one for four cores.
    device : str
        As in `InferenceOptions`: for "auto" and "cuda", worker n gets GPU n modulo their number for its own.
    """
    require("dask", "distributed")
    from dask.system import CPU_COUNT
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _gpus() if device in ("auto", "cuda") else []
    count = count or len(gpus) or max(1, CPU_COUNT // 4)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, CPU_COUNT // count))
    specification = {}
    for number in range(count):
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        # No limit of Dask's on memory: it would kill a scan that fits once its neighbours are done.
        options: dict[str, Any] = {
            "nthreads": 1,
            "memory_limit": 0,
            "env": environment,
            "silence_logs": logging.CRITICAL,
        }
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            options["resources"] = {GPU: 1}
        specification[number] = {"cls": Nanny, "options": options}
    scheduler = {
        "cls": Scheduler,
        "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": ":0"},
    }
    with SpecCluster(specification, scheduler=scheduler, silence_logs=_SILENT) as cluster:
        yield cluster.scheduler_address


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
    return [name for name, _ in zip(names, range(torch.cuda.device_count()), strict=False)]


def process_all(
    scans: Sequence[BidsScan],
    job: Job,
    address: str,
    each: Callable[[Record], None],
    tell: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Have the workers of a scheduler process scans.

    Scans of workers that died go to others. When the scheduler goes away, it is waited for, and what had no answer is
    handed out again.

    Parameters
    ----------
    scans, job
        What is done, see `scan.process`.
    address : str
        Of the scheduler, "tcp://HOST:PORT".
    each : callable
        Called with what became of each scan, once for each.
    tell : callable, optional
        Called with a sentence when something is waited for.

    Raises
    ------
    InputError
        If nothing answers at `address`.
    ProcessingError
        If the scheduler went away and did not come back.
    """
    dispatch = _Dispatch(scans, job, address, tell)
    try:
        while dispatch.goes_on():
            if record := dispatch.next_record():
                each(record)
    finally:
        dispatch.close()


class _Dispatch:
    """The scans that wait, those that are handed out, and the connection to whom they are handed."""

    def __init__(self, scans: Sequence[BidsScan], job: Job, address: str, tell: Callable[[str], None]) -> None:
        self.job, self.address, self.tell = job, address, tell
        self.waiting = deque(scans)
        self.running: dict[Future, BidsScan] = {}
        self.answers: queue.Queue[Future] = queue.Queue()
        self.client = connect(address)
        self.said = ""

    def goes_on(self) -> bool:
        return bool(self.waiting or self.running)

    def next_record(self) -> Record | None:
        """Hand out what can be, and wait a second for an answer."""
        if self.client.status == "closed":
            self._reconnect()
        if self.client.status == "running":
            self._hand_out()
        with suppress(queue.Empty):
            future = self.answers.get(timeout=1)
            if scan := self.running.pop(future, None):
                if record := _answer(future, scan):
                    return record
                self.waiting.append(scan)
        return None

    def close(self) -> None:
        with suppress(OSError):
            self.client.close(timeout=2)

    def _reconnect(self) -> None:
        self.waiting.extend(self.running.values())
        self.running.clear()
        self._say(f"The scheduler at {self.address} went away; waiting for it to come back")
        deadline = time.monotonic() + RETURN_SECONDS
        while True:
            try:
                self.client = connect(self.address)
                return
            except InputError as error:
                if time.monotonic() > deadline:
                    raise ProcessingError(
                        f"The scheduler at {self.address} went away; start it again and repeat this command: it goes "
                        "on where it was."
                    ) from error

    def _hand_out(self) -> None:
        """Keep some scans ahead of the workers, no more: a worker that dies casts suspicion on all that it holds."""
        from distributed.client import ClosedClientError

        with suppress(OSError, ClosedClientError):  # the connection broke; the next round sees to it
            workers: Mapping[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
            has_gpus = any(GPU in worker["resources"] for worker in workers.values())
            device = self.job.inference.device
            resources = {GPU: 1} if device.startswith("cuda") or (device == "auto" and has_gpus) else None
            if not workers or (resources and not has_gpus):
                kind = f"with --resources {GPU}=1 " if resources else ""
                self._say(f"Waiting for workers {kind}at {self.address}")
            while self.waiting and len(self.running) < max(_FEWEST_AHEAD, 2 * len(workers)):
                future = self.client.submit(process, self.waiting[0], self.job, pure=False, resources=resources)
                self.running[future] = self.waiting.popleft()
                future.add_done_callback(self.answers.put)

    def _say(self, sentence: str) -> None:
        if sentence != self.said:
            self.tell(sentence)
        self.said = sentence


def connect(address: str) -> Client:
    """A client of the Dask scheduler at "tcp://HOST:PORT"; InputError where none answers."""
    require("dask", "distributed")
    from distributed import Client

    logging.getLogger("distributed").setLevel(_SILENT)
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"No Dask scheduler answers at {address} ({error}); start one with dask scheduler.") from error


def _answer(future: Future, scan: BidsScan) -> Record | None:
    """The record of a scan; None where the answer was lost with its scheduler."""
    from distributed import KilledWorker

    with suppress(OSError, TimeoutError, CancelledError):
        if future.status == "finished":
            return future.result(timeout=CONNECT_SECONDS)
        if future.status == "error":
            error = future.exception(timeout=CONNECT_SECONDS)
            sentence = f"{scan.source} could not be processed ({error})."
            if isinstance(error, KilledWorker):
                sentence = f"{scan.source}: each worker that had it died; give it more memory, or use fewer workers."
            return Record.of(scan, FAILED, error=sentence, kind=type(error).__name__)
    return None
