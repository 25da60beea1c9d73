"""What a first call costs, in a process of its own: importing, compiling, or loading what was compiled before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORT = "import numpy as np, numbaconv; x, w = np.ones((2, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)"
CALLS = {
    "import": "",
    "forward": "numbaconv.conv2d(x, w)",
    "grad_input": "numbaconv.conv2d_input(x.shape, w, np.ones((2, 4, 6, 6), np.float32))",
    "grad_weight": "numbaconv.conv2d_weight(x, w.shape, np.ones((2, 4, 6, 6), np.float32))",
    "warmup": "numbaconv.warmup()",
}


@pytest.mark.parametrize("cache", ["cold", "warm"])
@pytest.mark.parametrize("what", CALLS)
def test_first_call(benchmark: Any, tmp_path: Path, what: str, cache: str) -> None:
    folders = iter(tmp_path / str(number) for number in range(100))

    def run(folder: Path) -> None:
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        subprocess.run([sys.executable, "-c", f"{IMPORT}; {CALLS[what]}"], check=True, env=environment)

    def setup() -> tuple[tuple[Path], dict[str, Any]]:
        return (tmp_path / "warm" if cache == "warm" else next(folders),), {}

    if cache == "warm":
        run(tmp_path / "warm")
    benchmark.group = f"first call: {what}"
    benchmark.pedantic(run, setup=setup, rounds=3)
