"""`LoggingMiddleware`: one record of the standard library's `logging` for each message, when it has ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any, cast, get_args

from pydantic import TypeAdapter

from mcp_intercept._chain import NextFunctionT
from mcp_intercept._context import MCPResponseContext, MiddlewareContext, Outcome
from mcp_intercept._faults import Faults
from mcp_intercept._middleware import Middleware
from mcp_intercept.errors import InterceptError

__all__ = ["LoggingMiddleware"]

_DEFAULT_LEVELS: Mapping[Outcome, int | None] = {
    "ok": logging.INFO,
    "tool_error": logging.WARNING,
    "error": logging.ERROR,
    "timeout": logging.ERROR,
    "cancelled": logging.INFO,
}

_METHODS_WITH_NAME = frozenset({"tools/call", "prompts/get"})
_MAX_NAME_LENGTH = 200

_anything: TypeAdapter[Any] = TypeAdapter(Any)


class LoggingMiddleware(Middleware):
    """Log each message when it has ended, requests and notifications of both directions, in one line.

    Such as `tools/call add ok in 12.3 ms (request 40 B, response 120 B) [mcp-1]`. Where it stands in the chain decides
    what it sees: outside a retry it logs the call, inside it each attempt.

    Each record has these attributes (`extra`) for structured handlers, `None` where there is no such thing:

    - `mcp_method`, and `mcp_name`, that of the tool or prompt
    - `mcp_outcome`, see `MCPResponseContext.outcome`, and `mcp_duration` in seconds
    - `mcp_error_type`, the class of the exception, and `mcp_error_code`, that of the JSON-RPC error
    - `mcp_connection_id`, `mcp_message_id`, `mcp_direction`, `mcp_kind`, `mcp_attempt`, `mcp_session_id` and
      `mcp_protocol_version`, as in `MiddlewareContext`
    - `mcp_request_size` and `mcp_response_size`, the bytes of params and result as JSON, without the envelope and
      without what the SDK itself puts into `_meta`
    - `mcp_params`, `mcp_result` and `mcp_error_text`, only if asked for

    Arguments, results, error messages and resource URIs may hold secrets and are logged only if asked for. All text
    is capped, and what is not printable in it is escaped, so that no server can forge a line or reach a terminal.

    A logger, filter or handler that raises does not affect the message: that is logged once to `mcp_intercept`.
    Handlers run in the event loop; put slow ones behind a `logging.handlers.QueueHandler`.

    Args:
        logger: A logger or its name.
        levels: The level of an outcome as a number or name, or `None` to log nothing; those not given stay as they
            are by default: `ok` and `cancelled` INFO, `tool_error` WARNING, `error` and `timeout` ERROR.
        sizes: Whether to log sizes, for which params and result are serialised if the record is emitted.
        payloads: Whether to log params and result as JSON, resource URIs among them.
        error_text: Whether to log the messages of errors and timeouts, and the text of results that are tool errors.
        max_length: How many characters of each payload and error text to log.

    Raises:
        InterceptError: An argument is not what it should be.
    """

    def __init__(
        self,
        logger: str | logging.Logger = "mcp_intercept.calls",
        *,
        levels: Mapping[Outcome, int | str | None] | None = None,
        sizes: bool = True,
        payloads: bool = False,
        error_text: bool = False,
        max_length: int = 1000,
    ) -> None:
        self._logger = _checked_logger(logger)
        self._levels = {**_DEFAULT_LEVELS, **_checked_levels({} if levels is None else levels)}
        # A logger that is not enabled for the highest level is for none. No logger is enabled for level 0.
        self._highest_level = max(level or 0 for level in self._levels.values())
        self._sizes = sizes
        self._payloads = payloads
        self._error_text = error_text
        self._max_length = _checked_length(max_length)
        self._faults = Faults(self)

    async def on_message(self, context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        """Every message, whatever its kind and direction."""
        if not self._is_enabled():
            return await call_next(context)
        started = perf_counter()
        try:
            result = await call_next(context)
        except BaseException as error:
            self._observe(context, None, error, perf_counter() - started)
            raise
        self._observe(context, result, None, perf_counter() - started)
        return result

    def _is_enabled(self) -> bool:
        try:
            return self._logger.isEnabledFor(self._highest_level)
        except Exception as failure:
            self._faults.report("ask the logger for its level", failure)
            return False

    def _observe(
        self, context: MiddlewareContext[Any], result: Any, error: BaseException | None, duration: float
    ) -> None:
        try:
            response = MCPResponseContext(context.id, result, error, duration, context.metadata)
            outcome = response.outcome
            level = self._levels[outcome]
            if level is not None and self._logger.isEnabledFor(level):
                self._log(level, outcome, context, response)
        except Exception as failure:
            self._faults.report("log a message", failure)

    def _log(self, level: int, outcome: Outcome, context: MiddlewareContext[Any], response: MCPResponseContext) -> None:
        facts = {**_facts(context, response.error), "mcp_outcome": outcome, "mcp_duration": response.duration}
        facts.update(self._content(context, response))
        facts["mcp_error_text"] = self._shown(_failure_text(outcome, response)) if self._error_text else None
        self._logger.log(
            level,
            "%s %s in %.1f ms%s [%s]%s",
            _title(facts),
            outcome,
            response.duration * 1000,
            _details(facts),
            facts["mcp_connection_id"],
            _payload(facts),
            extra=facts,
        )

    def _content(self, context: MiddlewareContext[Any], response: MCPResponseContext) -> dict[str, Any]:
        """Sizes and payloads, as far as they are wanted."""
        outgoing = context.direction == "outgoing"
        params = self._encoded(context.params, received=not outgoing)
        result = self._encoded(response.result, received=outgoing)
        return {
            "mcp_request_size": len(params) if self._sizes and params is not None else None,
            "mcp_response_size": len(result) if self._sizes and result is not None else None,
            "mcp_params": self._shown(params) if self._payloads else None,
            "mcp_result": self._shown(result) if self._payloads else None,
        }

    def _encoded(self, value: Any, *, received: bool) -> bytes | None:
        """The JSON of params or a result, as it was on the wire.

        The SDK sends defaults, but no `None`; what it received shows defaults that were never sent.
        """
        if value is None or not (self._sizes or self._payloads):
            return None
        try:
            return _anything.dump_json(
                value, by_alias=True, exclude_none=not received, exclude_unset=received, warnings=False
            )
        except Exception as failure:
            self._faults.report("serialise a message", failure, text=self._error_text)
            return None

    def _shown(self, text: str | bytes | None) -> str | None:
        if isinstance(text, bytes):
            # No more than is shown: one character takes up to four bytes.
            text = text[: 4 * self._max_length + 4].decode(errors="ignore")
        return None if text is None else _printable(text, self._max_length)


def _facts(context: MiddlewareContext[Any], error: BaseException | None) -> dict[str, Any]:
    """What is known of a message without serialising it, as the attributes of its record."""
    name = getattr(context.params, "name", None) if context.method in _METHODS_WITH_NAME else None
    code = getattr(getattr(error, "error", None), "code", None)
    return {
        "mcp_method": _name(context.method),
        "mcp_name": _name(name),
        "mcp_connection_id": _name(context.connection_id),
        "mcp_message_id": _name(context.id),
        "mcp_direction": context.direction,
        "mcp_kind": context.kind,
        "mcp_attempt": context.attempt,
        "mcp_session_id": _name(context.session_id),
        "mcp_protocol_version": _name(context.protocol_version),
        "mcp_error_type": None if error is None else _name(type(error).__name__),
        "mcp_error_code": code if isinstance(code, int) else None,
    }


def _failure_text(outcome: Outcome, response: MCPResponseContext) -> str | None:
    if outcome == "tool_error":
        texts = (getattr(block, "text", None) for block in response.result.content)
        return " ".join(text for text in texts if isinstance(text, str))
    # What a cancellation says is the event loop's own business.
    return str(response.error) if outcome in ("error", "timeout") else None


def _title(facts: Mapping[str, Any]) -> str:
    words = ["incoming" if facts["mcp_direction"] == "incoming" else None, facts["mcp_method"], facts["mcp_name"]]
    return " ".join(word for word in words if word is not None)


def _details(facts: Mapping[str, Any]) -> str:
    formats = {
        "mcp_error_type": "{}",
        "mcp_error_code": "code {}",
        "mcp_request_size": "request {} B",
        "mcp_response_size": "response {} B",
    }
    details = [text.format(facts[fact]) for fact, text in formats.items() if facts[fact] is not None]
    if facts["mcp_attempt"] > 1:
        details.append(f"attempt {facts['mcp_attempt']}")
    return f" ({', '.join(details)})" if details else ""


def _payload(facts: Mapping[str, Any]) -> str:
    formats = {"mcp_error_text": ": {}", "mcp_params": " params={}", "mcp_result": " result={}"}
    return "".join(text.format(facts[fact]) for fact, text in formats.items() if facts[fact] is not None)


def _name(text: object) -> str | None:
    return _printable(text, _MAX_NAME_LENGTH) if isinstance(text, str) else None


def _printable(text: str, max_length: int) -> str:
    """At most so many characters of `text`, with line breaks, control characters and the like escaped."""
    start = text[: max_length + 1]
    if not start.isprintable():
        start = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in start)
    return start if len(start) <= max_length else f"{start[:max_length]}..."


def _checked_logger(logger: object) -> logging.Logger:
    if isinstance(logger, str):
        return logging.getLogger(logger)
    if isinstance(logger, logging.Logger):
        return logger
    raise InterceptError(f"logger must be a logging.Logger or the name of one, not {logger!r}")


def _checked_levels(levels: object) -> dict[Outcome, int | None]:
    if not isinstance(levels, Mapping):
        raise InterceptError(f"levels must be a mapping of outcomes to levels, not {levels!r}")
    outcomes = get_args(Outcome)
    checked: dict[Outcome, int | None] = {}
    for outcome, level in cast("Mapping[Any, object]", levels).items():
        if outcome not in outcomes:
            raise InterceptError(f"{outcome!r} in levels is no outcome; outcomes are {', '.join(outcomes)}")
        checked[outcome] = None if level is None else _checked_level(outcome, level)
    return checked


def _checked_level(outcome: Outcome, level: object) -> int:
    # The function for names, getLevelNamesMapping, needs Python 3.11.
    number = logging.getLevelName(level) if isinstance(level, str) else level  # pyright: ignore[reportDeprecated]
    if isinstance(number, int) and not isinstance(number, bool) and number > 0:
        return number
    raise InterceptError(
        f"the level of {outcome} must be a number above 0 or the name of a level, not {level!r}; to log nothing, None"
    )


def _checked_length(max_length: object) -> int:
    if isinstance(max_length, int) and not isinstance(max_length, bool) and max_length >= 0:
        return max_length
    raise InterceptError(f"max_length must be a number of characters, at least 0, not {max_length!r}")
