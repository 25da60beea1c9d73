"""Weights that are held in the order in which kernels read them, for many calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.arrays import empty, float_array
from numbaconv.memory import aligned
from numbaconv.parameters import shape_of
from numbaconv.plan import Plan

#: For so many kinds of calls a weight is held at most; what was made first is given up for the next.
KINDS = 16


class PackedWeight:
    """What :func:`prepack` returns: a weight that :func:`conv2d` and its relatives take instead of an array.

    Attributes
    ----------
    shape : tuple of int
        That of the weight.
    dtype : dtype
        That of the weight.
    nbytes : int
        Bytes of the copy of the weight and of all that is held beside it.
    """

    def __init__(self, weight: np.ndarray, kinds: int = KINDS) -> None:
        weight = float_array(weight, "weight")
        if 0 in shape_of(weight.shape, "weight"):
            raise ValueError(f"weight has shape {weight.shape}: every size must be at least 1")
        #: The copy. It stays writable, for kernels take no other arrays; but it is nobody else's.
        self.array = empty(weight.shape, weight.dtype.newbyteorder("="), "a copy of the weight")
        with np.errstate(all="ignore"):
            self.array[...] = weight
        #: Whether it holds neither infinity nor NaN.
        self.finite = bool(np.isfinite(self.array).all())
        self._kinds = kinds
        self._held: dict[Plan, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        return self.array.nbytes + sum(memory.nbytes for memory in self._held.values())

    def __repr__(self) -> str:
        return f"<PackedWeight of shape {self.shape} and dtype {self.dtype}, {self.nbytes:,} bytes>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        view = self.array.view()
        view.flags.writeable = False
        return np.array(view, dtype, copy=copy)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedWeight, (self.array, self._kinds)

    def _find(self, plan: Plan) -> np.ndarray | None:
        """The memory that a plan's kernel packed the weight to; None if none has."""
        return self._held.get(plan)

    def _new(self, plan: Plan) -> np.ndarray:
        """Memory that a plan's kernel may pack the weight to. It counts when it is kept."""
        return aligned(plan.no_bias.dtype, plan.shared, "the packed weight")

    def _keep(self, plan: Plan, memory: np.ndarray) -> None:
        """Hold what a plan's kernel has packed."""
        held = dict(list(self._held.items())[1 - self._kinds :])  # a new one: other threads may be reading the old
        self._held = {**held, plan: memory}


def prepack(weight: np.ndarray) -> PackedWeight:
    """Take a weight to be used in many calls.

    Kernels read weights in an order of their own, and Winograd's algorithm reads transforms of them; a call with an
    array makes that anew, which shows where images are few or small. A call with a packed weight finds it made. The
    first call of a kind (of the same parameters, shapes, layouts and dtype) makes it; the last 16 kinds that were
    made are held.

    The result of a call has the same bits as with the array, except where another algorithm, or another size of
    Winograd's tiles, is the fastest once the transform of the weight is free.

    Parameters
    ----------
    weight : ndarray of float16, float32 or float64
        As :func:`conv2d`, :func:`conv2d_input`, :func:`conv2d_backward` and :func:`conv_transpose2d` take it, each of
        which takes the result instead. It is copied: what is written to it later changes nothing.

    Returns
    -------
    PackedWeight
        The weight's ``shape`` and ``dtype``, and the bytes that it takes, ``nbytes``. It may be used by several threads
        at once. A copy by pickle holds the weight alone.

    Raises
    ------
    TypeError
        ``weight`` is no ndarray of floats.
    ValueError
        It has not four dimensions, or one of them is 0.
    MemoryError
        The copy does not fit.

    Examples
    --------
    >>> import numpy as np, numbaconv
    >>> weight = np.ones((64, 64, 3, 3), np.float32)
    >>> packed = numbaconv.prepack(weight)
    >>> image = np.ones((1, 64, 7, 7), np.float32)
    >>> bool((numbaconv.conv2d(image, packed, padding=1) == numbaconv.conv2d(image, weight, padding=1)).all())
    True
    """
    return PackedWeight(weight)


def weight_array(weight: Any) -> tuple[np.ndarray, PackedWeight | None]:
    """A weight as an array, and as what it is if it is packed; a TypeError if it is neither."""
    if isinstance(weight, PackedWeight):
        return weight.array, weight
    return float_array(weight, "weight"), None
