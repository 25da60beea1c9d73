"""Calls, remembered whole.

A convolution of one small image is over in two microseconds. To look at its arguments one by one would take several
times as long, so what was found out about a call is kept, and found again by all that it depends on: shapes, dtype,
parameters. Only the plainest calls are remembered: of contiguous arrays of one dtype, with parameters that are integers
or tuples of them. All others take the long way, and so does whatever is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy import may_share_memory, ndarray

from numbaconv.algorithms import get_algorithm
from numbaconv.arrays import empty
from numbaconv.geometry import Conv2dGeometry, Shape, are_plain
from numbaconv.jit import ALL
from numbaconv.kernels.plain import all_finite
from numbaconv.memory import scratch
from numbaconv.plan import Plan
from numbaconv.threads import launch, threads_for

#: So many calls are remembered at most.
MOST = 1024
_COMPUTED = (np.dtype(np.float32), np.dtype(np.float64))


class Call(NamedTuple):
    """What is to be done about a call."""

    shape: Shape  # of the result
    dtype: np.dtype
    plan: Plan
    zeros: np.ndarray  # a bias where there is none

    def correlate(
        self, source: np.ndarray, weight: Any, bias: np.ndarray | None, out: np.ndarray | None
    ) -> np.ndarray | None:
        """The forward pass or the input gradient; None if it needs the long way."""
        plan, w, b = self.plan, weight.reshape(-1), self.zeros
        if bias is not None:
            if type(bias) is not ndarray or bias.shape != b.shape or bias.dtype != self.dtype:
                return None
            if not bias.flags.carray:
                return None
            b = bias
        if plan.zeros and not all_finite(w):
            return None
        result = empty(self.shape, self.dtype, "the result") if out is None else self._checked(out, source, weight, b)
        if result is None:
            return None
        threads, memory = self._prepare()
        self._run(threads, source.reshape(-1), w, b, result.reshape(-1), memory, memory)
        return result

    def weight_gradient(self, input: np.ndarray, grad_output: np.ndarray, out: np.ndarray | None) -> np.ndarray | None:
        """The weight gradient; None if it needs the long way."""
        result = empty(self.shape, self.dtype, "the result") if out is None else self._checked(out, input, grad_output)
        if result is None:
            return None
        threads, memory = self._prepare()
        w = result.reshape(-1)
        self._run(threads, input.reshape(-1), grad_output.reshape(-1), w, memory)
        return result if not self.plan.zeros or all_finite(w) else None

    def _checked(self, out: np.ndarray, *inputs: np.ndarray) -> np.ndarray | None:
        """``out``, if the result may be written to it; None if that needs the long way, or an error."""
        fits = out.shape == self.shape and out.dtype == self.dtype and out.flags.carray
        return out if fits and not any([may_share_memory(out, array) for array in inputs]) else None  # noqa: C419

    def _prepare(self) -> tuple[int, np.ndarray]:
        """How many threads are to fill the result, and their scratch memory."""
        plan = self.plan
        threads = 1 if plan.threads == 1 else threads_for(plan.threads)
        return threads, scratch(self.dtype, plan.shared + threads * plan.own)

    def _run(self, threads: int, *arrays: np.ndarray) -> None:
        """Run the kernel; on one thread without what a launch looks at before, for the sake of tiny calls."""
        plan = self.plan
        if threads == 1:
            plan.kernel.run(*arrays, *plan.arguments, ALL, 0, 1)
        else:
            launch(plan.kernel, threads, *arrays, *plan.arguments, stages=plan.stages(threads))


_calls: dict[tuple[Any, ...], Call] = {}
_FOUR = [int] * 4


def key_of(
    name: str, a: Any, b: Any, size: Any, out: Any, stride: Any, padding: Any, dilation: Any, groups: Any, layout: Any,
    algorithm: Any,
) -> tuple[Any, ...] | None:  # fmt: skip
    """By what a call of two arrays is remembered; None if it is not of the plainest kind.

    ``size`` is what is told of a third array. Equal keys must mean equal calls: True equals 1, but is no integer.
    """
    plain = (
        (out is None or type(out) is ndarray)
        and type(a) is ndarray
        and type(b) is ndarray
        and (
            type(stride) is type(padding) is type(dilation) is type(groups) is int
            or are_plain((stride, padding, dilation, groups))
        )
        and type(layout) is type(algorithm) is str
        and (size is None or (type(size) is tuple and [type(extent) for extent in size] == _FOUR))
        and a.flags.carray
        and b.flags.carray
    )
    if not plain:
        return None
    chosen = get_algorithm()
    return name, a.shape, b.shape, a.dtype, b.dtype, size, stride, padding, dilation, groups, layout, algorithm, chosen


def recall(key: tuple[Any, ...] | None) -> Call | None:
    """What is known of a call."""
    return None if key is None else _calls.get(key)


def remember(
    key: tuple[Any, ...] | None, result: np.ndarray, make_plan: Callable[..., Plan], geometry: Conv2dGeometry, *how: Any
) -> None:
    """Keep what is to be done about a call that has had a result."""
    if key is None or not key[3] == key[4] == result.dtype or result.dtype not in _COMPUTED or result.size == 0:
        return
    plan = make_plan(geometry, result.dtype, geometry.layout, geometry.layout, *how)
    if plan.threads > 0 and not plan.fill:
        if len(_calls) >= MOST:
            _calls.clear()
        if plan.zeros:  # so that it is compiled now: not when the call comes again, and there may be no memory for that
            all_finite(np.empty(0, result.dtype))
        _calls[key] = Call(result.shape, result.dtype, plan, plan.no_bias.reshape(-1))


def forget() -> None:
    """Forget every call, as must be done where plans are made in another way than before."""
    _calls.clear()
