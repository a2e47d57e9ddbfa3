"""The exceptions of this package.

Errors of the server, the transport and the SDK pass through unchanged; these are only for what went wrong on
our own side::

    InterceptError
    ├── MiddlewareError          a middleware that is none, or breaks its contract
    ├── SessionStateError        a session used in the wrong order          (also a RuntimeError)
    ├── UnsupportedTargetError   something that cannot be wrapped or connected to   (also a TypeError)
    ├── BroadcastError           a broadcast that did not reach every session
    ├── MissingExtraError        an optional dependency is not installed    (also an ImportError)
    └── CassetteError            a cassette that cannot be used as it was asked for
        ├── CassetteFormatError      its file is damaged, or of a later version
        ├── CassetteLockedError      somebody else is recording it
        ├── CassetteMissError        something was asked that it has no answer to
        └── CassetteDriftError       the live server answers otherwise than it

Something that is no reason to fail is a warning::

    CassetteWarning              something about a cassette that one should know    (a UserWarning)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BroadcastError",
    "CassetteDriftError",
    "CassetteError",
    "CassetteFormatError",
    "CassetteLockedError",
    "CassetteMissError",
    "CassetteWarning",
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


class CassetteError(InterceptError):
    """A cassette cannot be used as it was asked for."""

    def __init__(self, message: str, *, path: object = None) -> None:
        super().__init__(message)
        self.path = path
        """The file, as it was given, or `None`."""


class CassetteFormatError(CassetteError):
    """A cassette is damaged, is none, or was written by a later version. Nothing is ever recorded over it."""

    def __init__(self, message: str, *, path: object = None, line: int | None = None) -> None:
        at = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(f"{at}{message}", path=path)
        self.reason = message
        """What is wrong, without the place."""
        self.line = line
        """The number of the line, from 1, or `None` where it is none in particular."""


class CassetteLockedError(CassetteError):
    """Another process, or another part of this one, is recording the same cassette."""


class CassetteMissError(CassetteError):
    """Something was asked, or answered, that the cassette knows nothing of."""

    def __init__(self, message: str, *, path: object = None, misses: Sequence[Any] = ()) -> None:
        super().__init__(message, path=path)
        self.misses: tuple[Any, ...] = tuple(misses)
        """A `Miss` for each, in order."""


class CassetteDriftError(CassetteError):
    """The live server does not answer as the cassette has it."""

    def __init__(self, message: str, *, path: object = None, drifts: Sequence[Any] = ()) -> None:
        super().__init__(message, path=path)
        self.drifts: tuple[Any, ...] = tuple(drifts)
        """A `Drift` for each, in order."""


class CassetteWarning(UserWarning):
    """Something about a cassette that one should know, and that is no reason to fail."""
