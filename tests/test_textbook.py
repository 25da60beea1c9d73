"""The textbook's route against the reference, its worked examples, and its erratum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from numbaconv import reference, textbook

# Kernel, stride, and how far the image reaches beyond the kernel; remainders of 0, 1 and 2 are among them, and strides
# beyond the kernel, which leave gaps in the image.
ONE_AXIS = [
    (1, 1, 0),
    (1, 3, 4),
    (2, 1, 3),
    (2, 2, 4),
    (2, 3, 5),
    (3, 1, 2),
    (3, 2, 4),
    (3, 2, 5),
    (3, 3, 5),
    (4, 2, 7),
]
CASES = [
    pytest.param((KH + RH, KW + RW), (KH, KW), (SH, SW), id=f"{KH + RH}x{KW + RW}-k{KH}x{KW}-s{SH}x{SW}")
    for (KH, SH, RH), (KW, SW, RW) in itertools.product(ONE_AXIS, repeat=2)
]


def matrices(image: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """X, W and dZ of small whole numbers, none of them 0."""
    rng = np.random.default_rng(0)
    output = reference.conv2d_output_size(image, kernel, stride)
    return tuple(rng.integers(1, 6, size) for size in (image, kernel, output))


def as_image(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.newaxis, np.newaxis].astype(float)


@pytest.mark.parametrize(("image", "kernel", "stride"), CASES)
def test_textbook_is_the_reference(image: Any, kernel: Any, stride: Any) -> None:
    X, W, dZ = matrices(image, kernel, stride)
    x, w, dz = as_image(X), as_image(W), as_image(dZ)
    dX, dW, _ = reference.conv2d_backward(dz, x, w, stride)
    assert np.array_equal(textbook.forward(X, W, stride), reference.conv2d(x, w, stride=stride)[0, 0])
    assert np.array_equal(textbook.weight_gradient_by_dilating(X, dZ, kernel, stride), dW[0, 0])
    assert np.array_equal(textbook.weight_gradient_by_dilation(X, dZ, kernel, stride), dW[0, 0])
    assert np.array_equal(textbook.input_gradient(W, dZ, image, stride), dX[0, 0])


@pytest.mark.parametrize(("image", "kernel", "stride"), CASES)
def test_as_printed_is_right_exactly_where_nothing_remains(image: Any, kernel: Any, stride: Any) -> None:
    _, W, dZ = matrices(image, kernel, stride)
    right = textbook.input_gradient(W, dZ, image, stride)
    printed = textbook.input_gradient_as_printed(W, dZ, image, stride)
    RH, RW = ((image[axis] - kernel[axis]) % stride[axis] for axis in range(2))
    # The end of the right one, where the kernel has not been, is zeros: they come round to the front.
    assert np.array_equal(printed, np.roll(right, (RH, RW), axis=(0, 1)))
    assert np.array_equal(printed, right) == (RH == RW == 0)


def test_the_erratum() -> None:
    X, W, dZ = matrices((28, 28), (3, 3), (2, 2))
    steps = textbook.input_gradient_as_printed_steps(W, dZ, 28, 2)
    shapes = [matrix.shape for matrix in steps.matrices.values()]
    assert shapes == [(13, 13), (25, 25), (31, 31), (3, 3), (29, 29), (28, 28)]
    raw, printed = steps["dZ0 * W"], steps.result

    right = reference.conv2d_input((1, 1, 28, 28), as_image(W), as_image(dZ), 2)[0, 0]
    assert not np.array_equal(printed, right)
    assert np.array_equal(printed[1:, 1:], right[:-1, :-1])  # one pixel down and to the right
    assert not printed[0].any()
    assert not printed[:, 0].any()
    # Two ways to put it right: drop the first row and column, or pad 2 in front and 3 behind and drop nothing.
    assert np.array_equal(raw[1:, 1:], right)
    padded = textbook.zero_pad(textbook.dilate(dZ, 2), ((2, 3), (2, 3)))
    assert np.array_equal(textbook.correlate(padded, textbook.rot180(W)), right)
    # A change of X changes the loss <dZ, Z>, which is linear, by exactly what its gradient says.
    other = np.random.default_rng(1).integers(-3, 4, X.shape)
    change = np.vdot(dZ, textbook.forward(X + other, W, 2) - textbook.forward(X, W, 2))
    assert change == np.vdot(right, other)
    assert change != np.vdot(printed, other)


def test_the_width_that_the_chapter_misprints() -> None:
    # 25, the width of the dilated dZ, gives the 29 that is printed; 28, which is printed in its place, gives 32.
    assert reference.conv2d_output_size((25, 25), 3, padding=3) == (29, 29)
    assert reference.conv2d_output_size((25, 28), 3, padding=3) == (29, 32)


def test_the_crop_of_the_weight_gradient_is_the_last_row_and_column() -> None:
    X, _, dZ = matrices((28, 28), (3, 3), (2, 2))
    by_dilating = textbook.weight_gradient_by_dilating_steps(X, dZ, 3, 2)
    by_dilation = textbook.weight_gradient_by_dilation_steps(X, dZ, 3, 2)
    assert [matrix.shape for matrix in by_dilating.matrices.values()] == [(28, 28), (13, 13), (25, 25), (4, 4), (3, 3)]
    assert [matrix.shape for matrix in by_dilation.matrices.values()] == [(28, 28), (13, 13), (4, 4), (3, 3)]
    right = reference.conv2d_weight(as_image(X), (1, 1, 3, 3), as_image(dZ), 2)[0, 0]
    for steps in (by_dilating, by_dilation):
        assert np.array_equal(steps["X * dZ"][:3, :3], right)
        assert not np.array_equal(steps["X * dZ"][1:, 1:], right)
        assert np.array_equal(steps.result, right)


@pytest.mark.parametrize(("image", "kernel", "stride"), CASES[::7])
def test_shapes_of_the_steps(image: Any, kernel: Any, stride: Any) -> None:
    X, W, dZ = matrices(image, kernel, stride)
    (IH, IW), (KH, KW), (SH, SW), (OH, OW) = image, kernel, stride, dZ.shape
    dilated = ((OH - 1) * SH + 1, (OW - 1) * SW + 1)
    steps = textbook.weight_gradient_by_dilating_steps(X, dZ, kernel, stride)
    assert steps["dZ dilated"].shape == dilated
    assert steps["X * dZ"].shape == (KH + (IH - KH) % SH, KW + (IW - KW) % SW)
    steps = textbook.input_gradient_steps(W, dZ, image, stride)
    assert steps["dZ dilated"].shape == dilated
    assert steps["dZ dilated and padded"].shape == (IH + KH - 1, IW + KW - 1)
    assert steps["W rotated by 180°"].shape == kernel
    assert steps.result.shape == image


def test_the_chapters_four_by_four() -> None:
    W, dZ = np.array([[1, 2], [3, 4]]), np.array([[5, 6], [7, 8]])
    steps = textbook.input_gradient_steps(W, dZ, (4, 4), 2)
    assert steps["dZ dilated"].tolist() == [[5, 0, 6], [0, 0, 0], [7, 0, 8]]
    padded = [[0, 0, 0, 0, 0], [0, 5, 0, 6, 0], [0, 0, 0, 0, 0], [0, 7, 0, 8, 0], [0, 0, 0, 0, 0]]
    assert steps["dZ dilated and padded"].tolist() == padded
    # the windows do not overlap: four blocks, each of them W times its dz
    assert steps.result.tolist() == [[5, 10, 6, 12], [15, 20, 18, 24], [7, 14, 8, 16], [21, 28, 24, 32]]
    assert textbook.input_gradient_as_printed(W, dZ, 4, 2).tolist() == steps.result.tolist()


def test_stride_two_keeps_the_corners_of_stride_one() -> None:
    X, W, _ = matrices((4, 4), (2, 2), (1, 1))
    dense = textbook.forward(X, W)
    assert dense.shape == (3, 3)
    assert textbook.forward(X, W, 2).tolist() == [[dense[0, 0], dense[0, 2]], [dense[2, 0], dense[2, 2]]]


def test_steps_print_every_matrix() -> None:
    steps = textbook.weight_gradient_by_dilation_steps([[1, 2]], [[3]], (1, 2))
    assert str(steps) == "X: 1 x 2\n[[1 2]]\n\ndZ: 1 x 1\n[[3]]\n\nX * dZ: 1 x 2\n[[3 6]]\n\ndW: 1 x 2\n[[3 6]]"


def test_integers_stay_exact_and_floats_stay_floats() -> None:
    small = np.full((2, 2), 200, np.uint8)
    assert textbook.correlate(small, small).tolist() == [[160000]]
    assert textbook.correlate(small, small.astype(np.float32)).dtype == np.float64
    assert textbook.dilate([[0.5, 1.5]], (1, 3)).tolist() == [[0.5, 0, 0, 1.5]]


def test_results_are_copies() -> None:
    X, W, dZ = matrices((5, 6), (2, 3), (2, 1))
    before = [matrix.copy() for matrix in (X, W, dZ)]
    for result in (
        textbook.dilate(X, 1),
        textbook.zero_pad(X, 0),
        textbook.rot180(X),
        textbook.forward(X, W),
        *textbook.weight_gradient_by_dilating_steps(X, dZ, (2, 3), (2, 1)).matrices.values(),
        *textbook.input_gradient_as_printed_steps(W, dZ, (5, 6), (2, 1)).matrices.values(),
    ):
        result[...] = -1
    for matrix, copy in zip((X, W, dZ), before, strict=True):
        assert np.array_equal(matrix, copy)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: textbook.dilate([1, 2], 2), ValueError, r"at least 1 x 1, got shape \(2,\)"),
        (lambda: textbook.rot180(np.zeros((0, 2))), ValueError, r"at least 1 x 1, got shape \(0, 2\)"),
        (lambda: textbook.rot180([["a"]]), TypeError, "W must be an array of real numbers"),
        (lambda: textbook.dilate([[1]], 0), ValueError, "stride must be from 1"),
        (lambda: textbook.zero_pad([[1]], "same"), TypeError, "padding must be given in numbers, got 'same'"),
        (lambda: textbook.zero_pad([[1]], -1), ValueError, "padding must be from 0"),
        (lambda: textbook.correlate([[1]], [[1, 2]]), ValueError, "the output width would be less than 1"),
        (
            lambda: textbook.input_gradient([[1]], [[1]], 4, 2),
            ValueError,
            r"dZ has shape \(1, 1\), but X \(4, 4\), W \(1, 1\) and stride \(2, 2\) give Z \(2, 2\)",
        ),
        (lambda: textbook.weight_gradient_by_dilating([[1, 2]], [[1]], 1), ValueError, r"give Z \(1, 2\)"),
    ],
)
def test_bad_arguments_are_refused_with_a_reason(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
