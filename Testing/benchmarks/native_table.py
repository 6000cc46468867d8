"""How often the matrix that a scan holds is told right, on real scans that are lowered, filled, filtered and rotated.

    python Testing/benchmarks/native_table.py ../shared/data [--table FILE.tsv]

Every scan as it is, and after what scanners do to scans, in-plane: zero filling by 1.25, 1.5 and 2; a Hamming, Fermi or
Tukey window, with and without zero filling; rotation by 5, 10 and 20 degrees with cubic interpolation; partial Fourier
of 6/8 without a homodyne correction. Each works on the magnitude under a smooth phase, and ends with the magnitude in
whole numbers. The thresholds in `resampling.native` were chosen on the scanners of `CHOSEN_ON`; the others, which they
had not seen, are counted apart.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import DWISuperResLib as dsr
from DWISuperResLib.dwi import DWI, foreground_mask
from DWISuperResLib.resampling.grid import regridded_affine
from DWISuperResLib.resampling.native import Support, measure_support

CHOSEN_ON = ("canon10", "canon61", "siemens_b15", "siemens_prisma", "uih")
LOWER = {"canon10_axial": (0.6, 0.7), "canon61": (0.6, 0.67), "tosh": (0.53, 0.62)}
"""Scans that one in-plane axis is known not to be full of, and the share of it that they hold."""
ROTATED = ("uih_dir16_rot",)
IN_PLANE = (0, 1)
SLICES, WEIGHTED = 40, 12
"""At most so many of a scan are looked at."""
TOLERANCE = {True: 0.03, False: 0.1}
"""Of the matrix, at least two samples; more under a window, to which the scan's own filter adds."""

Window = Callable[[NDArray[np.float64]], NDArray[np.float64]]
WINDOWS: dict[str, tuple[Window, float]] = {
    "Hamming": (lambda k: 0.54 + 0.46 * np.cos(np.pi * k), 0.661),
    "Fermi": (lambda k: 1 / (1 + np.exp((k - 0.75) / 0.05)), 0.789),
    "Tukey": (lambda k: np.where(k < 0.5, 1, 0.5 + 0.5 * np.cos(2 * np.pi * (k - 0.5))), 0.810),
}
"""Over frequency, Nyquist = 1, and where each has fallen to a tenth of the power."""


