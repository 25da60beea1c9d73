"""Threads: the same bits whatever their number, and calls from many threads, and beside other libraries, at once.

Every wait has an end, so that what hangs fails.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from cases import FORMS, Arrays, Case, Results, everything_in_parallel, only, random_cases, run, run_python

import numbaconv
from numbaconv import threads
from numbaconv.geometry import Conv2dGeometry
from numbaconv.kernels.correlation import correlate, correlate_three
from numbaconv.kernels.images import correlate_images
from numbaconv.kernels.planes import correlate_planes
from numbaconv.kernels.weight_gradient import weight_gradient
from numbaconv.kernels.weight_images import weight_gradient_images
from numbaconv.kernels.weight_planes import weight_gradient_planes

SEVERAL = numba.config.NUMBA_NUM_THREADS
compiled = pytest.mark.compiled
needs_two = pytest.mark.skipif(SEVERAL < 2, reason="needs two threads")
WAIT = 120  # seconds


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts from, and leaves behind, a process that has been told no number of threads."""
    monkeypatch.setattr(threads, "_limit", None)


# --- the setting ------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_is_numbas_until_it_is_set() -> None:
    assert numbaconv.get_num_threads() == numba.get_num_threads()
    for n in {1, SEVERAL, np.int64(1), np.uint8(SEVERAL)}:
        assert numbaconv.set_num_threads(n) is None
        assert numbaconv.get_num_threads() == n
        assert type(numbaconv.get_num_threads()) is int


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (0, ValueError, "must be from 1 .* got 0"),
        (-1, ValueError, "must be from 1 .* got -1"),
        (SEVERAL + 1, ValueError, f"at most {SEVERAL} here, got {SEVERAL + 1}: set NUMBA_NUM_THREADS"),
        (True, TypeError, "integer, got True"),
        (1.0, TypeError, r"integer, got 1\.0"),
        ("1", TypeError, "integer, got '1'"),
        (None, TypeError, "integer, got None"),
        (np.array(1), TypeError, "integer"),
    ],
)
def test_numbers_of_threads_that_are_refused(n: Any, error: type[Exception], message: str) -> None:
    numbaconv.set_num_threads(1)
    with pytest.raises(error, match=message):
        numbaconv.set_num_threads(n)
    assert numbaconv.get_num_threads() == 1


def test_the_setting_is_the_whole_processs_and_leaves_numbas_alone() -> None:
    before = numba.get_num_threads()
    setter = threading.Thread(target=numbaconv.set_num_threads, args=(1,))
    setter.start()
    setter.join(WAIT)
    assert numbaconv.get_num_threads() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(numbaconv.get_num_threads).result(WAIT) == 1
    assert numba.get_num_threads() == before


@needs_two
@compiled
def test_numbas_own_setting_is_kept_by_a_parallel_call() -> None:
    numba.set_num_threads(1)
    try:
        case, arrays = LARGE[0], normal(LARGE[0])
        numbaconv.set_num_threads(2)
        two = run(numbaconv, case, arrays)
        assert numba.get_num_threads() == 1
        numbaconv.set_num_threads(1)
        assert_same_bits(two, run(numbaconv, case, arrays), case)
    finally:
        numba.set_num_threads(SEVERAL)


# --- the same bits ----------------------------------------------------------------------------------------------------


def large_case(*arguments: Any, dtype: Any = np.float32, **parameters: Any) -> Case:
    return Case(Conv2dGeometry.forward(*arguments, **parameters), np.dtype(dtype))


#: Each of them so large that threads share it.
LARGE = [
    large_case((4, 16, 33, 29), (40, 16, 3, 3), padding=1),
    large_case((3, 24, 30, 31), (33, 8, 3, 5), stride=(2, 1), padding=((0, 2), (1, 3)), groups=3),
    large_case((2, 21, 40, 24), (24, 3, 3, 24), dilation=(2, 1), groups=1, layout="NHWC"),
    large_case((1, 150, 64, 64), (150, 1, 5, 5), padding=2, groups=150),
    large_case((7, 65, 18, 18), (35, 65, 1, 1), dtype=np.float64),
    large_case((2, 60, 60, 19), (38, 3, 3, 19), stride=2, layout="NHWC", dtype=np.float64),
]


