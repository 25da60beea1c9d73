"""How parameters follow their gradients: the update rules of torch, to the letter, and the clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from numbaconv.jit import Kernel
from numbaconv.kernels import optimizers as kernels
from numbaconv.memory import flat
from numbaconv.nn.checks import flag, real
from numbaconv.nn.module import Parameter
from numbaconv.threads import launch, launch_light
from numbaconv.values import as_mapping, numbers

#: Kernels take at most so many hyper-parameters.
_NUMBERS = 8
#: What an optimizer remembers of one parameter.
Memory: TypeAlias = dict[str, np.ndarray]


class Optimizer:
    """Base class: holds hyper-parameters, and once bound, the parameters and what it remembers of each.

    The hyper-parameters are plain attributes; a schedule sets ``optimizer.lr`` between steps.

    Parameters
    ----------
    lr : float
        The learning rate, at least 0.
    weight_decay : float
        How strongly weights are drawn towards 0, at least 0.

    Raises
    ------
    TypeError, ValueError
        A hyper-parameter is no number, or out of range.
    """

    #: The arrays that are remembered of a parameter, each of its shape.
    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, lr: float, weight_decay: float) -> None:
        self.lr = real(lr, "lr", 0)
        self.weight_decay = real(weight_decay, "weight_decay", 0)
        self._parameters: list[Parameter] = []
        self._memories: list[Memory] = []
        self._numbers = np.zeros(_NUMBERS)  # what kernels are told of the hyper-parameters

    def bind(self, parameters: Iterable[Parameter]) -> None:
        """Say which parameters :meth:`step` is to change; the trainer does.

        Raises
        ------
        TypeError
            One of them is no Parameter.
        ValueError
            There are none; or the optimizer is already bound to others, whose past it remembers.
        """
        parameters = _checked(parameters)
        if not parameters:
            raise ValueError("there are no parameters to train")
        if self._parameters and list(map(id, self._parameters)) != list(map(id, parameters)):
            raise ValueError("this optimizer already trains another model: make a new one for this model")
        if not self._parameters:
            self._parameters, self._memories = parameters, [{} for _ in parameters]

    def step(self) -> None:
        """Change every parameter that has a gradient, in place.

        Raises
        ------
        RuntimeError
            The optimizer is not bound.
        """
        self.refresh()
        for parameter, memory in zip(self._bound(), self._memories, strict=True):
            if parameter.grad is not None:
                self._update(parameter.data, parameter.grad, memory)

    def zero_grad(self) -> None:
        """Forget the gradients of all bound parameters."""
        for parameter in self._bound():
            parameter.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of what is remembered, by names such as ``"0.exp_avg"``; the hyper-parameters are not among them."""
        named = ((f"{i}.{slot}", value) for i, memory in enumerate(self._memories) for slot, value in memory.items())
        return {name: np.copy(value) for name, value in named}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, the mapping that :meth:`state_dict` gives, after :meth:`bind`.

        Raises
        ------
        RuntimeError
            The optimizer is not bound.
        ValueError
            A name or shape does not fit. Nothing has been changed then.
        """
        memories: list[Memory] = [{} for _ in self._bound()]
        for name, value in as_mapping(state, "state").items():
            number, _, slot = str(name).partition(".")
            if slot not in self.slots or not number.isdecimal() or int(number) >= len(memories):
                raise ValueError(f"the state has {name!r}, which this {type(self).__name__} does not remember")
            data = self._parameters[int(number)].data
            shape = () if slot == "step" else data.shape
            array = numbers(value, f"state[{name!r}]")
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape} in the state, but {shape} in this optimizer")
            memories[int(number)][slot] = array.astype(np.int64 if slot == "step" else data.dtype)
        for i, memory in enumerate(memories):
            if memory and len(memory) != len(self.slots):
                missing = ", ".join(f"'{i}.{slot}'" for slot in self.slots if slot not in memory)
                raise ValueError(f"the state lacks {missing}")
        pairs = list(zip(memories, self._memories, strict=True))
        if any(memory.keys() != own.keys() for memory, own in pairs):
            self._memories = memories
            return
        for memory, own in pairs:  # in place, as models do
            for slot, array in memory.items():
                own[slot][...] = array

    def refresh(self) -> None:
        """Tell the kernels the hyper-parameters as they are now."""
        told = self._hyper_parameters()
        self._numbers[: len(told)] = told

    def _hyper_parameters(self) -> tuple[float, ...]:
        """Those that kernels take, in their order."""
        return self.lr, self.weight_decay

    def _bound(self) -> list[Parameter]:
        if not self._parameters:
            raise RuntimeError(
                f"this {type(self).__name__} is not bound: call bind(model.parameters()), or use a Trainer"
            )
        return self._parameters

    def _update(self, data: np.ndarray, grad: np.ndarray, memory: Memory) -> None:
        """Change ``data`` by its gradient."""
        raise NotImplementedError

    def __repr__(self) -> str:
        public = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({public})"


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Shrink all gradients by one factor, so that together they are no longer than ``max_norm``; in place.

    Parameters
    ----------
    parameters : iterable of Parameter
        Those without a gradient count as 0.
    max_norm : float
        At least 0.

    Returns
    -------
    float
        The Euclidean norm of all gradients taken as one vector, as it was.

    Raises
    ------
    TypeError, ValueError
        One of them is no Parameter, or ``max_norm`` no number, or below 0.

    References
    ----------
    Pascanu, Mikolov, Bengio: On the difficulty of training recurrent neural networks, 2012, arXiv:1211.5063.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.zeros(2))
    >>> weight.grad = np.array([3.0, 4.0])
    >>> nn.clip_grad_norm([weight], max_norm=1.0)
    5.0
    >>> weight.grad.round(3)
    array([0.6, 0.8])
    """
    max_norm = real(max_norm, "max_norm", 0)
    gradients = [parameter.grad for parameter in _checked(parameters) if parameter.grad is not None]
    norm = math.sqrt(sum(float(np.square(gradient, dtype=np.float64).sum()) for gradient in gradients))
    factor = max_norm / (norm + 1e-6)  # torch's
    if factor < 1:
        for gradient in gradients:
            gradient *= gradient.dtype.type(factor)
    return norm


