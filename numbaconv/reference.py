"""The public operations in pure Python: written to be read, and the oracle that the compiled ones are held against.

Names, parameters, defaults, results and errors are those of ``numbaconv`` itself; only the speed is not (about two
million multiplications a second). Everything that a 2-D convolution is stands in one loop nest, :func:`_products`. It
names, one at a time, the three elements that meet in a multiplication: one of the output, one of the input, one of the
weight. The three passes are the same sum seen from its three sides::

    forward      output[y] += input[x] * weight[w]
    grad input   grad_input[x] += grad_output[y] * weight[w]
    grad weight  grad_weight[w] += grad_output[y] * input[x]

That is all of the chain rule here. The forward pass is linear in the input and in the weight, so the derivative of
``output[y]`` with respect to ``input[x]`` is the sum of the ``weight[w]`` that join the two, and the gradient collects
it, weighted with ``grad_output[y]``, over all outputs that ``x`` has reached.

Sums are held in float64 and rounded once, to the dtype of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from numbaconv.arrays import check_bias, float_array, output_array, result_dtype
from numbaconv.geometry import Algorithm, Conv2dGeometry, check_algorithm, conv2d_output_size
from numbaconv.parameters import IntOrPair, Layout, Padding, check_output_mask

__all__ = ["conv2d", "conv2d_backward", "conv2d_input", "conv2d_output_size", "conv2d_weight", "conv_transpose2d"]

Index: TypeAlias = tuple[int, int, int, int]
Gradients: TypeAlias = tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]


def conv2d(
    input: np.ndarray,
    weight: np.ndarray,
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

    ``output[n, oc, oh, ow] = bias[oc] + sum over ic, kh, kw of
    input[n, g * IC / groups + ic, oh * SH + kh * DH - top, ow * SW + kw * DW - left] * weight[oc, ic, kh, kw]``,
    where ``g`` is the group of ``oc``. Pixels in the padding add nothing, not even where the weight is infinite.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64
        ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC. ``N`` may be 0.
    weight : ndarray of float16, float32 or float64
        ``(OC, IC / groups, KH, KW)``, or ``(OC, KH, KW, IC / groups)`` for NHWC.
    bias : ndarray, optional
        ``(OC,)``: added to every pixel of its output channel.
    stride : int or (int, int)
        Steps ``(SH, SW)`` of the kernel over the image, in pixels, at least 1.
    padding : int, (int, int), ((int, int), (int, int)), "valid" or "same"
        Zeros around the image, in pixels: on all sides; ``(PH, PW)``; ``((top, bottom), (left, right))``; none; or as
        many as make the output ``ceil(input / stride)``, the odd one at the end (the SAME of TensorFlow and JAX).
    dilation : int or (int, int)
        Distances ``(DH, DW)`` between neighbouring elements of the kernel, in pixels; 1 is a dense kernel.
    groups : int
        Number of independent convolutions that channels are split into; it divides ``IC`` and ``OC``.
    layout : "NCHW" or "NHWC"
        The order of the dimensions of ``input``, ``weight`` and the output.
    algorithm : "auto", "direct" or "winograd"
        Which compiled kernel to use. Here the loops are the same for all; the argument is checked nevertheless.
    out : ndarray, optional
        Array to write the output to, of its shape and dtype, that shares no memory with the other arguments.

    Returns
    -------
    ndarray
        ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC; ``OH`` and ``OW`` are :func:`conv2d_output_size`'s. The
        dtype is ``numpy.result_type`` of all arrays given. It is ``out`` itself if that was given.

    Raises
    ------
    TypeError
        An array is no ndarray or not of floats, or a parameter is not of the types above (a bool is no integer).
    ValueError
        A parameter is out of range, shapes do not fit each other, the output would be smaller than one pixel, ``out``
        cannot take the result, or ``algorithm`` does not serve this convolution. Nothing has been written by then.

    Notes
    -----
    The formula is that of ``torch.nn.functional.conv2d``, whose positional parameters these are.

    Examples
    --------
    >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> weight = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    >>> conv2d(image, weight, np.array([6.0]), stride=2)
    array([[[[1., 1.],
             [1., 1.]]]])
    """
    input, weight = float_array(input, "input"), float_array(weight, "weight")
    geometry = Conv2dGeometry.forward(input.shape, weight.shape, stride, padding, dilation, groups, layout)
    check_algorithm(algorithm, geometry)
    bias = check_bias(bias, geometry.OC)
    out = output_array(out, geometry.output_shape, result_dtype(input, weight, bias), input, weight, bias)

    sums = _sums(out, layout, bias)
    y, x, w = sums.data, _elements(input, layout), _elements(weight, layout)
    for y_index, x_index, w_index in _products(geometry):
        y[y_index] += x[x_index] * w[w_index]
    return _rounded(sums, out, layout)