def normal(case: Case, seed: int = 0) -> Arrays:
    """Numbers whose sums are rounded, so that their order shows."""
    rng = np.random.default_rng(seed)
    return Arrays(*(rng.standard_normal(array.shape).astype(array.dtype) for array in case.arrays()))


def assert_same_bits(got: Results, wanted: Results, case: Case) -> None:
    for name, a, b in zip(Results._fields, got, wanted, strict=True):
        assert a.tobytes() == b.tobytes(), f"{name} of {case}"


@pytest.fixture
def parallel_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The kernels that were run in parallel, and on how many threads."""
    calls = []

    def spy(name: str, kernel: Callable) -> Callable:
        def called(*arguments: Any) -> None:
            calls.append((name, arguments[1]))
            kernel(*arguments)

        return called

    kernels = correlate, weight_gradient, correlate_planes, weight_gradient_planes, correlate_images
    for kernel in (*kernels, weight_gradient_images):
        monkeypatch.setattr(kernel, "parallel", spy(kernel.name, kernel.parallel))
    monkeypatch.setattr(correlate_three, "parallel", spy("correlate", correlate_three.parallel))
    return calls


#: The kernels of the forms: that of the forward pass and the input gradient, and that of the weight gradient.
KERNELS = {
    "channels": ("correlate", "weight_gradient"),
    "planes": ("correlate_planes", "weight_gradient_planes"),
    "images": ("correlate_images", "weight_gradient_images"),
}


@needs_two
@compiled
@pytest.mark.parametrize("form", KERNELS)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_the_same_bits_for_one_thread_and_for_two(case: Case, form: str, parallel_calls: list[tuple[str, int]]) -> None:
    arrays = normal(case)
    with only(form):
        numbaconv.set_num_threads(1)
        one = run(numbaconv, case, arrays)
        assert parallel_calls == []
        numbaconv.set_num_threads(2)
        for _ in range(3):  # a race may be won once
            assert_same_bits(run(numbaconv, case, arrays), one, case)
    # a forward pass twice, the two gradients, the transposed convolution
    correlation, weight = KERNELS[form]
    assert parallel_calls.count((correlation, 2)) == 12
    # a form whose partial sums are too large has none to share
    assert parallel_calls.count((weight, 2)) in ((3,) if form == "channels" else (0, 3))
    assert {name for name, _ in parallel_calls} <= {correlation, weight}


@needs_two
@compiled
@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_for_small_cases_of_many_kinds(form: str) -> None:
    with only(form), everything_in_parallel():
        for case in random_cases(4, 80, 20_000, form=form):
            arrays = normal(case)
            numbaconv.set_num_threads(1)
            one = run(numbaconv, case, arrays)
            numbaconv.set_num_threads(2)
            assert_same_bits(run(numbaconv, case, arrays), one, case)


DIGEST = """
import hashlib, sys
import numbaconv
from cases import run
from test_threads import LARGE, normal
for n in map(int, sys.argv[1:]):
    numbaconv.set_num_threads(n)
    digest = hashlib.sha256()
    for case in LARGE[:4]:
        for result in run(numbaconv, case, normal(case)):
            digest.update(result.tobytes())
    print(digest.hexdigest())
