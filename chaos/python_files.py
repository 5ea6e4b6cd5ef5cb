"""A file as `open` gives it, every call of which is one of `os`: so that who watches `os` sees it."""

from __future__ import annotations

import io
import os
from typing import Any

_FLAGS = {"r": os.O_RDONLY, "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC, "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND}
_FLAGS["x"] = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class PythonFile(io.RawIOBase):
    """What lies below the buffer of an open file.

    Args:
        path: of the file.
        mode: as `open` takes it.
    """

    def __init__(self, path: str | os.PathLike[str], mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.name = os.fspath(path)
        flags = _FLAGS[next(letter for letter in mode if letter in _FLAGS)]
        if "+" in mode:
            flags = flags & ~os.O_WRONLY | os.O_RDWR
        self._fd = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def readable(self) -> bool:
        """Whether it may be read."""
        return "r" in self.mode or "+" in self.mode

    def writable(self) -> bool:
        """Whether it may be written."""
        return "r" not in self.mode or "+" in self.mode

    def seekable(self) -> bool:
        """It is a regular file."""
        return True

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def readinto(self, buffer: Any) -> int:
        """Reads into the buffer; the number of bytes."""
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:
        """Writes some of the data; the number of bytes."""
        return os.write(self._fd, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position; the new one."""
        return os.lseek(self._fd, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """Cuts it; the new size."""
        size = self.tell() if size is None else size
        os.ftruncate(self._fd, size)
        return size

    def close(self) -> None:
        """Closes the descriptor."""
        if not self.closed:
            super().close()
            os.close(self._fd)
