"""What a bug report or a comparison of speeds has to say about the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np

import numbaconv
from numbaconv import simd

#: Whether a process can be held to some cores.
CAN_PIN = hasattr(os, "sched_setaffinity")


def facts() -> dict[str, str]:
    """What the speed of this machine depends on, in words."""
    allowed = len(available_cores())
    return {
        "CPU": f"{cpu_name()} (LLVM: {simd.CPU_NAME})",
        "cores": f"{len(physical_cores())} ({allowed} logical ones may be used, of {os.cpu_count() or allowed})",
        "vectors": vectors(),
        "lanes": str(simd.lanes(np.float32)),
        "OS": operating_system(),
    }


def versions() -> dict[str, str]:
    """The versions of what everything stands on."""
    return {
        "numbaconv": numbaconv.__version__,
        "numba": numba.__version__,
        "llvmlite": f"{llvmlite.__version__} (LLVM {'.'.join(map(str, llvmlite.binding.llvm_version_info))})",
        "numpy": np.__version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
    }


def vectors() -> str:
    """The vectors of the CPU that Numba compiles for."""
    return (
        f"{8 * simd.VECTOR_BYTES} bits: {simd.lanes(np.float32)} lanes of float32, {simd.lanes(np.float64)} of float64"
    )


def operating_system() -> str:
    """Its name and version."""
    version = ".".join(platform.release().split(".")[:2])
    return f"{platform.system()} {version} ({platform.machine()})"


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


def installed(name: str) -> str:
    """The version of a package, or that there is none."""
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"


def available_cores() -> list[int]:
    """The numbers of the logical cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores() -> list[int]:
    """Of :func:`available_cores`, one logical core for each physical one."""
    seen: set[str] = set()
    chosen = []
    for core in available_cores():
        path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        try:
            siblings = path.read_text()
        except OSError:
            siblings = str(core)
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(core)
    return chosen


def cores_for(threads: int) -> list[int]:
    """Where to run so many threads: on physical cores as far as they go, the last ones first.

    The first cores are those on which systems like to do their own work.
    """
    physical = physical_cores()
    others = [core for core in available_cores() if core not in physical]
    return (physical[::-1] + others[::-1])[:threads]


def load() -> float:
    """How many programs are running or waiting to, of late; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0
