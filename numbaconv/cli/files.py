"""Files to be written: whether that will work is found out before hours of work, not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from numbaconv.cli.errors import UsageError, user_errors


def output_file(name: str, suffixes: tuple[str, ...], *inputs: str, option: str = "--output") -> Path:
    """``name``, the value of an option, as a path; an error if it cannot be written, or is one of ``inputs``."""
    path = Path(name).expanduser()
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} must end in {' or '.join(suffixes)}, got {name!r}")
    with user_errors():  # names that are too long, folders that may not be entered
        if path.is_dir():
            raise UsageError(f"{option} {name}: is a folder")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {name}: there is no folder {path.parent}")
        for other in inputs:
            if path.exists() and Path(other).expanduser().exists() and path.samefile(Path(other).expanduser()):
                raise UsageError(f"{option} {name}: would overwrite what is read")
    try:
        with user_errors(), tempfile.TemporaryFile(dir=path.parent):
            pass
    except UsageError as error:
        raise UsageError(f"{option} {name}: the folder cannot be written: {error}") from error
    return path
