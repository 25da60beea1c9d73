"""``numbaconv info``: what a bug report or a comparison of speeds has to say about the machine."""

from __future__ import annotations

from argparse import Namespace

import numba

import numbaconv
from numbaconv import cache
from numbaconv.study import machine as about


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
        "CPU": about.facts()["CPU"],
        "vectors": about.vectors(),
        "threads": f"{numbaconv.get_num_threads()} of {numba.config.NUMBA_NUM_THREADS}",
        "threading layer": threading_layer(),
        "compiled kernels": cache_folder(),
    }


def versions() -> dict[str, str]:
    """The versions of everything that takes part."""
    known = about.versions()
    python = known.pop("Python")
    more = {name: about.installed(name) for name in ("rich", "safetensors")}
    return {**known, **more, "Python": python, "OS": about.operating_system()}


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
    folder = cache.folder()
    return str(folder) if folder is not None else "not kept: no folder can be written"
