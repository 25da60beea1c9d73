"""Convolutions to test with: geometries whose sizes matter to the kernels, arrays for them, and what must come out.

A case is made of choices, which either hypothesis makes (:func:`cases`, which shrinks what fails) or a seeded generator
(:func:`random_cases`, which needs no pytest around it).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import numba
import numpy as np
from hypothesis import strategies as st

import numbaconv
from numbaconv import calls, simd
from numbaconv import plan as planning
from numbaconv.geometry import Conv2dGeometry
from numbaconv.plan import channels, common, depthwise, images, plain, planes, winograd
from numbaconv.plan.axes import Correlation

T = TypeVar("T")
#: A whole number from the first to the second, chosen by somebody.
Choose = Callable[[int, int], int]

INTERPRETED = bool(numba.config.DISABLE_JIT)
#: Around the heights of the tiles: 14, 8 and 4, or 6, 4 and 2, as the CPU has it.
WIDTHS = (1, 2, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 28, 29)
DTYPES = (np.float16, np.float32, np.float64)


class Ordered:
    """Winograd's form of plan, always in the order of work that is named, unless there is only the other one."""

    def __init__(self, by_blocks: bool) -> None:
        self.by_blocks = by_blocks
        self.cost, self.weight_cost, self.pools = winograd.cost, winograd.weight_cost, winograd.pools

    def plan(self, work: Correlation) -> planning.Plan:
        with self._ordered():
            return winograd.plan(work)

    def weight_plan(self, work: Correlation) -> planning.Plan:
        with self._ordered():
            return winograd.weight_plan(work)

    def norms(self, work: Correlation) -> bool:
        with self._ordered():
            return winograd.norms(work)

    def sums(self, work: Correlation) -> bool:
        with self._ordered():
            return winograd.sums(work)

    @contextmanager
    def _ordered(self) -> Iterator[None]:
        """A weight gradient goes by blocks where they are split, and partial sums are not."""
        usual = winograd._parts

        def parts(work: Correlation, cut: winograd.Cut) -> tuple[int, int, int]:
            parts, splits, together = usual(work, cut)
            if self.by_blocks and cut.blocks > 1 and cut.strips == 1:
                return 1, max(2, splits), 1
            return parts, splits, splits if parts == 1 else together

        def by_blocks(work: Correlation, cut: winograd.Cut) -> bool:
            return self.by_blocks and cut.strips == 1 and not work.packed  # which has transformed them already

        order = mock.patch.object(winograd, "_by_blocks", by_blocks)
        with order, mock.patch.object(winograd, "_parts", parts):
            yield


#: The forms of plan that can be forced, and the choice between those whose sums are exact.
FORMS: dict[str, planning.Forms] = {
    "channels": (channels,),
    "planes": (planes,),
    "images": (images,),
    "depthwise": (depthwise,),
    "winograd by blocks": (Ordered(True),),  # type: ignore[dict-item]
    "winograd by tiles": (Ordered(False),),  # type: ignore[dict-item]
    "cheapest": planning.FORMS["direct"],
}
WINOGRAD = ("winograd by blocks", "winograd by tiles")
#: That of numbers that are not finite, which is not chosen for its cost, and has no scratch memory.
PLAIN: dict[str, planning.Forms] = {"plain": (plain,)}
#: The forms that compute any convolution, and those that make no rounding errors with whole numbers.
GENERAL = ("channels", "planes", "images", "plain", "cheapest")
EXACT = tuple(form for form in FORMS | PLAIN if form not in WINOGRAD)
#: Winograd's rounding errors, of the largest sum of absolute products.
BOUND = {np.dtype(np.float16): 1e-3, np.dtype(np.float32): 4e-6, np.dtype(np.float64): 1e-14}


