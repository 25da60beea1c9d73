"""Arrays that end, or begin, where memory that must not be touched begins, or ends.

Compiled code does not notice that it reads or writes beside an array, but the processor does if the page there is
protected: it kills the process. So a child process does it, and says what it is about to do before it does it.

Scratch memory is guarded too. There it has exactly the size that was asked for, and is full of NaN: what reads an
element that nobody wrote cannot be right.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import mmap
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain, product
from typing import Any
from unittest import mock

import numba
import numpy as np
import pytest
from cases import (
    FORMS,
    PLAIN,
    Case,
    assert_right,
    everything_in_parallel,
    expected,
    only,
    random_cases,
    run,
    run_python,
)
from test_nn_normed import KERNELS, backward_one_by_one, chosen, forward_one_by_one
from test_nn_normed import Shapes as Normable
from test_nn_pooled import Shapes, launches, one_by_one, together
from test_nn_sums import KERNEL as SUMMING
from test_nn_sums import Shapes as Summable
from test_plan import pointwise, upright

import numbaconv
import numbaconv.execution
import numbaconv.packed
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.normalisation import lay_out
from numbaconv.nn import convolution, layout, pooled
from numbaconv.nn.layout import in_layout
from numbaconv.nn.normalisation import Normalised
from numbaconv.threads import launch

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect"),
]

PAGE = mmap.PAGESIZE
#: Pages that can't be touched, on either side: what leaps over a few of them is caught, too.
GUARD = 256
NOTHING, READ, WRITE = 0, 1, 2  # PROT_NONE, PROT_READ, PROT_WRITE
SIDES = ("end", "start")
FORCED = [form for form in FORMS | PLAIN if form != "cheapest"]
#: Seed, number of cases, multiplications of a pass, threads.
BATCHES = [(0, 150, 20_000, 1), (1, 16, 600_000, 1), (2, 40, 20_000, 2), (3, 8, 600_000, 2)]
#: How many convolutions are pooled, in which forms.
POOLED, POOLING = 60, ("channels", "winograd by tiles", "winograd by blocks")
#: How many normalise what they read, and to how many of them another image is added.
NORMED, SUMMED = 80, 80
#: How many are of 1 x 1, in which forms.
POINTWISE, POINTWISE_FORMS = 120, ("channels", "cheapest")


def guarded(values: np.ndarray, side: str, writable: bool = True) -> np.ndarray:
    """A copy of ``values`` that ends, or starts, at a page that can't be touched, and may itself be read-only."""
    pages = max(1, -(-values.nbytes // PAGE))
    memory = between_guards(pages)
    copy = placed(memory, side, values.nbytes).view(values.dtype).reshape(values.shape)
    copy[...] = values
    if not writable:
        protect(memory, GUARD, pages, READ)
    return copy


def between_guards(pages: int) -> np.ndarray:
    """Pages of memory, and some before and some behind that can't be touched."""
    size = (pages + 2 * GUARD) * PAGE
    memory = np.frombuffer(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    protect(memory, 0, GUARD, NOTHING)
    protect(memory, GUARD + pages, GUARD, NOTHING)
    return memory


def placed(memory: np.ndarray, side: str, nbytes: int) -> np.ndarray:
    """The last, or first, bytes of what lies between the guards."""
    first = GUARD * PAGE if side == "start" else memory.nbytes - GUARD * PAGE - nbytes
    return memory[first : first + nbytes]


def protect(memory: np.ndarray, first: int, pages: int, how: int) -> None:
    """Set what may be done to some pages of ``memory``."""
    address = ctypes.c_void_p(memory.ctypes.data + first * PAGE)
    if ctypes.CDLL(None, use_errno=True).mprotect(address, ctypes.c_size_t(pages * PAGE), how):
        raise OSError(ctypes.get_errno(), "mprotect")


def guarded_image(values: np.ndarray, side: str, layout: str, swapped: bool, writable: bool = True) -> np.ndarray:
    """The same for images and weights, which may lie in memory in the other layout."""
    if not swapped or values.ndim != 4:
        return guarded(np.ascontiguousarray(values), side, writable)
    order = (0, 2, 3, 1) if layout == "NCHW" else (0, 3, 1, 2)
    return guarded(np.ascontiguousarray(values.transpose(order)), side, writable).transpose(np.argsort(order))


# --- in the child -----------------------------------------------------------------------------------------------------


def guard_scratch(side: str, share: float = 1.0) -> list[int]:
    """Guard scratch memory from now on, and give but a share of it. Returns the list of the sizes asked for."""
    sizes: list[int] = []

    def scratch(dtype: np.dtype, size: int) -> np.ndarray:
        sizes.append(size)
        nbytes = int(size * share) * dtype.itemsize
        array = placed(pool((nbytes // PAGE).bit_length()), side, nbytes).view(dtype)
        array[...] = np.nan
        return array

    def aligned(dtype: np.dtype, size: int, what: str) -> np.ndarray:
        return guarded(np.full(size, np.nan, dtype), side)

    for module in (numbaconv.execution, numbaconv.memory):
        module.scratch = scratch  # type: ignore[attr-defined]
    numbaconv.packed.aligned = aligned
    return sizes


@functools.cache
def pool(bits: int) -> np.ndarray:
    """Memory that is used again and again, for new pages take their time."""
    return between_guards(1 << bits)


def run_guarded(case: Case, form: str, side: str, swapped: tuple[bool, ...], seed: int) -> None:
    """All passes of a case, all of whose arrays are guarded; then their results are looked at."""
    g, how, transposed = case.geometry, case.parameters, case.transposed_parameters
    plain = case.arrays(seed)
    wanted = expected(case, plain)
    x, w, b, c, z = arrays = type(plain)(
        *(guarded_image(a, side, g.layout, s, writable=False) for a, s in zip(plain, swapped, strict=False))
    )
    assert_right(form, run(numbaconv, case, arrays), wanted, plain, case)

    def out(result: np.ndarray) -> np.ndarray:
        return guarded_image(np.full_like(result, np.nan), side, g.layout, swapped[-1])

    if form != "winograd by blocks":  # which has no packed weights
        held = numbaconv.prepack(w)
        for _ in range(2):
            forward, backward = numbaconv.conv2d(x, held, b, **how), numbaconv.conv2d_input(x.shape, held, z, **how)
            kept = wanted._replace(y=forward, dx=backward)
            assert_right(form, kept, wanted, plain, case)

    y, plain_y, dx, dw, _, back = map(out, wanted)
    numbaconv.conv2d(x, w, b, **how, out=y)
    numbaconv.conv2d(x, w, **how, out=plain_y)
    numbaconv.conv2d_input(g.input_shape, w, z, **how, out=dx)
    numbaconv.conv2d_weight(x, g.weight_shape, z, **how, out=dw)
    numbaconv.conv_transpose2d(z, w, c, **transposed, out=back)
    assert_right(form, type(wanted)(y, plain_y, dx, dw, wanted.db, back), wanted, plain, case)


def child_run() -> None:
    """Many cases, each announced."""
    for side, form in product(SIDES, FORCED):
        sizes = guard_scratch(side)
        calls = 0
        for seed, count, products, threads in BATCHES:
            numbaconv.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
            with only(form), everything_in_parallel() if threads > 1 else nullcontext():
                chosen = random_cases(seed, count, products, [np.float32, np.float64], form=form)
                for number, case in enumerate(chosen):
                    swapped = tuple(bool(number >> bit & 1) for bit in range(6))
                    how = f"{form}, guard at the {side}, {threads} threads, swapped {swapped}, data {number}"
                    print(f"{how}: {case}", flush=True)
                    run_guarded(case, form, side, swapped, number)
                    calls += 1
        assert len(sizes) > 4 * calls, "the kernels have scratch memory from somewhere else"


def child_pooled() -> None:
    """Convolutions and the max pooling behind them, all of whose arrays are guarded."""
    for side, form in product(SIDES, POOLING):
        guard_scratch(side)
        choose = random.Random(0)
        with only(form), launches() as names:
            for number in range(POOLED):
                shapes = some_shapes(choose, form)
                print(f"{form}, guard at the {side}: {shapes}", flush=True)
                model, x = shapes.model(), shapes.batch(number)
                model.require_input_grad(form != "channels")  # which does not pool there
                z = choose_like(one_by_one(model, x, None)[0])
                wanted = one_by_one(model, x, z)
                for parameter in model.parameters():
                    parameter.data = guarded(parameter.data, side, writable=False)
                numbaconv.set_num_threads(1 + number % min(2, numba.config.NUMBA_NUM_THREADS))
                writable = number % 4 < 2  # what is read-only, layers copy
                x = guarded_image(x, side, "NCHW", number % 3 == 0, writable)
                z = guarded_image(z, side, "NCHW", True, writable)
                with mock.patch.object(layout, "fresh", fresh(side)), mock.patch.object(pooled, "fresh", fresh(side)):
                    for got, right in zip(together(model, x, z), wanted, strict=True):
                        np.testing.assert_array_equal(got, right)
        assert sum(name.startswith("weight_gradient") and "pooled" in name for name in names) > POOLED // 2


def some_shapes(choose: random.Random, form: str) -> Shapes:
    """Sizes of which most can be pooled by the kernels of a form."""
    C, OC = choose.choice([1, 3, 16, 33]), choose.choice([16, 32, 48, 80])
    taps = choose.choice([1, 3, 5] if form == "channels" else [3, 5])
    pad = [(choose.randint(0, 2), choose.randint(0, 2)) for _ in range(2)]
    windows = choose.choice([(2, 2), (2, 2), (2, 3), (1, 2), (3, 3)])
    rows, columns, relu = choose.randint(1, 7), choose.randint(1, 9), choose.random() < 0.5
    dtype = choose.choice(["float32", "float64"])
    return Shapes(choose.randint(1, 4), C, OC, rows, columns, *windows, taps, tuple(pad), relu, dtype)


def child_normed() -> None:
    """Batch norms and the convolutions behind them, all of whose arrays are guarded."""
    for side in SIDES:
        guard_scratch(side)
        choose = random.Random(1)
        with chosen("by tiles"), launches() as names:
            for number in range(NORMED):
                shapes = some_norm(choose)
                print(f"guard at the {side}: {shapes}", flush=True)
                numbaconv.set_num_threads(1 + number % min(2, numba.config.NUMBA_NUM_THREADS))
                model, other = shapes.model()[1:], shapes.model()[1:]
                x = in_layout(np.random.default_rng(number).standard_normal(shapes.shape).astype(shapes.dtype), "NHWC")
                y = forward_one_by_one(other, x)
                z = choose_like(y)
                wanted = [y, backward_one_by_one(other, z), *(p.grad for p in other.parameters())]
                for parameter in model.parameters():
                    parameter.data = guarded(parameter.data, side, writable=False)
                held = guarded_image(x, side, "NCHW", True)  # what is read-only would be copied
                held_z = guarded_image(z, side, "NCHW", True)
                with guarded_norms(side), everything_in_parallel() if number % 2 else nullcontext():
                    got = [model(held), model.backward(held_z), *(p.grad for p in model.parameters())]
                for array, right in zip((*got, held, held_z), (*wanted, x, z), strict=True):
                    np.testing.assert_array_equal(array, right)
        assert [name for name in names if "normed" in name] == KERNELS * NORMED


#: Channels that Winograd's algorithm is taken for, some of which do not fill a block.
CHANNELS = [16, 32, 48, 80]


def winograd_sizes(choose: random.Random) -> tuple[int, int, int, Any, Any]:
    """Rows, columns, taps, padding and dilation that Winograd's kernels serve; some rows are of several strips."""
    taps = choose.choice([3, 3, 5])
    padding = tuple((choose.randint(0, 3), choose.randint(0, 3)) for _ in range(2))
    dilation = choose.choice([(1, 1), (1, 1), (2, 1), (1, 3), (4, 4)])
    H, W = (
        max(1, d * (taps - 1) + 1 - sum(pads)) + choose.randint(0, 9)
        for d, pads in zip(dilation, padding, strict=True)
    )  # fmt: skip
    return H, W + choose.choice([0, 0, 0, 60, 250]), taps, padding, dilation


def some_norm(choose: random.Random) -> Normable:
    """Sizes of which all can be read by the kernels that normalise; some rows have more tiles than are read at once."""
    H, W, taps, padding, dilation = winograd_sizes(choose)
    return Normable(
        choose.randint(2, 4), choose.choice(CHANNELS), choose.choice(CHANNELS), H + (W == 1), W, taps, padding,
        dilation, 1, choose.random() < 0.5, choose.random() < 0.5, dtype=choose.choice(["float32", "float64"]),
    )  # fmt: skip


def child_summed() -> None:
    """Convolutions at the end of a path, and the shortcut that they add, all of whose arrays are guarded."""
    for side in SIDES:
        guard_scratch(side)
        choose = random.Random(2)
        with chosen("by tiles"), launches() as names:
            for number in range(SUMMED):
                shapes = some_sum(choose)
                print(f"guard at the {side}: {shapes}", flush=True)
                numbaconv.set_num_threads(1 + number % min(2, numba.config.NUMBA_NUM_THREADS))
                step = shapes.model()[0].main._in_evaluation[-1]
                x, rng = shapes.batch(number, choose.choice(["NCHW", "NHWC"])), np.random.default_rng(number)
                sum_of_two = step.forward(x)
                plus = in_layout(rng.standard_normal(sum_of_two.shape).astype(x.dtype), "NHWC")
                sum_of_two = sum_of_two + plus
                wanted = np.where(sum_of_two <= 0, 0, sum_of_two) if shapes.relu else sum_of_two
                step.forget()
                for parameter in step.conv.parameters():
                    parameter.data = guarded(parameter.data, side)
                held, held_plus = (guarded_image(a, side, "NCHW", True) for a in (x, plus))
                if x.flags.c_contiguous:
                    held = guarded(x, side)
                parallel = everything_in_parallel() if number % 2 else nullcontext()
                with parallel, mock.patch.object(layout, "fresh", fresh(side)):
                    got = step.forward_sum(held, held_plus, shapes.relu)
                for array, right in ((got, wanted), (held, x), (held_plus, plus)):
                    np.testing.assert_array_equal(array, right)
        assert names.count(SUMMING) >= SUMMED  # its weights are packed by it, too


def some_sum(choose: random.Random) -> Summable:
    """Sizes of which all can be added by the kernel; some rows have more tiles than are read at once."""
    H, W, taps, padding, dilation = winograd_sizes(choose)
    return Summable(
        choose.randint(1, 4), choose.choice(CHANNELS), choose.choice(CHANNELS), H, W, taps, padding, dilation, 1,
        choose.random() < 0.5, choose.random() < 0.5, choose.random() < 0.5,
        dtype=choose.choice(["float32", "float64"]),
    )  # fmt: skip


def child_pointwise() -> None:
    """Convolutions of 1 x 1, whose pixels may be one run, and of K x 1, whose rows may be: all arrays are guarded."""
    for side, form in product(SIDES, POINTWISE_FORMS):
        guard_scratch(side)
        with only(form):
            for number, case in enumerate(chain(pointwise(3, POINTWISE), upright(3, POINTWISE))):
                threads = 1 + number % min(2, numba.config.NUMBA_NUM_THREADS)
                numbaconv.set_num_threads(threads)
                swapped = (number % 3 == 0,) * 6
                how = f"{form}, guard at the {side}, {threads} threads, swapped {swapped}"
                print(f"{how}: {case}", flush=True)
                with everything_in_parallel() if threads > 1 else nullcontext():
                    run_guarded(case, form, side, swapped, number)


@contextmanager
def guarded_norms(side: str) -> Iterator[None]:
    """What batch norms and convolutions make is guarded: also what a kernel needs to normalise, which is laid out."""
    usual = Normalised.rows

    def rows(self: Normalised) -> np.ndarray:
        coefficients = [guarded(array, side) for array in self.coefficients]
        made = guarded(np.full_like(usual(self), np.nan), side)
        launch(lay_out, 1, *coefficients, made)
        np.testing.assert_array_equal(made, usual(self))
        return made

    with (
        mock.patch.object(Normalised, "rows", rows),
        mock.patch.object(layout, "fresh", fresh(side)),
        mock.patch.object(convolution, "fresh", fresh(side)),
    ):
        yield


def choose_like(y: np.ndarray) -> np.ndarray:
    """A gradient of whole numbers."""
    return np.random.default_rng(y.size).integers(-2, 3, y.shape).astype(y.dtype)


def fresh(side: str) -> Callable[[Any, np.dtype], np.ndarray]:
    """What gives new arrays, which are guarded and full of NaN."""
    return lambda shape, dtype: guarded(np.full(shape, np.nan if dtype.kind == "f" else 77, dtype), side)


def child_read(side: str, distance: int) -> None:
    """Read an element of an array, or ``distance`` beside it."""
    array = guarded(np.arange(700.0), side)
    last = array.size - 1 if side == "end" else 0
    print(ctypes.c_double.from_address(array.ctypes.data + (last + distance) * array.itemsize).value)


def child_write(writable: bool) -> None:
    """Write to the memory of an array that may be read-only."""
    array = guarded(np.arange(700.0), "end", writable)
    print(array[5])
    array[5] = 1


def child_scratch(form: str, side: str, share: float) -> None:
    """A convolution that uses all of its scratch memory, given a share of it."""
    numbaconv.set_num_threads(1)
    guard_scratch(side, share)
    x, w, groups = (1, 32, 60, 28), (64, 32, 3, 3), 1
    if form == "depthwise":
        x, w, groups = (1, 512, 20, 28), (512, 1, 3, 3), 512
    case = Case(Conv2dGeometry.forward(x, w, groups=groups), np.dtype(np.float32))
    arrays = case.arrays()
    with only(form):
        assert_right(form, run(numbaconv, case, arrays), expected(case, arrays), arrays, case)


# --- in the parent ----------------------------------------------------------------------------------------------------


def child(call: Callable[..., None], *arguments: Any) -> Any:
    """Call one of the functions above in a process of its own."""
    return run_python(__file__, call.__name__, repr(arguments), timeout=600)


def was_killed(result: Any) -> bool:
    return result.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


def test_nothing_beside_an_array_is_touched_and_no_input_is_written() -> None:
    result = child(child_run)
    lines = result.stdout.splitlines() or ["nothing was run"]
    if was_killed(result):
        pytest.fail(f"memory was touched that is no array's, or an input was written, in\n{lines[-1]}\n{result.stderr}")
    assert result.returncode == 0, f"wrong in\n{lines[-1]}\n{result.stderr[-4000:]}"
    assert len(lines) == len(SIDES) * len(FORCED) * sum(count for _, count, *_ in BATCHES)


def test_nothing_beside_an_array_is_touched_where_a_convolution_is_pooled() -> None:
    result = child(child_pooled)
    lines = result.stdout.splitlines() or ["nothing was run"]
    assert not was_killed(result), f"memory was touched that is no array's, in\n{lines[-1]}\n{result.stderr}"
    assert result.returncode == 0, f"wrong in\n{lines[-1]}\n{result.stderr[-4000:]}"
    assert len(lines) == len(SIDES) * len(POOLING) * POOLED


def test_nothing_beside_an_array_is_touched_where_a_convolution_normalises() -> None:
    result = child(child_normed)
    lines = result.stdout.splitlines() or ["nothing was run"]
    assert not was_killed(result), f"memory was touched that is no array's, in\n{lines[-1]}\n{result.stderr}"
    assert result.returncode == 0, f"wrong in\n{lines[-1]}\n{result.stderr[-4000:]}"
    assert len(lines) == len(SIDES) * NORMED


@pytest.mark.parametrize(
    ("call", "count"),
    [(child_summed, len(SIDES) * SUMMED), (child_pointwise, 2 * len(SIDES) * len(POINTWISE_FORMS) * POINTWISE)],
    ids=["a shortcut is added", "all pixels are one run"],
)
def test_nothing_beside_an_array_is_touched_where(call: Callable[[], None], count: int) -> None:
    result = child(call)
    lines = result.stdout.splitlines() or ["nothing was run"]
    assert not was_killed(result), f"memory was touched that is no array's, in\n{lines[-1]}\n{result.stderr}"
    assert result.returncode == 0, f"wrong in\n{lines[-1]}\n{result.stderr[-4000:]}"
    assert len(lines) == count


@pytest.mark.parametrize(("side", "beside"), [("end", 1), ("start", -1)])
def test_the_guard_kills_who_reads_one_element_beside_an_array(side: str, beside: int) -> None:
    inside = child(child_read, side, 0)
    assert inside.returncode == 0, inside.stderr
    assert was_killed(child(child_read, side, beside))


def test_the_guard_kills_who_writes_to_an_input() -> None:
    assert child(child_write, True).returncode == 0
    assert was_killed(child(child_write, False))


@pytest.mark.parametrize("form", [form for form in FORCED if form not in PLAIN])
def test_the_guard_kills_where_scratch_memory_is_too_small(form: str) -> None:
    whole = child(child_scratch, form, "end", 1.0)
    assert whole.returncode == 0, whole.stderr
    assert was_killed(child(child_scratch, form, "end", 0.75))


if __name__ == "__main__":
    faulthandler.enable()
    passes = child_run, child_pooled, child_normed, child_summed, child_pointwise
    functions = {f.__name__: f for f in (*passes, child_read, child_write, child_scratch)}
    functools.partial(functions[sys.argv[1]], *eval(sys.argv[2]))()
