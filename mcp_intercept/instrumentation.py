"""`MCPInterceptInstrumentor`: traces of every MCP session of a process, without a line of code in it.

    pip install "mcp-intercept-sdk[otel]"
    export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318
    OTEL_SERVICE_NAME=agent opentelemetry-instrument python agent.py

`opentelemetry-instrument` finds it by its entry point, `mcp_intercept`, which is also what to write into
`OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` to do without. The protocol has to be said: the default is gRPC, whose exporter
the extra does not bring. For endpoints that take traces only, add `OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none`.

It imports nothing before the program itself has imported `mcp` and opens a session: what others instrument, Starlette
among them, may be theirs first.

Processes that are forked go on to be traced. Those that are spawned, by `multiprocessing` or as a server over stdio,
are traced if `opentelemetry-instrument` starts them; newer versions of it see to that by the environment. A stdio
server has of that only what `StdioServerParameters(env=...)` says. Let none of those export to the console: its
standard output is the protocol.

Other instrumentations of MCP: disable `mcp`, where that is `opentelemetry-instrumentation-mcp` (OpenLLMetry). On SDK
1.x it makes spans of its own inside of these; on 2.x it fails, and takes with it what is loaded after it, this perhaps.
Do not call `logfire.instrument_mcp()`. Nothing needs to be done about `openinference-instrumentation-mcp`, which only
propagates, about what SDK 2.x traces by itself, or about a `TracingMiddleware` of your own for the same provider.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection
from functools import wraps
from importlib import import_module
from typing import Any

from mcp_intercept.errors import MissingExtraError

try:
    # A comment in it has type checkers ignore it.
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

    register_post_import_hook: Any = import_module("wrapt").register_post_import_hook  # which has no types
except ImportError:
    # Not "as error", which type checkers would take for a name of this module's.
    raise MissingExtraError("MCPInterceptInstrumentor", "otel") from sys.exc_info()[1]

__all__ = ["MCPInterceptInstrumentor"]

_logger = logging.getLogger("mcp_intercept")


class MCPInterceptInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # see above
    """Puts a `TracingMiddleware` around every `ClientSession` of the process, also around those that are open already.

    `MCPInterceptInstrumentor().instrument(**options)` takes the keyword arguments of `TracingMiddleware`, and
    `uninstrument()` leaves everything as it was. There is one instance; to instrument twice, or to undo what was not
    done, is logged and does nothing.
    """

    _undo: Callable[[], None]

    def instrumentation_dependencies(self) -> Collection[str]:
        """What it instruments, as a requirement; with another version installed it does nothing, and says so."""
        return ("mcp >= 1.24, < 3",)

    def _instrument(self, **options: Any) -> None:
        if options or "mcp" in sys.modules:
            # Who gives options wants to hear now what is wrong with them.
            self._undo = _open(options)
        else:
            waiting = _Waiting(options)
            self._undo = waiting.undo
            register_post_import_hook(waiting.begin, "mcp")

    def _uninstrument(self, **_: Any) -> None:
        self._undo()


def _open(options: dict[str, Any]) -> Callable[[], None]:
    # Not before the program itself has imported `mcp`.
    from mcp_intercept._everywhere import intercept_all
    from mcp_intercept.middleware.tracing import TracingMiddleware

    opened = intercept_all(TracingMiddleware(**options))
    opened.__enter__()
    return opened.__exit__


class _Waiting:
    """Waits for the first session or connection of a program that has not imported `mcp` yet."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._undo: Callable[[], None] | None = None
        self._is_over = False

    def begin(self, mcp: Any) -> None:
        """`mcp` was imported; that of our own package may still go on."""
        from mcp.client.streamable_http import StreamableHTTPTransport

        if not self._is_over:
            self._wait_at(mcp.ClientSession, "__init__")
            self._wait_at(StreamableHTTPTransport, "post_writer")

    def _wait_at(self, owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        @wraps(plain)
        def first(*args: Any, **kwargs: Any) -> Any:
            self._end()
            return getattr(owner, name)(*args, **kwargs)

        self._replaced.append((owner, name, plain, first))
        setattr(owner, name, first)

    def _end(self) -> None:
        if self._is_over:
            return
        self._restore()
        try:
            self._undo = _open(self._options)
        except Exception:
            # Whoever opens a session knows nothing of this.
            _logger.exception("MCP sessions are not traced")

    def _restore(self) -> None:
        self._is_over = True
        for owner, name, plain, first in self._replaced:
            # Others, and this package itself, may have put something else there since.
            if getattr(owner, name) is first:
                setattr(owner, name, plain)

    def undo(self) -> None:
        """Wait no longer, or leave everything as it was."""
        self._restore()
        if self._undo is not None:
            self._undo()
