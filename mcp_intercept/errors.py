"""The exceptions of this package.

Errors of the server, the transport and the SDK pass through unchanged; these are only for what went wrong on
our own side::

    InterceptError
    ├── MiddlewareError          a middleware that is none, or breaks its contract
    ├── SessionStateError        a session used in the wrong order          (also a RuntimeError)
    ├── UnsupportedTargetError   something that cannot be wrapped or connected to   (also a TypeError)
    ├── BroadcastError           a broadcast that did not reach every session
    └── MissingExtraError        an optional dependency is not installed    (also an ImportError)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BroadcastError",
    "InterceptError",
    "MiddlewareError",
    "MissingExtraError",
    "SessionStateError",
    "UnsupportedTargetError",
]


class InterceptError(Exception):
    """Root of every exception this package raises by itself."""


class MiddlewareError(InterceptError):
    """A middleware is none, or broke the contract of `NextFunctionT`."""

    def __init__(self, message: str, *, middleware: object = None, method: str | None = None) -> None:
        super().__init__(message)
        self.middleware = middleware
        """The middleware at fault: the object itself, a bound hook, or `None` where it cannot be told."""
        self.method = method
        """The wire method of the message, or `None` when the fault was found before any message."""


class SessionStateError(InterceptError, RuntimeError):
    """A session was used before entering it, or entered twice."""


class UnsupportedTargetError(InterceptError, TypeError):
    """What was given can be neither wrapped nor connected to."""

    def __init__(self, message: str, *, target: object = None) -> None:
        super().__init__(message)
        self.target = target
        """The object that was given."""


class BroadcastError(InterceptError):
    """A broadcast failed for some sessions; it was still sent to all the others."""

    def __init__(self, message: str, *, failures: Mapping[Any, Exception]) -> None:
        super().__init__(message)
        self.failures: dict[Any, Exception] = dict(failures)
        """What each session that was not reached raised."""


class MissingExtraError(InterceptError, ImportError):
    """A feature needs an optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional dependency that is not installed; "
            f'the extra "{extra}" brings it: pip install "mcp-intercept-sdk[{extra}]"'
        )
        self.extra = extra
        """The name of the extra."""
