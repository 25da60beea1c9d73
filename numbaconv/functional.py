"""The public operations: they validate their arguments, and :mod:`numbaconv.execution` computes.

:mod:`numbaconv.reference` has the same functions in pure Python, with the fullest documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np

from numbaconv import simd
from numbaconv.algorithms import get_algorithm
from numbaconv.arrays import (
    check_bias,
    check_dtypes,
    compute_dtype,
    float_array,
    output_array,
    result_dtype,
)
from numbaconv.calls import key_of, recall, remember
from numbaconv.execution import bias_gradient, correlate, weight_gradient
from numbaconv.geometry import Algorithm, Conv2dGeometry, check_algorithm, conv2d_output_size
from numbaconv.memory import empty_like
from numbaconv.packed import PackedWeight, weight_array
from numbaconv.parameters import IntOrPair, Layout, Padding, check_output_mask
from numbaconv.plan import FORMS, Forms, channels, forward_plan, input_gradient_plan, weight_gradient_plan

__all__ = [
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_output_size",
    "conv2d_weight",
    "conv_transpose2d",
    "warmup",
]

Gradients: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


def conv2d(
    input: np.ndarray,
    weight: np.ndarray | PackedWeight,
    bias: np.ndarray | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    layout: Layout = "NCHW",
    algorithm: Algorithm = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """2-D convolution of a batch of images (cross-correlation: the kernel is not flipped), with zero padding.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64
        ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC. Any strides are taken.
    weight : ndarray of float16, float32 or float64, or PackedWeight
        ``(OC, IC / groups, KH, KW)``, or ``(OC, KH, KW, IC / groups)`` for NHWC.
    bias : ndarray, optional
        ``(OC,)``.
    stride, dilation : int or (int, int)
        In pixels; a dilation of 1 is a dense kernel.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Zeros around the image, in pixels: on all sides; ``(PH, PW)``; ``((top, bottom), (left, right))``; none; or as
        many as make the output ``ceil(input / stride)``, the odd one at the end.
    groups : int
        Number of independent convolutions that the channels are split into.
    layout : "NCHW" or "NHWC"
        The order of the dimensions of all arrays.
    algorithm : "auto", "direct" or "winograd"
        Which kernel to use. "winograd" serves kernels of 3 x 3 and 5 x 5, with stride 1 and dilations up to 4; "auto"
        takes what is fastest, unless :func:`numbaconv.set_algorithm` says otherwise. See also the notes.
    out : ndarray, optional
        Array to write the output to, of its shape and dtype, that shares no memory with the other arguments.

    Returns
    -------
    ndarray
        ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC, of dtype ``numpy.result_type`` of all arrays given.
        float16 is computed in float32 and rounded once. The bits do not depend on the number of threads.

    Raises
    ------
    TypeError
        An array is no ndarray or not of floats, or a parameter is not of the types above (a bool is no integer).
    ValueError
        A parameter is out of range, shapes do not fit each other, the output would be smaller than one pixel, ``out``
        cannot take the result, or ``algorithm`` does not serve this convolution. Nothing has been written by then.
    MemoryError
        The output, a copy of an argument that is not contiguous, or scratch memory does not fit; nor has anything then.

    See Also
    --------
    numbaconv.reference.conv2d : the same in pure Python, with the formula.

    Notes
    -----
    Infinity and NaN go where the formula sends them, for padding is left out and not multiplied by; where a weight is
    not finite that takes much longer. In Winograd's algorithm they spread: "winograd" makes NaN of whole tiles of 4 x 4
    output pixels, and so does "auto" where it chooses that algorithm and the input is not finite, which would take too
    long to look for. Weights, and gradients of weights, are looked at: there "auto" is right, as "direct" always is.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> weight = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    >>> conv2d(image, weight, np.array([6.0]), stride=2)
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    key = key_of("conv2d", input, weight, None, out, (stride, padding, dilation, groups), layout, algorithm)
    if (call := recall(key)) and (result := call.correlate(input, weight, bias, out)) is not None:
        return result
    input = float_array(input, "input")
    weight, packed = weight_array(weight)
    geometry = Conv2dGeometry.forward(input.shape, weight.shape, stride, padding, dilation, groups, layout)
    forms = _forms(algorithm, geometry)
    bias = check_bias(bias, geometry.OC)
    out = output_array(out, geometry.output_shape, result_dtype(input, weight, bias), input, weight, bias)
    correlate(forward_plan, forms, geometry, input, weight, bias, out, packed=packed)
    remember(key, out, forward_plan, geometry, forms, packed is not None, False)
    return out


