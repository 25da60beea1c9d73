"""What a peer is: a library that convolutions can be timed on."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module, metadata, util
from typing import Any, ClassVar, NamedTuple

import numpy as np

from numbaconv.parameters import Layout
from numbaconv.study.layers import Layer

#: What is timed of a layer: the output, the gradient of the input, the gradient of the weight.
WORKS = ("forward", "grad_input", "grad_weight")
LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")


class Arrays(NamedTuple):
    """What a layer computes with, float32, in the layout of the cell; the arrays are never written."""

    input: np.ndarray
    weight: np.ndarray
    grad_output: np.ndarray

    @classmethod
    def random(cls, layer: Layer, layout: Layout) -> Arrays:
        """Standard normal numbers, so none of them denormal; the same ones in both layouts."""
        g = layer.geometry()
        rng = np.random.default_rng(14)
        arrays = (rng.standard_normal(shape, np.float32) for shape in (g.input_shape, g.weight_shape, g.output_shape))
        if layout == "NHWC":
            arrays = (np.ascontiguousarray(array.transpose(0, 2, 3, 1)) for array in arrays)
        return cls(*arrays)


class Peer:
    """A library, in a process of its own, with a number of threads that it has to keep to.

    To add one, write a subclass with a name, the module that it imports and :meth:`prepare`, and list it in
    ``peers.PEERS`` (or give ``numbaconv compare`` its place: ``--peers package.module:Class``). Class attributes and
    :meth:`missing` are asked in a process that does not import the library.
    """

    #: How it is called in tables and on the command line.
    name: ClassVar[str]
    #: What is imported, and what is needed beside it.
    module: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    #: What it is able to do.
    works: ClassVar[tuple[str, ...]] = WORKS
    layouts: ClassVar[tuple[Layout, ...]] = LAYOUTS
    #: Larger layers are left out, for they would take all day.
    most_flop: ClassVar[float] = math.inf

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.library: Any = import_module(self.module)
        self.start()

    @classmethod
    def missing(cls) -> str:
        """Why it can't take part; nothing if it can."""
        lost = [name for name in (cls.module, *cls.needs) if util.find_spec(name.partition(".")[0]) is None]
        return f"not installed: {', '.join(lost)}" if lost else ""

    @staticmethod
    def environment(threads: int) -> dict[str, str]:
        """Environment variables of its process, beside the usual ones that say how many threads there are."""
        return {}

    def start(self) -> None:
        """Tell the library how many threads it may use."""

    def says(self) -> int:
        """How many threads the library says that it uses; 0 where it can't be asked."""
        return 0

    def version(self) -> str:
        """The version of the library."""
        try:
            return metadata.version(self.module)
        except metadata.PackageNotFoundError:
            return str(getattr(self.library, "__version__", "unknown"))

    def prepare(self, layer: Layer, layout: Layout, arrays: Arrays) -> dict[str, Callable[[], Any]]:
        """What to call for each pass.

        A call returns when the result is there. What a program would do once and for all is done here: converting
        arrays to the library's own, building a model. ``arrays`` stay where they are for as long as there are calls.
        An exception, here or in a call, is a failed cell.
        """
        raise NotImplementedError

    def result(self, value: Any, work: str, layout: Layout) -> np.ndarray:
        """What a call returned as a NumPy array in the cell's layout, to be compared with ours; it is not timed."""
        return np.asarray(value)


def parameters(layer: Layer) -> dict[str, Any]:
    """Stride, padding, dilation and groups by the names that numbaconv and PyTorch call them."""
    return {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
