"""When two messages count as the same, and where they differ if they do not.

JSON decides: `1` is `1.0`, `true` is not `1`, the order of keys does not matter. What differs from one run to the next
by its nature (`_meta`, with its progress tokens and trace contexts; `requestState`) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

from mcp_intercept._context import printable
from mcp_intercept.errors import CassetteError, InterceptError
from mcp_intercept.recording.interactions import name_in
from mcp_intercept.recording.looks import is_placeholder
from mcp_intercept.recording.stored import ANY, REGEX, SUBSET, Literally
from mcp_intercept.recording.values import ABSENT, Json, is_array, is_object, parts_of_pointer, pointer_to

Order: TypeAlias = Literal["any", "tool", "strict"]
"""In what order a cassette answers.

- `"any"`: whatever is asked gets the next answer that was recorded to the very same.
- `"tool"`: each tool answers in the order of its calls, whatever their arguments; how they differ is reported.
- `"strict"`: the requests to a server have to come in the order in which they were recorded.
"""

Ignore: TypeAlias = "Collection[str] | Mapping[str, Collection[str] | str]"
"""What does not count: names or JSON pointers, of all calls or by tool, prompt, resource or method.

They lead from the arguments, or the result; a pointer also from where a report begins: `/arguments/...`, `/result/...`.
"""

Normalize: TypeAlias = "Callable[[str, dict[str, Any]], dict[str, Any]]"
"""`(method, params) -> params`, with which both sides are compared."""

_Path: TypeAlias = tuple[str, ...]
_PathsByName: TypeAlias = dict[str, tuple[_Path, ...]]

HANDSHAKES: Final = frozenset({"initialize", "server/discover"})
REPEATED: Final = HANDSHAKES | {
    "ping",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "prompts/list",
    "logging/setLevel",
}
"""Methods whose last answer goes on being given: asking again changes nothing."""

WITH_ARGUMENTS: Final = frozenset({"tools/call", "prompts/get"})
"""Methods whose params are little else than arguments."""

_UNCOMPARED: Final = HANDSHAKES | {"ping"}
_ALL = "*"

# In which a result has what is not MCP's: of a tool, and of a form that somebody has filled in.
_CONTENTS: Final = ("structuredContent", "content")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two values differ."""

    pointer: str
    """The place, as a JSON pointer (RFC 6901)."""
    recorded: str
    """What the cassette has there, as JSON; if it is long, of that where they differ. `"(absent)"` if nothing."""
    found: str
    """What was found instead."""

    def __str__(self) -> str:
        return f"{_cut(self.pointer, 400) or '(whole)'}: recorded {self.recorded}, now {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How requests are compared with what was recorded."""

    ignore: Ignore = ()
    """What does not count: `["date"]` for all, `{"forecast": ["date", "/place/lat"], "roots/list": "*"}` by name."""
    ignore_results: Ignore = ()
    """The same of results, where these are compared: of live servers (`verify`), and the client's answers.

    They lead from the result or from its structured content, and `/error/message` from an error.
    """
    normalize: Normalize | None = None
    """What both sides go through first."""
    order: Order = "any"
    """In what order answers are given."""
    _requests: _PathsByName = field(init=False, repr=False, compare=False)
    _results: _PathsByName = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise InterceptError(f"order must be one of {', '.join(map(repr, get_args(Order)))}, not {self.order!r}")
        if self.normalize is not None and not callable(self.normalize):
            raise InterceptError("normalize must be a function (method, params) -> params")
        object.__setattr__(self, "_requests", _paths_by_name("ignore", self.ignore))
        object.__setattr__(self, "_results", _paths_by_name("ignore_results", self.ignore_results))

    def essence(self, method: str, params: dict[str, Any] | None) -> dict[str, Any]:
        """What counts of the params of a request.

        Raises:
            CassetteError: `normalize` failed.
        """
        if method in _UNCOMPARED or params is None:
            return {}
        kept = {
            key: value
            for key, value in params.items()
            if value is not None and key not in ("_meta", "requestState") and not (key == "arguments" and value == {})
        }
        if self.normalize is not None:
            kept = self._normalized(self.normalize, method, kept)
        paths = _paths_of(self._requests, method, name_in(method, kept))
        if not paths:
            return kept
        inside = "arguments" if "arguments" in kept else "argument" if "argument" in kept else None
        if inside is None and method not in WITH_ARGUMENTS:
            stripped: dict[str, Any] = without(kept, paths)
            return stripped
        # A report names what is beside the arguments, too; there, a single name would be that of an argument.
        beside = tuple(path for path in paths if len(path) > 1 and path[0] != inside)
        stripped = {**without(kept, beside)}
        if inside is not None:
            all_of_it = ((),) if (inside,) in paths else ()
            stripped[inside] = without(kept[inside], paths + _below(inside, paths) + all_of_it)
        if not stripped.get("arguments", True):
            del stripped["arguments"]
        return stripped

    @staticmethod
    def _normalized(normalize: Normalize, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            normalized = normalize(method, params)
        except Exception as error:
            raise CassetteError(f"normalize failed with {type(error).__name__} on the params of {method}") from error
        if not is_object(normalized):
            raise CassetteError(f"normalize must return params, a dict, not {type(normalized).__name__}")
        return normalized

    def answer(self, method: str, result: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """What counts of a result, where it is compared.

        Args:
            method: The method that it is the result of.
            result: The result.
            name: The tool, prompt or resource that it is the result of, if any.
        """
        kept = {key: value for key, value in result.items() if key != "_meta"}
        paths = _paths_of(self._results, method, name)
        inside = tuple(path for path in paths if not _is_of_the_whole(path))
        for key in _CONTENTS:
            if is_object(kept.get(key)):
                kept[key] = without(kept[key], inside)
        counted: dict[str, Any] = without(kept, paths + _below("result", paths))
        return counted

    def refusal(self, method: str, error: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """What counts of a JSON-RPC error, where it is compared; the rest is as in `answer()`."""
        counted: dict[str, Any] = without(error, _below("error", _paths_of(self._results, method, name)))
        return counted


def _paths_of(by_name: _PathsByName, method: str, name: str | None) -> tuple[_Path, ...]:
    if not by_name:
        return ()
    named = by_name.get(name, ()) if name else ()
    return by_name.get(_ALL, ()) + by_name.get(method, ()) + named


def _is_of_the_whole(path: _Path) -> bool:
    """Whether it leads from the result, or from where a report begins, and so not from what is in `_CONTENTS`."""
    head = path[0] if path else ""
    return head in _CONTENTS or (len(path) > 1 and head in ("result", "error"))


def _below(head: str, paths: tuple[_Path, ...]) -> tuple[_Path, ...]:
    """How those that begin with `head` go on."""
    return tuple(path[1:] for path in paths if len(path) > 1 and path[0] == head)


def _paths_by_name(option: str, ignore: Any) -> _PathsByName:
    by_name = cast("Mapping[str, Any]", ignore if isinstance(ignore, Mapping) else {_ALL: ignore})
    for name in by_name:
        if type(name) is not str:
            raise InterceptError(f"{option} goes by the names of tools, prompts or methods, not by {name!r}")
    return {name: _paths(option, name, places) for name, places in by_name.items() if places or places == ""}


def _paths(option: str, name: str, places: Any) -> tuple[_Path, ...]:
    if places == _ALL:
        return ((),)
    if isinstance(places, (str, Mapping)) or not isinstance(places, Collection):
        where = option if name == _ALL else f"{option}[{name!r}]"
        raise InterceptError(f"{where} must be a list of names or JSON pointers, or '*', not {places!r}")
    return tuple(_path(option, place) for place in places)  # pyright: ignore[reportUnknownVariableType]


def _path(option: str, place: Any) -> _Path:
    if not isinstance(place, str) or not place:
        raise InterceptError(f"{option} must be made of names and JSON pointers, not {place!r}")
    if place == _ALL:
        raise InterceptError(f"{option}: '*' means all in place of a list, and nothing in one; write '*', not ['*']")
    if not place.startswith("/"):
        if "/" in place or place.startswith("$"):
            example = "/place/lat" if place.startswith("$") else f"/{place}"
            raise InterceptError(f"{option}: {place!r} is neither a name nor a JSON pointer such as {example!r}")
        return (place,)
    path = tuple(parts_of_pointer(place))
    of_list = len(path) > 1 and path[0] == "result" and (path[1] == _ALL or path[1].isdecimal())
    if option == "ignore_results" and of_list:
        raise InterceptError(
            f"{option}: {place!r} leads nowhere, as a result is an object with names; "
            f"perhaps {f'/structuredContent{place}'!r} is meant"
        )
    return path


def without(value: Json, paths: tuple[_Path, ...]) -> Json:
    """The value without what the paths lead to; it is not changed itself."""
    # The last first: of a list, what is taken out moves what comes after it.
    for path in sorted(set(paths), key=_by_place, reverse=True):
        value = _without(value, path)
    return value


def _by_place(path: _Path) -> list[tuple[int, str]]:
    return [(len(part) if part.isdecimal() else 0, part) for part in path]


def _without(value: Json, path: _Path) -> Json:
    if not path:
        return {}
    head, *rest = path
    if is_object(value) and head == _ALL:
        return {key: _without(item, tuple(rest)) for key, item in value.items()} if rest else {}
    if is_object(value) and head in value:
        if rest:
            return {**value, head: _without(value[head], tuple(rest))}
        return {key: kept for key, kept in value.items() if key != head}
    if is_array(value) and head == _ALL:
        return [_without(item, tuple(rest)) for item in value] if rest else []
    if is_array(value) and head.isdecimal() and int(head) < len(value):
        at = int(head)
        return [*value[:at], *([_without(value[at], tuple(rest))] if rest else []), *value[at + 1 :]]
    return value


def holds_placeholder(value: Json) -> bool:
    """Whether somebody has written by hand what may stand there: `$any`, `$regex` or `$subset`."""
    if is_object(value):
        return _placeholder(value) is not None or any(holds_placeholder(item) for item in value.values())
    return is_array(value) and any(holds_placeholder(item) for item in value)


def mistake_in_placeholders(value: Json) -> str | None:
    """What is wrong with what somebody has written by hand, if anything is."""
    if is_object(value):
        kind = _placeholder(value)
        inside: Any = value[kind] if kind else None
        if kind == REGEX:
            try:
                re.compile(inside)
            except (re.error, TypeError) as error:
                return f"{shown(value)} is no regular expression ({error})"
        elif kind == SUBSET and not is_object(inside):
            return f"{shown(value)} has to hold an object"
        elif kind == ANY and inside is not True:
            return f'{shown(value)} has to be {{"$any": true}}'
        value = list(value.values())
    if not is_array(value):
        return None
    return next((mistake for item in value if (mistake := mistake_in_placeholders(item))), None)


def _placeholder(value: dict[str, Any]) -> str | None:
    if len(value) != 1 or isinstance(value, Literally):
        return None
    [key] = value
    return key if key in (ANY, REGEX, SUBSET) else None


def differences(recorded: Json, found: Json, limit: int = 20) -> list[Difference]:
    """Where `found` is not what was recorded, placeholders considered; empty if it is."""
    places: list[Difference] = []
    _compare(recorded, found, "", False, places, limit)
    return places


def _compare(recorded: Json, found: Json, at: str, subset: bool, places: list[Difference], limit: int) -> None:
    if len(places) >= limit:
        return
    if is_object(recorded):
        kind = _placeholder(recorded)
        if kind == ANY and found is not ABSENT:
            return
        if kind == REGEX:
            if not isinstance(found, str) or re.fullmatch(recorded[kind], found) is None:
                places.append(Difference(at, f"a match of /{_cut(str(recorded[kind]), 400)}/", shown(found)))
            return
        if kind == SUBSET:
            _compare(recorded[kind], found, at, True, places, limit)
            return
        if is_object(found):
            for key in [*recorded, *(key for key in found if key not in recorded and not subset)]:
                before, now = recorded.get(key, ABSENT), found.get(key, ABSENT)
                _compare(before, now, pointer_to(at, key), subset, places, limit)
            return
    if is_array(recorded) and is_array(found):
        for index in range(max(len(recorded), len(found))):
            before = recorded[index] if index < len(recorded) else ABSENT
            now = found[index] if index < len(found) else ABSENT
            _compare(before, now, f"{at}/{index}", subset, places, limit)
        return
    if not _equal(recorded, found):
        places.append(Difference(at, *shown_apart(recorded, found)))


def _equal(one: Json, other: Json) -> bool:
    # Only leaves get here, or what is of different kinds.
    if isinstance(other, Hidden) and isinstance(one, str) and is_placeholder(one):
        return True
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


class Hidden(str):
    """What stands for a secret in a message of now. It may have been another secret when it was recorded.

    Of a text that only looks like a placeholder (`RED` is the beginning of one) there would be no telling.
    """

    __slots__ = ()


def hidden(before: Json, after: Json) -> Json:
    """A redacted value, in which the strings that were replaced are `Hidden`.

    Args:
        before: What it was.
        after: What the redactor has made of it: of the same shape, and the very same where nothing was replaced.
    """
    if after is before:
        return after
    if is_object(after):
        return {key: hidden(before[key], item) for key, item in after.items()}
    if is_array(after):
        return [hidden(old, item) for old, item in zip(before, after, strict=True)]
    return Hidden(after) if isinstance(after, str) and after != before else after


def holds_hidden(value: Json) -> bool:
    """Whether something in it stands for a secret."""
    if is_object(value):
        return any(holds_hidden(item) for item in value.values())
    return any(holds_hidden(item) for item in value) if is_array(value) else isinstance(value, Hidden)


def shown(value: Json, limit: int = 80) -> str:
    """A value as JSON for a report: on one line, control characters escaped, cut short."""
    return _cut(_text(value), limit)


def shown_apart(one: Json, other: Json, limit: int = 80) -> tuple[str, str]:
    """Two values that differ, each as `shown()` does it; of those that are too long, the part where they differ."""
    texts = _text(one), _text(other)
    alike = _alike(*texts)
    # With something of what is before, and more of it if little comes after.
    start = 0 if alike < limit * 2 // 3 else max(0, min(alike - limit // 3, max(map(len, texts)) - limit))
    before = texts[0][:start]
    start -= (len(before) - len(before.rstrip("\\"))) % 2  # not between a backslash and what it escapes
    return _cut(texts[0], limit, start), _cut(texts[1], limit, start)


def _text(value: Json) -> str:
    if value is ABSENT:
        return "(absent)"
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return f"({type(value).__name__})"


def _cut(text: str, limit: int, start: int = 0) -> str:
    if len(text) <= limit:
        return printable(text, limit)
    end = start + limit
    return f"{'…' if start else ''}{printable(text[start:end], limit)}{'…' if end < len(text) else ''}"


def _alike(one: str, other: str) -> int:
    """How many characters are the same at the beginning. They may be millions: they are not looked at one by one."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
