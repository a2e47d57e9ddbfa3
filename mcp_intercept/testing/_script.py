"""`Script`: what a test says that a server answers to one kind of request, and what the server was asked."""

from __future__ import annotations

from collections.abc import Callable
from inspect import isawaitable
from typing import Any, TypeAlias

from mcp_intercept._chain import describe
from mcp_intercept._context import printable
from mcp_intercept._middleware import misfit_of
from mcp_intercept.errors import InterceptError
from mcp_intercept.testing._line import Frame

Answer: TypeAlias = Any
"""What a request is answered with: what the method's `on_...` says, an exception, or a function that makes one."""

ToResult: TypeAlias = Callable[[Any], Frame]
"""Makes the result that an answer, no exception and no function, stands for; a `ValueError` says why it cannot."""


def title_of(method: str, name: str | None) -> str:
    """What is scripted, as complaints show it."""
    return printable(method) if name is None else f"{printable(method)} {printable(name)!r}"


class Script:
    """What a `ScriptedServer` answers to one kind of request, and what it was asked.

    Example::

        server = ScriptedServer()
        forecast = server.on_tool("forecast", "sunny", "rain")
        async with connect(server.transport()) as session:
            await session.call_tool("forecast", {"city": "Oslo"})
        assert forecast.called
        assert forecast.calls == [{"city": "Oslo"}]
    """

    def __init__(self, title: str) -> None:
        self.calls: list[Any] = []
        """What each request asked with: the arguments of a tool or prompt, the URI of a resource, else the params."""
        self._title = title

    @property
    def called(self) -> bool:
        """Whether it was asked for at all."""
        return bool(self.calls)

    def __repr__(self) -> str:
        return f"<Script {self._title}: called {len(self.calls)} times>"


class Scripted:
    """The answers of a script.

    Args:
        title: What they answer.
        answers: The answers, in order; `None` if there is none.
        to_result: Makes a result of one.

    Raises:
        InterceptError: One of them is no answer.
    """

    def __init__(self, title: str, answers: tuple[Answer, ...], to_result: ToResult) -> None:
        self.script = Script(title)
        self._title = title
        self._answers = answers or (None,)
        self._to_result = to_result
        for answer in self._answers:
            self._check(answer)

    def _check(self, answer: Answer) -> None:
        if isinstance(answer, type):
            raise InterceptError(f"{self._title}: {answer.__name__} is a class; give an instance, or a function")
        if callable(answer):
            misfit = misfit_of(answer, 1)
            if misfit:
                raise InterceptError(
                    f"{self._title}: {describe(answer)} must take one argument, which is what was asked: {misfit}"
                )
        elif not isinstance(answer, Exception):
            self._result_of(answer)

    async def answer(self, asked: Any) -> Frame:
        """The result that is next; an exception is raised."""
        calls = self.script.calls
        calls.append(asked)
        answer = self._answers[min(len(calls), len(self._answers)) - 1]
        if callable(answer):
            answer = answer(asked)
        if isawaitable(answer):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return self._result_of(answer)

    def _result_of(self, answer: Any) -> Frame:
        try:
            return self._to_result(answer)
        except ValueError as error:
            raise InterceptError(f"{self._title}: {error}") from None
