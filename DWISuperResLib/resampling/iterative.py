"""Iterative upsamplers: the finer volume that explains the coarse one and is what images are, plain or alike itself.

Each takes one volume at a time, its signal scaled to [0, 1] first, so that weights and strengths are shares of the
volume's range whatever the scanner's units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .degradation import DEGRADATIONS
from .operators import Matrix, apply_operators, operator

Volume = NDArray[np.float32]
Step = Callable[[float], None]
"""Is told the share of the work that is done, after every iteration; what it raises ends the work."""

PENALTY = 20.0
"""Of ADMM, in units of the larger weight: with less the objective may rise at first, with more it falls slowly."""
_STALLED = 1.2
"""Less than this many times the change of the step before, and the filter's strength is halved."""
_TURNS = 5
"""Of the filter, at most, at one strength."""


def low_rank_tv(
    volume: Volume,
    shape: Sequence[int],
    step: Step = lambda share: None,
    *,
    model: str = "kspace",
    low_rank: float = 5e-4,
    total_variation: float = 5e-4,
    iterations: int = 200,
    tolerance: float = 1e-4,
    watch: Callable[[Volume], None] = lambda estimate: None,
) -> Volume:
    """LRTV: the volume of low rank and small total variation that degrades to the given one.

    Minimises |D S x - t|^2 + low_rank * mean_i |x_(i)|_* + total_variation * TV(x) (Shi et al. 2015,
    doi:10.1109/TMI.2015.2437894, eq. 6, alpha_i = 1/3), with D S the library's degradation, |x_(i)|_* the nuclear norm
    of the unfolding along axis i and TV isotropic, in voxels, mirrored at the border. By ADMM in two blocks: the data
    term, each unfolding and the gradient have a copy of x of their own, with closed forms by the singular vectors of
    the degradation's matrices, by soft thresholds of singular values and of gradients; x itself follows by a cosine
    transform.

    Parameters
    ----------
    volume : array, shape (x, y, z)
        Of any unit; scaled to [0, 1].
    shape : three ints
        Of the finer grid over the same field of view.
    step : callable (share)
    model : str
        One of `degradation.DEGRADATIONS`, along every axis that becomes finer.
    low_rank, total_variation : float
        Weights. Of signal scaled to [0, 1], 0.01, the usual setting elsewhere, blurs what was measured: two
        scans in vivo came back 0.3 to 2 dB worse than from sinc, with these weights 0.1 to 1 dB better.
    iterations : int
        At most.
    tolerance : float
        Relative change of the volume at which it ends.
    watch : callable (array)
        Is shown every estimate, scaled to [0, 1]; the first is that from which it starts.

    Returns
    -------
    array of float32, shape `shape`

    Raises
    ------
    InputError
        If `model` is no degradation.

    Examples
    --------
    >>> coarse = np.kron(np.eye(2), np.ones((4, 4)))[..., None].astype(np.float32)
    >>> low_rank_tv(coarse, (16, 16, 1)).shape
    (16, 16, 1)
    """
    low, span = float(volume.min()), float(np.ptp(volume))
    data = (volume - np.float32(low)) / np.float32(span or 1)
    down = degrading(data.shape, shape, model)
    penalty = PENALTY * max(low_rank, total_variation, 1e-9)
    consistent = _DataStep(data, down, penalty / 2)
    smooth = _spectrum(shape) + 4
    x = consistent.start()
    watch(x)
    data_dual, rank_duals = np.zeros_like(x), [np.zeros_like(x) for _ in range(3)]
    gradient_dual = np.zeros((3, *x.shape), x.dtype)
    for n in range(iterations):
        moved = x + data_dual
        estimate = consistent(moved)
        data_dual = moved - estimate
        total = estimate - data_dual
        for axis, dual in enumerate(rank_duals):
            moved = x + dual
            low_ranked = _shrink_singular_values(moved, axis, low_rank / 3 / penalty)
            np.subtract(moved, low_ranked, out=dual)
            total += low_ranked
            total -= dual
        slope = gradient(x) + gradient_dual
        size = np.sqrt(np.einsum("a...,a...->...", slope, slope))
        kept = np.maximum(1 - np.float32(total_variation / penalty) / np.maximum(size, np.float32(1e-12)), 0)
        gradient_dual = slope * (1 - kept)
        total += _adjoint_of_gradient(slope * kept - gradient_dual)
        following = _solve(total, smooth)
        change = float(np.linalg.norm(following - x) / max(float(np.linalg.norm(x)), 1e-12))
        x = following
        watch(estimate)
        step((n + 1) / iterations)
        if change < tolerance:
            break
    return estimate * np.float32(span) + np.float32(low)


