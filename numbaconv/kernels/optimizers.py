"""The update rules of the optimizers, each in one sweep over a parameter, its gradient and what is remembered of it.

Hyper-parameters come as an array of float64, whose numbers may be others at the next step. All are taken in the dtype
of the parameter: one of float64 would make float64 of everything.
"""

from __future__ import annotations

import math

from numbaconv.jit import kernel
from numbaconv.kernels.elementwise import part


@kernel(lasting=True)
def sgd(data, grad, numbers, stage, thread, threads):
    """A step down the gradient; ``numbers`` are the learning rate and the weight decay."""
    real = data.dtype.type
    rate, decay = real(numbers[0]), real(numbers[1])
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    for i in range(len(values)):
        values[i] -= rate * (gradients[i] + decay * values[i])


@kernel(lasting=True)
def sgd_momentum(data, grad, velocity, numbers, stage, thread, threads):
    """A step along a velocity.

    ``numbers`` are the learning rate, the weight decay, the momentum, the share of the gradient that goes into the
    velocity, and 1 for Nesterov's rule, else 0.
    """
    real = data.dtype.type
    rate, decay, kept, new = real(numbers[0]), real(numbers[1]), real(numbers[2]), real(numbers[3])
    ahead = numbers[4] > 0
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    moving = part(velocity, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + decay * values[i]
        moving[i] = kept * moving[i] + new * gradient
        values[i] -= rate * (gradient + kept * moving[i] if ahead else moving[i])


@kernel(lasting=True)
def count_step(step, numbers, stage, thread, threads):
    """Count a step of :func:`adam`, and put behind its ``numbers`` what the count makes of them.

    The averages begin at 0: that is what the learning rate, and the root of the second average, are divided by.
    """
    step[0] += 1
    numbers[6] = numbers[0] / (1 - math.pow(numbers[3], step[0]))
    numbers[7] = (1 - math.pow(numbers[4], step[0])) ** 0.5


@kernel(lasting=True)
def adam(data, grad, mean, square, numbers, stage, thread, threads):
    """A step along the average of the gradient, over the root of that of its square.

    ``numbers`` are the learning rate, the weight decay, what decoupled decay leaves of a weight, both betas, eps, and
    what :func:`count_step` puts behind them.
    """
    real = data.dtype.type
    rate, decay, left, least = real(numbers[6]), real(numbers[1]), real(numbers[2]), real(numbers[5])
    first, old, second = real(1 - numbers[3]), real(numbers[4]), real(1 - numbers[4])
    freed = real(numbers[7])
    values, gradients = part(data, thread, threads), part(grad, thread, threads)
    means, squares = part(mean, thread, threads), part(square, thread, threads)
    for i in range(len(values)):
        gradient = gradients[i] + decay * values[i]
        means[i] += first * (gradient - means[i])
        squares[i] = old * squares[i] + second * gradient * gradient
        values[i] = left * values[i] - rate * means[i] / (math.sqrt(squares[i]) / freed + least)
