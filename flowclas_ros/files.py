"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowclas_ros.errors import FlowclasError


def require_writable(path: Path) -> None:
    """Raise FlowclasError where no file can be written at `path`: before the long work, not after it."""
    try:
        temporary = _temporary(_target(path))
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise FlowclasError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes otherwise.

    Folders are made as needed, and a link is followed. What the system raises passes through: the caller knows what the
    file was for. Raises OSError where `path` is a folder, or a device, which a file in its place would do away with.
    """
    path = _target(path)
    # Named before it exists, so that Ctrl-C at no moment leaves it behind.
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # there is none after the rename, nor where the folder cannot be made
            temporary.unlink()


def _target(path: Path) -> Path:
    """Where a link leads to. Raises OSError for what is there and no file."""
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is a device, not a file", str(path))
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