def lrtv_objective(
    estimate: Volume,
    data: Volume,
    model: str = "kspace",
    low_rank: float = 5e-4,
    total_variation: float = 5e-4,
) -> float:
    """What `low_rank_tv` minimises, of volumes scaled to [0, 1].

    Examples
    --------
    Of a constant, the rank's term alone is left: sqrt(4 * 4 * 2) * 0.01.

    >>> ones = np.ones((2, 2, 2), np.float32)
    >>> round(lrtv_objective(np.ones((4, 4, 2), np.float32), ones, low_rank=0.01), 4)
    0.0566
    """
    missed = apply_operators(estimate, degrading(data.shape, estimate.shape, model)) - data
    unfoldings = (np.moveaxis(estimate, axis, 0).reshape(estimate.shape[axis], -1) for axis in range(3))
    nuclear = sum(np.linalg.svd(each.astype(np.float64), compute_uv=False).sum() for each in unfoldings) / 3
    variation = np.sqrt(np.square(gradient(estimate), dtype=np.float64).sum(0)).sum()
    return float(np.square(missed, dtype=np.float64).sum() + low_rank * nuclear + total_variation * variation)


def non_local_upsampling(
    volume: Volume,
    shape: Sequence[int],
    step: Step = lambda share: None,
    *,
    strength: float = 0.5,
    weakest: float = 1 / 256,
    patch_radius: int = 1,
    block_radius: int = 2,
    watch: Callable[[Volume], None] = lambda estimate: None,
) -> Volume:
    """NMU: the B-spline interpolation, by turns filtered by non-local means and made to have the given means again.

    After Manjon et al. 2010 (doi:10.1016/j.media.2010.05.010): where a step changes the volume hardly less than the one
    before it, the filter's strength is halved, until it is too weak to matter. The mean over the cell of every given
    voxel is that voxel's, to rounding, after every step.

    Parameters
    ----------
    volume : array, shape (x, y, z)
        Of any unit; scaled to [0, 1].
    shape : three ints
        Of the finer grid over the same field of view.
    step : callable (share)
    strength, weakest : float
        First strength, in standard deviations of the volume, and the last, as a share of its range: the noise that the
        filter is told to expect.
    patch_radius, block_radius : int
        In voxels of the finer grid: of the patches that are compared, and of the search for them.
    watch : callable (array)
        Is shown every estimate, scaled to [0, 1].

    Returns
    -------
    array of float32, shape `shape`

    Examples
    --------
    >>> coarse = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    >>> fine = non_local_upsampling(coarse, (8, 8, 8))
    >>> bool(np.allclose(fine.reshape(4, 2, 4, 2, 4, 2).mean((1, 3, 5)), coarse, atol=1e-4))
    True
    """
    from dipy.denoise.nlmeans import nlmeans

    low, span = float(volume.min()), float(np.ptp(volume))
    data = (volume.astype(np.float64) - low) / (span or 1)
    means = degrading(data.shape, shape, "area")
    inverse = {axis: np.asarray(np.linalg.pinv(matrix), np.float64) for axis, matrix in means.items()}

    def with_means(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x + _applied(data - _applied(x, means), inverse))

    sizes = enumerate(zip(data.shape, shape, strict=True))
    x = with_means(_applied(data, {axis: operator(n, m, "bspline") for axis, (n, m) in sizes if n != m}))
    watch(x.astype(np.float32))
    first = strength * float(data.std())
    halvings = max(1, int(np.ceil(np.log2(max(first / weakest, 1)))))
    for n in range(halvings):
        sigma, before = first / 2**n, np.inf
        for turn in range(_TURNS):
            filtered = nlmeans(
                x, sigma, patch_radius=patch_radius, block_radius=block_radius, rician=False, method="classic"
            )
            following = with_means(filtered)
            change = float(np.abs(following - x).mean())
            x = following
            watch(x.astype(np.float32))
            step((n + (turn + 1) / _TURNS) / halvings)
            if change * _STALLED > before:
                break
            before = change
    return np.asarray(x * span + low, np.float32)


