"""A textbook's route to the gradients of a strided convolution: dilate, pad, rotate, convolve, crop.

This is section 14.3.5, "back-propagation when the stride is not 1", of the chapter that this project was founded on.
There, both gradients of a convolution ``Z = X * W`` with a stride S are themselves convolutions, with stride 1:

- ``dW = X * dZ``, after S - 1 zeros have been put between the elements of ``dZ`` (it has been *dilated*), or with
  ``dZ`` as it is and a convolution with ``dilation=S``. Where ``(IH - KH) % S`` is not 0 the result is larger than the
  kernel: its **last** rows and columns are cropped.
- ``dX = dZ0 * rot180(W)``, where ``dZ0`` is ``dZ`` dilated and then padded with K - 1 zeros. Rows and columns of ``X``
  that the kernel has not reached are at the **end**, so the end is padded with ``(IH - KH) % S`` zeros more.

An erratum
----------
For ``X`` of 28×28, ``W`` of 3×3 and S = 2, the chapter pads the dilated ``dZ`` of 25×25 with 3 zeros on all sides,
gets 29×29, and drops the *last* row and column. That is wrong by one pixel. K - 1 is 2, so the third zero in front
moves everything down and right by one, and what must be dropped is the **first** row and column; or else pad 2 in front
and 3 behind and drop nothing, which is what :func:`input_gradient` does. :func:`input_gradient_as_printed` shows the
slip. (In the formula for the width of that result, the chapter also prints 28 where 25, the width of the dilated
``dZ``, is meant.)

Everything here is a 2-D matrix: one image, one channel, no padding of ``X``. Integers stay integers, so that what is
printed can be followed by hand. Most of the multiplications are by zeros that were just put there, which is why
:mod:`numbaconv.reference` and the compiled kernels go another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from numbaconv.geometry import conv2d_output_size
from numbaconv.parameters import IntOrPair, Padding, Pair, check_bytes, pads, pair
from numbaconv.values import numbers

__all__ = [
    "Steps", "correlate", "dilate", "forward", "input_gradient", "input_gradient_as_printed",
    "input_gradient_as_printed_steps", "input_gradient_steps", "rot180", "weight_gradient_by_dilating",
    "weight_gradient_by_dilating_steps", "weight_gradient_by_dilation", "weight_gradient_by_dilation_steps", "zero_pad",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Steps:
    """The matrices of a calculation in their order, each under its name; ``print`` shows them all.

    Examples
    --------
    >>> print(input_gradient_steps([[1, 2], [3, 4]], [[1, 2], [3, 4]], 4, stride=2))
    dZ: 2 x 2
    [[1 2]
     [3 4]]
    <BLANKLINE>
    dZ dilated: 3 x 3
    [[1 0 2]
     [0 0 0]
     [3 0 4]]
    <BLANKLINE>
    dZ dilated and padded: 5 x 5
    [[0 0 0 0 0]
     [0 1 0 2 0]
     [0 0 0 0 0]
     [0 3 0 4 0]
     [0 0 0 0 0]]
    <BLANKLINE>
    W rotated by 180°: 2 x 2
    [[4 3]
     [2 1]]
    <BLANKLINE>
    dX: 4 x 4
    [[ 1  2  2  4]
     [ 3  4  6  8]
     [ 3  6  4  8]
     [ 9 12 12 16]]
    """

    matrices: dict[str, np.ndarray]

    @property
    def result(self) -> np.ndarray:
        """The last matrix."""
        return list(self.matrices.values())[-1]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.matrices[name]

    def __str__(self) -> str:
        return "\n\n".join(f"{name}: {m.shape[0]} x {m.shape[1]}\n{m}" for name, m in self.matrices.items())


def dilate(matrix: ArrayLike, stride: IntOrPair) -> np.ndarray:
    """``matrix`` with ``stride - 1`` zeros between neighbouring elements, down and across.

    Examples
    --------
    >>> dilate([[1, 2], [3, 4]], 2)
    array([[1, 0, 2],
           [0, 0, 0],
           [3, 0, 4]])
    """
    matrix, (SH, SW) = _matrix(matrix, "matrix"), pair(stride, "stride", 1)
    H, W = matrix.shape
    dilated = _zeros(((H - 1) * SH + 1, (W - 1) * SW + 1), matrix.dtype)
    dilated[::SH, ::SW] = matrix
    return dilated


def zero_pad(matrix: ArrayLike, padding: Padding) -> np.ndarray:
    """``matrix`` with zeros around it: ``p``, ``(rows, columns)`` or ``((top, bottom), (left, right))`` of them.

    Examples
    --------
    >>> zero_pad(dilate([[1, 2], [3, 4]], 2), 1)
    array([[0, 0, 0, 0, 0],
           [0, 1, 0, 2, 0],
           [0, 0, 0, 0, 0],
           [0, 3, 0, 4, 0],
           [0, 0, 0, 0, 0]])
    """
    matrix = _matrix(matrix, "matrix")
    if isinstance(padding, str):
        raise TypeError(f"padding must be given in numbers, got {padding!r}")
    (top, bottom), (left, right) = pads(padding, matrix.shape, (1, 1), (1, 1), (1, 1))
    H, W = matrix.shape
    padded = _zeros((top + H + bottom, left + W + right), matrix.dtype)
    padded[top : top + H, left : left + W] = matrix
    return padded


def rot180(W: ArrayLike) -> np.ndarray:
    """``W`` rotated by 180°: its rows and its columns in reverse order.

    Examples
    --------
    >>> rot180([[1, 2], [3, 4]])
    array([[4, 3],
           [2, 1]])
    """
    return _matrix(W, "W")[::-1, ::-1].copy()


def correlate(X: ArrayLike, W: ArrayLike, dilation: IntOrPair = 1) -> np.ndarray:
    """The convolution of the textbooks, ``X * W``, with stride 1: W slides over X and is not rotated.

    With a ``dilation`` above 1, neighbouring elements of W meet elements of X that are that far apart.

    Examples
    --------
    >>> correlate([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 0], [0, -1]])
    array([[-4, -4],
           [-4, -4]])
    >>> correlate([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[1, 0], [0, -1]], dilation=2)
    array([[-8]])
    """
    X, W, (DH, DW) = _matrix(X, "X"), _matrix(W, "W"), pair(dilation, "dilation", 1)
    KH, KW = W.shape
    OH, OW = conv2d_output_size(X.shape, W.shape, dilation=(DH, DW))
    Z = np.zeros((OH, OW), np.result_type(X, W))
    for oh in range(OH):
        for ow in range(OW):
            for kh in range(KH):
                for kw in range(KW):
                    Z[oh, ow] += X[oh + kh * DH, ow + kw * DW] * W[kh, kw]
    return Z


def forward(X: ArrayLike, W: ArrayLike, stride: IntOrPair = 1) -> np.ndarray:
    """``Z = X * W`` with a stride: every S-th row and column of the result with stride 1.

    A 4×4 image and a 2×2 kernel give 3×3 with stride 1, and its four corners with stride 2 (the chapter's
    figure 14.3.4).

    Examples
    --------
    >>> X = np.arange(16).reshape(4, 4)
    >>> forward(X, [[1, 2], [3, 4]])
    array([[ 34,  44,  54],
           [ 74,  84,  94],
           [114, 124, 134]])
    >>> forward(X, [[1, 2], [3, 4]], stride=2)
    array([[ 34,  54],
           [114, 134]])
    """
    SH, SW = pair(stride, "stride", 1)
    return correlate(X, W)[::SH, ::SW].copy()


def weight_gradient_by_dilating(
    X: ArrayLike, dZ: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair = 1
) -> np.ndarray:
    """Gradient with respect to W: X convolved with the dilated dZ, its last rows and columns cropped.

    Parameters
    ----------
    X : array_like
        The image, ``(IH, IW)``.
    dZ : array_like
        Gradient of the loss with respect to ``forward(X, W, stride)``, of its size.
    kernel_size, stride : int or (int, int)
        Size of W, and the stride of the forward pass.

    Returns
    -------
    ndarray
        ``dW``, of ``kernel_size``; of int64 if all is integer, else of float64.

    Raises
    ------
    TypeError, ValueError
        An argument is no matrix of real numbers, or the sizes do not fit each other.

    Examples
    --------
    >>> X = np.arange(16).reshape(4, 4)
    >>> weight_gradient_by_dilating(X, [[1, 2], [3, 4]], kernel_size=2, stride=2)
    array([[ 68,  78],
           [108, 118]])
    """
    return weight_gradient_by_dilating_steps(X, dZ, kernel_size, stride).result


def weight_gradient_by_dilating_steps(
    X: ArrayLike, dZ: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair = 1
) -> Steps:
    """All matrices on the way of :func:`weight_gradient_by_dilating`.

    Examples
    --------
    The special case of the chapter: X is 28×28, W is 3×3, the stride is 2, so that dZ is 13×13.

    >>> X, dZ = np.ones((28, 28), int), np.ones((13, 13), int)
    >>> for name, matrix in weight_gradient_by_dilating_steps(X, dZ, 3, stride=2).matrices.items():
    ...     print(f"{name}: {matrix.shape}")
    X: (28, 28)
    dZ: (13, 13)
    dZ dilated: (25, 25)
    X * dZ: (4, 4)
    dW: (3, 3)
    """
    X, dZ, (KH, KW), (SH, SW) = _weight_gradient_arguments(X, dZ, kernel_size, stride)
    dilated = dilate(dZ, (SH, SW))
    raw = correlate(X, dilated)
    return Steps({"X": X, "dZ": dZ, "dZ dilated": dilated, "X * dZ": raw, "dW": raw[:KH, :KW].copy()})


def weight_gradient_by_dilation(
    X: ArrayLike, dZ: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair = 1
) -> np.ndarray:
    """The same gradient, with dZ as it is and a convolution with ``dilation=stride``: no zeros are inserted.

    Parameters, results and errors are those of :func:`weight_gradient_by_dilating`.

    Examples
    --------
    >>> X = np.arange(16).reshape(4, 4)
    >>> weight_gradient_by_dilation(X, [[1, 2], [3, 4]], kernel_size=2, stride=2)
    array([[ 68,  78],
           [108, 118]])
    """
    return weight_gradient_by_dilation_steps(X, dZ, kernel_size, stride).result


def weight_gradient_by_dilation_steps(
    X: ArrayLike, dZ: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair = 1
) -> Steps:
    """All matrices on the way of :func:`weight_gradient_by_dilation`.

    Examples
    --------
    >>> steps = weight_gradient_by_dilation_steps(np.ones((28, 28), int), np.ones((13, 13), int), 3, stride=2)
    >>> steps["X * dZ"].shape, steps["dW"].shape
    ((4, 4), (3, 3))
    """
    X, dZ, (KH, KW), (SH, SW) = _weight_gradient_arguments(X, dZ, kernel_size, stride)
    raw = correlate(X, dZ, dilation=(SH, SW))
    return Steps({"X": X, "dZ": dZ, "X * dZ": raw, "dW": raw[:KH, :KW].copy()})


def input_gradient(W: ArrayLike, dZ: ArrayLike, input_size: IntOrPair, stride: IntOrPair = 1) -> np.ndarray:
    """Gradient with respect to X: dZ, dilated and padded, convolved with W rotated by 180°.

    Parameters
    ----------
    W : array_like
        The kernel, ``(KH, KW)``.
    dZ : array_like
        Gradient of the loss with respect to ``forward(X, W, stride)``, of its size.
    input_size, stride : int or (int, int)
        Size of X, and the stride of the forward pass.

    Returns
    -------
    ndarray
        ``dX``, of ``input_size``; of int64 if all is integer, else of float64.

    Raises
    ------
    TypeError, ValueError
        An argument is no matrix of real numbers, or the sizes do not fit each other.

    Examples
    --------
    >>> input_gradient([[1, 2], [3, 4]], [[1, 2], [3, 4]], 4, stride=2)
    array([[ 1,  2,  2,  4],
           [ 3,  4,  6,  8],
           [ 3,  6,  4,  8],
           [ 9, 12, 12, 16]])
    """
    return input_gradient_steps(W, dZ, input_size, stride).result


def input_gradient_steps(W: ArrayLike, dZ: ArrayLike, input_size: IntOrPair, stride: IntOrPair = 1) -> Steps:
    """All matrices on the way of :func:`input_gradient`.

    Examples
    --------
    The special case of the chapter, put right: 2 zeros in front and 3 behind, and nothing to drop.

    >>> W, dZ = np.ones((3, 3), int), np.ones((13, 13), int)
    >>> for name, matrix in input_gradient_steps(W, dZ, 28, stride=2).matrices.items():
    ...     print(f"{name}: {matrix.shape}")
    dZ: (13, 13)
    dZ dilated: (25, 25)
    dZ dilated and padded: (30, 30)
    W rotated by 180°: (3, 3)
    dX: (28, 28)
    """
    W, dZ, stride, (RH, RW) = _input_gradient_arguments(W, dZ, input_size, stride)
    KH, KW = W.shape
    dilated = dilate(dZ, stride)
    # The kernel did not reach the last RH rows and RW columns of X: as many zeros more make room for them.
    padded = zero_pad(dilated, ((KH - 1, KH - 1 + RH), (KW - 1, KW - 1 + RW)))
    rotated = rot180(W)
    return Steps({
        "dZ": dZ, "dZ dilated": dilated, "dZ dilated and padded": padded, "W rotated by 180°": rotated,
        "dX": correlate(padded, rotated),
    })  # fmt: skip


def input_gradient_as_printed(W: ArrayLike, dZ: ArrayLike, input_size: IntOrPair, stride: IntOrPair = 1) -> np.ndarray:
    """What the chapter prints for the gradient with respect to X. **Wrong by one pixel** in its special case.

    It pads by the same number on all sides, K - 1 and the remainder ``(IH - KH) % S``, and then drops as many of the
    last rows and columns as there are too many. All is well where the remainder is 0, as in the chapter's 4×4 example.
    Where it is not, the result is the gradient moved down and right by it: by one pixel for 28×28.

    Parameters and errors are those of :func:`input_gradient`, which is right.

    Examples
    --------
    A small case of the same kind: X is 4×4, W is 3×3, the stride is 2, so that dZ is 1×1 and dX is W itself with zeros
    at the end, where the kernel has not been.

    >>> W = np.arange(1, 10).reshape(3, 3)
    >>> input_gradient_as_printed(W, [[1]], 4, stride=2)
    array([[0, 0, 0, 0],
           [0, 1, 2, 3],
           [0, 4, 5, 6],
           [0, 7, 8, 9]])
    >>> input_gradient(W, [[1]], 4, stride=2)
    array([[1, 2, 3, 0],
           [4, 5, 6, 0],
           [7, 8, 9, 0],
           [0, 0, 0, 0]])
    """
    return input_gradient_as_printed_steps(W, dZ, input_size, stride).result


def input_gradient_as_printed_steps(W: ArrayLike, dZ: ArrayLike, input_size: IntOrPair, stride: IntOrPair = 1) -> Steps:
    """All matrices on the way of :func:`input_gradient_as_printed`.

    Examples
    --------
    The chapter's special case. Its last step drops the wrong row and column of a good 29×29 matrix:

    >>> W, dZ = np.arange(9).reshape(3, 3), np.arange(169).reshape(13, 13)
    >>> steps = input_gradient_as_printed_steps(W, dZ, 28, stride=2)
    >>> steps["dZ dilated"].shape, steps["dZ dilated and padded"].shape, steps["dZ0 * W"].shape
    ((25, 25), (31, 31), (29, 29))
    >>> right = input_gradient(W, dZ, 28, stride=2)
    >>> np.array_equal(steps["dZ0 * W"][:-1, :-1], right), np.array_equal(steps["dZ0 * W"][1:, 1:], right)
    (False, True)
    """
    W, dZ, stride, (RH, RW) = _input_gradient_arguments(W, dZ, input_size, stride)
    KH, KW = W.shape
    dilated = dilate(dZ, stride)
    padded = zero_pad(dilated, (KH - 1 + RH, KW - 1 + RW))
    rotated = rot180(W)
    raw = correlate(padded, rotated)
    IH, IW = raw.shape[0] - RH, raw.shape[1] - RW
    return Steps({
        "dZ": dZ, "dZ dilated": dilated, "dZ dilated and padded": padded, "W rotated by 180°": rotated,
        "dZ0 * W": raw, "dX as printed": raw[:IH, :IW].copy(),
    })  # fmt: skip


def _matrix(value: ArrayLike, name: str) -> np.ndarray:
    """``value`` as a matrix of int64 or float64, in which small types do not overflow."""
    matrix = numbers(value, name)
    if matrix.dtype.kind == "b":
        raise TypeError(f"{name} must be a matrix of real numbers, got dtype {matrix.dtype}")
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a matrix of at least 1 x 1, got shape {matrix.shape}")
    return matrix.astype(np.float64 if matrix.dtype.kind == "f" else np.int64)


def _zeros(shape: Pair, dtype: np.dtype) -> np.ndarray:
    check_bytes("the matrix", shape, dtype.itemsize)
    return np.zeros(shape, dtype)


def _check_size_of_dZ(dZ: np.ndarray, input_size: Pair, kernel_size: Pair, stride: Pair) -> None:
    expected = conv2d_output_size(input_size, kernel_size, stride)
    if dZ.shape != expected:
        raise ValueError(
            f"dZ has shape {dZ.shape}, but X {input_size}, W {kernel_size} and stride {stride} give Z {expected}"
        )


def _weight_gradient_arguments(
    X: ArrayLike, dZ: ArrayLike, kernel_size: IntOrPair, stride: IntOrPair
) -> tuple[np.ndarray, np.ndarray, Pair, Pair]:
    X, dZ = _matrix(X, "X"), _matrix(dZ, "dZ")
    kernel, steps = pair(kernel_size, "kernel_size", 1), pair(stride, "stride", 1)
    _check_size_of_dZ(dZ, X.shape, kernel, steps)
    return X, dZ, kernel, steps


def _input_gradient_arguments(
    W: ArrayLike, dZ: ArrayLike, input_size: IntOrPair, stride: IntOrPair
) -> tuple[np.ndarray, np.ndarray, Pair, Pair]:
    """W, dZ, the stride, and how many rows and columns at the end of X the kernel did not reach."""
    W, dZ = _matrix(W, "W"), _matrix(dZ, "dZ")
    (IH, IW), (SH, SW) = pair(input_size, "input_size", 1), pair(stride, "stride", 1)
    _check_size_of_dZ(dZ, (IH, IW), W.shape, (SH, SW))
    return W, dZ, (SH, SW), ((IH - W.shape[0]) % SH, (IW - W.shape[1]) % SW)
