"""``--threads``."""

from __future__ import annotations

import numbaconv
from numbaconv.cli.errors import UsageError


def use_threads(threads: int | None) -> None:
    """Use so many threads; None leaves the setting as it is."""
    if threads is not None:
        try:
            numbaconv.set_num_threads(threads)
        except ValueError as error:
            raise UsageError(f"--threads {threads}: {error}") from error