def degrading(coarse: Sequence[int], fine: Sequence[int], model: str) -> dict[int, Matrix]:
    """Matrix of the degradation for each axis whose length changes.

    Examples
    --------
    >>> degrading((2, 3, 1), (4, 3, 1), "area")[0].tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    degradation, pairs = DEGRADATIONS.find(model), enumerate(zip(coarse, fine, strict=True))
    return {axis: degradation.matrix(m, n, None) for axis, (n, m) in pairs if n != m}


class _DataStep:
    """argmin of |A z - t|^2 + weight |z - v|^2: v + A^T (A A^T + weight)^-1 (t - A v), A A^T diagonal along an axis."""

    def __init__(self, data: Volume, down: Mapping[int, Matrix], weight: float) -> None:
        self.data, self.down = data, down
        self.into: dict[int, Matrix] = {}
        self.back: dict[int, Matrix] = {}
        gains = np.ones(data.shape)
        for axis, matrix in down.items():
            values, vectors = np.linalg.eigh(matrix @ matrix.T)
            gains = gains * values.reshape([-1 if a == axis else 1 for a in range(3)])
            self.into[axis], self.back[axis] = vectors.T, matrix.T @ vectors
        self.gains = (gains + weight).astype(np.float32)

    def start(self) -> Volume:
        """The smallest volume that degrades to the data."""
        inverse = {axis: np.linalg.pinv(matrix) for axis, matrix in self.down.items()}
        return np.ascontiguousarray(apply_operators(self.data, inverse))

    def __call__(self, v: Volume) -> Volume:
        missed = self.data - apply_operators(v, self.down)
        return v + apply_operators(apply_operators(missed, self.into) / self.gains, self.back)


def _applied(array: NDArray[np.float64], matrices: Mapping[int, Matrix]) -> NDArray[np.float64]:
    """As `operators.apply_operators`, in float64: float32 would miss means by more than a millionth of the range."""
    for axis, matrix in matrices.items():
        array = np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(array)


def _shrink_singular_values(x: Volume, axis: int, threshold: float) -> Volume:
    """Soft threshold of the singular values of the unfolding along an axis, by the eigenvectors of its Gram matrix."""
    # As a stack of matrices whose rows, for the last axis columns, are the axis: no copy is unfolded.
    stack = x.reshape(1, x.shape[0], -1) if axis == 0 else x if axis == 1 else x.reshape(1, -1, x.shape[2])
    turned = stack.swapaxes(1, 2)
    gram = np.matmul(turned, stack) if axis == 2 else np.matmul(stack, turned)
    squares, vectors = np.linalg.eigh(gram.sum(0, dtype=np.float64))
    shares = np.maximum(1 - threshold / np.sqrt(np.maximum(squares, 1e-30)), 0)
    kept = ((vectors * shares) @ vectors.T).astype(np.float32)
    return (np.matmul(stack, kept) if axis == 2 else np.matmul(kept, stack)).reshape(x.shape)


def gradient(x: Volume) -> Volume:
    """(3, x, y, z) differences to the next voxel along each axis, 0 at the last."""
    found = np.zeros((3, *x.shape), x.dtype)
    for axis in range(3):
        along = np.moveaxis(x, axis, 0)
        np.subtract(along[1:], along[:-1], out=np.moveaxis(found[axis], axis, 0)[:-1])
    return found


def _adjoint_of_gradient(slopes: Volume) -> Volume:
    total = np.zeros(slopes.shape[1:], slopes.dtype)
    for axis in range(3):
        along, into = (np.moveaxis(each, axis, 0) for each in (slopes[axis], total))
        into[1:] += along[:-1]
        into[:-1] -= along[:-1]
    return total


def _spectrum(shape: Sequence[int]) -> NDArray[np.float32]:
    """Of the gradient's adjoint after the gradient, in the cosine basis."""
    x, y, z = (2 - 2 * np.cos(np.pi * np.arange(n) / n) for n in shape)
    return (x[:, None, None] + y[:, None] + z).astype(np.float32)


def _solve(right: Volume, spectrum: NDArray[np.float32]) -> Volume:
    from scipy.fft import dctn, idctn

    return np.asarray(idctn(dctn(right, norm="ortho", overwrite_x=True) / spectrum, norm="ortho", overwrite_x=True))
