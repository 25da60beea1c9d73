"""The public suite on every library that is installed, in all passes and both layouts: ``pytest benchmarks``.

One group a cell, so that libraries stand beside each other; ``--benchmark-save`` and ``--benchmark-compare`` record and
compare runs, ``-k`` chooses cells: ``pytest benchmarks -k "numbaconv and resnet20 and forward and NHWC"``.

All libraries share this process, with the threads that numbaconv has, so this is for following one's own kernels.
Whoever wants to know which library is faster is better served by ``numbaconv compare``, which keeps them apart and lets
them take turns.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest

import numbaconv
from numbaconv.parameters import Layout
from numbaconv.study.layers import PUBLIC, Layer
from numbaconv.study.peers import LAYOUTS, PEERS, WORKS, Arrays, Peer
from numbaconv.study.results import OURS
from numbaconv.study.worker import difference

INSTALLED = [name for name, peer in PEERS.items() if not peer.missing()]
#: Seconds of a round, and how many there are; fewer where a single call takes longer.
SECONDS, ROUNDS = 0.03, 7


@cache
def library_of(name: str) -> Peer:
    """A library, set up once."""
    return PEERS[name](numbaconv.get_num_threads())


@cache
def arrays_of(descriptor: str, layout: Layout) -> Arrays:
    """What all libraries compute with."""
    return Arrays.random(Layer.parse(descriptor), layout)


@pytest.mark.parametrize("library", INSTALLED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("name", PUBLIC)
def test_layer(benchmark: Any, name: str, work: str, layout: Layout, library: str) -> None:
    peer, layer = PEERS[library], Layer.parse(PUBLIC[name])
    flops = layer.geometry().flops
    if layout not in peer.layouts or work not in peer.works or flops > peer.most_flop:
        pytest.skip(f"{library} does not serve this")
    arrays = arrays_of(PUBLIC[name], layout)
    call = library_of(library).prepare(layer, layout, arrays)[work]
    ours = library_of(OURS).prepare(layer, layout, arrays)[work]
    _, wrong = difference(library_of(library).result(call(), work, layout), ours())  # compiles before anything is timed
    assert not wrong
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    benchmark.group = f"{name} {work} {layout}"
    benchmark.extra_info.update(gflop=flops / 1e9, threads=numbaconv.get_num_threads())
    rounds = ROUNDS if seconds < 10 * SECONDS else 2
    benchmark.pedantic(call, rounds=rounds, iterations=max(1, round(SECONDS / seconds)), warmup_rounds=1)