@dataclass(frozen=True)
class Case:
    """The geometry of a convolution, its dtype, and how the padding is said."""

    geometry: Conv2dGeometry
    dtype: np.dtype
    same: bool = False

    def __str__(self) -> str:
        g = self.geometry
        return (
            f"{g.layout} {self.dtype} N{g.N} G{g.G} IC{g.IC} OC{g.OC} IH{g.IH} IW{g.IW} OH{g.OH} OW{g.OW} KH{g.KH} "
            f"KW{g.KW} SH{g.SH} SW{g.SW} PT{g.PT} PB{g.PB} PL{g.PL} PR{g.PR} DH{g.DH} DW{g.DW}"
        )

    __repr__ = __str__

    @property
    def parameters(self) -> dict[str, Any]:
        """What all functions take beside arrays."""
        g = self.geometry
        return {
            "stride": (g.SH, g.SW),
            "padding": "same" if self.same else ((g.PT, g.PB), (g.PL, g.PR)),
            "dilation": (g.DH, g.DW),
            "groups": g.G,
            "layout": g.layout,
        }

    @property
    def transposed_parameters(self) -> dict[str, Any]:
        """The same for ``conv_transpose2d`` from the output back to the input."""
        g = self.geometry
        axes = (g.IH, g.OH, g.KH, g.SH, g.DH, g.PT, g.PB), (g.IW, g.OW, g.KW, g.SW, g.DW, g.PL, g.PR)
        extra = tuple(
            image - ((output - 1) * stride - before - after + dilation * (kernel - 1) + 1)
            for image, output, kernel, stride, dilation, before, after in axes
        )
        return {**self.parameters, "padding": ((g.PT, g.PB), (g.PL, g.PR)), "output_padding": extra}

    def arrays(self, seed: int = 0) -> Arrays:
        """Whole numbers, so small that every sum of their products is exact, in whatever order it is taken."""
        g, rng = self.geometry, np.random.default_rng(seed)
        shapes = g.input_shape, g.weight_shape, (g.OC,), (g.IC,), g.output_shape
        return Arrays(*(rng.integers(-4, 5, shape).astype(self.dtype) for shape in shapes))


class Arrays(NamedTuple):
    """What goes into the passes of one case."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    #: The bias of the transposed convolution.
    c: np.ndarray
    z: np.ndarray


class Results(NamedTuple):
    """What comes out of them."""

    y: np.ndarray
    plain: np.ndarray
    dx: np.ndarray
    dw: np.ndarray
    db: np.ndarray
    transposed: np.ndarray


def run(module: Any, case: Case, arrays: Arrays) -> Results:
    """All passes of a case, computed by ``numbaconv`` or ``numbaconv.reference``."""
    x, w, b, c, z = arrays
    how = case.parameters
    dx, dw, db = module.conv2d_backward(z, x, w, **how)
    return Results(
        module.conv2d(x, w, b, **how),
        module.conv2d(x, w, **how),
        dx,
        dw,
        db,
        module.conv_transpose2d(z, w, c, **case.transposed_parameters),
    )


def expected(case: Case, arrays: Arrays) -> Results:
    """The same by NumPy, tap by tap: a second opinion that is fast enough for large cases."""
    g = case.geometry
    nchw = [_other(a, g.layout).astype(np.float64) if a.ndim == 4 else a.astype(np.float64) for a in arrays]
    x, w, b, c, z = nchw
    x, z = x.reshape(g.N, g.G, g.ICG, g.IH, g.IW), z.reshape(g.N, g.G, g.OCG, g.OH, g.OW)
    w = w.reshape(g.G, g.OCG, g.ICG, g.KH, g.KW)
    y, dx, dw = np.zeros_like(z), np.zeros_like(x), np.zeros_like(w)
    for kh in range(g.KH):
        oh, ih = _met(g.OH, g.IH, g.SH, kh * g.DH - g.PT)
        for kw in range(g.KW):
            ow, iw = _met(g.OW, g.IW, g.SW, kw * g.DW - g.PL)
            pixels, gradients, tap = x[..., ih[:, None], iw], z[..., oh[:, None], ow], w[..., kh, kw]
            y[..., oh[:, None], ow] += np.einsum("ngirc,goi->ngorc", pixels, tap)
            dx[..., ih[:, None], iw] += np.einsum("ngorc,goi->ngirc", gradients, tap)
            dw[..., kh, kw] = np.einsum("ngirc,ngorc->goi", pixels, gradients)

    def image(array: np.ndarray, channels: int) -> np.ndarray:
        """Groups and their channels made one again, in the case's layout."""
        array = array.reshape(array.shape[0], channels, *array.shape[-2:])
        return _rounded(array if g.layout == "NCHW" else np.moveaxis(array, 1, -1), case.dtype)

    return Results(
        image(y + b.reshape(g.G, g.OCG, 1, 1), g.OC),
        image(y, g.OC),
        image(dx, g.IC),
        image(dw.reshape(g.OC, g.ICG, g.KH, g.KW), g.ICG),
        _rounded(z.sum(axis=(0, 3, 4)).ravel(), case.dtype),
        image(dx + c.reshape(g.G, g.ICG, 1, 1), g.IC),
    )


