"""Bytes written one part after the other, and read again in the same order."""

from __future__ import annotations

from typing import Any

from lessen.core.errors import WeightsError


class Sink:
    """Collects bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def put(self, part: bytes) -> int:
        """Add a part and give its length."""
        self._parts.append(part)
        return len(part)

    def content(self) -> bytes:
        """All that was put."""
        return b"".join(self._parts)


class Source:
    """Gives bytes in the order they were put."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def take(self, length: Any) -> bytes:
        """The next `length` bytes.

        Raises:
            WeightsError: there are not as many left.
        """
        if not isinstance(length, int) or not 0 <= length <= len(self._content) - self._place:
            left = len(self._content) - self._place
            raise WeightsError(f"{length!r} bytes are to come, and {left} are left. The file is damaged.")
        self._place += length
        return self._content[self._place - length : self._place]

    def end(self) -> None:
        """Make sure that nothing is left.

        Raises:
            WeightsError: something is.
        """
        if self._place != len(self._content):
            raise WeightsError(f"{len(self._content) - self._place} bytes belong to nothing. The file is damaged.")
