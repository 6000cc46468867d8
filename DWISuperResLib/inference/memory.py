"""Work memory: batches that shrink when a device is full, and buffers that one layer leaves for the next."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import ProcessingError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h

MEMORY_FORMATS: dict[int, Any] = {2: torch.channels_last, 3: torch.channels_last_3d}
"""In which convolutions are fastest, by the dimensions of a network's images."""

Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


class Batcher:
    """Run `forward` over a batch in parts of `size`; when the device runs out of memory, halve the part and go on.

    Several threads may share one.
    """

    def __init__(self, forward: Forward, size: int) -> None:
        self.forward = forward
        self.size = size

    def __call__(self, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor | None]]:
        """Part of the batch, and what `forward` makes of it."""
        start = 0
        while start < len(x):
            part = slice(start, min(start + self.size, len(x)))
            try:
                mean, deviation = self.forward(x[part])
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                if part.stop - part.start == 1:
                    raise ProcessingError(
                        "A single slice or block does not fit into the device's memory; close other programs or use "
                        "the CPU."
                    ) from error
                self.size = min(self.size, (part.stop - part.start) // 2)
                if x.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            yield part, mean, deviation
            start = part.stop


@contextmanager
def buffers_reused() -> Iterator[None]:
    """Let glibc keep what layers free for the next ones: mapped anew, their pages take a tenth of the time and more.

    See mallopt(3). Other C libraries are left alone. Afterwards the memory goes back to the system.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
