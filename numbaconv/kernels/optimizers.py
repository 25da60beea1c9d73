"""The update rules of the optimizers, each in one sweep over a parameter, its gradient and what is remembered of it.

All numbers are taken in the dtype of the parameter: one of float64 would make float64 of everything.
"""

from __future__ import annotations

import math

from numbaconv.jit import Kernel
from numbaconv.kernels.elementwise import part


@Kernel
def sgd(data, grad, lr, weight_decay, stage, thread, threads):
    """A step down the gradient."""
    real = data.dtype.type
    rate, decay = real(lr), real(weight_decay)
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    for i in range(len(values)):
        values[i] -= rate * (gradients[i] + decay * values[i])


@Kernel
def sgd_momentum(data, grad, velocity, lr, weight_decay, momentum, fresh, ahead, stage, thread, threads):
    """``fresh`` is the share of the gradient that goes into the velocity; ``ahead`` is 1 for Nesterov's, else 0."""
    real = data.dtype.type
    rate, decay, kept, new = real(lr), real(weight_decay), real(momentum), real(fresh)
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    moving = part(velocity, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + decay * values[i]
        moving[i] = kept * moving[i] + new * gradient
        values[i] -= rate * (gradient + kept * moving[i] if ahead else moving[i])


@Kernel
def adam(data, grad, mean, square, lr, weight_decay, kept, new1, beta2, new2, correction, eps, stage, thread, threads):
    """``kept`` is the share of a weight that decoupled decay leaves; ``correction`` frees ``square`` of its start at 0.

    ``new1`` and ``new2`` are the shares of a gradient, and of its square, in their averages.
    """
    real = data.dtype.type
    rate, decay, left, first, least = real(lr), real(weight_decay), real(kept), real(new1), real(eps)
    old, second, freed = real(beta2), real(new2), real(correction)
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    means, squares = part(mean, thread, threads), part(square, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + decay * values[i]
        means[i] += first * (gradient - means[i])
        squares[i] = old * squares[i] + second * gradient * gradient
        values[i] = left * values[i] - rate * means[i] / (math.sqrt(squares[i]) / freed + least)
