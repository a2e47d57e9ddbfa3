"""What JSON-like data is made of, for type checkers that take nothing for granted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard


def is_object(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether `value` becomes a JSON object."""
    return isinstance(value, Mapping)


def is_array(value: object) -> TypeGuard[Collection[Any]]:
    """Whether `value` becomes a JSON array."""
    return isinstance(value, (list, tuple, set, frozenset))
