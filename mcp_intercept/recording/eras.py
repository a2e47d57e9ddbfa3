"""Between the two eras of the protocol, so that what was recorded in one can be replayed in the other.

Up to 2025-11-25 a session begins with `initialize`, and a server asks the client in requests of its own. From
2026-07-28 on it may begin with `server/discover` or nothing, and the questions are in the answer to a call
(`inputRequests`), which is made again with the client's answers (`inputResponses`). (Specification 2026-07-28,
"Multi-round-trip requests".)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from mcp_intercept.recording.values import is_object

QUESTION: Final = "question"
"""The key of the only question in a result of ours."""

_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
_MODERN_MEMBERS: Final = frozenset({"resultType", "ttlMs", "cacheScope"})
_CAPABILITIES: Final = {
    "tools/": "tools",
    "prompts/": "prompts",
    "resources/": "resources",
    "completion/": "completions",
    "logging/": "logging",
}


def initialize_result(
    requested: str, server: str, recorded: dict[str, Any] | None, discovered: dict[str, Any] | None, methods: set[str]
) -> dict[str, Any]:
    """What to answer to `initialize`.

    Args:
        requested: The protocol version that the client asks for.
        server: The name of the server within the cassette.
        recorded: The answer that was recorded, if there is one.
        discovered: The recorded answer to `server/discover`, if there is one.
        methods: Every method that the server was asked.
    """
    if recorded is not None:
        # An older client cannot speak what was spoken then.
        return {**recorded, "protocolVersion": min(str(recorded.get("protocolVersion")), requested)}
    if discovered is not None:
        meta: dict[str, Any] = discovered.get("_meta") or {}
        info = meta.get(SERVER_INFO) or {"name": server, "version": ""}
        result: dict[str, Any] = {"capabilities": discovered.get("capabilities") or {}, "serverInfo": info}
        if "instructions" in discovered:
            result["instructions"] = discovered["instructions"]
    else:
        result = {"capabilities": capabilities_of(methods), "serverInfo": {"name": server, "version": ""}}
    return {"protocolVersion": requested, **result}


def capabilities_of(methods: Collection[str]) -> dict[str, Any]:
    """What a server says that it is capable of, if these are the methods that it answers."""
    kinds = {kind for begin, kind in _CAPABILITIES.items() if any(method.startswith(begin) for method in methods)}
    return {kind: {} for kind in sorted(kinds)}


def is_question(result: dict[str, Any]) -> bool:
    """Whether a result asks the client something, and the call is to be made again."""
    return isinstance(result.get("inputRequests"), dict)


def questions_in(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The requests in such a result, by key; each has a `method` and perhaps `params`."""
    requests = result["inputRequests"]
    return {key: request for key, request in requests.items() if isinstance(request, dict) and "method" in request}


def with_answers(params: dict[str, Any] | None, answers: dict[str, Any]) -> dict[str, Any]:
    """The params of the call that is made again."""
    return {**(params or {}), "inputResponses": answers}


def question(method: str, params: dict[str, Any] | None, state: str) -> dict[str, Any]:
    """A result that asks what a server asked in a request of its own.

    Args:
        method: The method of the request.
        params: Its params.
        state: What the client has to send back with its answer.
    """
    request: dict[str, Any] = {"method": method} | ({} if params is None else {"params": params})
    return {"resultType": "input_required", "inputRequests": {QUESTION: request}, "requestState": state}


def says_version(params: dict[str, Any] | None) -> bool:
    """Whether a request says which version of the protocol it is of, as all do from 2026-07-28 on."""
    return _VERSION in meta_of(params)


def meta_of(params: dict[str, Any] | None) -> dict[str, Any]:
    """The `_meta` of params, if there is any and it is an object."""
    meta: Any = None if params is None else params.get("_meta")
    return meta if is_object(meta) else {}


def with_modern_members(method: str, result: dict[str, Any]) -> dict[str, Any]:
    """A result as it has to be from 2026-07-28 on."""
    cached = {"ttlMs": 0, "cacheScope": "private"} if method.endswith(("/list", "/read", "/discover")) else {}
    return {"resultType": "complete", **cached, **result}


def without_modern_members(result: dict[str, Any]) -> dict[str, Any]:
    """A result as it is before 2026-07-28."""
    return {key: value for key, value in result.items() if key not in _MODERN_MEMBERS}
