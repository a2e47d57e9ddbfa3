"""Attributes set on somebody else's object for a while, and taken back exactly."""

from __future__ import annotations

from typing import Any
from weakref import ref

_ABSENT: Any = object()


class Patches:
    """Attributes set on instances, over what their classes define."""

    def __init__(self) -> None:
        self._set: list[tuple[ref[Any], str, Any, Any]] = []

    def set(self, target: object, name: str, value: Any) -> None:
        """Set an attribute of `target` itself.

        Raises:
            TypeError: It has no attributes of its own.
        """
        attributes = vars(target)
        self._set.append((ref(target), name, attributes.get(name, _ABSENT), value))
        attributes[name] = value

    def undo(self) -> None:
        """Set everything back, but for what somebody else has set since."""
        while self._set:
            target, name, before, value = self._set.pop()
            attributes: dict[str, Any] = getattr(target(), "__dict__", {})
            if attributes.get(name, _ABSENT) is not value:
                continue
            if before is _ABSENT:
                del attributes[name]
            else:
                attributes[name] = before
