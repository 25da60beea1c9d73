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
from numbaconv.execution import filled_bias
from numbaconv.geometry import Conv2dGeometry
from numbaconv.jit import ALL
from numbaconv.kernels.plain import all_finite
from numbaconv.memory import scratch
from numbaconv.packed import PackedWeight
from numbaconv.parameters import Shape, are_plain
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
    geometry: Conv2dGeometry
    channels: int  # of a bias
    no_bias: np.ndarray  # flat
    run: Callable[..., None]  # the kernel, compiled, and its last arguments, where one thread goes through all of it
    last: tuple[Any, ...]

    def correlate(
        self, source: np.ndarray, weight: Any, bias: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The forward pass or the input gradient; None if it needs the long way."""
        plan, packed = self.plan, weight if type(weight) is PackedWeight else None
        if bias is not None and not self._is_bias(bias):
            return None
        w = (weight if packed is None else packed.array).reshape(-1)
        if plan.zeros and not (all_finite(w) if packed is None else packed.finite):
            return None
        result = empty(self.shape, self.dtype, "the result") if out is None else self._checked(out, source, w, bias)
        held = None if packed is None else packed._find(plan)
        if result is None or (packed is not None and held is None):
            return None
        b = self.no_bias if bias is None else filled_bias(bias, plan.no_bias)
        threads, memory = self._prepare()
        arrays = source.reshape(-1), w, b, result.reshape(-1), memory if held is None else held, memory
        self._run(threads, plan.stages(threads) if held is None else plan.kernel.stages[1:], arrays)
        return result

    def weight_gradient(
        self, input: np.ndarray, grad_output: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The weight gradient; None if it needs the long way."""
        result = empty(self.shape, self.dtype, "the result") if out is None else self._checked(out, input, grad_output)
        if result is None:
            return None
        threads, memory = self._prepare()
        w, factors = result.reshape(-1), self.plan.factors(input.reshape(-1), grad_output.reshape(-1))
        self._run(threads, self.plan.stages(threads), (*factors, w, memory))
        return result if not self.plan.zeros or all_finite(w) else None

    def _is_bias(self, bias: Any) -> bool:
        """Whether a bias is of the plainest kind."""
        plain = type(bias) is ndarray and bias.shape == (self.channels,) and bias.dtype == self.dtype
        return plain and bias.flags.carray

    def _checked(self, out: np.ndarray, *inputs: np.ndarray | None) -> np.ndarray | None:
        """``out``, if the result may be written to it; None if that needs the long way, or an error."""
        fits = out.shape == self.shape and out.dtype == self.dtype and out.flags.carray
        apart = fits and not any([array is not None and may_share_memory(out, array) for array in inputs])  # noqa: C419
        return out if apart else None

    def _prepare(self) -> tuple[int, np.ndarray]:
        """How many threads are to fill the result, and their scratch memory."""
        plan = self.plan
        threads = 1 if plan.threads == 1 else threads_for(plan.threads)
        return threads, scratch(self.dtype, plan.shared + threads * plan.own)

    def _run(self, threads: int, stages: range | None, arrays: tuple[np.ndarray, ...]) -> None:
        """Run the kernel; on one thread without what a launch looks at before, for the sake of tiny calls."""
        if threads == 1 and stages is None:
            self.run(*arrays, *self.last)
        else:
            launch(self.plan.kernel, threads, *arrays, *self.plan.arguments, stages=stages)


_calls: dict[tuple[Any, ...], Call] = {}
_INTEGERS = [[int] * count for count in range(6)]


def key_of(
    name: str, a: Any, b: Any, size: Any, out: Any, how: tuple[Any, ...], layout: Any, algorithm: Any
) -> tuple[Any, ...] | None:
    """By what a call of two arrays is remembered; None if it is not of the plainest kind.

    ``size`` is what is told of a third array, ``how`` are parameters that are integers, or tuples of them. Equal keys
    must mean equal calls: True equals 1, but is no integer.
    """
    packed = type(a) is PackedWeight or type(b) is PackedWeight
    if packed:
        a, b = (value.array if type(value) is PackedWeight else value for value in (a, b))
    plain = (
        (out is None or type(out) is ndarray)
        and type(a) is ndarray
        and type(b) is ndarray
        and (list(map(type, how)) == _INTEGERS[len(how)] or are_plain(how))
        and type(layout) is type(algorithm) is str
        and (size is None or (type(size) is tuple and [type(extent) for extent in size] == _INTEGERS[4]))
        and a.flags.carray
        and b.flags.carray
    )
    if not plain:
        return None
    return name, packed, a.shape, b.shape, a.dtype, b.dtype, size, how, layout, algorithm, get_algorithm()


def recall(key: tuple[Any, ...] | None) -> Call | None:
    """What is known of a call."""
    return None if key is None else _calls.get(key)


def remember(
    key: tuple[Any, ...] | None, result: np.ndarray, make_plan: Callable[..., Plan], geometry: Conv2dGeometry, *how: Any
) -> None:
    """Keep what is to be done about a call that has had a result."""
    if key is None or not key[4] == key[5] == result.dtype or result.dtype not in _COMPUTED or result.size == 0:
        return
    plan = make_plan(geometry, result.dtype, geometry.layout, geometry.layout, *how)
    if plan.threads > 0 and not plan.fill:
        if len(_calls) >= MOST:
            _calls.clear()
        if plan.zeros:  # so that it is compiled now: not when the call comes again, and there may be no memory for that
            all_finite(np.empty(0, result.dtype))
        channels = result.shape[geometry.layout.index("C")]
        no_bias, last = plan.no_bias.reshape(-1), (*plan.arguments, ALL, 0, 1)
        _calls[key] = Call(result.shape, result.dtype, plan, geometry, channels, no_bias, plan.kernel.run, last)


def forget() -> None:
    """Forget every call, as must be done where plans are made in another way than before."""
    _calls.clear()
