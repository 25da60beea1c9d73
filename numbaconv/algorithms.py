"""Which algorithms the default ``algorithm="auto"`` may choose from."""

from __future__ import annotations

from typing import Literal

Choice = Literal["auto", "direct"]

_choice: Choice = "auto"


def set_algorithm(algorithm: Choice) -> None:
    """Say what ``algorithm="auto"`` means from now on, in the whole process.

    Winograd's algorithm is faster than a direct sum. Its rounding errors are about twice as large, and where an input
    (or for an input gradient, the output's) is infinite or NaN, it makes NaN of more results than those that depend on
    it: of whole tiles of 4 x 4 pixels. Weights are looked at, and if one is not finite this algorithm is not used; but
    images are too large for that. A program that can't have it switches it off with ``set_algorithm("direct")``.

    Parameters
    ----------
    algorithm : "auto" or "direct"
        Choose whatever is fastest, or among the direct kernels only. A call that names its algorithm is not affected.

    Raises
    ------
    ValueError
        ``algorithm`` is neither; "winograd" does not serve all convolutions, so it can be asked for by a call only.

    Examples
    --------
    >>> import numbaconv
    >>> numbaconv.set_algorithm("direct")
    >>> numbaconv.get_algorithm()
    'direct'
    >>> numbaconv.set_algorithm("auto")
    """
    global _choice
    if not isinstance(algorithm, str) or algorithm not in ("auto", "direct"):
        raise ValueError(f'algorithm={algorithm!r} can\'t be the default: it is "auto" or "direct"')
    _choice = algorithm


def get_algorithm() -> Choice:
    """What :func:`set_algorithm` was told last; "auto" before that."""
    return _choice
