"""The results that the answers of a script stand for, by method."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel

from mcp_intercept.testing._line import Frame, dump
from mcp_intercept.testing._script import ToResult

_TOOL_KEYS = frozenset({"content", "structuredContent", "isError", "resultType", "_meta"})


def tool_result(answer: Any) -> Frame:
    """The result of `tools/call`."""
    if answer is None:
        return {"content": []}
    if isinstance(answer, str):
        return {"content": [{"type": "text", "text": answer}]}
    if isinstance(answer, (list, tuple)):
        return {"content": [_content_block(block) for block in cast("list[Any]", answer)]}
    result = _as_dict(answer, "a str, a list, a dict, a model, None or an exception")
    if not _TOOL_KEYS & result.keys():
        raise ValueError(
            'a dict or model that a script answers a tool call with is the result, and has "content", '
            '"structuredContent" or "isError"; write [block] for a block of content'
        )
    return result if result.get("resultType", "complete") != "complete" else {"content": [], **result}


def _content_block(block: Any) -> Frame:
    if isinstance(block, (BaseModel, Mapping)):
        return _as_dict(block, "")
    raise ValueError(
        f"a list is one answer, of blocks of content, which are dicts or models, not objects of type "
        f"{type(block).__name__}; give several answers as arguments of their own"
    )


def resource_result(uri: str, kind: Mapping[str, str]) -> ToResult:
    """What makes the result of `resources/read`.

    Args:
        uri: The URI of the resource.
        kind: What is known of its contents.
    """

    def to_result(answer: Any) -> Frame:
        if answer is None:
            return {"contents": []}
        if isinstance(answer, str):
            return {"contents": [{"uri": uri, **kind, "text": answer}]}
        if isinstance(answer, bytes):
            return {"contents": [{"uri": uri, **kind, "blob": b64encode(answer).decode()}]}
        return _as_dict(answer, "a str, bytes, a dict, a model, None or an exception")

    return to_result


def prompt_result(answer: Any) -> Frame:
    """The result of `prompts/get`."""
    if answer is None:
        return {"messages": []}
    if isinstance(answer, str):
        return {"messages": [{"role": "user", "content": {"type": "text", "text": answer}}]}
    return _as_dict(answer, "a str, a dict, a model, None or an exception")


def any_result(answer: Any) -> Frame:
    """The result of any method."""
    return {} if answer is None else _as_dict(answer, "a dict, a model, None or an exception")


def _as_dict(answer: Any, wanted: str) -> Frame:
    if isinstance(answer, BaseModel):
        return dump(answer)
    if isinstance(answer, Mapping):
        return dict(cast("Mapping[str, Any]", answer))
    raise ValueError(f"a script answers with {wanted}, not with an object of type {type(answer).__name__}")
