"""Memory: what does not fit is refused before anything is written, what is beyond 2**31 elements is found, and nothing
is kept that nobody needs.
"""

from __future__ import annotations

import gc
import mmap
import os
import random
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FORMS, PLAIN, everything_in_parallel, only, random_cases, run_python

import numbaconv
from numbaconv import memory, nn, reference
from numbaconv.arrays import available_bytes
from numbaconv.nn import models

LINUX = sys.platform == "linux"
FORCED = [form for form in FORMS if form != "cheapest"]
ONE = np.ones((1, 1, 1, 1), np.float32)
GIB = 1 << 30


# --- what does not fit ------------------------------------------------------------------------------------------------

#: Requests for results of 16 TiB and more, by their arguments: no array that goes in is large.
TOO_LARGE: list[tuple[str, Callable[[Any], Any], str]] = [
    (
        "forward",
        lambda face: face.conv2d(ONE, ONE, padding=2**20),
        r"\(1, 1, 2097153, 2097153\) and dtype float32 would take 17,592,202,821,636 bytes",
    ),
    (
        "input gradient",
        lambda face: face.conv2d_input((1, 1, 2**21, 2**21), ONE, ONE, stride=2**21),
        r"\(1, 1, 2097152, 2097152\) and dtype float32 would take 17,592,186,044,416 bytes",
    ),
    (
        "weight gradient",
        lambda face: face.conv2d_weight(ONE, (1, 1, 2**21, 2**21), ONE, padding=((2**21 - 1, 0), (2**21 - 1, 0))),
        r"\(1, 1, 2097152, 2097152\) and dtype float32 would take",
    ),
    (
        "transposed",
        lambda face: face.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)), stride=2**21),
        r"\(1, 1, 2097153, 2097153\) and dtype float64 would take",
    ),
    (
        "NHWC",
        lambda face: face.conv2d(ONE, ONE, padding=2**20, layout="NHWC"),
        r"\(1, 2097153, 2097153, 1\) and dtype float32 would take",
    ),
]


@pytest.mark.parametrize("face", [numbaconv, reference], ids=["compiled", "reference"])
@pytest.mark.parametrize(("call", "message"), [row[1:] for row in TOO_LARGE], ids=[row[0] for row in TOO_LARGE])
def test_a_result_that_cannot_be_held_is_refused_with_its_size(call: Any, message: str, face: Any) -> None:
    with pytest.raises((MemoryError, ValueError), match=message):
        call(face)


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """There is no memory left."""
    monkeypatch.setattr("numbaconv.arrays.LARGE", 0)
    monkeypatch.setattr("numbaconv.arrays.available_bytes", lambda: 0)
    memory._kept.__dict__.clear()
    yield
    memory._kept.__dict__.clear()


#: What Linux writes for a process in a container: the files, and what it can still have.
CONTAINERS: dict[str, tuple[dict[str, str], int]] = {
    "none": ({}, 7 * 1024),
    "version 2": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": "9000\n",
            "sys/fs/cgroup/a/memory.current": "6000\n",
            "sys/fs/cgroup/a/memory.stat": "anon 5000\ninactive_file 500\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "1000\n",
            "sys/fs/cgroup/a/b/memory.stat": "inactive_file 0\n",
        },
        3500,
    ),
    "version 2, seen from inside": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "5000\n",
            "sys/fs/cgroup/memory.current": "6000\n",
            "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
        },
        0,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpu,memory:/a\n1:name=systemd:/x:y\n0::/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
            "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "8000\n",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "7000\n",
            "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
        },
        3000,
    ),
    "files of another form": ({"proc/self/cgroup": "x\n", "proc/meminfo": "MemAvailable\n"}, sys.maxsize),
}