def conv2d_input(
    input_size: Sequence[int],
    weight: np.ndarray,
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

    Every output hands its gradient back to the pixels that it was made of, each multiplied by the weight that it came
    in through. Pixels that no output was made of (at the end, where the stride does not divide the way) get 0.

    Parameters
    ----------
    input_size : sequence of four int
        Shape of the input, ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC. It must be told: with a
        stride above 1, inputs of several sizes give an output of the same size.
    weight : ndarray of float16, float32 or float64
        ``(OC, IC / groups, KH, KW)``, or ``(OC, KH, KW, IC / groups)`` for NHWC.
    grad_output : ndarray of float16, float32 or float64
        Gradient of the loss with respect to the output: ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC.
    stride, padding, dilation, groups, layout, algorithm, out
        As in the forward pass: see :func:`conv2d`.

    Returns
    -------
    ndarray
        Of shape ``input_size`` and dtype ``numpy.result_type(weight, grad_output)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`; a ValueError also where ``grad_output`` is not of the shape that the forward pass gives.

    Notes
    -----
    The same as ``torch.nn.grad.conv2d_input``. The textbook's route to it (section 14.3.5: dilate, pad, rotate the
    kernel by 180°, convolve) is :func:`numbaconv.textbook.input_gradient`.

    Examples
    --------
    >>> weight = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> grad_output = np.array([[[[1.0, 10.0]]]])
    >>> conv2d_input((1, 1, 2, 5), weight, grad_output, stride=2)
    array([[[[ 1.,  2., 10., 20.,  0.],
             [ 3.,  4., 30., 40.,  0.]]]])
    """
    weight, grad_output = float_array(weight, "weight"), float_array(grad_output, "grad_output")
    geometry = Conv2dGeometry.forward(input_size, weight.shape, stride, padding, dilation, groups, layout)
    check_algorithm(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)
    out = output_array(out, geometry.input_shape, result_dtype(weight, grad_output), weight, grad_output)
    return _input_gradient(geometry, weight, grad_output, None, out)


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

    An element of the weight is used once for every output pixel of every image. Its gradient is the sum, over all of
    them, of the output's gradient times the input pixel that it was multiplied by.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64
        ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC. With ``N = 0`` the gradient is all zeros.
    weight_size : sequence of four int
        Shape of the weight, ``(OC, IC / groups, KH, KW)``, or ``(OC, KH, KW, IC / groups)`` for NHWC.
    grad_output : ndarray of float16, float32 or float64
        Gradient of the loss with respect to the output: ``(N, OC, OH, OW)``, or ``(N, OH, OW, OC)`` for NHWC.
    stride, padding, dilation, groups, layout, algorithm, out
        As in the forward pass: see :func:`conv2d`.

    Returns
    -------
    ndarray
        Of shape ``weight_size`` and dtype ``numpy.result_type(input, grad_output)``.

    Raises
    ------
    TypeError, ValueError
        As :func:`conv2d`; a ValueError also where ``grad_output`` is not of the shape that the forward pass gives.

    Notes
    -----
    The same as ``torch.nn.grad.conv2d_weight``. The textbook's routes to it (section 14.3.5: convolve the input with
    the dilated gradient, then crop) are :func:`numbaconv.textbook.weight_gradient_by_dilating` and its sister.

    Examples
    --------
    >>> image = np.arange(10.0).reshape(1, 1, 2, 5)
    >>> grad_output = np.array([[[[1.0, 10.0]]]])
    >>> conv2d_weight(image, (1, 1, 2, 2), grad_output, stride=2)
    array([[[[20., 31.],
             [75., 86.]]]])
    """
    input, grad_output = float_array(input, "input"), float_array(grad_output, "grad_output")
    geometry = Conv2dGeometry.forward(input.shape, weight_size, stride, padding, dilation, groups, layout)
    check_algorithm(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)
    out = output_array(out, geometry.weight_shape, result_dtype(input, grad_output), input, grad_output)

    sums = _sums(out, layout)
    dw, x, dy = sums.data, _elements(input, layout), _elements(grad_output, layout)
    for y_index, x_index, w_index in _products(geometry):
        dw[w_index] += dy[y_index] * x[x_index]
    return _rounded(sums, out, layout)


def conv2d_backward(
    grad_output: np.ndarray,
    input: np.ndarray,
    weight: np.ndarray,
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

    Notes
    -----
    The bias is added once to every output pixel, so its gradient is their gradients' sum. Arguments are those of
    ``torch.ops.aten.convolution_backward``, in the order of :func:`conv2d`.

    Examples
    --------
    >>> image, weight = np.arange(10.0).reshape(1, 1, 2, 5), np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> grad_output = np.array([[[[1.0, 10.0]]]])
    >>> grad_input, grad_weight, grad_bias = conv2d_backward(grad_output, image, weight, stride=2)
    >>> grad_input.shape, grad_weight.shape, grad_bias
    ((1, 1, 2, 5), (1, 1, 2, 2), array([11.]))
    """
    grad_output = float_array(grad_output, "grad_output")
    input, weight = float_array(input, "input"), float_array(weight, "weight")
    wants_input, wants_weight, wants_bias = check_output_mask(output_mask)
    geometry = Conv2dGeometry.forward(input.shape, weight.shape, stride, padding, dilation, groups, layout)
    check_algorithm(algorithm, geometry)
    geometry.check_shape("grad_output", grad_output.shape, geometry.output_shape)

    how = (stride, padding, dilation, groups)
    grad_input = grad_weight = grad_bias = None
    if wants_input:
        grad_input = conv2d_input(input.shape, weight, grad_output, *how, layout=layout, algorithm=algorithm)
    if wants_weight:
        grad_weight = conv2d_weight(input, weight.shape, grad_output, *how, layout=layout, algorithm=algorithm)
    if wants_bias:
        grad_bias = _bias_gradient(geometry, grad_output)
    return grad_input, grad_weight, grad_bias


def conv_transpose2d(
    input: np.ndarray,
    weight: np.ndarray,
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

    Every input pixel spreads one kernel, multiplied by its value, onto the output; ``padding`` rows and columns are
    then cut off. It undoes the change of size of a convolution with the same parameters, not the convolution.

    Parameters
    ----------
    input : ndarray of float16, float32 or float64
        ``(N, IC, IH, IW)``, or ``(N, IH, IW, IC)`` for the layout NHWC. ``N`` may be 0.
    weight : ndarray of float16, float32 or float64
        ``(IC, OC / groups, KH, KW)``, or ``(IC, KH, KW, OC / groups)`` for NHWC.
    bias : ndarray, optional
        ``(OC,)``: added to every pixel of its output channel.
    stride : int or (int, int)
        Distances ``(SH, SW)`` in the output, in pixels, between the kernels that neighbouring input pixels spread.
    padding : int, (int, int) or ((int, int), (int, int))
        Rows and columns cut off the output: the padding of the convolution that this one transposes. In numbers:
        "valid" and "same" are not taken.
    output_padding : int or (int, int)
        Rows and columns added at the bottom and right of the output, to choose among the sizes that the convolution
        would have mapped to this input. Smaller than the stride or the dilation.
    groups, dilation, layout, algorithm, out
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

    Notes
    -----
    The formula is that of ``torch.nn.functional.conv_transpose2d``, whose positional parameters these are.

    Examples
    --------
    >>> conv_transpose2d(np.array([[[[1.0, 10.0]]]]), np.array([[[[1.0, 2.0, 3.0]]]]), stride=2)
    array([[[[ 1.,  2., 13., 20., 30.]]]])
    """
    input, weight = float_array(input, "input"), float_array(weight, "weight")
    geometry = Conv2dGeometry.transposed(
        input.shape, weight.shape, stride, padding, output_padding, groups, dilation, layout
    )
    check_algorithm(algorithm, geometry)
    bias = check_bias(bias, geometry.IC)
    out = output_array(out, geometry.input_shape, result_dtype(input, weight, bias), input, weight, bias)
    return _input_gradient(geometry, weight, input, bias, out)


def _products(geometry: Conv2dGeometry) -> Iterator[tuple[Index, Index, Index]]:
    """Every multiplication of the convolution, as the indices of the output, the input and the weight that meet in it.

    Indices are those of NCHW, whatever the layout.
    """
    PT, PL, SH, SW, DH, DW = geometry.PT, geometry.PL, geometry.SH, geometry.SW, geometry.DH, geometry.DW
    ICG, OCG = geometry.ICG, geometry.OCG
    for n in range(geometry.N):
        for g in range(geometry.G):
            for oc in range(g * OCG, (g + 1) * OCG):
                for oh in range(geometry.OH):
                    for ow in range(geometry.OW):
                        for ic in range(ICG):
                            for kh in range(geometry.KH):
                                for kw in range(geometry.KW):
                                    ih = oh * SH + kh * DH - PT
                                    iw = ow * SW + kw * DW - PL
                                    # Padding is skipped, not multiplied by: 0 * inf would be NaN.
                                    if 0 <= ih < geometry.IH and 0 <= iw < geometry.IW:
                                        yield (n, oc, oh, ow), (n, g * ICG + ic, ih, iw), (oc, ic, kh, kw)


def _input_gradient(
    geometry: Conv2dGeometry, weight: np.ndarray, grad_output: np.ndarray, bias: np.ndarray | None, out: np.ndarray
) -> np.ndarray:
    """Both ``conv2d_input`` and ``conv_transpose2d``; only the latter has a bias."""
    layout = geometry.layout
    sums = _sums(out, layout, bias)
    dx, dy, w = sums.data, _elements(grad_output, layout), _elements(weight, layout)
    for y_index, x_index, w_index in _products(geometry):
        dx[x_index] += dy[y_index] * w[w_index]
    return _rounded(sums, out, layout)


def _bias_gradient(geometry: Conv2dGeometry, grad_output: np.ndarray) -> np.ndarray:
    sums = np.zeros(geometry.OC)
    db, dy = sums.data, _elements(grad_output, geometry.layout)
    for n, oc, oh, ow in np.ndindex(geometry.N, geometry.OC, geometry.OH, geometry.OW):
        db[oc] += dy[n, oc, oh, ow]
    return _rounded(sums, np.empty(geometry.OC, result_dtype(grad_output)), "NCHW")


def _nchw(array: np.ndarray, layout: Layout) -> np.ndarray:
    """An image or a weight, viewed with its channels in second place."""
    return array if layout == "NCHW" else np.moveaxis(array, -1, 1)


def _elements(array: np.ndarray, layout: Layout) -> memoryview:
    """The elements of ``array`` in NCHW as Python floats, which add and multiply faster than NumPy's scalars do."""
    with np.errstate(all="ignore"):  # NumPy complains about signalling NaN
        return _nchw(array, layout).astype(np.float64).data


def _sums(out: np.ndarray, layout: Layout, bias: np.ndarray | None = None) -> np.ndarray:
    """What the result ``out`` is summed up in: float64, NCHW, starting at the bias or at 0."""
    sums = np.zeros(_nchw(out, layout).shape)
    if bias is not None:
        with np.errstate(all="ignore"):
            sums += bias.astype(np.float64)[:, np.newaxis, np.newaxis]
    return sums


def _rounded(sums: np.ndarray, out: np.ndarray, layout: Layout) -> np.ndarray:
    """``out``, filled with the sums: the one place where anything is rounded."""
    with np.errstate(all="ignore"):  # a value beyond the dtype's range is inf or 0, as in any float arithmetic
        _nchw(out, layout)[...] = sums
    return out
