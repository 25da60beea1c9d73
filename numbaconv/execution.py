"""Take a plan and run its kernel: what is left to do when the arguments of a convolution have been validated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from numbaconv.arrays import compute_dtype, empty, result_dtype, rounded
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels import sums
from numbaconv.kernels.elementwise import fill_rows, zero
from numbaconv.kernels.plain import note_finite
from numbaconv.kernels.pooling import Windows
from numbaconv.memory import flat, flat_image, flat_view, scratch
from numbaconv.packed import PackedWeight
from numbaconv.plan import FORMS, Forms, Plan, weight_gradient_plan
from numbaconv.threads import act, expect, for_team, launch, launch_light, threads_for

#: Of a max pooling, the pixel that has won each window, flat, and the windows.
Pooling: TypeAlias = tuple[np.ndarray, Windows]
#: What a kernel is told of another layer, whose work it does: a pooling, the rows of a batch norm's ``lay_out``, or an
#: image that is added.
Other: TypeAlias = Pooling | tuple[np.ndarray]


def correlate(
    make_plan: Callable[..., Plan],
    forms: Forms,
    geometry: Conv2dGeometry,
    source: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    out: np.ndarray,
    threads: int | None = None,
    packed: PackedWeight | None = None,
    relu: bool = False,
) -> np.ndarray:
    """Fill ``out`` with a forward pass or an input gradient, whichever ``make_plan`` plans.

    ``packed`` is what holds ``weight`` in the order of the kernels, if something does. With ``relu``, 0 is written
    instead of everything below it.
    """
    if out.size == 0:
        return out
    dtype, target = compute_dtype(out.dtype), out
    x, x_layout = flat_image(source, dtype, geometry.layout)
    view = flat_view(out, dtype, geometry.layout)
    if view is None:  # a kernel cannot write to it
        target = empty(out.shape, dtype, "the result, contiguous,")
        view = target.reshape(-1), geometry.layout
    y, y_layout = view
    w, bias = flat(weight, dtype), None if bias is None else flat(bias, dtype)
    plan = make_plan(geometry, dtype, x_layout, y_layout, forms, packed is not None, relu)
    if plan.zeros and not (_all_finite(w) if packed is None else packed.finite):
        plan = make_plan(geometry, dtype, x_layout, y_layout, _careful(forms), packed is not None, relu)
    threads, memory = _memory(plan, dtype, threads)  # first, for it may not be there
    held = _held(plan, packed)
    if plan.fill and bias is None:
        launch_light(zero, y.size, y.size, y)
    elif plan.fill:
        act(_fill, target, bias, geometry, relu)
    _launch(plan, threads, memory, packed, held, x, w, bias, y)
    return target if target is out else _copied(out, target)


def weight_gradient(
    forms: Forms,
    geometry: Conv2dGeometry,
    input: np.ndarray,
    grad_output: np.ndarray,
    out: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """Fill ``out`` with a weight gradient."""
    if geometry.N == 0:
        out[...] = 0
        return out
    dtype = compute_dtype(out.dtype)
    dense = out.dtype == dtype and out.flags.carray
    target = out if dense else empty(out.shape, dtype, "the result, contiguous,")
    x, x_layout = flat_image(input, dtype, geometry.layout)
    z, z_layout = flat_image(grad_output, dtype, geometry.layout)
    w = target.reshape(-1)
    for chosen in (forms, _careful(forms)):
        plan = weight_gradient_plan(geometry, dtype, x_layout, z_layout, chosen)
        workers, memory = _memory(plan, dtype, threads)
        if plan.fill:
            launch_light(zero, w.size, w.size, w)
        if workers > 0:
            launch(plan.kernel, workers, *plan.factors(x, z), w, memory, *plan.arguments, stages=plan.stages(workers))
        if not plan.zeros or _all_finite(w):
            break
    return target if target is out else _copied(out, target)


def correlate_with(
    plan: Plan, geometry: Conv2dGeometry, source: np.ndarray, weight: np.ndarray, bias: np.ndarray | None,
    out: np.ndarray, other: Other, packed: PackedWeight | None = None,
) -> bool:  # fmt: skip
    """Fill ``out``, flat, with a plan of :func:`correlate` that does the work of an ``other`` layer as well.

    Whether it was done: not where padding might meet what is not finite.
    """
    dtype = out.dtype
    x, w = flat_image(source, dtype, geometry.layout)[0], flat(weight, dtype)
    if plan.zeros and not (_all_finite(w) if packed is None else packed.finite):
        return False
    threads, memory = _memory(plan, dtype, None)
    bias = None if bias is None else flat(bias, dtype)
    _launch(plan, threads, memory, packed, _held(plan, packed), x, w, bias, out, *other)
    return True


def weight_gradient_with(
    plan: Plan, geometry: Conv2dGeometry, input: np.ndarray, grad: np.ndarray, out: np.ndarray, other: Other
) -> bool:
    """Fill ``out`` with a weight gradient, with such a plan. Whether it was done, as above."""
    x, w = flat_image(input, out.dtype, geometry.layout)[0], out.reshape(-1)
    threads, memory = _memory(plan, out.dtype, None)
    if plan.fill:
        launch_light(zero, w.size, w.size, w)
    if threads > 0:
        launch(plan.kernel, threads, x, grad, w, memory, *plan.arguments, *other, stages=plan.stages(threads))
    return not plan.zeros or _all_finite(w)


def pooled_bias_gradient(grad: np.ndarray, pooling: Pooling) -> np.ndarray:
    """Sum over the batch and the windows in which some pixel has won."""
    winner, windows = pooling
    result = np.empty(windows.C, grad.dtype)
    parts = -(-grad.size // (windows.C * sums.STRETCH))
    launch_light(
        sums.sum_won, parts, grad.size, grad, winner, result, np.empty(parts * windows.C, grad.dtype), windows.C,
        windows.KH * windows.KW,
    )  # fmt: skip
    return result


def bias_gradient(geometry: Conv2dGeometry, grad_output: np.ndarray) -> np.ndarray:
    """Sum over the batch and the pixels."""
    dtype, C, pixels = compute_dtype(result_dtype(grad_output)), geometry.OC, geometry.OH * geometry.OW
    z, layout = flat_image(grad_output, dtype, geometry.layout)
    result = np.empty(C, dtype)
    if layout == "NCHW":
        launch_light(sums.sum_planes, C, z.size, z, result, geometry.N, C, pixels)
    else:
        parts = -(-geometry.N * pixels // sums.STRETCH)
        launch_light(sums.sum_pixels, parts, z.size, z, result, np.empty(parts * C, dtype), C)
    return rounded(result, result_dtype(grad_output))


def _careful(forms: Forms) -> Forms:
    """Instead of ``forms``, those that multiply by nothing that does not exist, for numbers that are not finite.

    Who asks for Winograd's algorithm gets it: its transforms spread such numbers over a tile in any case.
    """
    return forms if forms == FORMS["winograd"] else FORMS["plain"]


def _launch(
    plan: Plan, threads: int, memory: np.ndarray, packed: PackedWeight | None, held: np.ndarray | None, x: np.ndarray,
    w: np.ndarray, bias: np.ndarray | None, y: np.ndarray, *more: Any,
) -> None:  # fmt: skip
    """Run the kernel of a correlation, where there is work; ``held`` is what :func:`_held` gave."""
    if threads == 0:
        return
    b, kernel = filled_bias(bias, plan.no_bias), plan.kernel
    if packed is None or held is None:
        launch(kernel, threads, x, w, b, y, memory, memory, *plan.arguments, *more, stages=plan.stages(threads))
        return
    arguments = (x, w, b, y, held, memory, *plan.arguments, *more)
    if packed._find(plan) is None:
        launch(kernel, threads, *arguments, stages=kernel.stages[:1])
        packed._keep(plan, held)
    launch(kernel, threads, *arguments, stages=kernel.stages[1:])


def _held(plan: Plan, packed: PackedWeight | None) -> np.ndarray | None:
    """The memory of packed weights that are held, or will be; None where each call packs them for itself."""
    if packed is None or plan.shared == 0:
        return None
    found = packed._find(plan)
    return packed._new(plan) if found is None else found


def _memory(plan: Plan, dtype: np.dtype, threads: int | None) -> tuple[int, np.ndarray]:
    """On how many threads to run a plan, 0 if there is nothing to do, and the scratch memory for that."""
    threads = threads or threads_for(plan.team if for_team() else plan.threads)
    return threads, scratch(dtype, plan.shared + threads * plan.own)


def _all_finite(values: np.ndarray) -> bool:
    """Whether there is no infinity and no NaN among them."""
    finite = np.empty(1, np.bool_)
    launch(note_finite, 1, values, finite)
    expect(finite)
    return bool(finite[0])


def filled_bias(bias: np.ndarray | None, zeros: np.ndarray) -> np.ndarray:
    """A flat bias, each group of it filled up to the length of a row of ``zeros``; all zeros where there is none."""
    if bias is None:
        return zeros.reshape(-1)
    if bias.size == zeros.size:
        return bias
    filled = np.empty_like(zeros)
    launch(fill_rows, 1, bias, filled, bias.size // len(zeros))
    return filled.reshape(-1)


def _fill(target: np.ndarray, bias: np.ndarray, geometry: Conv2dGeometry, relu: bool) -> None:
    """Write what no tap reaches."""
    channels = (1, -1, 1, 1) if geometry.layout == "NCHW" else (1, 1, 1, -1)
    target[...] = (np.maximum(bias, 0) if relu else bias).reshape(channels)


def _copied(out: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``out``, to which ``target`` is copied."""
    out[...] = rounded(target, out.dtype)
    return out