def conv2d_input(
    input_size: Sequence[int],
    weight: np.ndarray | PackedWeight,
    grad_output: np.ndarray,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    layout: Layout = "NCHW",
    algorithm: Algorithm = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient of :func:`conv2d` with respect to its input.

    Parameters
    ----------
    input_size : sequence of four int
        Shape of the input, ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC.
    weight, stride, padding, dilation, groups, layout, algorithm, out
        As in the forward pass: see :func:`conv2d`.
    grad_output : ndarray of float16, float32 or float64
        Gradient of the loss with respect to the output: ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC.

    Returns
    -------
    ndarray
        Of shape ``input_size`` and dtype ``numpy.result_type(weight, grad_output)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`; a ValueError also where ``grad_output`` is not of the shape that the forward pass gives.

    Examples
    --------
    >>> import numpy as np
    >>> weight = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> conv2d_input((1, 1, 2, 5), weight, np.array([[[[1.0, 10.0]]]]), stride=2)
    array([[[[ 1.,  2., 10., 20.,  0.],
             [ 3.,  4., 30., 40.,  0.]]]])
    """
    how = stride, padding, dilation, groups
    key = key_of("conv2d_input", weight, grad_output, input_size, out, how, layout, algorithm)
    if (call := recall(key)) and (result := call.correlate(grad_output, weight, None, out)) is not None:
        return result
    weight, packed = weight_array(weight)
    grad_output = float_array(grad_output, "grad_output")
    geometry = Conv2dGeometry.forward(input_size, weight.shape, stride, padding, dilation, groups, layout)
    forms = _forms(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)
    out = output_array(out, geometry.input_shape, result_dtype(weight, grad_output), weight, grad_output)
    correlate(input_gradient_plan, forms, geometry, grad_output, weight, None, out, packed=packed)
    remember(key, out, input_gradient_plan, geometry, forms, packed is not None, False)
    return out


def conv2d_weight(
    input: np.ndarray,
    weight_size: Sequence[int],
    grad_output: np.ndarray,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    layout: Layout = "NCHW",
    algorithm: Algorithm = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Gradient of :func:`conv2d` with respect to its weight.

    Parameters
    ----------
    weight_size : sequence of four int
        Shape of the weight, ``(OC, IC / groups, KH, KW)``, or ``(OC, KH, KW, IC / groups)`` for NHWC.
    input, stride, padding, dilation, groups, layout, algorithm, out
        As in the forward pass: see :func:`conv2d`.
    grad_output : ndarray of float16, float32 or float64
        Gradient of the loss with respect to the output: ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC.

    Returns
    -------
    ndarray
        Of shape ``weight_size`` and dtype ``numpy.result_type(input, grad_output)``; zeros where ``N`` is 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`; a ValueError also where ``grad_output`` is not of the shape that the forward pass gives.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(10.0).reshape(1, 1, 2, 5)
    >>> conv2d_weight(image, (1, 1, 2, 2), np.array([[[[1.0, 10.0]]]]), stride=2)
    array([[[[20., 31.],
             [75., 86.]]]])
    """
    how = stride, padding, dilation, groups
    key = key_of("conv2d_weight", input, grad_output, weight_size, out, how, layout, algorithm)
    if (call := recall(key)) and (result := call.weight_gradient(input, grad_output, out)) is not None:
        return result
    input, grad_output = float_array(input, "input"), float_array(grad_output, "grad_output")
    geometry = Conv2dGeometry.forward(input.shape, weight_size, stride, padding, dilation, groups, layout)
    forms = _forms(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)
    out = output_array(out, geometry.weight_shape, result_dtype(input, grad_output), input, grad_output)
    weight_gradient(forms, geometry, input, grad_output, out)
    remember(key, out, weight_gradient_plan, geometry, forms)
    return out


def conv2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray | PackedWeight,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
    *,
    output_mask: Sequence[bool] = (True, True, True),
    layout: Layout = "NCHW",
    algorithm: Algorithm = "auto",
) -> Gradients:
    """All gradients of :func:`conv2d`: with respect to its input, its weight and its bias.

    Parameters
    ----------
    grad_output : ndarray of float16, float32 or float64
        Gradient of the loss with respect to the output: ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC.
    input, weight, stride, padding, dilation, groups, layout, algorithm
        As in the forward pass: see :func:`conv2d`.
    output_mask : three bools
        Which of the three gradients to compute.

    Returns
    -------
    (grad_input, grad_weight, grad_bias)
        What :func:`conv2d_input` and :func:`conv2d_weight` return, and ``grad_output`` summed over the batch and all
        pixels, ``(OC,)`` in its own dtype. None where ``output_mask`` is False.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`, whatever the mask; also where ``grad_output`` is not of the shape that the forward pass
        gives, and where ``output_mask`` is not three bools.

    Examples
    --------
    >>> import numpy as np
    >>> image, weight = np.arange(10.0).reshape(1, 1, 2, 5), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> grad_output = np.array([[[[1.0, 10.0]]]])
    >>> grad_input, grad_weight, grad_bias = conv2d_backward(grad_output, image, weight, stride=2)
    >>> grad_input.shape, grad_weight.shape, grad_bias
    ((1, 1, 2, 5), (1, 1, 2, 2), array([11.]))
    """
    wants_input, wants_weight, wants_bias = check_output_mask(output_mask)
    how, sizes = (stride, padding, dilation, groups), (getattr(input, "shape", None), getattr(weight, "shape", None))
    keys = (
        key_of("conv2d_input", weight, grad_output, sizes[0], None, how, layout, algorithm),
        key_of("conv2d_weight", input, grad_output, sizes[1], None, how, layout, algorithm),
    )
    to_input, to_weight = map(recall, keys)
    if to_input and to_weight:
        grad_input = to_input.correlate(grad_output, weight) if wants_input else None
        grad_weight = to_weight.weight_gradient(input, grad_output) if wants_weight else None
        if (grad_input is None) != wants_input and (grad_weight is None) != wants_weight:
            return grad_input, grad_weight, bias_gradient(to_input.geometry, grad_output) if wants_bias else None
    grad_output = float_array(grad_output, "grad_output")
    input = float_array(input, "input")
    weight, packed = weight_array(weight)
    geometry = Conv2dGeometry.forward(input.shape, weight.shape, stride, padding, dilation, groups, layout)
    forms = _forms(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)

    grad_input = grad_weight = grad_bias = None
    if wants_input:
        out = empty_like(input, result_dtype(weight, grad_output), geometry.layout)
        grad_input = correlate(input_gradient_plan, forms, geometry, grad_output, weight, None, out, packed=packed)
        remember(keys[0], out, input_gradient_plan, geometry, forms, packed is not None, False)
    if wants_weight:
        out = output_array(None, geometry.weight_shape, result_dtype(input, grad_output))
        grad_weight = weight_gradient(forms, geometry, input, grad_output, out)
        remember(keys[1], out, weight_gradient_plan, geometry, forms)
    if wants_bias:
        grad_bias = bias_gradient(geometry, grad_output)
    return grad_input, grad_weight, grad_bias


def conv_transpose2d(
    input: np.ndarray,
    weight: np.ndarray | PackedWeight,
    bias: np.ndarray | None = None,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    groups: int = 1,
    dilation: IntOrPair = 1,
    *,
    layout: Layout = "NCHW",
    algorithm: Algorithm = "auto",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Transposed 2-D convolution: the input gradient of :func:`conv2d`, used as an operation of its own.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64
        ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC.
    weight : ndarray of float16, float32 or float64, or PackedWeight
        ``(IC, OC / groups, KH, KW)``, or ``(IC, KH, KW, OC / groups)`` for NHWC.
    bias : ndarray, optional
        ``(OC,)``.
    padding : int, (int, int) or ((int, int), (int, int))
        Rows and columns cut off the output: the padding of the convolution that this one transposes, in numbers.
    output_padding : int or (int, int)
        Rows and columns added at the bottom and right of the output. Smaller than the stride or the dilation.
    stride, groups, dilation, layout, algorithm, out
        As for :func:`conv2d`.

    Returns
    -------
    ndarray
        ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC, where ``OH = (IH - 1) * SH - top - bottom + DH * (KH - 1)
        + output_padding + 1``, and ``OW`` likewise. The dtype is ``numpy.result_type`` of all arrays given.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[[1.0, 10.0]]]]), np.array([[[[1.0, 2.0, 3.0]]]]), stride=2)
    array([[[[ 1.,  2., 13., 20., 30.]]]])
    """
    how = stride, padding, output_padding, groups, dilation
    key = key_of("conv_transpose2d", input, weight, None, out, how, layout, algorithm)
    if (call := recall(key)) and (result := call.correlate(input, weight, bias, out)) is not None:
        return result
    input = float_array(input, "input")
    weight, packed = weight_array(weight)
    geometry = Conv2dGeometry.transposed(
        input.shape, weight.shape, stride, padding, output_padding, groups, dilation, layout
    )
    forms = _forms(algorithm, geometry)
    bias = check_bias(bias, geometry.IC)
    out = output_array(out, geometry.input_shape, result_dtype(input, weight, bias), input, weight, bias)
    correlate(input_gradient_plan, forms, geometry, input, weight, bias, out, packed=packed)
    remember(key, out, input_gradient_plan, geometry, forms, packed is not None, False)
    return out


def warmup(dtypes: Iterable[Any] = (np.float32, np.float64)) -> float:
    """Compile all convolution kernels now, or load them from the cache, rather than at the first calls.

    Parameters
    ----------
    dtypes : iterable of dtype
        What to compile for. float16 is computed by the float32 kernels.

    Returns
    -------
    float
        Seconds that it took.

    Raises
    ------
    TypeError
        ``dtypes`` is no iterable of float16, float32 and float64.

    Examples
    --------
    >>> import numpy as np, numbaconv
    >>> seconds = numbaconv.warmup([np.float32])
    """
    start = perf_counter()
    for dtype in {compute_dtype(dtype) for dtype in check_dtypes(dtypes)}:
        image = np.zeros((1, 1, 3, 3), dtype)
        geometry = Conv2dGeometry.forward(image.shape, image.shape)
        out = np.empty((1, 1, 1, 1), image.dtype)
        for form, threads in product(FORMS["auto"] + FORMS["plain"], (1, 2)):
            correlate(forward_plan, (form,), geometry, image, image, None, out, threads)
            weight_gradient((form,), geometry, image, out, image.copy(), threads)
        # And one with rows that are long enough to sum three taps of the kernel together.
        wide, filters = np.zeros((1, 1, 3, 34), dtype), np.zeros((simd.lanes(dtype), 1, 3, 3), dtype)
        geometry = Conv2dGeometry.forward(wide.shape, filters.shape)
        for threads in (1, 2):
            y = np.empty(geometry.output_shape, dtype)
            correlate(forward_plan, (channels,), geometry, wide, filters, None, y, threads)
    return perf_counter() - start


def _forms(algorithm: Any, geometry: Conv2dGeometry) -> Forms:
    """The forms of plan that ``algorithm`` allows."""
    algorithm = check_algorithm(algorithm, geometry)
    return FORMS[get_algorithm() if algorithm == "auto" else algorithm]
