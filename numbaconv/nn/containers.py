"""Modules made of modules: one after the other, and side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias, overload

import numpy as np

from numbaconv.memory import Pool, recycling_here
from numbaconv.nn.activation import ReLU, relu_backward
from numbaconv.nn.convolution import Conv2d
from numbaconv.nn.folding import Folded
from numbaconv.nn.layout import in_layout, layout_of
from numbaconv.nn.linear import Linear
from numbaconv.nn.module import Module, evaluating
from numbaconv.nn.normalisation import BatchNorm2d
from numbaconv.nn.normed import Normed
from numbaconv.nn.pooled import Pooled
from numbaconv.nn.pooling import MaxPool2d
from numbaconv.nn.replay import Tape, Tapes
from numbaconv.nn.sums import addable, added


class Sequential(Module):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Module
        The first takes x, each of the others what the one before it gives. Any number of them; each only once.

    Raises
    ------
    TypeError
        One of them is no Module.
    ValueError
        A layer occurs twice: it remembers only its last forward pass, so that the gradients would be wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    >>> model(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    >>> model
    Sequential(
      (0): Conv2d(1, 8, kernel_size=(3, 3), padding=1)
      (1): ReLU()
      (2): Flatten()
      (3): Linear(512, 10)
    )
    """

    def __init__(self, *layers: Module) -> None:
        super().__init__()
        self.layers = layers
        _check_modules(self, *layers)
        self._make_steps()

    def _make_steps(self) -> None:
        self._in_training, self._in_evaluation = _training_steps(self.layers), _evaluation_steps(self.layers)
        self._order = self._in_training
        self._tapes, self._pool = Tapes(), Pool()
        self._replayed: tuple[Tape, np.ndarray] | None = None  # the last forward pass, if it was played

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: not the steps, which follow from the layers."""
        return {name: value for name, value in super().__getstate__().items() if name not in _STEPS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._make_steps()

    def _forget(self) -> None:
        super()._forget()
        self._tapes.clear()
        self._replayed = None
        for step in self._in_evaluation:
            if isinstance(step, Folded | Pooled):
                step.forget()
        self._pool.clear()  # last, when nothing holds its memory any more

    def require_input_grad(self, needed: bool = True) -> None:
        """Pass it on to the first layers, up to the first that has parameters: what is behind it gets no gradient."""
        super().require_input_grad(needed)
        for layer in self.layers:
            layer.require_input_grad(needed)
            if next(layer.named_parameters(), None) is not None:
                break

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The output of the last layer."""
        tape = None if self.training else self._tapes.find(x)
        if tape is not None and not tape.in_training():
            return self._play(tape, x)
        with recycling_here(self._pool):
            return self._forward(x, None) if self.training else self._tapes.run(self, x)

    def replay(self, x: np.ndarray) -> np.ndarray | None:
        """The output in evaluation, whatever the mode, if there is a :class:`~numbaconv.nn.replay.Tape` for it."""
        tape = self._tapes.find(x)
        return None if tape is None else self._play(tape, x)

    def _play(self, tape: Tape, x: np.ndarray) -> np.ndarray:
        if self._replayed is None:
            tape.forget_saved()  # it is of another pass
        self._replayed = tape, x
        return tape.play(x)

    def _steps(self) -> list[_Step]:
        """What it runs now, one after the other."""
        return self._in_training if self.training else self._in_evaluation

    def evaluation_steps(self) -> list[_Step] | None:
        """What it runs in evaluation, one after the other; None if it does something else."""
        return self._in_evaluation if type(self) is Sequential and "forward" not in vars(self) else None

    def _forward(self, x: np.ndarray, end: int | None) -> np.ndarray:
        """The output of the steps before ``end``."""
        self._replayed = None
        order = self._steps()
        if self.training and self._order is not order:
            self._forget()
        self._order = order
        for layer in order[:end]:
            x = layer.forward(x)
        return x

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The chain rule: the gradient goes through the layers from the last to the first."""
        with recycling_here(self._pool):
            if self._replayed is not None:
                self._run_again(*self._replayed)
            return self._backward(grad_output, None)

    def _backward(self, grad_output: np.ndarray, end: int | None) -> np.ndarray | None:
        """The same through the steps before ``end``."""
        grad: np.ndarray | None = grad_output
        more: np.ndarray | None = None  # another summand of it
        for layer in reversed(self._order[:end]):
            if grad is None:  # the layers before have no parameters, and nothing asks for their gradient
                break
            block = _before_relu(layer)
            if type(block) is Residual and "backward" not in vars(block):
                grad, more = block.backward_apart(grad, more)
            else:
                grad, more = layer.backward(grad if more is None else added(grad, more)), None
        return grad if grad is None or more is None else added(grad, more)

    def _run_again(self, tape: Tape, x: np.ndarray) -> None:
        """Run the layers, which save what the gradient needs, as they were when the tape was played."""
        if not tape.fits():
            raise RuntimeError("a layer of the model was changed between forward and backward")
        with evaluating(self.modules()):
            self._forward(x, None)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The layers, named ``"0"``, ``"1"``, …"""
        for i, layer in enumerate(self.layers):
            yield str(i), layer

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: Any) -> Module:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]


class Residual(Module):
    """``main(x) + shortcut(x)``: the sum of two paths, as in a residual network.

    The ReLU that follows the sum there is a layer of its own.

    Parameters
    ----------
    main : Module
        The path that learns the residual.
    shortcut : Module, optional
        The other path; by default x itself.

    Raises
    ------
    TypeError
        A path is no Module.
    ValueError
        A layer occurs twice. In forward: the two paths give different shapes.

    References
    ----------
    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2015, arXiv:1512.03385.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> block = nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)))
    >>> block(np.zeros((1, 4, 6, 6), np.float32)).shape
    (1, 4, 6, 6)
    """

    def __init__(self, main: Module, shortcut: Module | None = None) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut
        _check_modules(self, main, *([] if shortcut is None else [shortcut]))

    def forward(self, x: np.ndarray, relu: bool = False) -> np.ndarray:
        """The sum, of the shape of both paths' outputs; with ``relu``, its :class:`ReLU`, in the same sweep.

        What the main path ends in may add the shortcut itself: batch norm in training, and what it is folded into else.
        """
        path, last = self._last()
        main = self.main.forward(x) if path is None else path._forward(x, -1)
        shortcut = x if self.shortcut is None else self.shortcut.forward(x)
        y, norm = None, last if type(last) is BatchNorm2d else None
        if type(last) is Folded:
            y = last.forward_sum(main, shortcut, relu)
            main = main if y is not None else last.forward(main)
        if y is None and main.shape != shortcut.shape:
            raise ValueError(
                f"the main path gives {main.shape} and the shortcut {shortcut.shape}: they must be alike to be added"
            )
        if norm is not None and not addable(main, shortcut):
            main, norm = norm.forward(main), None
        if norm is not None:
            y = norm.forward(main, relu, in_layout(shortcut, layout_of(main)))
        elif y is None:
            y = added(main, shortcut, relu)
        self._saved = None if norm is None else path, norm, y if relu else None
        return y

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        """The gradient of a sum goes to both paths; x went into both, so their gradients add up."""
        main, shortcut = self.backward_apart(grad_output)
        return None if main is None or shortcut is None else added(main, shortcut)

    def backward_apart(
        self, grad_output: np.ndarray, more: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """The gradients that add up; ``more`` is another summand of the output's, as the next block may leave it."""
        path, norm, y = self._recall()
        if norm is not None:
            main, grad_output = norm.backward_sum(grad_output, more)
            main = path._backward(main, -1)
        else:
            if more is not None:
                grad_output = added(grad_output, more)
            if y is not None:
                grad_output = relu_backward(grad_output, y)
            main = self.main.backward(grad_output)
        shortcut = grad_output if self.shortcut is None else self.shortcut.backward(grad_output)
        if (main is None) != (shortcut is None):
            raise ValueError("one path gives a gradient, and the other none: was require_input_grad called on a part?")
        return main, shortcut

    def evaluation_steps(self) -> list[_Step] | None:
        """Both paths; None if it does something else."""
        usual = type(self) is Residual and "forward" not in vars(self)
        return [self.main, *([] if self.shortcut is None else [self.shortcut])] if usual else None

    def _last(self) -> tuple[Sequential, BatchNorm2d | Folded] | tuple[None, None]:
        """The main path and what it ends in, if that may run as a step of its own, and add the shortcut."""
        path = self.main
        if type(path) is not Sequential or not path.layers:
            return None, None
        last = path._steps()[-1]
        own = any("forward" in vars(module) or "backward" in vars(module) for module in (path, last))  # somebody's
        if not own and (type(last) is Folded or (type(last) is BatchNorm2d and path.training)):
            return path, last
        return None, None


class _WithReLU:
    """A layer and the ReLU behind it, in one sweep."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def forward(self, x: np.ndarray) -> np.ndarray:
        return self.layer.forward(x, relu=True)

    def backward(self, grad_output: np.ndarray) -> np.ndarray | None:
        return self.layer.backward(grad_output)

    def evaluation_steps(self) -> list[_Step]:
        return [self.layer]


def _before_relu(step: _Step) -> Any:
    """The layer of a step that does the work of the ReLU behind it; any other step itself."""
    return step.layer if type(step) is _WithReLU else step


#: Attributes of a model that follow from its layers.
_STEPS = ("_in_training", "_in_evaluation", "_order", "_tapes", "_pool", "_replayed")
_Step: TypeAlias = Module | Folded | Normed | Pooled | _WithReLU


def _training_steps(layers: Sequence[Module]) -> list[_Step]:
    """What a model runs, which takes less time than its layers one by one, and gives the same.

    Max pooling runs before the ReLU that stands before it, for then that has less to do: the largest of some numbers,
    or 0, is the same either way, and so is the pixel that gets the gradient.
    """
    steps: list[_Step] = list(layers)
    for k, (first, second) in enumerate(pairwise(layers)):
        if type(first) is ReLU and type(second) is MaxPool2d:
            steps[k : k + 2] = second, first
    return _with_norm(_with_pooling(_with_relu(steps)))


def _evaluation_steps(layers: Sequence[Module]) -> list[_Step]:
    """What a model runs in evaluation, where nothing but constants stands between a convolution and its batch norm."""
    steps: list[_Step] = []
    left = list(layers)
    while left:
        layer = left.pop(0)
        if type(layer) is Conv2d:
            norm = left[0] if left and type(left[0]) is BatchNorm2d else None
            del left[: int(norm is not None)]
            relu = bool(left) and type(left[0]) is ReLU
            del left[: int(relu)]
            steps.append(Folded(layer, norm, relu))
        else:
            steps.append(layer)
    return _with_pooling(_with_relu(steps))


def _with_relu(steps: list[_Step]) -> list[_Step]:
    """The same steps, of which some do the work of the ReLU behind them."""
    for k in reversed(range(len(steps) - 1)):
        if type(steps[k]) in (Conv2d, Linear, BatchNorm2d, MaxPool2d, Residual) and type(steps[k + 1]) is ReLU:
            steps[k : k + 2] = [_WithReLU(steps[k])]
    return steps


def _with_pooling(steps: list[_Step]) -> list[_Step]:
    """The same steps, of which some convolve and pool what they get."""
    for k in reversed(range(len(steps) - 1)):
        first, second = steps[k], steps[k + 1]
        relu = type(second) is _WithReLU  # max pooling, and the ReLU that stood before it
        pool = _before_relu(second)
        if type(pool) is MaxPool2d and type(first) is Conv2d:
            steps[k : k + 2] = [Pooled(first, pool, relu)]
        elif type(pool) is MaxPool2d and type(first) is Folded and not relu:
            steps[k : k + 2] = [Pooled(first, pool, first.relu)]
    return steps


def _with_norm(steps: list[_Step]) -> list[_Step]:
    """The same steps, of which some normalise what they convolve."""
    for k in reversed(range(len(steps) - 1)):
        first, conv = steps[k], steps[k + 1]
        norm = _before_relu(first)
        if type(norm) is BatchNorm2d and type(conv) is Conv2d:
            steps[k : k + 2] = [Normed(norm, norm is not first, conv)]
    return steps


def _check_modules(container: Module, *modules: Any) -> None:
    for module in modules:
        if not isinstance(module, Module):
            raise TypeError(f"{type(container).__name__} is made of modules, got {module!r} ({type(module).__name__})")
    seen: set[int] = set()
    for module in container.modules():
        if id(module) in seen:
            raise ValueError(
                f"{module!r} occurs twice in one model: a layer remembers only its last forward pass, so make two"
            )
        seen.add(id(module))
