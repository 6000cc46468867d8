"""The fine grid that a network's answers are put together on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..networks.views import Tile, View


class Canvas:
    """Blends the answers for tiles of a grid; where tiles do not overlap they are simply put in place.

    Parameters
    ----------
    fine : array, shape (N, slices, rows, columns)
        View of the result in its frame; written to. Zero where tiles overlap.
    view : View
    tiles : sequence of Tile
        All that will be added, each for every volume.
    """

    def __init__(self, fine: NDArray[np.float32], view: View, tiles: Sequence[Tile]) -> None:
        self.fine, self.view = fine, view
        self.shape = fine.shape[1:]
        self.covered = np.zeros(self.shape, bool)
        total = np.zeros(self.shape, np.float32)
        for tile in tiles:
            self.covered[tile.box] = True
            if (weight := view.weight(tile, self.shape)) is not None:
                total[tile.box] += weight
        self._total = total

    def add(self, images: NDArray[np.float32], tile: Tile, volumes: NDArray[np.intp]) -> None:
        """Add (B, *n), what the network made of a tile for each of `volumes` (B,)."""
        place = (volumes, *tile.box)
        weight = self.view.weight(tile, self.shape)
        images = images.reshape(len(volumes), *tile.shape)
        if weight is None:
            self.fine[place] = images
        else:
            self.fine[place] += images * (weight / self._total[tile.box])

    def fill(self, low: NDArray[np.float32], operators: Mapping[int, NDArray]) -> None:
        """Interpolate what no tile covers.

        Parameters
        ----------
        low : array, shape (N, slices, rows, columns)
        operators : mapping of axis (0 slices, 1 rows, 2 columns) to array (n_out, n_in)
        """
        across, down, along = (np.asarray(operators[a], np.float32) if a in operators else None for a in range(3))
        indices = np.flatnonzero(~self.covered.all(axis=(1, 2)))
        for volume, coarse in zip(self.fine, low, strict=True):
            for index in indices:
                image = coarse[index] if across is None else np.tensordot(across[index], coarse, axes=(0, 0))
                if down is not None:
                    image = down @ image
                if along is not None:
                    image = image @ along.T
                np.copyto(volume[index], image, where=~self.covered[index])

    def map_volumes(self, process: Callable[[NDArray[np.float32], int], NDArray[np.float32]]) -> None:
        """Replace each volume (slices, rows, columns) by what `process` makes of it and its number."""
        for n in range(len(self.fine)):
            self.fine[n] = process(self.fine[n], n)
