"""Processes that are made from a process that computes: by fork, spawn and forkserver, and in pools of all kinds.

Every wait has an end, so that what hangs fails.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest
from cases import run, run_python
from test_threads import LARGE, SEVERAL, WAIT, has_layer, needs_two, normal

import numbaconv

pytestmark = pytest.mark.compiled
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = numbaconv.get_num_threads()
    yield
    numbaconv.set_num_threads(before)


def digest_of_large(_: Any = None) -> str:
    """What every process must compute alike."""
    import hashlib

    numbaconv.set_algorithm("direct")  # a new process does not know what the tests of this one said
    digest = hashlib.sha256()
    for case in LARGE[:2]:
        for result in run(numbaconv, case, normal(case)):
            digest.update(result.tobytes())
    return digest.hexdigest()


def send_digest(to: Any) -> None:
    to.send(digest_of_large())


def send_digest_from_a_thread(to: Any) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(digest_of_large, range(2))
    to.send(first if first == second else f"{first} and {second}")


def send_digest_of_a_child(to: Any) -> None:
    """A child of a child, made by fork, too."""
    to.send(received(multiprocessing.get_context("fork"), send_digest))


def received(context: Any, target: Callable[[Any], None]) -> str:
    """What ``target`` sends from a process of its own."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(there,))
    process.start()
    there.close()
    try:
        if not here.poll(WAIT):
            raise AssertionError("the child hangs")
        return here.recv()
    except EOFError:
        process.join(WAIT)
        raise AssertionError(f"the child ended with exit code {process.exitcode}") from None
    finally:
        process.join(5)
        process.kill()
        process.join(WAIT)


def start_methods() -> list[str]:
    return multiprocessing.get_all_start_methods()


@pytest.fixture
def parents_digest() -> str:
    """Computed in parallel, so that the process has all that a child may not inherit."""
    numbaconv.set_num_threads(min(2, SEVERAL))
    return digest_of_large()


@pytest.mark.parametrize("method", start_methods())
def test_a_child_made_after_a_parallel_call(method: str, parents_digest: str) -> None:
    context = multiprocessing.get_context(method)
    assert received(context, send_digest) == parents_digest
    assert received(context, send_digest_from_a_thread) == parents_digest
    assert digest_of_large() == parents_digest  # the parent goes on in parallel


@needs_fork
def test_a_child_of_a_child(parents_digest: str) -> None:
    assert received(multiprocessing.get_context("fork"), send_digest_of_a_child) == parents_digest


@pytest.mark.parametrize("method", start_methods())
def test_a_pool_of_processes(method: str, parents_digest: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert set(pool.map_async(digest_of_large, range(4)).get(WAIT)) == {parents_digest}


@pytest.mark.parametrize("method", start_methods())
def test_an_executor_of_processes(method: str, parents_digest: str) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert set(pool.map(digest_of_large, range(4), timeout=WAIT)) == {parents_digest}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_joblib(backend: str, parents_digest: str) -> None:
    joblib = pytest.importorskip("joblib")
    digests = joblib.Parallel(2, backend=backend, timeout=WAIT)(joblib.delayed(digest_of_large)(i) for i in range(4))
    assert set(digests) == {parents_digest}


@needs_fork
def test_a_child_made_in_the_middle_of_other_threads_calls(parents_digest: str) -> None:
    # Another thread may hold any lock of the library at the moment of the fork.
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            digest_of_large()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(5):
            assert received(multiprocessing.get_context("fork"), send_digest) == parents_digest
    finally:
        stop.set()
        for worker in workers:
            worker.join(WAIT)


FORK = """
import os, signal, sys
import numpy as np
import numba
{before}
import numbaconv
from test_processes import digest_of_large
{after}
child = os.fork()
if child == 0:
    signal.alarm(60)
    digest = digest_of_large()
    print(digest, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
print(digest_of_large())
"""
#: What Python code a process may have run before it makes a child.
OTHERS_PARALLEL = """
@numba.njit(parallel=True)
def total(x):
    sum = 0.0
    for i in numba.prange(x.size):
        sum += x[i]
    return sum
total(np.ones(100_000))
"""
#: OpenMP's threads are the process's: torch may have started them before.
TORCHS = """
import torch
torch.nn.functional.conv2d(torch.ones(8, 32, 64, 64), torch.ones(32, 32, 3, 3))
"""
FORKS = [
    ("omp", "no parallel call", "", ""),
    ("omp", "a parallel call", "", "digest_of_large()"),
    ("omp", "only serial calls", "", "numbaconv.set_num_threads(1); digest_of_large()"),
    ("omp", "warmup", "", "numbaconv.warmup([np.float32])"),
    ("omp", "somebody else's parallel function", OTHERS_PARALLEL, ""),
    ("omp", "a convolution by torch", TORCHS, ""),
    ("workqueue", "a parallel call", "", "digest_of_large()"),
    ("workqueue", "somebody else's parallel function", OTHERS_PARALLEL, ""),
    ("tbb", "a parallel call", "", "digest_of_large()"),
    ("tbb", "somebody else's parallel function", OTHERS_PARALLEL, ""),
]


@needs_fork
@needs_two
@pytest.mark.parametrize(("layer", "name", "before", "after"), FORKS, ids=[f"{f[1]}, {f[0]}" for f in FORKS])
def test_a_fork_after(layer: str, name: str, before: str, after: str) -> None:
    if layer != "workqueue" and not has_layer(layer):
        pytest.skip("not installed")
    if before == TORCHS:
        pytest.importorskip("torch")
    code = FORK.format(before=before, after=after)
    result = run_python("-c", code, NUMBA_THREADING_LAYER=layer, timeout=WAIT)
    assert result.returncode == 0, result.stderr
    childs, status, parents = ["", "", "", *result.stdout.split()][-3:]
    assert status == "0", f"after {name} the child ended with {status}: {result.stderr}"
    assert childs == parents


COMPILING = """
import os, signal, threading, time
import numpy as np
import numbaconv
from numbaconv import cache

z = np.ones((2, 3, 8, 8), np.float32)
def sums():
    return numbaconv.conv2d_backward(z, z, np.ones((3, 3, 1, 1), np.float32), output_mask=(False, False, True))[2]

compiling = threading.Event()
def tell(kernel, seconds):  # called in the middle of a compilation
    compiling.set()
    time.sleep(0.5)
cache.listener = tell
thread = threading.Thread(target=sums)
thread.start()
compiling.wait(60)
cache.listener = None
child = os.fork()
if child == 0:
    signal.alarm(60)
    z = z.astype(np.float64)
    print(sums().tolist(), flush=True)
    os._exit(0)
thread.join(60)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_fork_while_another_thread_compiles() -> None:
    result = run_python("-c", COMPILING, timeout=WAIT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[128.0, 128.0, 128.0]", "0"]
