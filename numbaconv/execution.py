"""Take a plan and run its kernel: what is left to do when the arguments of a convolution have been validated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from numbaconv.arrays import compute_dtype, empty, result_dtype, rounded
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels import sums
from numbaconv.kernels.elementwise import fill_rows, zero
from numbaconv.kernels.plain import note_finite
from numbaconv.memory import flat, flat_image, flat_view, scratch
from numbaconv.packed import PackedWeight
from numbaconv.plan import FORMS, Forms, Plan, weight_gradient_plan
from numbaconv.threads import act, expect, launch, launch_light, threads_for


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
    b, stages, held = _filled_bias(bias, plan.no_bias), plan.stages(threads), memory
    if packed is not None and plan.shared > 0:
        found, stages = packed._find(plan), plan.kernel.stages[1:]
        held = packed._new(plan) if found is None else found
        if found is None and threads > 0:
            launch(plan.kernel, threads, x, w, b, y, held, memory, *plan.arguments, stages=plan.kernel.stages[:1])
            packed._keep(plan, held)
    if plan.fill and bias is None:
        launch_light(zero, y.size, y.size, y)
    elif plan.fill:
        act(_fill, target, bias, geometry, relu)
    if threads > 0:
        launch(plan.kernel, threads, x, w, b, y, held, memory, *plan.arguments, stages=stages)
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
            launch(plan.kernel, workers, x, z, w, memory, *plan.arguments, stages=plan.stages(workers))
        if not plan.zeros or _all_finite(w):
            break
    return target if target is out else _copied(out, target)


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


def _memory(plan: Plan, dtype: np.dtype, threads: int | None) -> tuple[int, np.ndarray]:
    """On how many threads to run a plan, 0 if there is nothing to do, and the scratch memory for that."""
    threads = threads or threads_for(plan.threads)
    return threads, scratch(dtype, plan.shared + threads * plan.own)


def _all_finite(values: np.ndarray) -> bool:
    """Whether there is no infinity and no NaN among them."""
    finite = np.empty(1, np.bool_)
    launch(note_finite, 1, values, finite)
    expect(finite)
    return bool(finite[0])


def _filled_bias(bias: np.ndarray | None, zeros: np.ndarray) -> np.ndarray:
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
