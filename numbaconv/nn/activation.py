"""Layers that work element by element."""

from __future__ import annotations

import numpy as np

from numbaconv.kernels import elementwise
from numbaconv.nn.checks import check_gradient, dense, flag, real
from numbaconv.nn.initialisation import Rng, generator
from numbaconv.nn.layout import Form, empty_like, flat
from numbaconv.nn.module import Module
from numbaconv.threads import act, launch_light


class ReLU(Module):
    """``max(x, 0)``, element by element; NaN stays NaN.

    Parameters
    ----------
    inplace : bool
        Accepted so that torch's code runs, and ignored: x is never written.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.ReLU()(np.array([-1, 0, 2], np.float32))
    array([0., 0., 2.], dtype=float32)
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        flag(inplace, "inplace")

    def forward(self, x: np.ndarray) -> np.ndarray:
        """An array of the shape of x."""
        x = dense(x, "x")
        y = empty_like(x)
        launch_light(elementwise.relu, x.size, x.size, flat(x), flat(y))
        self._saved = y
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """The gradient passes where the output is positive."""
        return relu_backward(grad_output, self._recall())


def relu_backward(grad_output: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient where ``y``, the output of a ReLU, is positive, and 0 elsewhere."""
    return masked(check_gradient(grad_output, Form.of(y)), y)


def masked(grad: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same for a gradient that is known to be like ``y``."""
    grad_input = empty_like(y)
    launch_light(elementwise.relu_backward, y.size, y.size, flat(grad), flat(y), flat(grad_input))
    return grad_input


class Dropout(Module):
    """In training, sets each element to 0 with probability p and divides the others by ``1 - p``; else does nothing.

    Parameters
    ----------
    p : float
        From 0 to 1.
    inplace : bool
        Accepted so that torch's code runs, and ignored: x is never written.
    rng : numpy.random.Generator or int, optional
        Where the random choices come from: a generator, or the seed of one.

    Raises
    ------
    TypeError, ValueError
        ``p`` is no number, or out of range.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov: Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> nn.Dropout(0.5, rng=0)(np.ones(6, np.float32))
    array([2., 0., 0., 0., 2., 2.], dtype=float32)
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Rng = None) -> None:
        super().__init__()
        flag(inplace, "inplace")
        self.p = real(p, "p, the probability of a zero,", 0, 1)
        self.rng = generator(rng)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """An array of the shape of x."""
        x = dense(x, "x")
        if not self.training:
            self._saved = np.ones((), x.dtype), Form.of(x)
            return x
        factors = empty_like(x)
        act(_draw, self.rng, self.p, factors)
        self._saved = factors, Form.of(x)
        return _product(x, factors)

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """The gradient passes where x did, with the same factor."""
        factors, form = self._recall()
        grad = check_gradient(grad_output, form)
        return _product(grad, factors) if factors.ndim == grad.ndim else grad.copy("K")

    def _describe(self) -> str:
        return f"p={self.p:g}"


def _draw(rng: np.random.Generator, p: float, factors: np.ndarray) -> None:
    """Factors at random: 0 with probability p, else what makes up for that."""
    factors[...] = (rng.random(factors.shape) >= p) * factors.dtype.type(1 / (1 - p) if p < 1 else 0)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = empty_like(a)
    launch_light(elementwise.multiply, y.size, y.size, flat(a), flat(b), flat(y))
    return y
