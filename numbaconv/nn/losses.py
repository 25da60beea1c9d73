"""What training makes small."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbaconv.kernels import losses as kernels
from numbaconv.kernels.elementwise import copy
from numbaconv.nn.checks import dense, labels, real
from numbaconv.parameters import Shape
from numbaconv.threads import launch_light


class Loss:
    """Base class of losses: ``forward(prediction, target)`` gives the mean loss, ``backward()`` its gradient."""

    def __init__(self) -> None:
        self._saved: Any = None

    def check_target(self, target: Any, shape: Shape) -> np.ndarray:
        """``target`` itself; a TypeError or ValueError unless it fits predictions of ``shape``."""
        raise NotImplementedError

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        """The mean loss of a batch."""
        raise NotImplementedError

    def backward(self) -> np.ndarray:
        """The gradient of the last forward's loss with respect to its prediction."""
        raise NotImplementedError

    def _mean(self) -> float:
        """The loss of the last forward once more."""
        raise NotImplementedError

    def __call__(self, prediction: np.ndarray, target: np.ndarray) -> float:
        return self.forward(prediction, target)

    def __repr__(self) -> str:
        public = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({public})"

    def _recall(self) -> Any:
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called before forward: it has nothing to go back to"
            )
        return self._saved


class CrossEntropyLoss(Loss):
    """The mean of ``-log softmax(prediction)[target]``.

    Parameters
    ----------
    label_smoothing : float
        The share, from 0 to 1, of each image's target that is spread evenly over all classes.

    Raises
    ------
    TypeError, ValueError
        In forward: ``prediction`` is not a float array ``(N, classes)`` with at least one image, or ``target`` is not
        one integer label from 0 to ``classes - 1`` for each of them.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> loss = nn.CrossEntropyLoss()
    >>> round(loss(np.zeros((2, 10), np.float32), np.array([3, 7])), 4)  # log(10): every class is as likely
    2.3026
    >>> loss.backward()[0].round(2)  # (softmax - one-hot) / N
    array([ 0.05,  0.05,  0.05, -0.45,  0.05,  0.05,  0.05,  0.05,  0.05,  0.05], dtype=float32)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = real(label_smoothing, "label_smoothing", 0, 1)

    def check_target(self, target: Any, shape: Shape) -> np.ndarray:
        """``target`` itself; a TypeError or ValueError unless it is one label for each row of ``shape``."""
        if len(shape) != 2 or min(shape) < 1:
            raise ValueError(f"prediction must be (N, classes), each at least 1, got shape {shape}")
        target = labels(target, shape[1])
        if len(target) != shape[0]:
            raise ValueError(f"there are {shape[0]} predictions, but {len(target)} targets")
        return target

    @np.errstate(under="ignore")  # of a class that is out of the question, exp is 0
    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        """The mean loss of a batch."""
        logits = dense(prediction, "prediction")
        target = self.check_target(target, logits.shape)
        N, classes = logits.shape
        losses, gradient = np.empty(N), np.empty_like(logits)
        target = np.ascontiguousarray(target, np.int64)
        arrays = (logits.reshape(-1), target, self.label_smoothing, losses, gradient.reshape(-1))
        launch_light(kernels.cross_entropy, N, logits.size, *arrays, classes)
        self._saved = losses, gradient
        return self._mean()

    def _mean(self) -> float:
        losses, _ = self._recall()
        return float(losses.sum()) / len(losses)

    def backward(self) -> np.ndarray:
        """``(softmax(prediction) - target) / N``, the target as a distribution over the classes."""
        _, gradient = self._recall()
        result = np.empty_like(gradient)
        launch_light(copy, gradient.size, gradient.size, gradient.reshape(-1), result.reshape(-1))
        return result


class MSELoss(Loss):
    """The mean of ``(prediction - target) ** 2`` over all elements.

    Raises
    ------
    TypeError, ValueError
        In forward: prediction and target are not float arrays of one shape, with at least one element.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> loss = nn.MSELoss()
    >>> loss(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    2.0
    >>> loss.backward()
    array([ 0., -2.])
    """

    def check_target(self, target: Any, shape: Shape) -> np.ndarray:
        """``target`` itself; a TypeError or ValueError unless it is a float array of ``shape``."""
        target = dense(target, "target")
        if target.shape != shape or target.size == 0:
            raise ValueError(f"prediction has shape {shape}, target {target.shape}: they must be equal, and not empty")
        return target

    def forward(self, prediction: np.ndarray, target: np.ndarray) -> float:
        """The mean loss of a batch."""
        prediction = dense(prediction, "prediction")
        error = prediction - self.check_target(target, prediction.shape).astype(prediction.dtype, copy=False)
        self._saved = error
        return float(np.mean(error * error))

    def backward(self) -> np.ndarray:
        """``2 (prediction - target) / size``."""
        error = self._recall()
        return error * error.dtype.type(2 / error.size)
