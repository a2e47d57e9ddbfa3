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
"""What does not count: names or JSON pointers within the arguments, of all calls or by tool, prompt or method."""

Normalize: TypeAlias = "Callable[[str, dict[str, Any]], dict[str, Any]]"
"""`(method, params) -> params`, with which both sides are compared."""

_Paths: TypeAlias = "dict[str, tuple[tuple[str, ...], ...]]"

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

_WITH_ARGUMENTS: Final = frozenset({"tools/call", "prompts/get"})
_UNCOMPARED: Final = HANDSHAKES | {"ping"}
_ALL = "*"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two values differ."""

    pointer: str
    """The place, as a JSON pointer (RFC 6901)."""
    recorded: str
    """What the cassette has there, as JSON, cut short; `"(absent)"` if nothing."""
    found: str
    """What was found instead."""

    def __str__(self) -> str:
        return f"{self.pointer or '(whole)'}: recorded {self.recorded}, now {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How requests are compared with what was recorded."""

    ignore: Ignore = ()
    """What does not count: `["date"]` for all, `{"forecast": ["date", "/place/lat"], "roots/list": "*"}` by name."""
    ignore_results: Ignore = ()
    """The same within results, where these are compared: of live servers (`verify`), and the client's answers."""
    normalize: Normalize | None = None
    """What both sides go through first."""
    order: Order = "any"
    """In what order answers are given."""
    _requests: _Paths = field(init=False, repr=False, compare=False)
    _results: _Paths = field(init=False, repr=False, compare=False)

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
        name = kept.get("name")
        paths = self._paths_of(method, name if isinstance(name, str) else None)
        if not paths:
            return kept
        inside = "arguments" if "arguments" in kept else "argument" if "argument" in kept else None
        if inside is None:
            return kept if method in _WITH_ARGUMENTS else without(kept, paths)
        left = without(kept[inside], paths)
        stripped = {**kept, inside: left}
        if not left and inside == "arguments":
            del stripped[inside]
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

    def answer(self, about: str, result: dict[str, Any]) -> dict[str, Any]:
        """What counts of a result, where it is compared.

        Args:
            about: The tool, prompt or resource that it is the result of, or the method.
            result: The result.
        """
        kept = {key: value for key, value in result.items() if key != "_meta"}
        counted: dict[str, Any] = without(kept, self._results.get(_ALL, ()) + self._results.get(about, ()))
        return counted

    def _paths_of(self, method: str, name: str | None) -> tuple[tuple[str, ...], ...]:
        by_name = self._requests
        if not by_name:
            return ()
        named = by_name.get(name, ()) if name else ()
        return by_name.get(_ALL, ()) + by_name.get(method, ()) + named


def _paths_by_name(option: str, ignore: Any) -> _Paths:
    by_name = cast("Mapping[str, Any]", ignore if isinstance(ignore, Mapping) else {_ALL: ignore})
    for name in by_name:
        if type(name) is not str:
            raise InterceptError(f"{option} goes by the names of tools, prompts or methods, not by {name!r}")
    return {name: _paths(option, name, places) for name, places in by_name.items() if places}


def _paths(option: str, name: str, places: Any) -> tuple[tuple[str, ...], ...]:
    if places == _ALL:
        return ((),)
    if isinstance(places, str) or not isinstance(places, Collection):
        where = option if name == _ALL else f"{option}[{name!r}]"
        raise InterceptError(f"{where} must be a list of names or JSON pointers, or '*', not {places!r}")
    return tuple(_path(option, place) for place in places)  # pyright: ignore[reportUnknownVariableType]


def _path(option: str, place: Any) -> tuple[str, ...]:
    if not isinstance(place, str) or not place:
        raise InterceptError(f"{option} must be made of names and JSON pointers, not {place!r}")
    if not place.startswith("/"):
        if "/" in place or place.startswith("$"):
            raise InterceptError(f"{option}: {place!r} is neither a name nor a JSON pointer such as '/place/lat'")
        return (place,)
    return tuple(parts_of_pointer(place))


def without(value: Json, paths: tuple[tuple[str, ...], ...]) -> Json:
    """The value without what the paths lead to; it is not changed itself."""
    for path in paths:
        value = _without(value, path)
    return value


def _without(value: Json, path: tuple[str, ...]) -> Json:
    if not path:
        return {}
    head, *rest = path
    if is_object(value) and head in value:
        if rest:
            return {**value, head: _without(value[head], tuple(rest))}
        return {key: kept for key, kept in value.items() if key != head}
    if is_array(value) and rest and head == _ALL:
        return [_without(item, tuple(rest)) for item in value]
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
                places.append(Difference(at, f"a match of /{recorded[kind]}/", shown(found)))
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
        places.append(Difference(at, shown(recorded), shown(found)))


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
    if value is ABSENT:
        return "(absent)"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"({type(value).__name__})"
    return printable(text, limit) + ("…" if len(text) > limit else "")