"""


@compiled
def test_the_same_bits_for_more_threads_than_cores_and_in_another_process() -> None:
    first = run_python("-c", DIGEST, "1", "2", "3", "5", "8", NUMBA_NUM_THREADS="8", timeout=WAIT)
    assert first.returncode == 0, first.stderr
    again = run_python("-c", DIGEST, "1", timeout=WAIT)
    digests = first.stdout.split() + again.stdout.split()
    assert len(digests) == 6
    assert len(set(digests)) == 1


@compiled
@pytest.mark.parametrize("case", LARGE[:3], ids=str)
def test_a_batch_is_computed_as_its_images_are(case: Case) -> None:
    # In the forward pass and the input gradient no sum runs over images.
    x, w, b, _, z = normal(case)
    whole = numbaconv.conv2d(x, w, b, **case.parameters)
    grad_input = numbaconv.conv2d_input(x.shape, w, z, **case.parameters)
    for n in range(len(x)):
        one = slice(n, n + 1)
        assert numbaconv.conv2d(x[one], w, b, **case.parameters).tobytes() == whole[one].tobytes()
        alone = numbaconv.conv2d_input(x[one].shape, w, z[one], **case.parameters)
        assert alone.tobytes() == grad_input[one].tobytes()


AS_PYTHON = """
import numpy as np
import numbaconv
from cases import assert_equal, everything_in_parallel, expected, only, run
from test_threads import large_case
numbaconv.set_num_threads(2)
numbaconv.warmup()
numbaconv.warmup()
case = large_case((2, 3, 6, 20), (5, 3, 3, 3), padding=1)
arrays = case.arrays()
for form in ("channels", "planes", "images"):
    with only(form), everything_in_parallel():
        for _ in range(2):
            assert_equal(run(numbaconv, case, arrays), expected(case, arrays), case)
print("well")
"""


def test_two_threads_where_kernels_run_as_python() -> None:
    # There is no threading layer to ask then, neither at the first call nor later.
    result = run_python("-c", AS_PYTHON, NUMBA_DISABLE_JIT="1", NUMBA_NUM_THREADS="2", timeout=WAIT)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["well"]


# --- many Python threads ----------------------------------------------------------------------------------------------


def call_from_eight_threads(rounds: int = 4) -> None:
    """Eight threads start at once, and each runs all the cases, in an order of its own."""
    data = [normal(case) for case in LARGE]
    numbaconv.set_num_threads(1)
    wanted = [run(numbaconv, case, arrays) for case, arrays in zip(LARGE, data, strict=True)]
    numbaconv.set_num_threads(min(2, SEVERAL))
    ready = threading.Barrier(8)

    def work(number: int) -> None:
        ready.wait(WAIT)
        for k in range(rounds):
            index = (number + k) % len(LARGE)
            assert_same_bits(run(numbaconv, LARGE[index], data[index]), wanted[index], LARGE[index])

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, number) for number in range(8)]:
            done.result(WAIT)


@compiled
def test_eight_python_threads_at_once() -> None:
    call_from_eight_threads()


EIGHT = """
import numba
from test_threads import call_from_eight_threads
call_from_eight_threads(2)
print(numba.threading_layer())
"""


def has_layer(layer: str) -> bool:
    try:
        __import__(f"numba.np.ufunc.{layer}pool")
    except ImportError:
        return False
    return True


@needs_two
@compiled
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_eight_python_threads_under_every_threading_layer(layer: str) -> None:
    if layer != "workqueue" and not has_layer(layer):
        pytest.skip("not installed")
    # Here the first parallel call of the process is already one of eight.
    result = run_python("-c", EIGHT, NUMBA_THREADING_LAYER=layer, timeout=WAIT)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == [layer]


@needs_two
@compiled
def test_the_setting_may_change_while_calls_run() -> None:
    data = [normal(case) for case in LARGE]
    wanted = [run(numbaconv, case, arrays) for case, arrays in zip(LARGE, data, strict=True)]
    stop = threading.Event()

    def change() -> int:
        changes = 0
        while not stop.is_set():
            numbaconv.set_num_threads(1 + changes % SEVERAL)
            changes += 1
        return changes

    def work(number: int) -> None:
        for k in range(6):
            index = (number + k) % len(LARGE)
            assert_same_bits(run(numbaconv, LARGE[index], data[index]), wanted[index], LARGE[index])

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        try:
            for done in [pool.submit(work, number) for number in range(3)]:
                done.result(WAIT)
        finally:
            stop.set()
        assert changing.result(WAIT) > 10


BESIDE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numba, numpy as np
{imports}
import numbaconv
from test_threads import call_from_eight_threads
{prepare}
stop = threading.Event()
def others():
    first, rounds = theirs(), 0
    while not stop.is_set():
        assert np.array_equal(theirs(), first)
        rounds += 1
    return rounds
with ThreadPoolExecutor(2) as pool:
    running = [pool.submit(others) for _ in range(2)]
    try:
        call_from_eight_threads(2)
    finally:
        stop.set()
    assert min(done.result({wait}) for done in running) > 0
{check}
print(numba.threading_layer())
"""
#: Libraries with pools of threads of their own: what is imported, what they compute, and what must still hold.
POOLS = {
    "torch": (
        "import torch",
        "x, w = torch.ones(8, 32, 32, 32), torch.ones(32, 32, 3, 3); count = torch.get_num_threads()\n"
        "theirs = lambda: torch.nn.functional.conv2d(x, w).numpy()",
        "assert torch.get_num_threads() == count",
    ),
    "sklearn": (
        "from sklearn.cluster import KMeans",
        "x = np.random.default_rng(0).integers(0, 9, (2000, 8)).astype(float)\n"
        "theirs = lambda: KMeans(4, n_init=1, random_state=0).fit(x).labels_",
        "",
    ),
}


