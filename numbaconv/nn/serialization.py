"""Models in files: safetensors, or NumPy's ``.npz`` where that package is not installed."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from numbaconv.nn.containers import Sequential
from numbaconv.nn.models import MODELS
from numbaconv.nn.module import Module

State: TypeAlias = dict[str, np.ndarray]
Metadata: TypeAlias = dict[str, Any]

#: What the header of our files says, and the name of the entry in an .npz that is no array of the model.
FORMAT = "numbaconv-model"
VERSION = 1
_HEADER = "__metadata__"


def save_model(path: str | os.PathLike[str], model: Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the state of a model, and what is to be known of it, to a file.

    The file is complete or not there at all: it is written under another name and then renamed.

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
        The metadata are not for JSON.
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
    path = Path(path)
    metadata = dict(metadata or {})
    if "model" in metadata:
        _check_recipe(metadata)
    header = {"format": FORMAT, "version": str(VERSION), "metadata": json.dumps(metadata)}
    state = model.state_dict()
    if _suffix(path) == ".safetensors":
        content: bytes = _safetensors().save(state, metadata=header)
    else:
        buffer = io.BytesIO()
        np.savez(buffer, **{_HEADER: np.array(json.dumps(header))}, **state)  # type: ignore[arg-type]
        content = buffer.getvalue()
    _write(path, content)


def load_state(path: str | os.PathLike[str]) -> tuple[State, Metadata]:
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
    path = Path(path)
    if _suffix(path) == ".safetensors":
        library, read = _safetensors(), _read_safetensors
    else:
        library, read = np, _read_npz
    content = path.read_bytes()
    try:
        state, header = read(content, library)
    except Exception as error:  # all it does is take bytes in memory apart: whatever fails, the bytes are wrong
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or no {path.suffix} file: {reason}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by numbaconv: it holds no model that numbaconv knows")
    if header.get("version") != str(VERSION):
        raise ValueError(
            f"{path} has version {header.get('version')} of the format, but this numbaconv reads version {VERSION}"
        )
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its metadata cannot be read ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata are no mapping")
    return state, metadata


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
        model = MODELS[name](**arguments, dtype=dtypes.pop(), rng=0)
        model.load_state_dict(state)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
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


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path} must end in .safetensors or .npz, which says how the model is stored")
    return suffix


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a .safetensors file needs the package safetensors: pip install "numbaconv[cli]" (or use .npz)'
        ) from error
    return safetensors.numpy


def _read_safetensors(content: bytes, library: Any) -> tuple[State, Mapping[str, str]]:
    state = library.load(content)
    # The file begins with the length of its header, which is JSON, and now known to be well formed.
    length = int.from_bytes(content[:8], "little")
    return state, json.loads(content[8 : 8 + length]).get(_HEADER, {})


def _read_npz(content: bytes, library: Any) -> tuple[State, Mapping[str, str]]:
    if not content.startswith(b"PK"):
        raise ValueError("it is no zip archive")
    with library.load(io.BytesIO(content), allow_pickle=False) as archive:
        state = {name: archive[name] for name in archive.files}
    if not all(isinstance(array, np.ndarray) for array in state.values()):
        raise ValueError("it holds something that is no array")
    header = json.loads(str(state.pop(_HEADER, "{}")))
    return state, header if isinstance(header, dict) else {}


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is never half there."""
    descriptor, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