@pytest.mark.parametrize(("files", "left"), CONTAINERS.values(), ids=CONTAINERS.keys())
def test_what_the_machine_and_the_container_have_left(files: dict[str, str], left: int, tmp_path: Path) -> None:
    for name, text in ({"proc/meminfo": "MemTotal: 99 kB\nMemAvailable: 5 kB\nSwapFree: 2 kB\n"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert available_bytes(f"{tmp_path}/") == left


@pytest.mark.usefixtures("poor")
@pytest.mark.parametrize("form", FORCED)
def test_nothing_is_written_where_there_is_no_room_for_scratch_memory(form: str) -> None:
    groups = 16 if form == "depthwise" else 1
    x, w = np.ones((1, 16, 4, 4), np.float32), np.ones((16, 16 // groups, 3, 3), np.float32)
    # Strides of 7 leave pixels that no tap reaches, which are filled before the kernel runs. Winograd's has none.
    stride = 1 if "winograd" in form else 7
    z = np.ones((1, 16, *numbaconv.conv2d_output_size(4, 3, stride, 1)), np.float32)
    how: dict[str, Any] = {"padding": 1, "stride": stride, "groups": groups}
    with only(form):
        for call, shape in (
            (lambda out: numbaconv.conv2d(x, w, **how, out=out), z.shape),
            (lambda out: numbaconv.conv2d_input(x.shape, w, z, **how, out=out), x.shape),
            (lambda out: numbaconv.conv2d_weight(x, w.shape, z, **how, out=out), w.shape),
        ):
            out = np.full(shape, 7, np.float32)
            with pytest.raises(MemoryError, match=r"scratch memory of shape \(\d+,\) and dtype float32 would take"):
                call(out)
            assert (out == 7).all()


@pytest.mark.usefixtures("poor")
def test_nothing_is_written_where_there_is_no_room_for_copies() -> None:
    x, w = np.ones((1, 16, 8, 8), np.float32), np.ones((1, 16, 1, 1), np.float32)
    out = np.full((1, 1, 8, 8), 7, np.float32)
    with pytest.raises(MemoryError, match=r"a contiguous copy of an argument of shape \(1, 16, 8, 8\)"):
        numbaconv.conv2d(x[..., ::-1], w, out=out)
    assert (out == 7).all()
    with pytest.raises(MemoryError, match=r"the result of shape \(1, 16, 8, 8\) and dtype float32"):
        numbaconv.conv2d_input(x.shape, w, np.ones((1, 1, 8, 8), np.float32))
    strided = np.full((1, 16, 8, 16), 7, np.float32)[..., ::2]
    with pytest.raises(MemoryError, match=r"the result, contiguous, of shape \(1, 16, 8, 8\)"):
        numbaconv.conv2d_input(x.shape, w, np.ones((1, 1, 8, 8), np.float32), out=strided)
    assert (strided == 7).all()


LIMITED = """
import resource, numpy as np, numbaconv
x, w = np.ones((1, 16, 64, 64), np.float32), np.ones((16, 16, 3, 3), np.float32)
numbaconv.conv2d(x, w)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    numbaconv.conv2d(x, w, padding=1000)
except MemoryError as error:
    print(error)
numbaconv.conv2d(x, w)
print("goes on")
"""


@pytest.mark.compiled
@pytest.mark.skipif(not LINUX, reason="needs /proc and a limit of memory")
def test_a_process_whose_memory_is_limited_goes_on() -> None:
    result = run_python("-c", LIMITED)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("the result of shape (1, 16, 2062, 2062) and dtype float32 would take 272,118,016 bytes")
    assert second == "goes on"


def test_what_is_left_is_asked_of_the_system() -> None:
    if LINUX:
        assert 0 < available_bytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") + (1 << 50)
    else:
        assert available_bytes() > 0


# --- beyond 2**31 elements --------------------------------------------------------------------------------------------

#: More than 2**31 pixels.
H, W = 65_536, 32_776
assert H * W > 2**31


def sparse(shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros, of which only the pages take memory that are written to."""
    size = int(np.prod(shape, dtype=object)) * 4
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return np.frombuffer(mmap.mmap(-1, size, flags), np.float32).reshape(shape)


far = pytest.mark.skipif(
    not LINUX or sys.maxsize < 2**40 or available_bytes() < 2 * GIB, reason="needs sparse memory of 9 GiB, and 2 GiB"
)
each_general = pytest.mark.parametrize("form", ["channels", "planes", *PLAIN])


@pytest.mark.slow
@far
@pytest.mark.compiled
@each_general
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pixels_beyond_2_to_the_31(layout: Any, form: str) -> None:
    image = (1, 1, H, W) if layout == "NCHW" else (1, H, W, 1)
    x = sparse(image)
    x.reshape(-1)[-1], x.reshape(-1)[0] = 3, 5
    w = np.full((1, 1, 1, 1), 2, np.float32)
    stride, padding = (H - 1, W - 1), ((H - 1, 0), (W - 1, 0))
    with only(form):
        # the four corners of the image; then a single pixel, which the last of as many outputs alone has read
        assert numbaconv.conv2d(x, w, stride=stride, layout=layout).ravel().tolist() == [10, 0, 0, 6]
        z = np.array([1, 0, 0, 10], np.float32).reshape((1, 1, 2, 2) if layout == "NCHW" else (1, 2, 2, 1))
        assert numbaconv.conv2d_weight(x, w.shape, z, stride=stride, layout=layout).item() == 5 * 1 + 3 * 10
        one = np.full((1, 1, 1, 1), 4, np.float32)
        assert numbaconv.conv2d_input(one.shape, w, x, padding=padding, layout=layout).item() == 2 * 3
        assert numbaconv.conv2d_weight(one, w.shape, x, padding=padding, layout=layout).item() == 4 * 3


@pytest.mark.slow
@far
@pytest.mark.compiled
@each_general
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_images_beyond_2_to_the_31(layout: Any, form: str) -> None:
    side = 256
    x = sparse((W, 1, side, side) if layout == "NCHW" else (W, side, side, 1))
    x.reshape(-1)[-1], x.reshape(-1)[0] = 3, 5
    w = np.full((1, 1, 1, 1), 2, np.float32)
    with only(form):
        y = numbaconv.conv2d(x, w, stride=side - 1, layout=layout)
        assert np.flatnonzero(y).tolist() == [0, 4 * W - 1]
        assert (y.reshape(-1)[0], y.reshape(-1)[-1]) == (10, 6)
        assert numbaconv.conv2d_weight(x, w.shape, np.ones_like(y), stride=side - 1, layout=layout).item() == 8


@far
@pytest.mark.compiled
@each_general
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_channels_beyond_2_to_the_31(layout: Any, form: str) -> None:
    side, channels = 256, W
    x = sparse((1, channels, side, side) if layout == "NCHW" else (1, side, side, channels))
    x.reshape(-1)[-1] = 3
    w = np.arange(channels, dtype=np.float32).reshape((1, channels, 1, 1) if layout == "NCHW" else (1, 1, 1, channels))
    with only(form):
        y = numbaconv.conv2d(x, w, stride=side - 1, layout=layout)
        assert y.ravel().tolist() == [0, 0, 0, 3 * (channels - 1)]
        dw = numbaconv.conv2d_weight(x, w.shape, np.ones_like(y), stride=side - 1, layout=layout)
        assert (np.flatnonzero(dw).tolist(), dw.max()) == ([channels - 1], 3)


@far
@pytest.mark.compiled
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_depthwise_channels_beyond_2_to_the_31(layout: Any) -> None:
    side, channels = 256, W
    x = sparse((1, channels, side, side) if layout == "NCHW" else (1, side, side, channels))
    x.reshape(-1)[-1] = 3
    w = np.full((channels, 1, 1, 1), 2, np.float32)
    with only("depthwise"):
        y = numbaconv.conv2d(x, w, stride=side - 1, layout=layout, groups=channels)
        assert (np.flatnonzero(y).tolist(), y.max()) == ([4 * channels - 1], 6)
        dw = numbaconv.conv2d_weight(x, w.shape, np.ones_like(y), stride=side - 1, layout=layout, groups=channels)
        assert (np.flatnonzero(dw).tolist(), dw.max()) == ([channels - 1], 3)


@far
@pytest.mark.compiled
def test_pooling_beyond_2_to_the_31() -> None:
    x = sparse((1, 1, H, W))
    x[0, 0, -1, -1] = 3
    for layer in (nn.MaxPool2d(1, stride=(H - 1, W - 1)), nn.AvgPool2d(1, stride=(H - 1, W - 1))):
        assert layer(x).ravel().tolist() == [0, 0, 0, 3]


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.skipif(
    available_bytes() < 11 * GIB, reason=f"writes {4 * H * W:,} bytes, and {11 * GIB:,} must be available for that"
)
@pytest.mark.parametrize("form", ["channels", "planes"])
def test_results_beyond_2_to_the_31(form: str) -> None:
    out = sparse((1, 1, H, W))
    one, w = np.full((1, 1, 1, 1), 3, np.float32), np.full((1, 1, 1, 1), 2, np.float32)
    with only(form):
        assert numbaconv.conv2d(one, w, np.ones(1, np.float32), padding=((H - 1, 0), (W - 1, 0)), out=out) is out
    assert out[0, 0, -1, -1] == 7
    assert (out[0, 0, :, :-1] == 1).all()


# --- nothing is kept --------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def function_calls() -> list[Callable[[], Any]]:
    """Calls of all functions, on small arrays of all dtypes, in all layouts and memory orders."""
    calls: list[Callable[[], Any]] = []
    for case in random_cases(40, 60, 8_000, far=40):
        g, (x, w, b, c, z), how = case.geometry, case.arrays(), case.parameters
        turned, out = np.asfortranarray(x), np.empty_like(x)
        calls += [
            lambda x=x, w=w, b=b, how=how: numbaconv.conv2d(x, w, b, **how),
            lambda x=turned, w=w, how=how: numbaconv.conv2d(x, w, **how),
            lambda x=x, w=w, z=z, how=how: numbaconv.conv2d_backward(z, x, w, **how),
            lambda z=z, w=w, c=c, how=case.transposed_parameters: numbaconv.conv_transpose2d(z, w, c, **how),
            lambda x=x, w=w, z=z, how=how, out=out, shape=g.input_shape: numbaconv.conv2d_input(
                shape, w, z, **how, out=out
            ),
            lambda x=x, w=w * np.nan, how=how: numbaconv.conv2d(x, w, **how),
            lambda x=x, w=w, how=how: refused(lambda: numbaconv.conv2d(x, w, **how, out=x)),
            lambda x=x, w=w, how=how: refused(lambda: numbaconv.conv2d(x, w[:, :0], **how)),
        ]
    return calls


def layer_calls() -> list[Callable[[], Any]]:
    """Forward and backward passes of all layers, and steps of training."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 4, 8, 8), np.float32)
    layers: list[nn.Module] = [
        nn.Conv2d(4, 6, 3, padding=1, rng=0), nn.ConvTranspose2d(4, 3, 3, stride=2, rng=0), nn.BatchNorm2d(4),
        nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1), nn.AvgPool2d(2), nn.GlobalAvgPool2d(),
        nn.Dropout(rng=0), nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(256, 5, rng=0)),
        nn.Residual(nn.Conv2d(4, 4, 3, padding=1, rng=0)),
    ]  # fmt: skip

    def forward_and_back(layer: nn.Module) -> None:
        layer.backward(np.ones_like(layer(x)))
        layer.zero_grad()

    def halves(layer: nn.Module) -> None:
        layer(x.astype(np.float16))

    images, labels = rng.standard_normal((8, 1, 8, 8), np.float32), rng.integers(0, 10, 8)
    optimizers = nn.SGD(0.01, momentum=0.9), nn.Adam(0.001), nn.AdamW(0.001)
    trainers = [nn.Trainer(models.digits_cnn(rng=0), optimizer) for optimizer in optimizers]
    return [
        *(lambda layer=layer: forward_and_back(layer) for layer in layers),
        *(lambda layer=layer: halves(layer) for layer in layers),
        *(lambda trainer=trainer: trainer.step(images, labels) for trainer in trainers),
        *(lambda trainer=trainer: trainer.evaluate(images, labels) for trainer in trainers),
        *(lambda trainer=trainer: refused(lambda: trainer.step(images, labels + 99)) for trainer in trainers),
    ]


def refused(call: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        call()


#: What allocators may hold on to.
SLACK = 4 << 20


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_hundreds_of_thousands_of_calls_leave_no_memory_behind() -> None:
    calls = function_calls() + layer_calls()
    random.Random(0).shuffle(calls)
    most, before, count = numbaconv.get_num_threads(), [], 0
    with everything_in_parallel():
        for share in (20_000, 140_000, 140_000):  # the first warms up: caches fill, and compilers
            for call in islice(cycle(calls), share):
                count += 1
                if count % 100 == 0:  # threads that wait for each other are slow where others compute as well
                    numbaconv.set_num_threads(most if count % 1000 == 0 else 1)
                call()
            gc.collect()
            before.append(resident_bytes())
    assert count == 300_000
    assert before[2] - before[1] < SLACK, f"resident bytes: {before}"
    assert before[2] - before[0] < 2 * SLACK, f"resident bytes: {before}"


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.skipif(not LINUX, reason="needs /proc")
def test_thousands_of_steps_of_training_leave_no_memory_behind() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((256, 1, 8, 8), np.float32), rng.integers(0, 10, 256)
    trainer = nn.Trainer(models.digits_cnn(rng=0), nn.SGD(0.01, momentum=0.9))
    found = []
    for epochs in (20, 100, 100):
        trainer.fit(x, y, epochs=epochs, batch_size=16, seed=0, validation=(x[:50], y[:50]))
        gc.collect()
        found.append(resident_bytes())
    assert found[2] - found[1] < SLACK, f"resident bytes: {found}"
