"""Peers that break the rules of a speed study, each in its own way, and one that keeps them."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from numbaconv.parameters import Layout
from numbaconv.study import peers
from numbaconv.study.baselines import Im2col
from numbaconv.study.layers import Layer
from numbaconv.study.peers import Arrays


class Fake(peers.Peer):
    """NumPy's forward pass, and nothing but that."""

    module = "numpy"
    works = ("forward",)
    layouts = ("NCHW",)

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        baseline = Im2col(layer.geometry(layout))
        return {"forward": lambda: self.spoil(layer, baseline.forward(arrays.input, arrays.weight))}

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        return output


class Honest(Fake):
    name = "honest"


class Greedy(Fake):
    """Keeps many threads at work, whatever it was granted."""

    name = "greedy"

    def start(self) -> None:
        self.pool = ThreadPoolExecutor(16)
        self.data = bytes(1 << 20)

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        list(self.pool.map(lambda _: hashlib.sha256(self.data).digest(), range(32)))  # lets go of Python's lock
        return output


class Escaping(Greedy):
    """The same, on all cores instead of those that it was held to."""

    name = "escaping"

    def start(self) -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        super().start()


class Boasting(Fake):
    """Says itself that it uses too many."""

    name = "boasting"

    def says(self) -> int:
        return self.threads + 1


class Wrong(Fake):
    name = "wrong"

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        return output * np.float32(1.01)


class Nan(Fake):
    name = "nan"

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        return output * np.float32("nan")


class Misshapen(Fake):
    name = "misshapen"

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        return output[..., 1:]


class Absent(Fake):
    name = "absent"
    module = "no_such_library"


class Broken(Fake):
    """Installed, but of no use."""

    name = "broken"

    def start(self) -> None:
        print("what a library prints is not taken for an answer")
        raise OSError("libbroken.so: cannot open shared object file")


class Picky(Fake):
    """Cannot run layers with a stride."""

    name = "picky"

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        if layer.stride != (1, 1):
            raise NotImplementedError("strides are\nnot supported")
        return output


class Crashing(Fake):
    """Its process ends at layers with a stride."""

    name = "crashing"

    def spoil(self, layer: Layer, output: np.ndarray) -> np.ndarray:
        if layer.stride != (1, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return output
