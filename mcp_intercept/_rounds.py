"""Multi-round-trip calls (protocol version 2026-07-28): which messages belong to one call.

A server answers a call with questions (`InputRequiredResult`); the client answers them, and sends the call again with
the answers and the state the server gave it, as a request of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import anyio

from mcp_intercept._context import MiddlewareContext
from mcp_intercept._sdk import types

# What the rounds of a call are answered with, but for the last; line 1 has no such thing.
QUESTIONS: Any = getattr(types, "InputRequiredResult", None)
ASKING_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"} if QUESTIONS else ())

# A call that is never continued must not be remembered for ever.
_MAX_OPEN = 256


class _Round(NamedTuple):
    first: MiddlewareContext[Any]
    context: MiddlewareContext[Any]
    target: object
    result: Any
    task: int


class Rounds:
    """The calls of one session that wait for answers to the server's questions."""

    def __init__(self) -> None:
        self._open: deque[_Round] = deque(maxlen=_MAX_OPEN)

    def ask(self, context: MiddlewareContext[Any], result: Any) -> None:
        """The call of `context` was answered with questions."""
        first = context.related or context
        self._open.append(_Round(first, context, _target(context.params), result, anyio.get_current_task().id))

    def go_on(self, context: MiddlewareContext[Any]) -> None:
        """Tie a call that brings answers to the call that it goes on with."""
        params = context.params
        keys = set(params.input_responses or {})
        candidates: list[_Round] = []
        for waiting in self._open:
            asked = waiting.result
            if (
                waiting.context.method == context.method
                and waiting.target == _target(params)
                and asked.request_state == params.request_state
                and set(asked.input_requests or {}) == keys
            ):
                candidates.append(waiting)
        if candidates:
            # Of calls that say the same, this task goes on with its own; and with its last, if it gave up others.
            here = anyio.get_current_task().id
            waiting = ([each for each in candidates if each.task == here] or candidates)[-1]
            context.related = waiting.first
            context.round = waiting.context.round + 1
            self._open.remove(waiting)

    def call_of(self, question: object) -> MiddlewareContext[Any] | None:
        """The call whose answer held `question`."""
        for waiting in self._open:
            questions: dict[str, Any] = waiting.result.input_requests or {}
            if any(asked is question for asked in questions.values()):
                return waiting.context
        return None


def is_answer(params: Any) -> bool:
    """Whether a call answers questions of the server."""
    return getattr(params, "request_state", None) is not None or getattr(params, "input_responses", None) is not None


def _target(params: Any) -> object:
    """What distinguishes calls of one method: the tool and its arguments, the prompt, the resource."""
    return getattr(params, "name", None), getattr(params, "arguments", None), getattr(params, "uri", None)
