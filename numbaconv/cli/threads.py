"""``--threads``."""

from __future__ import annotations

import numba

import numbaconv
from numbaconv.cli.errors import UsageError


def use_threads(threads: int | None) -> None:
    """Use so many threads; None leaves the setting as it is."""
    if threads is None:
        return
    most = numba.config.NUMBA_NUM_THREADS
    if threads > most:
        raise UsageError(
            f"--threads must be from 1 to {most}, got {threads}: the environment variable NUMBA_NUM_THREADS allows more"
        )
    numbaconv.set_num_threads(threads)
