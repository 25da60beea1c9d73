"""The cross-entropy of a softmax, and its gradient, row by row."""

from __future__ import annotations

import math

import numpy as np

from numbaconv.jit import Kernel, compiled, share


@Kernel
def cross_entropy(logits, target, smoothing, losses, gradient, classes, stage, thread, threads):
    """``losses[n]``, and the gradient of their mean; the share ``smoothing`` of a target is spread over all classes."""
    N = len(target)
    for n in share(N, thread, threads):
        row, to = logits[n * classes : (n + 1) * classes], gradient[n * classes : (n + 1) * classes]
        # Shifted so that the largest is 0: exp cannot overflow, and the softmax is the same.
        largest = row[0]
        for c in range(classes):
            largest = max(largest, row[c])
        total, mean = 0.0, 0.0
        for c in range(classes):
            shifted = row[c] - largest
            to[c] = np.exp(shifted)
            total += to[c]
            mean += shifted / classes
        log_total = math.log(total)
        losses[n] = (1 - smoothing) * (log_total - (row[target[n]] - largest))
        if smoothing > 0:
            losses[n] += smoothing * (log_total - mean)
        for c in range(classes):
            to[c] = (to[c] / total - smoothing / classes) / N
        to[target[n]] -= (1 - smoothing) / N


@compiled
def within(labels, classes):
    """Whether all labels are from 0 to ``classes - 1``."""
    outside = False
    for label in labels:
        outside |= (label < 0) | (label >= classes)
    return not outside
