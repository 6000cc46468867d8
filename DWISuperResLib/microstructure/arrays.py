"""What the models need of the array API standard (array-api-compat): one code for arrays of NumPy and of torch."""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = Any
"""An array of NumPy or a tensor of torch."""
_NAMESPACES: dict[type, Any] = {}


def namespace(array: Array) -> Any:
    """The functions of the array API standard for arrays of this kind.

    Examples
    --------
    >>> import numpy as np
    >>> float(namespace(np.ones(3)).sum(np.ones(3)))
    3.0
    """
    kind = type(array)
    if kind not in _NAMESPACES:
        # Loaded here: the registry of maps is read where this package may not be installed yet.
        from array_api_compat import array_namespace

        _NAMESPACES[kind] = array_namespace(array)
    return _NAMESPACES[kind]


def constant(values: NDArray, like: Array) -> Array:
    """NumPy's values as an array of the kind, type and device of `like`.

    Examples
    --------
    >>> import numpy as np
    >>> constant(np.eye(2), np.ones(1, np.float32)).dtype
    dtype('float32')
    """
    from array_api_compat import device

    return namespace(like).asarray(values, dtype=like.dtype, device=device(like))


def detached(array: Array) -> Array:
    """The same values, through which torch does not differentiate.

    Examples
    --------
    >>> import numpy as np
    >>> detached(np.ones(2))
    array([1., 1.])
    """
    return array.detach() if hasattr(array, "detach") else array
