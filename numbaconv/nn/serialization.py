"""Models in files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numbaconv.nn.containers import Sequential
from numbaconv.nn.files import Arrays, Metadata, read_arrays, write_arrays
from numbaconv.nn.initialisation import at_most
from numbaconv.nn.models import MODELS
from numbaconv.nn.module import Module
from numbaconv.values import as_mapping, as_path, one_line

#: What the header of a model's file says.
KIND = "numbaconv-model"


def save_model(path: str | os.PathLike[str], model: Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the state of a model, and what is to be known of it, to a file.

    The file is complete or as it was before: it is written under another name, forced to the disk, and then renamed.

    Parameters
    ----------
    path : path-like
        Ends in ``.safetensors`` or ``.npz``.
    model : Module
        Its :meth:`~Module.state_dict` is saved.
    metadata : mapping, optional
        Anything that JSON can hold. Two entries have a meaning: ``"model"``, a name in ``nn.models.MODELS``, and
        ``"arguments"``, those of that function; with them :func:`load_model` can build the model again. The command
        line adds the shape of the images, how they are normalised, and the names of the classes.

    Raises
    ------
    ModuleNotFoundError
        The file is to be a ``.safetensors``, but that package is not installed.
    TypeError
        ``model`` is no module, or the metadata are not for JSON.
    ValueError
        The path ends in something else, or ``metadata["model"]`` is no known model.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from numbaconv import nn
    >>> model = nn.models.digits_cnn(num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nn.save_model(f"{folder}/model.npz", model, {"model": "digits_cnn", "arguments": {"num_classes": 3}})
    ...     again, metadata = nn.load_model(f"{folder}/model.npz")
    >>> bool((again[0].weight.data == model[0].weight.data).all()), metadata["arguments"]
    (True, {'num_classes': 3})
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be an instance of nn.Module, got {model!r} ({type(model).__name__})")
    metadata = {} if metadata is None else dict(as_mapping(metadata, "metadata"))
    if "model" in metadata:
        _check_recipe(metadata)
    write_arrays(as_path(path), KIND, model.state_dict(), metadata)


def load_state(path: str | os.PathLike[str]) -> tuple[Arrays, Metadata]:
    """Read the state dict and the metadata that :func:`save_model` wrote.

    Parameters
    ----------
    path : path-like
        Ends in ``.safetensors`` or ``.npz``. Nothing in it is ever executed.

    Returns
    -------
    (dict of str to ndarray, dict)

    Raises
    ------
    ModuleNotFoundError
        The file is a ``.safetensors``, but that package is not installed.
    ValueError
        The path ends in something else; or the file is damaged, or was not written by numbaconv.
    OSError
        The file cannot be read.
    """
    return read_arrays(as_path(path), KIND)


def load_model(path: str | os.PathLike[str]) -> tuple[Sequential, Metadata]:
    """Build the model that is in a file, in evaluation mode.

    Parameters
    ----------
    path : path-like
        A file of :func:`save_model` whose metadata name the model. Nothing in it is ever executed.

    Returns
    -------
    (Sequential, dict)
        The model and its metadata.

    Raises
    ------
    ModuleNotFoundError, OSError
        As :func:`load_state`.
    ValueError
        As :func:`load_state`; or the metadata name no model, or the state does not fit it.
    """
    state, metadata = load_state(path)
    if "model" not in metadata:
        raise ValueError(
            f"{path} does not say which model it holds: build one, then model.load_state_dict(load_state(path)[0])"
        )
    try:
        name, arguments = _check_recipe(metadata)
        dtypes = {array.dtype for array in state.values() if array.dtype.kind == "f"}
        if len(dtypes) != 1:
            raise ValueError(f"its parameters should have one dtype, but have {len(dtypes)}")
        with at_most(sum(array.size for array in state.values())):  # all there are: no parameter has more
            model = MODELS[name](**arguments, dtype=dtypes.pop(), rng=0)
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {one_line(error, 400)}") from error
    return model.eval(), metadata


def _check_recipe(metadata: Metadata) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a model; a ValueError unless such a model could be built."""
    name, arguments = metadata["model"], metadata.get("arguments", {})
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"the model {name!r} is unknown: there are {', '.join(MODELS)}")
    allowed = {"num_classes", "in_channels", "image_size"}
    if not isinstance(arguments, Mapping) or not allowed.issuperset(arguments):
        raise ValueError(f"the arguments of {name} must be among {', '.join(sorted(allowed))}, got {arguments!r}")
    return name, dict(arguments)