def _checked(parameters: Iterable[Parameter]) -> list[Parameter]:
    """A list of them; a TypeError if one is something else."""
    if not isinstance(parameters, Iterable) or isinstance(parameters, np.ndarray | str | bytes):
        raise TypeError(
            f"parameters must be an iterable of nn.Parameter, got {parameters!r} ({type(parameters).__name__})"
        )
    parameters = list(parameters)
    for parameter in parameters:
        if not isinstance(parameter, Parameter):
            raise TypeError(
                f"parameters must be instances of nn.Parameter, got {parameter!r} ({type(parameter).__name__})"
            )
    return parameters


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    Parameters
    ----------
    lr : float
        The learning rate.
    momentum : float
        The share of the last step in this one.
    weight_decay : float
        Times the weight, added to its gradient (an L2 penalty).
    nesterov : bool
        Whether to look ahead; needs a momentum and no dampening.
    dampening : float
        The share of a gradient that does not go into the momentum.

    Raises
    ------
    TypeError, ValueError
        A hyper-parameter is no number, or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.array([1.0]))
    >>> optimizer = nn.SGD(lr=0.1, momentum=0.9)
    >>> optimizer.bind([weight])
    >>> for _ in range(2):
    ...     weight.grad = 2 * weight.data  # of weight ** 2
    ...     optimizer.step()
    >>> weight.data
    array([0.46])
    """

    slots = ("momentum_buffer",)

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        self.momentum = real(momentum, "momentum", 0)
        self.nesterov = flag(nesterov, "nesterov")
        self.dampening = real(dampening, "dampening", 0)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs a momentum above 0 and a dampening of 0, got {momentum=} and {dampening=}"
            )

    def _update(self, data: np.ndarray, grad: np.ndarray, memory: Memory) -> None:
        if not self.momentum:
            return _sweep(kernels.sgd, data, (grad,), self._numbers)
        velocity, numbers = memory.get("momentum_buffer"), self._numbers
        if velocity is None:  # the first gradient goes into it as a whole
            velocity, numbers = memory.setdefault("momentum_buffer", np.zeros_like(data)), numbers.copy()
            numbers[3] = 1
        _sweep(kernels.sgd_momentum, data, (grad, velocity), numbers)

    def _hyper_parameters(self) -> tuple[float, ...]:
        return self.lr, self.weight_decay, self.momentum, 1 - self.dampening, self.nesterov


class Adam(Optimizer):
    """Adaptive moments: every weight takes steps of its own size.

    Parameters
    ----------
    lr : float
        The learning rate.
    betas : (float, float)
        How slowly the averages of the gradient and of its square change, each from 0 to below 1.
    eps : float
        Added to the root of the second average.
    weight_decay : float
        Times the weight, added to its gradient (an L2 penalty; :class:`AdamW` decouples it).

    Raises
    ------
    TypeError, ValueError
        A hyper-parameter is no number, or out of range.

    References
    ----------
    Kingma, Ba: Adam: A Method for Stochastic Optimization, 2014, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> weight = nn.Parameter(np.array([1.0, -5.0]))
    >>> optimizer = nn.Adam(lr=0.1)
    >>> optimizer.bind([weight])
    >>> weight.grad = 2 * weight.data
    >>> optimizer.step()
    >>> weight.data  # the first step is as long as the learning rate
    array([ 0.9, -4.9])
    """

    slots = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(lr, weight_decay)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
        self.betas = real(betas[0], "betas[0]", 0, 1), real(betas[1], "betas[1]", 0, 1)
        if max(self.betas) == 1:
            raise ValueError(f"betas must be below 1, got {betas}")
        self.eps = real(eps, "eps", 0)

    def _update(self, data: np.ndarray, grad: np.ndarray, memory: Memory) -> None:
        """Move ``data`` by the running means of the gradient and of its square, freed of their start at 0."""
        if not memory:
            memory.update(step=np.zeros((), np.int64), exp_avg=np.zeros_like(data), exp_avg_sq=np.zeros_like(data))
        launch(kernels.count_step, 1, memory["step"].reshape(-1), self._numbers)
        _sweep(kernels.adam, data, (grad, memory["exp_avg"], memory["exp_avg_sq"]), self._numbers)

    def _hyper_parameters(self) -> tuple[float, ...]:
        return self.lr, self.weight_decay, 1.0, *self.betas, self.eps


class AdamW(Adam):
    """:class:`Adam` with decoupled weight decay: at each step weights shrink by ``lr * weight_decay`` of themselves.

    Parameters
    ----------
    lr, betas, eps
        As for :class:`Adam`.
    weight_decay : float
        The share of a weight that is taken away at each step, times the learning rate.

    Raises
    ------
    TypeError, ValueError
        A hyper-parameter is no number, or out of range.

    References
    ----------
    Loshchilov, Hutter: Decoupled Weight Decay Regularization, 2017, arXiv:1711.05101.

    Examples
    --------
    >>> from numbaconv import nn
    >>> nn.AdamW(lr=0.01)
    AdamW(lr=0.01, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-08)
    """

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)

    def _hyper_parameters(self) -> tuple[float, ...]:
        return self.lr, 0.0, 1 - self.lr * self.weight_decay, *self.betas, self.eps


def _sweep(kernel: Kernel, data: np.ndarray, others: tuple[np.ndarray, ...], numbers: np.ndarray) -> None:
    """Run an update rule; ``data`` and ``others``, but for the gradient, are changed."""
    dtype, size = data.dtype, data.size
    target, rest = flat(data, dtype), [flat(array, dtype) for array in others]
    launch_light(kernel, size, size, target, *rest, numbers)
    if not data.flags.carray:  # a copy was changed, for kernels know contiguous memory only
        data[...] = target.reshape(data.shape)
