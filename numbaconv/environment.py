"""A variable that Numba reads when it is imported: a bad one is a traceback there, so it is taken away before."""

from __future__ import annotations

import os
import sys
import warnings

VARIABLE = "NUMBA_NUM_THREADS"


def ignore_bad_number_of_threads() -> None:
    """Take a number of threads away, with a warning, that is no integer of at least 1."""
    text = os.environ.get(VARIABLE)
    if text is None or "numba" in sys.modules:
        return
    try:
        good = int(text) >= 1
    except ValueError:
        good = False
    if not good:
        # No line of the program is at fault, so none is shown: this is farther up than any.
        warnings.warn(f"{VARIABLE}={text} is ignored: it must be at least 1", RuntimeWarning, stacklevel=1000)
        del os.environ[VARIABLE]


ignore_bad_number_of_threads()
