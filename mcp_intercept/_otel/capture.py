"""What spans show of content: nothing, unless it is asked for; then capped, and redacted by whoever asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import Span
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from mcp_intercept._faults import Faults
from mcp_intercept._otel import semconv
from mcp_intercept._otel.content import to_json
from mcp_intercept._otel.json_like import is_array, is_object

Redactor = Callable[[str, Any], Any]
"""`(attribute, value) -> value`: what of the content is to be shown, `None` for nothing."""

_YES = frozenset({"true", "1", "span_only", "span_and_event"})


def wanted_by_environment() -> bool:
    """Whether the environment asks for content on spans."""
    return os.environ.get(semconv.CAPTURE_CONTENT, "").strip().lower() in _YES


class Capture:
    """Shows the content of calls.

    Args:
        names: Of which tools and prompts; or whether of all.
        redact: Gets content before it is shown.
        limit: How many characters to show of each.
        faults: Where to report.
    """

    def __init__(self, names: bool | frozenset[str], redact: Redactor | None, limit: int, faults: Faults) -> None:
        self._names = names
        self._redact = redact
        self._limit = limit
        self._faults = faults

    def wants(self, name: str | None) -> bool:
        """Whether the content of a call may be shown, by the name of the tool or prompt."""
        return self._names if isinstance(self._names, bool) else name in self._names

    def show_call(self, span: Span, method: str, params: Any, result: Any) -> None:
        """Show what a call says, and its result if it has a good one."""
        arguments: Any = getattr(params, "arguments", None) or {}
        if method == "tools/call":
            self._show(span, semconv.TOOL_ARGUMENTS, arguments)
            if result is not None:
                self._show(span, semconv.TOOL_RESULT, result)
        elif method == "prompts/get":
            for name, value in arguments.items():
                self._show(span, f"{semconv.PROMPT_VARIABLE}{name}", value)

    def tool_error(self, result: Any) -> str | None:
        """The text of a result that is a tool error."""
        shown = self._redacted(semconv.TOOL_RESULT, result)
        content = _field(shown, "content")
        texts = [_field(block, "text") for block in content] if is_array(content) else []
        return " ".join(text for text in texts if isinstance(text, str))[: self._limit] or None

    def _show(self, span: Span, attribute: str, value: Any) -> None:
        value = self._redacted(attribute, value)
        if value is None:
            return
        is_text = attribute.startswith(semconv.PROMPT_VARIABLE) and isinstance(value, str)
        span.set_attribute(attribute, value[: self._limit] if is_text else to_json(value, self._limit))

    def _redacted(self, attribute: str, value: Any) -> Any:
        if self._redact is None:
            return value
        try:
            # A copy, which it may change.
            if isinstance(value, BaseModel):
                return self._redact(attribute, value.model_dump(mode="json", by_alias=True, exclude_none=True))
            return self._redact(attribute, to_jsonable_python(value, fallback=repr))
        except Exception as failure:
            # Its text may be what was to be hidden.
            self._faults.report("redact content, which is left out", failure, text=False)
            return None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if is_object(value) else getattr(value, name, None)
