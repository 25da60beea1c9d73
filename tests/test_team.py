"""A team of threads goes through calls in order, whoever of it comes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from cases import run_python
from test_threads import SEVERAL, WAIT, compiled, has_layer, needs_two

from numbaconv.jit import kernel
from numbaconv.recording import Program

pytestmark = compiled


@kernel(stages=2)
def chain(a, b, stage, thread, threads):
    """Every share of a stage depends on all shares of the stage before."""
    to, source = (a, b) if stage == 0 else (b, a)
    total = 0
    for k in range(len(source)):
        total += (k + 1) * source[k]
    for _ in range(thread * 50):  # some shares take longer
        total = (total * 31 + 7) % 1_000_003
    to[thread] = (total + thread) % 1_000_003


def in_order(counts: list[int], size: int) -> list[int]:
    """What calls of so many shares each give."""
    a, b = [0] * size, [0] * size
    for count in counts:
        for stage in range(2):
            to, source = (a, b) if stage == 0 else (b, a)
            before = list(source)
            for thread in range(count):
                total = sum((k + 1) * value for k, value in enumerate(before))
                for _ in range(thread * 50):
                    total = (total * 31 + 7) % 1_000_003
                to[thread] = (total + thread) % 1_000_003
    return a + b


def check(most: int = SEVERAL, calls: int = 400) -> None:
    """Play calls of up to ``most`` shares, three times, and compare with what they give in order."""
    rng = np.random.default_rng(0)
    counts = [most, *(int(count) for count in rng.integers(1, most + 1, calls))]
    a, b = np.zeros(most, np.int64), np.zeros(most, np.int64)
    note, program = chain.noted((a, b)), Program()
    for count in counts:
        program.append(note, 0, 2, count)
    wanted = in_order(counts, most)
    for _ in range(3):
        a[:], b[:] = 0, 0
        program()
        assert a.tolist() + b.tolist() == wanted


@needs_two
def test_every_share_sees_all_of_the_stage_before() -> None:
    check()


@needs_two
def test_one_thread_may_play_all_parts() -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        check(calls=40)
    finally:
        numba.set_num_threads(before)


@needs_two
@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_more_threads_than_cores_under_every_threading_layer(layer: str) -> None:
    if layer != "workqueue" and not has_layer(layer):
        pytest.skip("not installed")
    result: Any = run_python(
        "-c", "from test_team import check; check(8)", NUMBA_NUM_THREADS="8", NUMBA_THREADING_LAYER=layer, timeout=WAIT
    )
    assert result.returncode == 0, result.stderr[-4000:]


@needs_two
def test_a_single_launch_goes_through_its_stages_together() -> None:
    for count in range(1, SEVERAL + 1):
        a, b = np.zeros(SEVERAL, np.int64), np.zeros(SEVERAL, np.int64)
        for _ in range(50):
            chain.parallel(range(2), count, a, b)
        assert a.tolist() + b.tolist() == in_order([count] * 50, SEVERAL)


FIRST = """
import numpy as np
from numbaconv.recording import Recorder, Reserved, _Run
from numbaconv.threads import launch, watched
from test_team import chain
recorder, arrays = Recorder(Reserved()), (np.zeros(2, np.int64), np.zeros(2, np.int64))
with watched(recorder):
    launch(chain, 1, *arrays)
    assert not recorder.shared
    launch(chain, 2, *arrays)
    assert recorder.shared
assert [type(run) for run in recorder.program._runs] == [_Run]
"""


@needs_two
def test_the_first_launch_on_threads_is_played_by_a_team_too() -> None:
    if not has_layer("omp"):
        pytest.skip("not installed")
    # Which layer is in use, and whether it may be entered without Python, is known only after it.
    result = run_python("-c", FIRST, NUMBA_THREADING_LAYER="omp", timeout=WAIT)
    assert result.returncode == 0, result.stderr[-4000:]