def read(path: Path) -> DWI:
    """A scan: its first b0, some weighted volumes and the slices in the middle."""
    dwi = dsr.read_dwi(path)
    kept = np.concatenate((np.flatnonzero(dwi.is_b0)[:1], np.flatnonzero(~dwi.is_b0)[:WEIGHTED]))
    first = max(0, (dwi.spatial_shape[2] - SLICES) // 2)
    signal = np.asfortranarray(dwi.signal[:, :, first : first + SLICES][..., kept])
    return replace(dwi, signal=signal, bvals=dwi.bvals[kept], bvecs=dwi.bvecs[kept])


def through_k_space(dwi: DWI, shape: Sequence[int], change: Callable[[NDArray], NDArray] = lambda k: k) -> DWI:
    """The magnitude, in whole numbers, after a change of the scan's centred k-space and zero filling to `shape`."""
    quadrature = noise_images(dwi)
    n = dwi.spatial_shape
    x, y = np.meshgrid(np.linspace(-1, 1, n[0]), np.linspace(-1, 1, n[1]), indexing="ij")
    phase = np.exp(1j * (1.5 * x + x * y + 0.7 * y**2))[:, :, None]
    pads = [((m // 2) - (k // 2), m - k - (m // 2) + (k // 2)) for k, m in zip(n, shape, strict=True)]
    signal = np.empty((*shape, dwi.n_volumes), np.float32, order="F")
    for volume in range(dwi.n_volumes):
        image = dwi.signal[..., volume] + 1j * np.roll(quadrature[volume % len(quadrature)], 1 + volume, axis=2)
        spectrum = np.fft.fftshift(np.fft.fft2(image * phase, axes=IN_PLANE), axes=IN_PLANE)
        filled = np.fft.ifftshift(np.pad(change(spectrum), pads), axes=IN_PLANE)
        gain = np.prod(shape) / np.prod(n)
        signal[..., volume] = np.rint(np.abs(np.fft.ifft2(filled, axes=IN_PLANE)) * gain)
    return replace(dwi, signal=signal, affine=regridded_affine(dwi.affine, n, shape))


def noise_images(dwi: DWI) -> list[NDArray[np.float32]]:
    """Noise as the scan's own, filter included: the combinations of weighted volumes that vary least over the head.

    The magnitude has lost the noise of the other channel, without which partial Fourier would take 6 dB in place of 3.
    """
    weighted = dwi.signal[..., ~dwi.is_b0]
    values = weighted[foreground_mask(weighted)].astype(np.float64)
    combinations = np.linalg.eigh(values.T @ values)[1]
    return [weighted @ combination.astype(np.float32) for combination in combinations.T[:3]]


def larger(dwi: DWI, factor: float) -> tuple[int, int, int]:
    """The matrix after zero filling in-plane, even as scanners have it."""
    x, y, z = dwi.spatial_shape
    return 2 * round(x * factor / 2), 2 * round(y * factor / 2), z


def windowed(window: Window) -> Callable[[NDArray], NDArray]:
    def change(spectrum: NDArray) -> NDArray:
        for axis in IN_PLANE:
            n = spectrum.shape[axis]
            k = np.abs(np.arange(n) - n // 2) / (n / 2)
            spectrum = spectrum * window(k).reshape([-1 if a == axis else 1 for a in range(3)])
        return spectrum

    return change


def partial_fourier(spectrum: NDArray) -> NDArray:
    cut = spectrum.copy()
    cut[:, : spectrum.shape[1] // 4] = 0
    return cut


def rotated(dwi: DWI, degrees: float) -> DWI:
    from scipy.ndimage import rotate

    signal = rotate(dwi.signal, degrees, axes=IN_PLANE, reshape=False, order=3)
    return replace(dwi, signal=np.asfortranarray(np.rint(np.maximum(signal, 0))))


@dataclass(frozen=True)
class Case:
    """A changed scan, and the share of what each in-plane axis held before that is left (None: rotated)."""

    name: str
    dwi: DWI
    share: float | None
    kinds: tuple[str, ...]


def cases(dwi: DWI) -> Iterator[Case]:
    shape = dwi.spatial_shape
    yield Case("as it is", dwi, 1.0, ("full",))
    for factor in (1.25, 1.5, 2.0):
        yield Case(f"zero-filled by {factor:g}", through_k_space(dwi, larger(dwi, factor)), 1.0, ("box",))
    for name, (window, share) in WINDOWS.items():
        yield Case(f"{name} window", through_k_space(dwi, shape, windowed(window)), share, ("soft", "box"))
    for name, (window, share) in WINDOWS.items():
        filled = through_k_space(dwi, larger(dwi, 2), windowed(window))
        yield Case(f"{name} window, zero-filled by 2", filled, share, ("soft", "box"))
    yield Case("partial Fourier 6/8", through_k_space(dwi, shape, partial_fourier), 1.0, ("full",))
    for degrees in (5, 10, 20):
        yield Case(f"rotated by {degrees} degrees", rotated(dwi, degrees), None, ("rotated",))


@dataclass
class Count:
    """Axes of one case, over scans."""

    axes: int = 0
    kind: int = 0
    matrix: int = 0
    alarms: int = 0
    shares: list[float] = field(default_factory=list)

    def add(self, case: Case, before: DWI, axis: int, support: Support) -> None:
        found = support.axes[axis]
        self.axes += 1
        self.kind += found.kind in case.kinds
        share = 1.0 if case.share is None else case.share
        expected = before.spatial_shape[axis] * share
        slack = max(2.0, TOLERANCE[share == 1.0] * expected)
        self.matrix += abs(found.held - expected) <= slack
        self.alarms += case.kinds == ("full",) and found.kind != "full"
        self.shares.append(found.held / expected)


def is_lower(name: str, axis: int, support: Support) -> bool:
    """Whether an axis is one that the scan is known not to fill: of both, the one that holds less."""
    return any(name.startswith(known) for known in LOWER) and axis == int(
        np.argmin([support.axes[a].held / support.axes[a].given for a in IN_PLANE])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--table", type=Path, help="write what was found along every axis")
    parser.add_argument("--only", nargs="+", default=[""], help="scans whose names begin like one of these")
    arguments = parser.parse_args()
    paths = {path.parent.name: path for path in sorted(arguments.data.glob("*/*.nii.gz"))}
    paths["tosh_7006"] = arguments.data / "formats/tosh_7006.nrrd"
    counts: dict[str, dict[bool, Count]] = defaultdict(lambda: {True: Count(), False: Count()})
    lines = ["scan\tcase\taxis\tgiven\theld\tkind\tlevel"]
    for name, path in paths.items():
        if not name.startswith(tuple(arguments.only)) or name == "structural":
            continue
        dwi = read(path)
        seen = name.startswith(CHOSEN_ON)
        own = measure_support(dwi)
        print(f"{name}: {own.sentence}", flush=True)
        for case in cases(dwi):
            support = measure_support(case.dwi)
            for axis in IN_PLANE:
                found = support.axes[axis]
                lines.append(
                    f"{name}\t{case.name}\t{axis}\t{found.given}\t{found.held}\t{found.kind}\t{found.level:.1f}"
                )
                if name.startswith(ROTATED) or is_lower(name, axis, own):
                    continue  # known to be something else from the start
                counts[case.name][seen].add(case, dwi, axis, support)
        for known, (low, high) in LOWER.items():
            if name.startswith(known):
                share = own.share
                print(
                    f"    known to hold {low:g} to {high:g} of an axis: {'right' if low <= share <= high else 'wrong'}"
                )
        if name.startswith(ROTATED):
            print(f"    known to be rotated: {'right' if own.is_rotated else 'wrong'}")
    if arguments.table:
        arguments.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    show(counts)


def show(counts: dict[str, dict[bool, Count]]) -> None:
    print(
        "\nin-plane axes: kind right, matrix right (to 3 %, under windows 10 %), "
        "held / expected from least to most; false alarms"
    )
    for seen, title in ((True, "scanners that the thresholds were chosen on"), (False, "scanners kept aside")):
        print(f"\n{title}")
        for name, halves in counts.items():
            count = halves[seen]
            if not count.axes:
                continue
            spread = f"{min(count.shares):.2f} to {max(count.shares):.2f}"
            alarms = f"\t{count.alarms} false alarms" if name in ("as it is", "partial Fourier 6/8") else ""
            print(f"{name:34}\t{count.kind}/{count.axes}\t{count.matrix}/{count.axes}\t{spread}{alarms}")


if __name__ == "__main__":
    main()
