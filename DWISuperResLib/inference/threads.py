"""Batches side by side on a CPU: each on a thread of its own, while the next ones are made ready."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Found = TypeVar("Found")


def side_by_side(work: Callable[[Job], Found], jobs: Iterable[Job], workers: int) -> Iterator[Found]:
    """`work` of each job, in the jobs' order, `workers` at a time; torch's threads are divided among them.

    Convolutions that share one image meet after every layer, and wait there for the slowest thread; whole batches do
    not, and what one thread works on stays in its core's cache. One worker is the caller's own thread.

    Examples
    --------
    >>> list(side_by_side(lambda n: n * n, range(5), 2))
    [0, 1, 4, 9, 16]
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    threads = torch.get_num_threads()
    ahead: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(workers, initializer=_begin, initargs=(max(1, threads // workers),)) as pool:
        try:
            for job in jobs:
                ahead.append(pool.submit(work, job))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()
            torch.set_num_threads(threads)  # the workers' number is also what threads started later would take


def _begin(threads: int) -> None:
    """What torch keeps for each thread apart; the outer autocast, never left, keeps cast weights, see `predict`."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    torch.autocast("cpu", enabled=False).__enter__()