@needs_two
@compiled
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
@pytest.mark.parametrize("library", POOLS)
def test_calls_beside_those_of_another_pool_of_threads(library: str, layer: str) -> None:
    pytest.importorskip(library)
    if layer != "workqueue" and not has_layer(layer):
        pytest.skip("not installed")
    imports, prepare, check = POOLS[library]
    code = BESIDE.format(imports=imports, prepare=prepare, check=check, wait=WAIT)
    result = run_python("-c", code, NUMBA_THREADING_LAYER=layer, timeout=WAIT)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == [layer]


WITHIN = """
import sys
import numba, numpy as np
import numbaconv
from test_threads import LARGE, normal

numbaconv.set_algorithm("direct")
case = LARGE[0]
x, w, b, *_ = normal(case)
call = lambda: numbaconv.conv2d(x, w, b, **case.parameters)
if sys.argv[1] == "after another":
    call()

@numba.njit(parallel=True)
def around(source):
    before, after = 0.0, 0.0
    for i in numba.prange(source.size):
        before += source[i]
    with numba.objmode(y="float32[:]"):
        y = call().reshape(-1)
    for i in numba.prange(source.size):
        after += source[i]
    return before, y, after

@numba.njit
def one():
    with numba.objmode(y="float32[:]"):
        y = call().reshape(-1)
    return y

@numba.njit(parallel=True)
def inside(count):
    results = np.zeros((count, size), np.float32)
    for i in numba.prange(count):
        results[i] = one()
    return results

size = call().size if sys.argv[1] == "after another" else 4 * 40 * 33 * 29
results = inside(6)  # on the threads of the loop
before, y, after = around(np.ones(100_000))  # between two loops
wanted = call().reshape(-1)
assert before == after == 100_000
assert y.tobytes() == wanted.tobytes()
assert all(result.tobytes() == wanted.tobytes() for result in results)
print(numba.threading_layer())
"""


@needs_two
@compiled
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
@pytest.mark.parametrize("when", ["first", "after another"])
def test_calls_within_a_parallel_function_of_the_user(layer: str, when: str) -> None:
    if layer != "workqueue" and not has_layer(layer):
        pytest.skip("not installed")
    result = run_python("-c", WITHIN, when, NUMBA_THREADING_LAYER=layer, timeout=WAIT)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == [layer]


def test_scratch_memory_is_each_threads_own() -> None:
    from numbaconv.memory import scratch

    dtype = np.dtype(np.float32)
    mine = scratch(dtype, 1000)
    assert mine.size >= 1000
    assert mine.ctypes.data % 64 == 0
    assert scratch(dtype, 10) is mine
    with ThreadPoolExecutor(1) as pool:
        others = pool.submit(scratch, dtype, 1000).result(WAIT)
    assert not np.shares_memory(mine, others)
    assert not np.shares_memory(mine, scratch(np.dtype(np.float64), 1000))