def _other(array: np.ndarray, layout: str) -> np.ndarray:
    return array if layout == "NCHW" else np.moveaxis(array, -1, 1)


def _met(output: int, image: int, stride: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """The output pixels at which a tap is inside the image, and the pixels that it finds there."""
    o = np.arange(output)
    i = o * stride + offset
    inside = (i >= 0) & (i < image)
    return o[inside], i[inside]


def _rounded(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def assert_equal(got: Results, wanted: Results, case: Case) -> None:
    """Equality of all passes, element by element, and of their dtypes."""
    for name, a, b in zip(Results._fields, got, wanted, strict=True):
        assert a.dtype == b.dtype, f"{name} of {case}"
        np.testing.assert_array_equal(a, b, err_msg=f"{name} of {case}")


def assert_near(got: Results, wanted: Results, arrays: Arrays, case: Case) -> None:
    """The same within the rounding errors of Winograd's algorithm."""
    largest = expected(case, Arrays(*map(abs, arrays)))
    for name, a, b, most in zip(Results._fields, got, wanted, largest, strict=True):
        assert a.dtype == b.dtype, f"{name} of {case}"
        bound = BOUND[case.dtype] * float(most.max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=f"{name} of {case}")


def assert_right(form: str, got: Results, wanted: Results, arrays: Arrays, case: Case) -> None:
    """One or the other, as the form of plan allows."""
    if form in WINOGRAD:
        assert_near(got, wanted, arrays, case)
    else:
        assert_equal(got, wanted, case)


# --- geometries -------------------------------------------------------------------------------------------------------


class _Axis(NamedTuple):
    image: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int


class Kind(NamedTuple):
    """What the cases of a kind are chosen from; what stands there twice is chosen more often."""

    channels: Callable[[Choose, int, int], tuple[int, int, int]]
    columns: Sequence[int] = WIDTHS
    kernels: Sequence[int] = (3, 1, 2, 4, 5)
    strides: Sequence[int] = (1, 2, 3, 1, 2, 5)
    square: bool = False  # kernels are as high as wide
    dilations: Sequence[int] = (1, 1, 1, 2, 3)
    far: bool = True  # sometimes, taps are so far apart that most of them find nothing but padding


def make_case(
    choose: Choose, products: int, dtypes: Sequence[Any] = DTYPES, far: int = 1_000_000, form: str = "cheapest"
) -> Case:
    """A case of at most about ``products`` multiplications a pass, with gaps between taps of at most about ``far``.

    It is one that can be planned in the ``form`` that is named.
    """
    kind = KINDS.get(form, GENERAL_KIND)
    same = choose(0, 4) == 0
    rows = _axis(choose, kind, (1, 2, 3, 5, 8), same, far)
    across = kind._replace(kernels=(rows.kernel,)) if kind.square else kind
    columns = _axis(choose, across, kind.columns, same, far)
    layout, dtype = ("NCHW", "NHWC")[choose(0, 1)], np.dtype(_pick(choose, dtypes))
    shape = [axis.image for axis in (rows, columns)]
    parameters = {
        "stride": (rows.stride, columns.stride),
        "padding": "same" if same else ((rows.before, rows.after), (columns.before, columns.after)),
        "dilation": (rows.dilation, columns.dilation),
    }
    kernel = rows.kernel, columns.kernel
    OH, OW = numbaconv.conv2d_output_size(shape, kernel, **parameters)
    one = OH * OW * kernel[0] * kernel[1]
    N = choose(1, 1 + (one * 20 < products) + (one * 100 < products))
    lanes = simd.lanes(np.float32 if dtype == np.float16 else dtype)
    G, ICG, OCG = kind.channels(choose, max(1, products // (one * N)), lanes)
    input_shape, weight_shape = (N, G * ICG, *shape), (G * OCG, ICG, *kernel)
    if layout == "NHWC":
        input_shape, weight_shape = (N, *shape, G * ICG), (G * OCG, *kernel, ICG)
    geometry = Conv2dGeometry.forward(input_shape, weight_shape, **parameters, groups=G, layout=layout)
    return Case(geometry, dtype, same)


def _axis(choose: Choose, kind: Kind, sizes: Sequence[int], same: bool, far: int) -> _Axis:
    size, kernel, stride = _pick(choose, sizes), _pick(choose, kind.kernels), _pick(choose, kind.strides)
    dilation = _pick(choose, kind.dilations)
    if same:
        return _Axis(max(1, size * stride - choose(0, stride - 1)), kernel, stride, 0, 0, dilation)
    if kind.far and choose(0, 5) == 0:
        dilation = _pick(choose, (7, 40, far))
        reach = dilation * (kernel - 1)
        before = min(reach, choose(0, kernel - 1) * dilation + choose(0, 2))
        return _Axis(size, kernel, stride, before, reach - before + choose(0, 2), dilation)
    reach = dilation * (kernel - 1) + 1
    most = _pick(choose, (0, 1, reach - 1, reach + 2))
    before, after = choose(0, most), choose(0, most)
    if choose(0, 1):  # it is the output that has this size
        size = (size - 1) * stride + choose(0, stride - 1) + reach - before - after
    return _Axis(max(1, size, reach - before - after), kernel, stride, before, after, dilation)


def _channels(choose: Choose, most: int, lanes: int) -> tuple[int, int, int]:
    """Groups, input and output channels of each, of a product of at most ``most``: around the number of lanes."""
    counts = (1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1, 4 * lanes)
    kind = choose(0, 5)
    if kind == 0:
        options = _lanewise(lanes)
    elif kind == 1:  # depthwise with a multiplier, and the other way round
        options = [(G, *both) for G in (2, 3, lanes + 1) for both in ((1, 2), (2, 1), (1, 3), (1, lanes + 1))]
    elif kind == 2:  # groups
        options = [(G, ICG, OCG) for G in (2, 3) for ICG in counts for OCG in counts]
        options += [(lanes // 2 + 1, 4, 4), (lanes + 1, 2, 4), (lanes + 3, 4, 2)]  # more than a task's bundle
    else:
        options = [(1, ICG, OCG) for ICG in counts for OCG in counts]
    return _pick(choose, [option for option in options if option[0] * option[1] * option[2] <= most] or [(1, 1, 1)])


def _lanewise_channels(choose: Choose, most: int, lanes: int) -> tuple[int, int, int]:
    return _pick(choose, [option for option in _lanewise(lanes)[1:] if option[0] <= most] or [(2, 1, 1)])


def _lanewise(lanes: int) -> list[tuple[int, int, int]]:
    """Depthwise; more channels than the kernels take at once, too."""
    counts = (1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1, 4 * lanes)
    group = depthwise.GROUP * lanes
    return [(G, 1, 1) for G in (*counts, group, group + 1, 2 * group - lanes // 2)]


def _tiled_channels(choose: Choose, most: int, lanes: int) -> tuple[int, int, int]:
    """More output channels than a block or two have, too."""
    inputs = (1, 2, 3, lanes - 1, lanes, lanes + 1, 2 * lanes + 1)
    outputs = (1, 3, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1, 4 * lanes, 5 * lanes - 1)
    options = [(G, ICG, OCG) for G in (1, 1, 2) for ICG in inputs for OCG in outputs]
    return _pick(choose, [option for option in options if option[0] * option[1] * option[2] <= most] or [(1, 1, 1)])


GENERAL_KIND = Kind(_channels)
#: Wide enough for more tiles in a row than are transformed together.
_TILED = Kind(
    _tiled_channels,
    columns=(*WIDTHS, 31, 230, 300),
    kernels=(3, 3, 5),
    strides=(1,),
    square=True,
    dilations=(1, 1, 1, 1, 1, 2, 3, 4),
    far=False,
)
#: What only some cases can be planned in.
KINDS = {
    # The windows of taps that have loops of their own, what lies between them, and what is more than one window. With
    # strides beyond the kernel there are holes that no tap reaches.
    "depthwise": Kind(
        _lanewise_channels,
        kernels=(3, 3, 5, 7, 1, 2, 4, 6, 8, 9),
        strides=(1, 1, 1, 2, 2, 3, 4, 5),
        dilations=(1, 1, 2, 3),
    ),
    **dict.fromkeys(WINOGRAD, _TILED),
}


def _pick(choose: Choose, options: Sequence[T]) -> T:
    return options[choose(0, len(options) - 1)]


@st.composite
def cases(
    draw: st.DrawFn, products: int, dtypes: Sequence[Any] = DTYPES, far: int = 1_000_000, form: str = "cheapest"
) -> Case:
    """Cases that hypothesis chooses, and shrinks."""
    return make_case(lambda first, last: draw(st.integers(first, last)), products, dtypes, far, form)


def random_cases(
    seed: int,
    count: int,
    products: int,
    dtypes: Sequence[Any] = DTYPES,
    far: int = 1_000_000,
    form: str = "cheapest",
) -> Iterator[Case]:
    """``count`` cases, the same for the same seed."""
    choose = random.Random(seed).randint
    return (make_case(choose, products, dtypes, far, form) for _ in range(count))


# --- arrays -----------------------------------------------------------------------------------------------------------


def _unaligned(array: np.ndarray) -> np.ndarray:
    view = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.copy()
    view.flags.writeable = False
    return view


def _ordered(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The same array, in memory with its axes in this order."""
    return array.transpose(order).copy().transpose(np.argsort(order)) if array.ndim == 4 else array.copy()


#: The same values in memory of other shapes; each gives an array with memory of its own.
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.copy,
    "channels last": lambda a: _ordered(a, (0, 2, 3, 1)),
    "channels first": lambda a: _ordered(a, (0, 3, 1, 2)),
    "Fortran": lambda a: a.copy(order="F"),
    "reversed": lambda a: np.flip(np.flip(a).copy()),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "part of more": lambda a: np.pad(a, 1)[(slice(1, -1),) * a.ndim],
    "unaligned": _unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": _read_only,
}


# --- other plans, other processes -------------------------------------------------------------------------------------


@contextmanager
def everything_in_parallel() -> Iterator[None]:
    """No convolution is too small to be cut into bands and spread over threads."""
    before = common.SERIAL_FLOPS, common.TEAM_FLOPS
    common.SERIAL_FLOPS = common.TEAM_FLOPS = 0
    forget_plans()
    try:
        yield
    finally:
        common.SERIAL_FLOPS, common.TEAM_FLOPS = before
        forget_plans()


@contextmanager
def only(form: str) -> Iterator[None]:
    """Every pass is planned in this form, one of ``FORMS`` or the plain one, whatever it costs."""
    before, forms = dict(planning.FORMS), (FORMS | PLAIN)[form]
    planning.FORMS.update(auto=forms, direct=forms)
    calls.forget()
    try:
        yield
    finally:
        planning.FORMS.update(before)
        calls.forget()


def forget_plans() -> None:
    for name in planning.__all__:
        if name.endswith(("_plan", "_plans")):
            getattr(planning, name).cache_clear()
    calls.forget()


def run_python(*arguments: str, timeout: float = 300, **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with this folder and the package importable and ``variables`` set, or not set."""
    here = Path(__file__).parent
    paths = [str(here), str(Path(numbaconv.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    changed = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
    environment = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
