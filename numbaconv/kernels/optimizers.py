"""The update rules of the optimizers, each in one sweep over a parameter, its gradient and what is remembered of it.

All numbers come in the dtype of the parameter: one of float64 would make float64 of everything.
"""

from __future__ import annotations

import math

from numbaconv.jit import Kernel
from numbaconv.kernels.elementwise import part


@Kernel
def sgd(data, grad, lr, weight_decay, stage, thread, threads):
    """A step down the gradient."""
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    for i in range(len(values)):
        values[i] -= lr * (gradients[i] + weight_decay * values[i])


@Kernel
def sgd_momentum(data, grad, velocity, lr, weight_decay, momentum, fresh, ahead, stage, thread, threads):
    """``fresh`` is the share of the gradient that goes into the velocity; ``ahead`` is 1 for Nesterov's, else 0."""
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    moving = part(velocity, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + weight_decay * values[i]
        moving[i] = momentum * moving[i] + fresh * gradient
        values[i] -= lr * (gradient + momentum * moving[i] if ahead else moving[i])


@Kernel
def adam(data, grad, mean, square, lr, weight_decay, kept, new1, beta2, new2, correction, eps, stage, thread, threads):
    """``kept`` is the share of a weight that decoupled decay leaves; ``correction`` frees ``square`` of its start at 0.

    ``new1`` and ``new2`` are the shares of a gradient, and of its square, in their averages.
    """
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    means, squares = part(mean, thread, threads), part(square, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + weight_decay * values[i]
        means[i] += new1 * (gradient - means[i])
        squares[i] = beta2 * squares[i] + new2 * gradient * gradient
        values[i] = kept * values[i] - lr * means[i] / (math.sqrt(squares[i]) / correction + eps)
