"""Winograd's minimal filtering: how a few points make the matrices of ``F(m, r)``.

``F(m, r)`` computes ``m`` neighbouring outputs of a correlation with ``r`` taps by ``n = m + r - 1`` multiplications
instead of ``m * r``::

    y[i] = sum(d[i + k] * g[k] for k in range(r)),  i < m        the correlation of n inputs d with r taps g
    y    = A.T @ ((G @ g) * (B.T @ d))                           the same; * is taken element by element

Where it comes from (Toom 1963, Cook 1966, Winograd 1980). The product of two polynomials, of ``m`` and of ``r``
coefficients, has ``n`` of them, so it is known by its values at ``n`` points, and a value of the product is one
multiplication: that of the factors' values. Evaluation is multiplication with a Vandermonde matrix ``V`` (a row ``1, p,
p**2, ...`` for each point; for the point at infinity the coefficient of the highest power), and finding the
coefficients from the values is Lagrange's interpolation ``L``::

    product = L @ ((V_r @ g) * (V_m @ z))

A correlation is the transpose of that product, taken for ``z``: ``y = V_m.T @ ((V_r @ g) * (L.T @ d))``. Column ``i``
of ``L`` holds the polynomial that is 0 at all points but point ``i``, and 1 there: a product of ``x - p`` over the
other points, divided by a number. That number is moved over to ``G``, so

- ``B.T`` has a row of coefficients of ``product(x - p_j for j != i)`` for each point, and
- ``G`` is ``V_r``, each row divided by ``product(p_i - p_j for j != i)``, and
- ``A.T`` is ``V_m``, transposed.

In two dimensions each matrix is applied along rows and along columns. ``B.T`` depends on the points alone, so ``F(m,
r)`` and ``F(r, m)``, in which the two factors have changed places, share it: the second is what a weight gradient
needs, whose outputs are the ``r`` taps, and whose taps are the ``m`` gradients of a tile.

Some of the points make a smaller filtering, and its taps are transformed already: its ``G`` has the rows of those
points. They are divided by differences to all points, so its ``B.T`` makes up for those that are left out. This is how
the last tiles of an image are smaller than the others, with the same transformed weights.

Points decide how rounding errors grow. With 0, 1, -1, 2, -2 those of ``F(4, 3)`` in float32 are 6 times as large as a
direct sum's; with ±5/8 and ±3/2, whose powers stay near 1, not twice as large, at the same cost (after Barabasz et al.,
"Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020).
All of them have few binary digits, so that ``A`` and ``B`` are exact in float32.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import TypeAlias

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]

#: The finite points for ``n`` multiplications, infinity being one more.
POINTS = {
    4: (Fraction(0), Fraction(1), Fraction(-1)),
    6: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}


#: Of six points, the first three and infinity are those of a filtering of four.
INNER = (0, 1, 2, 5)


def input_matrix(n: int, chosen: tuple[int, ...] | None = None) -> Matrix:
    """``B.T``, (n, n): what is applied to ``n`` inputs; or for ``chosen`` points, infinity the last, to as many."""
    points = POINTS[n] if chosen is None else tuple(POINTS[n][k] for k in chosen[:-1])
    rows = []
    for p in points:
        left_out = prod((p - q for q in POINTS[n] if q not in points), start=Fraction(1))
        rows.append((*(left_out * c for c in _polynomial([q for q in points if q != p])), Fraction(0)))
    return (*rows, tuple(_polynomial(points)))


def tap_matrix(n: int, r: int) -> Matrix:
    """``G``, (n, r): what is applied to the ``r`` taps of a correlation."""
    points = POINTS[n]
    weights = [prod(p - q for q in points if q != p) for p in points]
    return tuple(
        tuple(value / weight for value in row) for row, weight in zip(_values(n, r), [*weights, 1], strict=True)
    )


def output_matrix(m: int, n: int) -> Matrix:
    """``A.T``, (m, n): what gives ``m`` outputs from ``n`` products."""
    return tuple(zip(*_values(n, m), strict=True))


def _values(n: int, k: int) -> Matrix:
    """``V_k``, (n, k): the values of a polynomial of ``k`` coefficients at the points, the last one at infinity."""
    finite = tuple(tuple(p**power for power in range(k)) for p in POINTS[n])
    return (*finite, (*[Fraction(0)] * (k - 1), Fraction(1)))


def _polynomial(roots: list[Fraction] | tuple[Fraction, ...]) -> list[Fraction]:
    """The coefficients of the product of ``x - root``, the constant first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients
