"""What a layer is: parameters, buffers, a forward and a backward pass. No tape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np

from numbaconv.nn.checks import FLOATS, parameter_dtype
from numbaconv.values import as_mapping, numbers

_changes = 0
#: Attributes of a module that are set in every pass, and say nothing about what it computes in evaluation.
_PASSING = frozenset({"_saved", "_order", "_replayed", "training", "needs_input_grad"})


def changes() -> int:
    """How often anything about any module was set to something else: while it stays the same, so do all modules.

    But for what their arrays hold, and the modes that they are in.
    """
    return _changes


def _count_change() -> None:
    global _changes
    _changes += 1


class Parameter:
    """An array that is trained, with its gradient.

    Parameters
    ----------
    data : ndarray
        The values, of float32 or float64.

    Attributes
    ----------
    data : ndarray
        The values. Optimizers change them in place.
    grad : ndarray or None
        The sum of the gradients of every backward pass since :meth:`Module.zero_grad`; None when there was none.

    Raises
    ------
    TypeError
        ``data`` is no array, or not of these dtypes.
    """

    __slots__ = ("data", "grad")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            _count_change()
        object.__setattr__(self, name, value)

    def __init__(self, data: np.ndarray) -> None:
        if not isinstance(data, np.ndarray) or data.dtype not in FLOATS:
            kind = data.dtype if isinstance(data, np.ndarray) else type(data).__name__
            raise TypeError(f"a parameter must be an array of float32 or float64, got {kind}")
        self.data = data
        self.grad: np.ndarray | None = None

    def add_grad(self, grad: np.ndarray) -> None:
        """Add ``grad``, a new array of the shape of ``data``, which is kept, to the gradient."""
        if self.grad is None:
            self.grad = grad.astype(self.data.dtype, copy=False)
        else:
            self.grad += grad

    def __repr__(self) -> str:
        return f"Parameter(shape={self.data.shape}, dtype={self.data.dtype})"


class Module:
    """Base class of all layers and models.

    A subclass writes ``forward(x)``, which keeps in ``self._saved`` what the gradient needs, and
    ``backward(grad_output)``, which adds to the gradients of its parameters and returns the gradient with respect to x.
    Attributes that are a :class:`Parameter` or a :class:`Module` are found by themselves, in the order in which they
    were first set; ``buffers`` names the attributes that are arrays and belong to the state but are not trained.

    A layer remembers its last forward pass only, so it stands in a model at one place.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = nn.Parameter(np.ones(1, np.float32))
    ...     def forward(self, x):
    ...         self._saved = x
    ...         return self.factor.data * x
    ...     def backward(self, grad_output):
    ...         x = self._recall()
    ...         self.factor.add_grad(np.sum(grad_output * x, keepdims=True))
    ...         return self.factor.data * grad_output
    >>> layer = Scale()
    >>> layer(np.array([1, 2], np.float32))
    array([1., 2.], dtype=float32)
    >>> layer.backward(np.array([1, 1], np.float32))
    array([1., 1.], dtype=float32)
    >>> layer.factor.grad
    array([3.], dtype=float32)
    """

    buffers: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.training = True
        self.needs_input_grad = True
        self._saved: Any = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """The output for ``x``."""
        raise NotImplementedError

    def backward(self, grad_output: np.ndarray) -> Any:
        """Add to the gradients of the parameters, return the gradient with respect to the x of the last forward."""
        raise NotImplementedError

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PASSING and vars(self).get(name) is not value:
            _count_change()
        object.__setattr__(self, name, value)

    def require_input_grad(self, needed: bool = True) -> None:
        """Say whether backward has to return a gradient.

        Where nothing asks for it, as for the images that a model is trained on, a layer for which it is work may return
        None instead.
        """
        self.needs_input_grad = needed

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles hold: not what the last forward pass saved, which has the size of its batch."""
        return vars(self) | {"_saved": None}

    def _forget(self) -> None:
        """Hold nothing of the last forward pass."""
        self._saved = None

    def _recall(self) -> Any:
        """What the last forward pass saved."""
        if self._saved is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called before forward: it has nothing to go back to"
            )
        return self._saved

    # -- what is inside ------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside this one, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """This module and all inside it, outermost first."""
        yield self
        for _, child in self.named_children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """All parameters with their dotted names, such as ``"0.weight"``."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """All parameters."""
        return [parameter for _, parameter in self.named_parameters()]

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.data.size for parameter in self.parameters())

    @property
    def dtype(self) -> np.dtype | None:
        """The dtype of the parameters, None where there are none."""
        return next((parameter.data.dtype for _, parameter in self.named_parameters()), None)

    # -- modes ---------------------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set this module and all inside it to training mode, or with ``mode=False`` to evaluation mode."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set this module and all inside it to evaluation mode: dropout off, batch norm by its running statistics."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def astype(self, dtype: Any) -> Self:
        """Convert parameters and floating-point buffers to float32 or float64, in place; gradients are forgotten.

        Raises
        ------
        TypeError
            ``dtype`` is anything else.
        """
        dtype = parameter_dtype(dtype)
        for parameter in self.parameters():
            parameter.data, parameter.grad = parameter.data.astype(dtype), None
        for module in self.modules():
            module._forget()
            for name in module.buffers:
                buffer = getattr(module, name)
                if buffer is not None and buffer.dtype.kind == "f":
                    setattr(module, name, buffer.astype(dtype))
        return self

    # -- state ---------------------------------------------------------------------------------------------------------

    def _named_state(self, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
        """Parameters and buffers by torch's names, in torch's order."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value.data
        for name in self.buffers:
            if getattr(self, name) is not None:
                yield prefix + name, getattr(self, name)
        for name, child in self.named_children():
            yield from child._named_state(f"{prefix}{name}.")

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers, by the names that torch gives them.

        Examples
        --------
        >>> from numbaconv import nn
        >>> list(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict())
        ['0.weight', '0.bias', '1.weight', '1.bias', '1.running_mean', '1.running_var', '1.num_batches_tracked']
        """
        return {name: array.copy() for name, array in self._named_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy ``state``, the mapping that :meth:`state_dict` gives, into this module.

        Raises
        ------
        TypeError
            ``state`` is no mapping, or holds something else than numbers. Nothing has been changed then.
        ValueError
            A name is missing or unexpected, or an array has another shape or dtype. Nothing has been changed then.
        """
        own = dict(self._named_state())
        as_mapping(state, "state")
        missing, unexpected = [name for name in own if name not in state], [name for name in state if name not in own]
        if missing or unexpected:
            raise ValueError("the state does not fit this model: " + _names(missing=missing, unexpected=unexpected))
        arrays = {name: numbers(value, f"state[{name!r}]") for name, value in state.items()}
        for name, array in own.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(
                    f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype} in the state, "
                    f"but {array.shape} and {array.dtype} in this model (astype converts a model)"
                )
        for name, array in own.items():
            array[...] = arrays[name]

    # -- printing ------------------------------------------------------------------------------------------------------

    def _describe(self) -> str:
        """The constructor's arguments, for the repr."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in self.named_children()]
        inside = "\n  " + "\n  ".join(children) + "\n" if children else self._describe()
        return f"{type(self).__name__}({inside})"


@contextmanager
def evaluating(modules: Iterable[Module]) -> Iterator[None]:
    """Within this context, some modules are in evaluation mode; afterwards each is in the mode that it was in."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _names(**kinds: list[str]) -> str:
    """``"missing 'a', 'b'; unexpected 'c'"``, without the kinds that have no names."""
    return "; ".join(f"{kind} {', '.join(map(repr, names))}" for kind, names in kinds.items() if names)
