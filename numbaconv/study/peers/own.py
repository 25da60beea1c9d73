"""numbaconv itself, and three baselines that show where its speed comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

import numbaconv
from numbaconv import reference
from numbaconv.geometry import Algorithm
from numbaconv.parameters import Layout
from numbaconv.study.layers import Layer
from numbaconv.study.peers.base import Arrays, Peer, parameters


class Numbaconv(Peer):
    """The public functions, as anybody calls them."""

    name = "numbaconv"
    module = "numbaconv"
    #: Which kernels its calls may use.
    algorithm: ClassVar[Algorithm] = "auto"

    def start(self) -> None:
        numbaconv.set_num_threads(self.threads)

    def says(self) -> int:
        return numbaconv.get_num_threads()

    def version(self) -> str:
        return numbaconv.__version__

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        x, w, dy = arrays
        how = {**parameters(layer), "layout": layout, "algorithm": self.algorithm}
        return {
            "forward": lambda: numbaconv.conv2d(x, w, **how),
            "grad_input": lambda: numbaconv.conv2d_input(x.shape, w, dy, **how),
            "grad_weight": lambda: numbaconv.conv2d_weight(x, w.shape, dy, **how),
        }


class NumbaconvDirect(Numbaconv):
    """The same with direct kernels only."""

    algorithm = "direct"


class NumbaconvWinograd(Numbaconv):
    """The same with Winograd's algorithm only."""

    algorithm = "winograd"


class Im2col(Peer):
    """Patches unfolded into a matrix, and NumPy's matrix product: what tutorials teach."""

    name = "im2col"
    module = "numpy"

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        from numbaconv.study import baselines

        x, w, dy = arrays
        baseline = baselines.Im2col(layer.geometry(layout))
        return {
            "forward": lambda: baseline.forward(x, w),
            "grad_input": lambda: baseline.grad_input(w, dy),
            "grad_weight": lambda: baseline.grad_weight(x, dy),
        }


class Loops(Peer):
    """Loops as they are first written, under ``@njit(parallel=True, fastmath=True)``: Numba without a register tile."""

    name = "loops"
    module = "numba"
    layouts = ("NCHW",)

    def start(self) -> None:
        self.library.set_num_threads(self.threads)

    def says(self) -> int:
        return int(self.library.get_num_threads())

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        from numbaconv.study.baselines import Loops

        x, w, dy = arrays
        baseline = Loops(layer.geometry())
        return {
            "forward": lambda: baseline.forward(x, w),
            "grad_input": lambda: baseline.grad_input(w, dy),
            "grad_weight": lambda: baseline.grad_weight(x, dy),
        }


class Reference(Peer):
    """The mirror in plain Python, on one thread whatever is allowed."""

    name = "reference"
    module = "numbaconv.reference"
    most_flop = 2e6

    def says(self) -> int:
        return 1

    def version(self) -> str:
        return f"{numbaconv.__version__}, plain Python"

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        x, w, dy = arrays
        how = {**parameters(layer), "layout": layout}
        return {
            "forward": lambda: reference.conv2d(x, w, **how),
            "grad_input": lambda: reference.conv2d_input(x.shape, w, dy, **how),
            "grad_weight": lambda: reference.conv2d_weight(x, w.shape, dy, **how),
        }

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        return np.asarray(value, np.float32)
