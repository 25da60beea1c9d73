"""Weights from PyTorch, and back.

Layers here have torch's names, shapes and meaning, so a state dict needs no translation. What differs is in this one
file: tensors become arrays, half precision becomes the model's, and ``num_batches_tracked`` may be missing. Nothing of
torch is imported to read; nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from numbaconv.nn.module import Module
from numbaconv.values import as_path, one_line

#: The dtypes of the safetensors format that a state dict has, by their names there; bfloat16 is read as its bits.
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


class IncompatibleKeys(NamedTuple):
    """What :func:`load_torch_state_dict` left alone."""

    #: Names that only the model has.
    missing_keys: list[str]
    #: Names that only the state has.
    unexpected_keys: list[str]


def load_torch_state_dict(model: Module, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
    """Copy the weights of a PyTorch model into a model of ours.

    Parameters
    ----------
    model : Module
        Its layers are named as the other model's.
    state_dict : mapping of str to tensor or array
        What ``torch_model.state_dict()`` or :func:`load_safetensors` gives. Tensors may be on any device, in any memory
        format, and in any floating-point dtype; values are rounded to the dtype of the model.
    strict : bool
        Whether both must have the same names. If not, those that both have are copied. A ``num_batches_tracked`` may be
        missing in either case, as in torch: files that are old, or were made without it, do not have any.

    Returns
    -------
    IncompatibleKeys
        ``(missing_keys, unexpected_keys)``; both are empty where ``strict`` is.

    Raises
    ------
    TypeError
        ``model`` is no Module, ``state_dict`` no mapping, or a value no array of numbers.
    ValueError
        Names or shapes do not fit; all of them are listed. Nothing has been changed then.

    Examples
    --------
    >>> import numpy as np
    >>> from numbaconv import nn
    >>> model = nn.Sequential(nn.Linear(2, 1))
    >>> nn.load_torch_state_dict(model, {"0.weight": np.ones((1, 2), np.float16), "0.bias": np.zeros(1, np.float16)})
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    >>> model(np.array([[2, 3]], np.float32))
    array([[5.]], dtype=float32)
    """
    own = _check_module(model).state_dict()
    _check_mapping(state_dict)
    missing = [name for name in own if name not in state_dict and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state_dict if name not in own]
    arrays = {name: _array(name, state_dict[name]) for name in own if name in state_dict}
    problems = []
    if strict:
        problems += [f"missing {name!r}" for name in missing] + [f"unexpected {name!r}" for name in unexpected]
    for name, array in arrays.items():
        if array.shape != own[name].shape:
            problems.append(f"{name!r} has shape {array.shape}, but {own[name].shape} in this model")
        elif not np.can_cast(array.dtype, own[name].dtype, "same_kind"):
            problems.append(f"{name!r} has dtype {array.dtype}, but {own[name].dtype} in this model")
    if problems:
        raise ValueError("the state does not fit this model: " + "; ".join(problems))
    with np.errstate(over="ignore"):  # beyond the range of float32 is infinity, as in torch
        model.load_state_dict(own | {name: array.astype(own[name].dtype) for name, array in arrays.items()})
    return IncompatibleKeys(missing, unexpected)


def to_torch_state_dict(model: Module) -> dict[str, Any]:
    """The weights of a model of ours, for ``torch_model.load_state_dict``.

    Parameters
    ----------
    model : Module
        Its layers are named as the other model's.

    Returns
    -------
    dict of str to torch.Tensor
        Copies, in torch's order. A file of :func:`save_model` that ends in ``.safetensors`` holds the same:
        ``safetensors.torch.load_file`` reads it.

    Raises
    ------
    ModuleNotFoundError
        PyTorch is not installed.
    TypeError
        ``model`` is no Module.
    """
    state = _check_module(model).state_dict()
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("tensors need PyTorch: pip install torch") from error
    return {name: torch.from_numpy(array) for name, array in state.items()}


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays of any safetensors file, such as ``safetensors.torch.save_file`` writes.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of str to ndarray
        Sorted by name, for the format keeps no order. bfloat16, which NumPy does not have, becomes float32.

    Raises
    ------
    ModuleNotFoundError
        The package safetensors is not installed.
    ValueError
        The file is damaged or no such file, or holds a dtype that is not known here.
    OSError
        It cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from numbaconv import nn
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nn.save_model(f"{folder}/model.safetensors", nn.Linear(2, 1))
    ...     sorted(nn.load_safetensors(f"{folder}/model.safetensors"))
    ['bias', 'weight']
    """
    try:
        import safetensors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a .safetensors file needs the package safetensors: pip install "numbaconv[cli]"'
        ) from error
    content = as_path(path).read_bytes()
    try:
        tensors = safetensors.deserialize(content)  # checks the sizes in the header against those of the file
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {one_line(error)}") from error
    unknown = sorted({tensor["dtype"] for _, tensor in tensors} - _DTYPES.keys())
    if unknown:
        raise ValueError(f"{path} holds arrays of {one_line(', '.join(unknown))}, which are not read here")
    tensors.sort(key=lambda named: named[0])
    return {name: _from_bytes(tensor["dtype"], tensor["shape"], tensor["data"]) for name, tensor in tensors}


def _from_bytes(dtype: str, shape: list[int], data: bytes) -> np.ndarray:
    values = np.frombuffer(data, _DTYPES[dtype])
    if dtype == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _array(name: str, value: Any) -> np.ndarray:
    """A tensor of any library, or an array, as an array of numbers."""
    try:
        for step in (
            "detach",
            "cpu",
        ):  # torch's tensors with a gradient, or on other devices, do not convert themselves
            value = getattr(value, step)() if hasattr(value, step) else value
        try:
            array = np.asarray(value)
        except TypeError:  # NumPy has no bfloat16, but float32 holds all its values
            array = np.asarray(value.float())
    except Exception as error:  # whatever a tensor has against it: no memory behind it, say
        raise TypeError(f"{name!r} cannot be converted to an array: {error}") from error
    if array.dtype.kind in "OSU":
        raise TypeError(f"{name!r} must be a tensor or an array of numbers, got {type(value).__name__}")
    return array


def _check_module(model: Any) -> Module:
    if not isinstance(model, Module):
        raise TypeError(f"model must be an instance of nn.Module, got {model!r} ({type(model).__name__})")
    return model


def _check_mapping(state_dict: Any) -> None:
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to tensors, got {type(state_dict).__name__}")
    nested = [f"state_dict[{name!r}]" for name, value in state_dict.items() if isinstance(value, Mapping)]
    if nested:
        raise TypeError(
            f"state_dict holds mappings, as checkpoints do: give the one of the model ({', '.join(nested)})"
        )
