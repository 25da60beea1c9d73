"""``numbaconv info``: what a bug report or a comparison of speeds has to say about the machine."""

from __future__ import annotations

import platform
import subprocess
from argparse import Namespace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np

import numbaconv
from numbaconv import jit, simd


def run(options: Namespace) -> int:
    """Print a line a fact; needs nothing but NumPy and Numba."""
    facts = machine() | versions()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def machine() -> dict[str, str]:
    """What the speed depends on."""
    return {
        "CPU": f"{cpu_name()} (LLVM: {numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()})",
        "vectors": f"{8 * simd.VECTOR_BYTES} bits: {simd.lanes(np.float32)} lanes of float32, "
        f"{simd.lanes(np.float64)} of float64",
        "threads": f"{numbaconv.get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}",
        "threading layer": threading_layer(),
        "compiled kernels": cache_folder(),
    }


def versions() -> dict[str, str]:
    """The versions of everything that takes part."""
    return {
        "numbaconv": numbaconv.__version__,
        "numba": numba.__version__,
        "llvmlite": f"{llvmlite.__version__} (LLVM {'.'.join(map(str, llvmlite.binding.llvm_version_info))})",
        "numpy": np.__version__,
        "rich": _installed("rich"),
        "safetensors": _installed("safetensors"),
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "OS": f"{platform.platform()} ({platform.machine()})",
    }


def cpu_name() -> str:
    """The name that the maker of the CPU gave it, as far as the system tells."""
    try:
        if platform.system() == "Linux":
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
            names = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name")]
            return names[0] if names else platform.machine()
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def threading_layer() -> str:
    """The layer that Numba runs parallel loops on; it is chosen when threads are first started."""
    try:
        from numba.np.ufunc import parallel

        parallel._launch_threads()
        return str(numba.threading_layer())
    except (ImportError, AttributeError, ValueError):
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_folder() -> str:
    """Where compiled kernels are kept from one process to the next."""
    folder = jit.cache_folder()
    return str(folder) if folder is not None else "not kept: no folder can be written"


def _installed(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"
