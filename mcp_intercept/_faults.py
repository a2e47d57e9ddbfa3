"""Faults of an observer, which are its own business: logged once, and never let through to the call."""

from __future__ import annotations

import logging
from contextlib import suppress
from threading import RLock
from traceback import extract_tb

from mcp_intercept._context import printable

logger = logging.getLogger("mcp_intercept")


class Faults:
    """What went wrong in an observer: each thing that it could not do is logged once, to the package's logger.

    Not as a traceback, which would show the exception that the call itself ended with.

    Args:
        observer: Who it is.
    """

    def __init__(self, observer: object) -> None:
        self._name = type(observer).__name__
        self._reported: set[str] = set()
        # Reentrant, as the collector may close a call that somebody dropped, at any line.
        self._lock = RLock()

    def report(self, aim: str, failure: Exception, *, text: bool = True) -> None:
        """Log that the observer failed to do what `aim` says; never raises.

        Args:
            aim: What it wanted to do, after "failed to".
            failure: What was raised.
            text: Whether the text of `failure` may be shown: it may repeat what a message says.
        """
        with self._lock:
            if aim in self._reported:
                return
            self._reported.add(aim)
        # The handler that failed may be that of this logger, too.
        with suppress(Exception):
            where = extract_tb(failure.__traceback__)[-1]
            logger.error(
                "%s failed to %s: %s at %s:%s; the message is not affected, and further failures are not logged",
                self._name,
                aim,
                printable(f"{type(failure).__name__}({failure})" if text else type(failure).__name__),
                where.filename,
                where.lineno,
            )
