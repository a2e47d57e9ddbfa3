"""What a scripted server answers to what: its scripts, what it knows by itself, and what it has to refuse.

It gets and gives messages, and knows nothing of how they travel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from mcp_intercept._sdk import line, types
from mcp_intercept.errors import InterceptError
from mcp_intercept.recording.eras import says_version, with_modern_members
from mcp_intercept.testing._handshake import Handshake
from mcp_intercept.testing._line import Frame, dump, make_error
from mcp_intercept.testing._received import Received
from mcp_intercept.testing._script import Answer, Script, Scripted, ToResult, title_of

# The methods that are scripted by what they ask for.
_NOUNS: Mapping[str, str] = {"tools/call": "tool", "resources/read": "resource", "prompts/get": "prompt"}


class Repertoire:
    """All that a server has an answer to.

    Args:
        handshake: How it introduces itself.
    """

    def __init__(self, handshake: Handshake) -> None:
        self._failures: list[Exception] = []
        self._unscripted: list[str] = []
        self._scripted: dict[tuple[str, str | None], Scripted] = {}
        self._listed: dict[str, dict[str, Frame]] = {method: {} for method in _NOUNS}
        self._built_in: dict[str, Callable[[Received], Frame]] = {
            "initialize": lambda received: handshake.initialize(received.params.get("protocolVersion"), self._methods),
            "server/discover": lambda _: handshake.discover(self._methods),
            "ping": lambda _: {},
            "tools/list": lambda _: {"tools": [*self._listed["tools/call"].values()]},
            "resources/list": lambda _: {"resources": [*self._listed["resources/read"].values()]},
            "resources/templates/list": lambda _: {"resourceTemplates": []},
            "prompts/list": lambda _: {"prompts": [*self._listed["prompts/get"].values()]},
        }

    @property
    def _methods(self) -> set[str]:
        return {method for method, _ in self._scripted}

    @property
    def unused(self) -> list[Script]:
        """The scripts that nothing was asked of."""
        return [scripted.script for scripted in self._scripted.values() if not scripted.script.called]

    def take_failures(self) -> list[Exception]:
        """What scripts asserted in vain, or answered and is no answer, since the last time."""
        taken, self._failures = self._failures, []
        return taken

    def take_unscripted(self) -> list[str]:
        """What was asked and has no script, since the last time."""
        taken, self._unscripted = self._unscripted, []
        return taken

    def script(self, method: str, answers: tuple[Answer, ...], to_result: ToResult) -> Script:
        """Script a method, whatever it asks for."""
        return self._script(method, None, answers, to_result)

    def script_one(
        self, method: str, name: str, answers: tuple[Answer, ...], to_result: ToResult, listed: Frame
    ) -> Script:
        """Script a tool, resource or prompt.

        Args:
            method: The method that asks for it.
            name: Its name or URI.
            answers: The answers.
            to_result: Makes a result of one.
            listed: What a list of its kind shows of it.
        """
        script = self._script(method, name, answers, to_result)
        self._listed[method][name] = listed
        return script

    def _script(self, method: str, name: str | None, answers: tuple[Answer, ...], to_result: ToResult) -> Script:
        scripted = self._scripted[method, name] = Scripted(title_of(method, name), answers, to_result)
        return scripted.script

    def heeds(self, notification: Received) -> bool:
        """Whether something is to be done about a notification."""
        return (notification.method, None) in self._scripted

    async def reply(self, received: Received) -> Frame:
        """What to answer: a dict with a result or an error."""
        try:
            result = await self._result(received)
        except Exception as error:
            if isinstance(error, (AssertionError, InterceptError)):
                self._failures.append(error)
            return {"error": _error_data(error)}
        if says_version(received.params) or received.method == "server/discover":
            result = with_modern_members(received.method, result)
        return {"result": result}

    async def _result(self, received: Received) -> Frame:
        method = received.method
        scripted = self._scripted.get((method, None))
        if scripted is not None:
            return await scripted.answer(received.params)
        if method in self._built_in:
            return self._built_in[method](received)
        scripted = self._scripted.get((method, received.name or "")) if method in _NOUNS else None
        if scripted is not None:
            return await scripted.answer(received.name if method == "resources/read" else received.arguments)
        raise self._refusal(received)

    def _refusal(self, received: Received) -> Exception:
        method = received.method
        noun = _NOUNS.get(method)
        if not noun or not self._listed[method]:
            self._unscripted.append(title_of(method, received.name if noun else None))
            return make_error(types.METHOD_NOT_FOUND, "Method not found")
        name = received.name or ""
        close = get_close_matches(name, self._listed[method], 1) or [*self._listed[method]]
        self._unscripted.append(f"{title_of(method, name)}; what is scripted: {', '.join(map(repr, close))}")
        return make_error(types.INVALID_PARAMS, f"Unknown {noun}: {name}")


def _error_data(error: Exception) -> Frame:
    if isinstance(error, line.Error):
        return dump(error.error)
    kind, text = type(error).__name__, str(error)
    if isinstance(error, KeyError) and text:
        text = f"{kind}: {text}"  # which is but the key
    return {"code": types.INTERNAL_ERROR, "message": text or kind}
