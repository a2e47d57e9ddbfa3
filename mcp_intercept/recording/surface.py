"""What a server offers, and which changes of it break those who know it as it was.

Seen from an agent that goes on calling with what it has learned: it may ask for everything that was there, send
everything that was accepted, and read everything that was promised. So what a tool takes may only grow, and what it
gives may only shrink. A change is compatible if that can be shown, and breaking if not.

One thing is assumed that JSON Schema does not say: where an object names its properties, and says nothing of others,
no others are sent. Else no property could ever be added, since somebody might have sent its name with another type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeGuard
from urllib.parse import unquote

from mcp_intercept._context import printable
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.matching import HANDSHAKES

Kind: TypeAlias = Literal["breaking", "compatible"]

Entries: TypeAlias = "Mapping[str, dict[str, Any]]"
"""Tools, prompts, resources or templates, as the server listed them, by name, URI or template."""

_LISTS: Final = {
    "tools": ("tools/list", "tools", "name"),
    "prompts": ("prompts/list", "prompts", "name"),
    "resources": ("resources/list", "resources", "uri"),
    "templates": ("resources/templates/list", "resourceTemplates", "uriTemplate"),
}
"""For each part of a surface: the method that lists it, the key of its entries in the result, and of their names."""

# Where a result of protocol 2026-07-28 says who has made it.
_SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A difference between two surfaces."""

    kind: Kind
    """Whether an agent that knows the old one may fail on the new one."""
    subject: str
    """What has changed: `tool forecast`, `prompt greet`, `resource memo://1`, `resource template memo://{id}`,
    `capability tools`, `server`."""
    pointer: str
    """Where in the subject, as a JSON pointer (RFC 6901); empty for all of it."""
    detail: str
    """What has happened, in a sentence."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject}{self.pointer and f' at {self.pointer}'}: {self.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """What a server offers. What was never asked for, or not to the last page, is `None`."""

    tools: Entries | None = None
    prompts: Entries | None = None
    resources: Entries | None = None
    """By URI."""
    templates: Entries | None = None
    """Of resources, by URI template."""
    capabilities: dict[str, Any] | None = None
    server_info: dict[str, Any] | None = None
    """Its name, version and the like."""
    protocol_version: str | None = None
    """The one that was agreed on, or the latest that a server of protocol 2026-07-28 or later says it supports."""
    instructions: str | None = None

    @classmethod
    def of(cls, interactions: Iterable[Interaction], server: str) -> Surface:
        """What the last answers of a server say of it.

        Args:
            interactions: What was recorded, in order.
            server: The name of the server within the cassette.
        """
        handshake: dict[str, Any] = {}
        listings = {method: _Listing(key, name) for method, key, name in _LISTS.values()}
        for interaction in interactions:
            result = interaction.result
            if interaction.server != server or result is None:
                continue
            if interaction.method in HANDSHAKES:
                handshake = result
            elif interaction.method in listings:
                listings[interaction.method].add((interaction.params or {}).get("cursor"), result)
        meta = _as_object(handshake.get("_meta")) or {}
        return cls(
            **{part: listings[method].entries for part, (method, _, _) in _LISTS.items()},
            capabilities=_as_object(handshake.get("capabilities")),
            server_info=_as_object(handshake.get("serverInfo")) or _as_object(meta.get(_SERVER_INFO)),
            protocol_version=_as_text(handshake.get("protocolVersion"))
            or max(filter(None, map(_as_text, _as_list(handshake.get("supportedVersions")))), default=None),
            instructions=_as_text(handshake.get("instructions")),
        )


def compare(old: Surface, new: Surface) -> list[Change]:
    """What has changed from one surface to the other.

    - Gone tools, prompts, resources and capabilities are breaking, added ones compatible.
    - Of schemas, what a tool takes may accept more, and what it gives may be less; what cannot be shown to be so is
      breaking. A named property of an output that is gone is breaking even if it was optional.
    - Hints of tools that turn to the less safe side (`readOnlyHint` no longer true, `destructiveHint` no longer false,
      ...) are breaking, since agents decide by them what to call without asking.
    - What is only shown or told (titles, descriptions, icons, versions, instructions) is compatible.
    - What was not listed on both sides is not compared, and a compatible change says so.

    Returns:
        The changes, by subject: the server, its capabilities, tools, prompts, resources and templates, each by name.
    """
    changes = [
        *_bounded("server", _server(old, new)),
        *_capabilities(old, new),
        *_entries("tool", "tools", old.tools, new.tools, _tool),
        *_entries("prompt", "prompts", old.prompts, new.prompts, _prompt),
        *_entries("resource", "resources", old.resources, new.resources, _resource),
        *_entries("resource template", "resource templates", old.templates, new.templates, _resource),
    ]
    return list(dict.fromkeys(changes))


class _Listing:
    """The entries of one kind, put together from pages."""

    def __init__(self, key: str, name: str) -> None:
        self._key = key
        self._name = name
        self._unfinished: dict[object, dict[str, dict[str, Any]]] = {}
        self.entries: Entries | None = None

    def add(self, cursor: object, result: dict[str, Any]) -> None:
        """Take a page.

        Args:
            cursor: Which one was asked for; `None` is the first.
            result: The answer.
        """
        before = {} if cursor is None else self._unfinished.get(str(cursor))
        if before is None:
            return  # a page in the middle, of a listing whose beginning is not known
        page = [entry for item in _as_list(result.get(self._key)) if (entry := _as_object(item)) is not None]
        entries = before | {str(entry[self._name]): entry for entry in page if self._name in entry}
        if (following := result.get("nextCursor")) is None:
            self.entries = entries
        else:
            self._unfinished[str(following)] = entries


def _server(old: Surface, new: Surface) -> Iterator[Change]:
    def told(pointer: str, detail: str) -> Change:
        return Change(kind="compatible", subject="server", pointer=pointer, detail=detail)

    if old.protocol_version != new.protocol_version:
        was, now = old.protocol_version or "unknown", new.protocol_version or "unknown"
        yield told(
            "/protocolVersion",
            f"the protocol was {printable(was)}, is {printable(now)}; the SDK settles which to speak",
        )
    before, after = old.server_info or {}, new.server_info or {}
    for key in sorted({*before, *after}):
        if _key(before.get(key)) != _key(after.get(key)):
            yield told(_join("/serverInfo", key), _was_is(key, before.get(key, _NONE), after.get(key, _NONE)))
    if old.instructions != new.instructions:
        yield told("/instructions", "its instructions have changed")


def _capabilities(old: Surface, new: Surface) -> Iterator[Change]:
    if old.capabilities is None or new.capabilities is None:
        yield from _not_compared("capabilities", old.capabilities, new.capabilities)
        return
    for name in sorted({*old.capabilities, *new.capabilities}):
        subject = f"capability {printable(name)}"
        before, after = old.capabilities.get(name), new.capabilities.get(name)
        if name == "experimental" and not before and not after:
            continue  # servers of SDK 1.x say that they have none
        if before is not None and after is None:
            yield Change(kind="breaking", subject=subject, pointer="", detail="it is gone")
        elif before is None and after is not None:
            yield Change(kind="compatible", subject=subject, pointer="", detail="it is new")
        else:
            yield from _bounded(subject, _flags(subject, "", before, after))


def _flags(subject: str, pointer: str, old: Any, new: Any) -> Iterator[Change]:
    """What a capability says in detail: to say less is breaking, to say more or something else is not."""
    before, after = _as_object(old), _as_object(new)
    if before is not None and after is not None:
        for key in sorted({*before, *after}):
            yield from _flags(subject, _join(pointer, key), before.get(key), after.get(key))
    elif _key(None if old is False else old) != _key(None if new is False else new):
        yield Change(
            kind="breaking" if new is None or new is False else "compatible",
            subject=subject,
            pointer=pointer,
            detail=_was_is("it", _NONE if old is None else old, _NONE if new is None else new),
        )


def _entries(
    noun: str,
    part: str,
    old: Entries | None,
    new: Entries | None,
    differ: Callable[[str, dict[str, Any], dict[str, Any]], Iterator[Change]],
) -> Iterator[Change]:
    if old is None or new is None:
        yield from _not_compared(part, old, new)
        return
    for name in sorted({*old, *new}):
        subject = f"{noun} {printable(name)}"
        if name not in new:
            yield Change(kind="breaking", subject=subject, pointer="", detail="it is gone")
        elif name not in old:
            yield Change(kind="compatible", subject=subject, pointer="", detail="it is new")
        else:
            yield from _bounded(subject, differ(subject, old[name], new[name]))


def _bounded(subject: str, changes: Iterator[Change]) -> Iterator[Change]:
    try:
        yield from changes
    except RecursionError:
        yield Change(
            kind="breaking", subject=subject, pointer="", detail="it is nested too deeply; it cannot be judged"
        )


def _not_compared(part: str, old: object, new: object) -> Iterator[Change]:
    if old is not None or new is not None:
        side = "old" if old is None else "new"
        detail = f"{part} are not compared, since the {side} one has no full list of them"
        yield Change(kind="compatible", subject="server", pointer="", detail=detail)


def _tool(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    yield from _schemas(subject, "/inputSchema", old.get("inputSchema", {}), new.get("inputSchema", {}), gives=False)
    before, after = old.get("outputSchema"), new.get("outputSchema")
    if before is None and after is not None:
        yield Change(kind="compatible", subject=subject, pointer="/outputSchema", detail="it says now what it gives")
    elif before is not None and after is None:
        yield Change(
            kind="breaking", subject=subject, pointer="/outputSchema", detail="it does not say any more what it gives"
        )
    elif before is not None:
        yield from _schemas(subject, "/outputSchema", before, after, gives=True)
    yield from _hints(subject, _as_object(old.get("annotations")) or {}, _as_object(new.get("annotations")) or {})
    yield from _tasks(subject, old, new)
    yield from _others(subject, old, new, "inputSchema", "outputSchema", "annotations", "execution")


# The defaults of the specification (schema of `ToolAnnotations`), and which value is the safer one.
_HINTS: Final = {
    "readOnlyHint": (False, True),
    "destructiveHint": (True, False),
    "idempotentHint": (False, True),
    "openWorldHint": (True, False),
}


def _hints(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    # What only reads destroys nothing, and may be repeated: there, these two mean nothing.
    meaningless = (
        {"destructiveHint", "idempotentHint"} if True in (old.get("readOnlyHint"), new.get("readOnlyHint")) else ()
    )
    for key in sorted({*old, *new}):
        default, safe = _HINTS.get(key, (None, None))
        before, after = old.get(key, default), new.get(key, default)
        if _key(before) != _key(after):
            worse = before is safe and safe is not None and key not in meaningless
            yield Change(
                kind="breaking" if worse else "compatible",
                subject=subject,
                pointer=_join("/annotations", key),
                detail=_was_is(key, before, after),
            )


def _tasks(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = (
        str((_as_object(tool.get("execution")) or {}).get("taskSupport", "forbidden")) for tool in (old, new)
    )
    if before != after:
        yield Change(
            kind="breaking" if after != "optional" else "compatible",
            subject=subject,
            pointer="/execution/taskSupport",
            detail=_was_is("to run it as a task", before, after),
        )


def _prompt(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = _arguments(old), _arguments(new)
    for name in sorted({*before, *after}):
        required = after.get(name, {}).get("required") is True
        kind: Kind = "compatible"
        if name not in after:
            kind, detail = "breaking", "it is gone"
        elif name not in before:
            kind, detail = ("breaking", "it is new, and required") if required else ("compatible", "it is new")
        elif required != (before[name].get("required") is True):
            kind, detail = (
                ("breaking", "it is required now") if required else ("compatible", "it is not required any more")
            )
        elif _key(before[name] | {"required": required}) != _key(after[name] | {"required": required}):
            detail = "it is described in another way"
        else:
            continue
        yield Change(kind=kind, subject=subject, pointer=_join("/arguments", name), detail=f"{_shown(name)}: {detail}")
    yield from _others(subject, old, new, "arguments")


def _arguments(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    arguments = [_as_object(argument) or {} for argument in _as_list(prompt.get("arguments"))]
    return {str(argument["name"]): argument for argument in arguments if "name" in argument}


def _resource(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = old.get("mimeType"), new.get("mimeType")
    if _key(before) != _key(after):
        # To say it for the first time, or no more, does not change what it is.
        kind: Kind = "compatible" if before is None or after is None else "breaking"
        detail = _was_is("its type", _NONE if before is None else before, _NONE if after is None else after)
        yield Change(kind=kind, subject=subject, pointer="/mimeType", detail=detail)
    yield from _others(subject, old, new, "mimeType")


def _others(subject: str, old: dict[str, Any], new: dict[str, Any], *done: str) -> Iterator[Change]:
    """All that is only shown or told."""
    for key in sorted({*old, *new} - {*done}):
        if _key(old.get(key)) != _key(new.get(key)):
            detail = _was_is(key, old.get(key, _NONE), new.get(key, _NONE))
            yield Change(kind="compatible", subject=subject, pointer=_join("", key), detail=detail)


def _schemas(subject: str, pointer: str, old: Any, new: Any, *, gives: bool) -> Iterator[Change]:
    """What has changed from one schema to another.

    Args:
        subject: Of the changes.
        pointer: Where the schemas are.
        old: What is known to those who call.
        new: What holds now.
        gives: Whether it is about what the server gives, and not about what it takes.
    """
    if _key(old) == _key(new):
        return
    try:
        if _key(_Document(old).canonical(old)) == _key(_Document(new).canonical(new)):
            detail = "it is described in another way, and means the same"
            yield Change(kind="compatible", subject=subject, pointer=pointer, detail=detail)
            return
        narrowed = _Inclusion(_Document(old), _Document(new), narrows=True, takes=not gives).reasons()
        widened = _Inclusion(_Document(new), _Document(old), narrows=False, takes=not gives).reasons()
    except _TooLargeError:
        detail = "it has changed, and is too large; it cannot be judged"
        yield Change(kind="breaking", subject=subject, pointer=pointer, detail=detail)
        return
    # What is named no more may not have been sent at all; but those who were promised it miss it.
    found = [(reason, reason.strict and not gives) for reason in narrowed]
    found += [(reason, gives) for reason in widened]
    broken = {reason.pointer for reason, breaks in found if breaks}
    for reason, breaks in sorted(found, key=lambda pair: (pair[0].pointer, not pair[1], pair[0].detail)):
        if breaks or reason.pointer not in broken:
            kind: Kind = "breaking" if breaks else "compatible"
            yield Change(kind=kind, subject=subject, pointer=pointer + reason.pointer, detail=reason.detail)
    if not found:
        detail = "it is written in another way, and accepts the same"
        yield Change(kind="compatible", subject=subject, pointer=pointer, detail=detail)


class _Reason(NamedTuple):
    """Why one schema is not within another."""

    pointer: str
    detail: str
    strict: bool = True
    """Whether some value is in the one and not in the other; else a property is only not named there."""


class _TooLargeError(Exception):
    """Two schemas take too long to compare."""


# Steps that comparing two schemas may take. Real ones take a few hundred, which is a few milliseconds.
_MAX_STEPS: Final = 30_000

_NONE: Final[Any] = object()

_NUMBER: Final = frozenset({"integer", "fraction"})
_STRING: Final = frozenset({"string"})
_ARRAY: Final = frozenset({"array"})
_OBJECT: Final = frozenset({"object"})
_ATOMS: Final = _NUMBER | _STRING | _ARRAY | _OBJECT | {"null", "boolean"}
"""The types of JSON, of which no two share a value. A `fraction` is a number that is no integer."""

_TYPES: Final[dict[str, frozenset[str]]] = {atom: frozenset({atom}) for atom in _ATOMS - {"fraction"}} | {
    "number": _NUMBER
}

_LIMITS: Final = {
    "minimum": ("value", 1, False),
    "exclusiveMinimum": ("value", 1, True),
    "maximum": ("value", -1, False),
    "exclusiveMaximum": ("value", -1, True),
    "minLength": ("length", 1, False),
    "maxLength": ("length", -1, False),
    "minItems": ("items", 1, False),
    "maxItems": ("items", -1, False),
    "minProperties": ("properties", 1, False),
    "maxProperties": ("properties", -1, False),
}
"""Keywords that limit a measure: which, from below (1) or above (-1), and whether the limit itself is out."""

_MEASURED: Final = {"value": _NUMBER, "length": _STRING, "items": _ARRAY, "properties": _OBJECT}

_SAME: Final = {"pattern": _STRING, "format": _STRING, "contentEncoding": _STRING, "contentMediaType": _STRING}
"""Keywords of which nothing is known but whether they say the same, by the types they are about."""

_OPAQUE: Final = {
    "not": (_ATOMS, ("not",)),
    "if": (_ATOMS, ("if", "then", "else")),
    "contains": (_ARRAY, ("contains", "minContains", "maxContains")),
    "additionalItems": (_ARRAY, ("items", "additionalItems")),
    "dependentRequired": (_OBJECT, ("dependentRequired",)),
    "dependentSchemas": (_OBJECT, ("dependentSchemas",)),
    "dependencies": (_OBJECT, ("dependencies",)),
    "propertyNames": (_OBJECT, ("propertyNames",)),
    "$dynamicRef": (_ATOMS, ("$dynamicRef",)),
    "$recursiveRef": (_ATOMS, ("$recursiveRef",)),
    # These mean something only together with all that stands beside them.
    "unevaluatedItems": (_ARRAY, ()),
    "unevaluatedProperties": (_OBJECT, ()),
}
"""Keywords that are compared as a whole, with those that belong to them; with none, all that stands beside them."""


def _is_number(value: Any) -> bool:
    # Python takes 1e999 from JSON as infinite, which is no number to reckon with.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_schema(value: Any) -> bool:
    return isinstance(value, bool | dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_dict(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_SHAPES: Final[dict[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(_LIMITS, _is_number),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "enum"), _is_list),
    **dict.fromkeys(("properties", "patternProperties"), _is_dict),
    **dict.fromkeys(("additionalProperties", "items"), _is_schema),
    **dict.fromkeys(("$ref", *_SAME), _is_text),
    "const": lambda value: True,
    "uniqueItems": lambda value: isinstance(value, bool),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "required": lambda value: _is_list(value) and all(map(_is_text, value)),
    "type": lambda value: all(name in _TYPES for name in map(str, _one_or_more(value))),
}
"""Keywords that are understood, and what their values have to look like for that."""

_SCHEMA_IN: Final = frozenset(
    {"not", "if", "then", "else", "contains", "propertyNames", "items", "additionalItems", "additionalProperties"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMAS_IN: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_NAMED_SCHEMAS_IN: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_UNORDERED: Final = frozenset({"allOf", "anyOf", "oneOf", "required", "enum", "type"})
_NAMING: Final = frozenset({"if", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_SAYS_NOTHING: Final = {"additionalProperties": "true", "items": "true", "uniqueItems": "false", "required": "[]"}
_COMPARED: Final = frozenset(
    {*_SHAPES, *_SCHEMA_IN, *_SCHEMAS_IN, *_NAMED_SCHEMAS_IN, *(key for _, group in _OPAQUE.values() for key in group)}
    | {*_OPAQUE}
)
"""All keywords that decide what is accepted; the others describe."""


class _Document:
    """A schema as a whole, within which references lead.

    Args:
        root: The schema.
    """

    def __init__(self, root: Any) -> None:
        self.root = root
        self._steps = 0

    def step(self, count: int = 1) -> None:
        """Count.

        Raises:
            _TooLargeError: There were too many.
        """
        self._steps += count
        if self._steps > _MAX_STEPS:
            raise _TooLargeError

    def resolve(self, reference: Any) -> Any:
        """What a reference leads to, or `_NONE` if that is not known."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return _NONE
        found = self.root
        for part in unquote(reference[1:]).split("/")[1:]:
            step = part.replace("~1", "/").replace("~0", "~")
            if _is_dict(found):
                found = found.get(step, _NONE)
            elif _is_list(found) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return _NONE
        # An anchor has no slash, and would lead to the root.
        return found if _is_schema(found) and reference[1:2] in ("", "/") else _NONE

    def canonical(self, schema: Any, above: tuple[int, ...] = ()) -> Any:
        """The schema without what only describes, references replaced, and in an order that depends on nothing.

        Args:
            schema: Of this document.
            above: What the references on the way have led to.
        """
        self.step()
        if not _is_dict(schema):
            return schema
        found: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword == "$ref" and (target := self.resolve(value)) is not _NONE:
                again = id(target) in above
                value = above.index(id(target)) if again else self.canonical(target, (*above, id(target)))
            elif keyword in _REFERENCES and str(value).startswith("#"):
                value = [value, self.root]  # it may lead anywhere within
            elif keyword in _SCHEMAS_IN and _is_list(value):
                value = [self.canonical(item, above) for item in value]
            elif keyword in _NAMED_SCHEMAS_IN and _is_dict(value):
                value = {name: self.canonical(item, above) for name, item in value.items()}
            elif keyword in _SCHEMA_IN:
                value = self.canonical(value, above)
            elif keyword == "const":
                keyword, value = "enum", [value]
            if keyword == "type":
                value = _one_or_more(value)
            if keyword in _UNORDERED and _is_list(value):
                value = sorted(value, key=_key)
            if keyword in _COMPARED and _SAYS_NOTHING.get(keyword) != _key(value):
                found[keyword] = value if keyword not in found else [found[keyword], value]
        return found or True


class _Flat:
    """What holds at once for a value: schemas with their references and `allOf` taken apart.

    Args:
        document: In which the references lead.
        schemas: All of which hold, each with a pointer to it.
        closed: Whether properties that are named nowhere are taken not to be there.
    """

    def __init__(self, document: _Document, schemas: Iterable[tuple[str, Any]] = (), *, closed: bool) -> None:
        self.document = document
        self.parts: list[tuple[str, dict[str, Any]]] = []
        self.choices: list[tuple[str, str, list[Any]]] = []
        """Pointer, `anyOf` or `oneOf`, and the schemas of which one at least holds."""
        self.exactly: frozenset[str] = frozenset()
        """All that was said with `oneOf`, of whatever became of the choices."""
        self.nothing = False
        self.closed = closed
        self.root = False
        """Whether an object that names no properties has none, rather than any."""
        self.only = _ATOMS
        self._values: dict[str, Any] | Literal["unknown"] | None = "unknown"
        self._found_types: frozenset[str] | None = None
        self.one: Any = _NONE
        """The value, if it is known."""
        for pointer, schema in schemas:
            self._take(pointer, schema, ())

    def _take(self, pointer: str, schema: Any, above: tuple[int, ...]) -> None:
        self.document.step()
        if schema is False:
            self.nothing = True
        if not _is_dict(schema) or id(schema) in above:
            return
        node = schema
        target = self.document.resolve(_get(node, "$ref"))
        # Without those that only refer, a schema that holds itself is soon seen to be the same again.
        if target is _NONE or len(_COMPARED.intersection(node)) > 1:
            self.parts.append((pointer, node))
        above = (*above, id(node))
        if target is not _NONE:
            self._take(pointer, target, above)
        for i, item in enumerate(_several(node, "allOf")):
            self._take(f"{pointer}/allOf/{i}", item, above)
        for keyword in ("anyOf", "oneOf"):
            if (branches := _get(node, keyword)) is not None:
                self.choices.append((pointer, keyword, branches))
        if (branches := _get(node, "oneOf")) is not None:
            self.exactly |= {self._exactly(branches)}

    def _exactly(self, branches: list[Any]) -> str:
        return _key(self.document.canonical({"oneOf": branches}))

    @property
    def key(self) -> object:
        """The same for two that hold for the same values, as long as the documents are there."""
        parts = tuple(id(part) for _, part in self.parts)
        choices = tuple(id(branches) for _, _, branches in self.choices)
        return parts, choices, self.only, None if self.one is _NONE else _key(self.one), self.nothing, self.root

    def values(self) -> dict[str, Any] | None:
        """All values by their keys, if they are listed."""
        if self._values == "unknown":
            self._values = self._find_values()
        return self._values

    def _find_values(self) -> dict[str, Any] | None:
        listed = [_listed(part) for _, part in self.parts]
        listed.append(None if self.one is _NONE else {_key(self.one): self.one})
        types = self._kinds()
        if types <= {"null", "boolean"}:
            listed.append({_key(value): value for value in (None, False, True)})
        known = [each for each in listed if each is not None]
        if not known:
            return None
        self.document.step(sum(map(len, known)))
        common = set[str]().union(*known).intersection(*known)
        return {key: value for each in known for key, value in each.items() if key in common and _atom(value) in types}

    def types(self) -> frozenset[str]:
        """The types that a value may have."""
        if self._found_types is None:
            values = self.values()
            found = self._kinds() if values is None else frozenset(map(_atom, values.values()))
            self._found_types = frozenset() if self.nothing else found
        return self._found_types

    def _kinds(self) -> frozenset[str]:
        types = self.only.intersection(*(_types(part) for _, part in self.parts))
        whole = any(_atom(divisor) == "integer" for divisor in self.all("multipleOf"))
        return types - {"fraction"} if whole else types

    def limit(self, measure: str, sign: int) -> tuple[float, bool]:
        """The tightest limit from below (1) or above (-1), times that sign, and whether it is out itself."""
        none = (0 if measure != "value" and sign > 0 else float("-inf"), False)
        limits: list[tuple[float, bool]] = [none]
        for _, part in self.parts:
            for keyword, (of, side, out) in _LIMITS.items():
                if (of, side) == (measure, sign) and (value := _get(part, keyword)) is not None:
                    limits.append((sign * value, out))
        if (values := self.values()) is not None:
            sizes = [sign * size for value in values.values() if (size := _size(value, measure)) is not None]
            limits += [(min(sizes), False)] if sizes else []
        return max(limits)

    def all(self, keyword: str) -> list[Any]:
        """What all parts say with a keyword."""
        return [value for _, part in self.parts if (value := _get(part, keyword)) is not None]

    def required(self) -> set[str]:
        """The names of properties that have to be there."""
        return {name for names in self.all("required") for name in names}

    def named(self) -> list[str]:
        """The names of properties that something is said about, in order."""
        return sorted({name for names in self.all("properties") for name in names} | self.required())

    def patterns(self) -> dict[str, list[Any]]:
        """What is said of properties by pattern."""
        found: dict[str, list[Any]] = {}
        for patterns in self.all("patternProperties"):
            for pattern, schema in patterns.items():
                found.setdefault(pattern, []).append(schema)
        return found

    def property(self, name: str) -> list[Any]:
        """The schemas that hold for a property."""
        found: list[Any] = []
        told = name in self.required()
        for _, part in self.parts:
            properties, patterns = _named(part, "properties"), _named(part, "patternProperties")
            matching = [schema for pattern, schema in patterns.items() if _matches(pattern, name)]
            inside = [properties[name]] if name in properties else []
            told = told or name in properties or bool(patterns)
            found += [*inside, *matching]
            # Where there are patterns, it is left open whether one matches by the rules of another language.
            if name not in properties and not patterns:
                found += [schema for schema in (_get(part, "additionalProperties"),) if schema is not None]
        return found if told or not self._sends_no_others() else [False]

    def further(self) -> list[Any]:
        """The schemas that hold for properties that are named nowhere."""
        return [False] if self._sends_no_others() else self.all("additionalProperties")

    def _sends_no_others(self) -> bool:
        if not self.closed or self.choices or self.all("additionalProperties"):
            return False
        names = self.root or self.all("properties") or self.all("patternProperties")
        return bool(names) and not any(map(self._may_name_more, self.parts))

    def _may_name_more(self, place: tuple[str, dict[str, Any]]) -> bool:
        """Whether properties may be named where they are not looked for."""
        _, part = place
        unresolved = "$ref" in part and self.document.resolve(part["$ref"]) is _NONE
        return unresolved or not _NAMING.isdisjoint(part) or part.get("unevaluatedProperties", False) is not False

    def item(self, index: int) -> list[Any]:
        """The schemas that hold for an item; for one that is far behind, with a large index."""
        found: list[Any] = []
        for _, part in self.parts:
            prefix, after = _several(part, "prefixItems"), _get(part, "items")
            found += [prefix[index]] if index < len(prefix) else [] if after is None else [after]
        return found

    def prefix(self) -> int:
        """How many items have schemas of their own."""
        return max(map(len, self.all("prefixItems")), default=0)

    def opaque(self) -> set[str]:
        """All that is said and can only be compared as a whole."""
        return {_key(saying) for _, part in self.parts for _, _, saying in _opaque(self.document, part)}

    def split(self) -> list[_Flat]:
        """Flats that together hold for the same values; only this one if it cannot be taken apart."""
        if self.choices:
            return [self._with(branch=branch) for branch in self.choices[0][2]]
        values = self.values()
        if values is not None and len(values) > 1:
            return [self._with(one=value) for value in values.values()]
        types = self.types()
        return [self._with(only=frozenset({atom})) for atom in sorted(types)] if len(types) > 1 else [self]

    def _with(self, *, branch: Any = _NONE, one: Any = _NONE, only: frozenset[str] | None = None) -> _Flat:
        copy = _Flat(self.document, closed=self.closed)
        copy.root = self.root
        copy.parts, copy.choices, copy.exactly = [*self.parts], [*self.choices], self.exactly
        copy.nothing, copy.only, copy.one = self.nothing, only or self.only, self.one if one is _NONE else one
        if branch is not _NONE:
            copy.choices = copy.choices[1:]
            copy._take("", branch, ())
        return copy


class _Inclusion:
    """Whether all values of one schema are values of another, and where not.

    It errs on one side only: without a reason, they are.

    Args:
        inner: The schema that ought to be within the other.
        outer: The other.
        narrows: Whether the outer one is the new one; else it is the old one. Decides how reasons are worded.
        takes: Whether both say what a tool takes: then one that names no arguments has none.
    """

    def __init__(self, inner: _Document, outer: _Document, *, narrows: bool, takes: bool) -> None:
        self._inner = inner
        self._outer = outer
        self._narrows = narrows
        self._takes = takes
        self._assumed: set[object] = set()

    def reasons(self) -> list[_Reason]:
        """Why not, without any that is there twice; empty if they are."""
        inner = _Flat(self._inner, [("", self._inner.root)], closed=True)
        inner.root = self._takes and not inner.choices
        return list(dict.fromkeys(self._within(inner, self._outer.root, "")))

    def _within(self, inner: _Flat, schema: Any, pointer: str) -> list[_Reason]:
        self._outer.step()
        if not inner.types():
            return []
        outer = _Flat(self._outer, [(pointer, schema)], closed=False)
        # Schemas that hold themselves: what was assumed on the way down holds if nothing else speaks against it.
        assumption = (inner.key, outer.key)
        if assumption in self._assumed:
            return []
        self._assumed.add(assumption)
        try:
            if outer.nothing:
                return [_Reason(pointer, self._lost("any value" if len(inner.types()) > 1 else _spoken(inner.types())))]
            if inner.choices and outer.choices:
                # Taken as a whole it is hardly ever within one of several, and that takes long to see.
                return [reason for case in inner.split() for reason in self._within(case, schema, pointer)]
            reasons = [reason for at, part in outer.parts for reason in self._part(inner, part, at)]
            reasons += [reason for choice in outer.choices for reason in self._choice(inner, *choice)]
            if inner.choices and _strict(reasons):
                return [reason for case in inner.split() for reason in self._within(case, schema, pointer)]
        finally:
            self._assumed.discard(assumption)
        return reasons

    def _lost(self, what: str) -> str:
        return f"{what} is not allowed any more" if self._narrows else f"{what} is allowed now"

    def _was_is(self, keyword: str, inner: Any, outer: Any) -> str:
        return _was_is(keyword, inner, outer) if self._narrows else _was_is(keyword, outer, inner)

    def _part(self, inner: _Flat, part: dict[str, Any], at: str) -> Iterator[_Reason]:
        """What speaks against one part of the outer schema, references and choices left out."""
        types = inner.types()
        yield from self._kinds(inner, part, at)
        for keyword in _LIMITS.keys() & part.keys():
            (measure, sign, out), value = _LIMITS[keyword], _get(part, keyword)
            if value is not None and types & _MEASURED[measure] and inner.limit(measure, sign) < (sign * value, out):
                yield _Reason(f"{at}/{keyword}", self._was_is(keyword, _first(inner.all(keyword)), value))
        for keyword in _SAME.keys() & part.keys():
            about = _SAME[keyword]
            value, others = _get(part, keyword), inner.all(keyword)
            if value is not None and types & about and value not in others:
                yield _Reason(f"{at}/{keyword}", self._was_is(keyword, _first(others), value))
        if (divisor := _get(part, "multipleOf")) is not None and types & _NUMBER:
            others = inner.all("multipleOf")
            steps = [Fraction(str(step)) for step in others] + ([Fraction(1)] if "fraction" not in types else [])
            if not any((step / Fraction(str(divisor))).denominator == 1 for step in steps):
                yield _Reason(f"{at}/multipleOf", self._was_is("multipleOf", _first(others), divisor))
        if "array" in types:
            yield from self._items(inner, part, at)
        if "object" in types:
            yield from self._properties(inner, part, at)
        for about, keyword, saying in _opaque(self._outer, part):
            if types & about and _key(saying) not in inner.opaque():
                detail = f"what it says with {_shown(keyword)} is not the same; it cannot be judged"
                yield _Reason(f"{at}/{keyword}", detail)

    def _kinds(self, inner: _Flat, part: dict[str, Any], at: str) -> Iterator[_Reason]:
        if missing := inner.types() - _types(part):
            yield _Reason(f"{at}/type", self._lost(_spoken(missing)))
            return
        listed = _listed(part)
        if listed is None:
            return
        keyword = "enum" if _get(part, "enum") is not None else "const"
        values = inner.values()
        if values is None:
            few = _cut(", ".join(listed))
            detail = f"only {few} is allowed now" if self._narrows else f"more than {few} is allowed now"
            yield _Reason(f"{at}/{keyword}", detail)
        elif lost := [key for key in values if key not in listed]:
            yield _Reason(f"{at}/{keyword}", self._lost(_cut(", ".join(lost))))

    def _items(self, inner: _Flat, part: dict[str, Any], at: str) -> Iterator[_Reason]:
        if _get(part, "uniqueItems") and True not in inner.all("uniqueItems"):
            yield _Reason(f"{at}/uniqueItems", self._was_is("uniqueItems", False, True))
        prefix, after = _several(part, "prefixItems"), _get(part, "items")
        most = -inner.limit("items", -1)[0]
        # One more than all that have schemas of their own stands for the rest.
        for index in range(max(len(prefix), inner.prefix()) + 1):
            schema, pointer = (prefix[index], f"prefixItems/{index}") if index < len(prefix) else (after, "items")
            if schema is not None and index < most:
                yield from self._within(self._flat(inner.item(index)), schema, f"{at}/{pointer}")

    def _properties(self, inner: _Flat, part: dict[str, Any], at: str) -> Iterator[_Reason]:
        required = inner.required()
        for name in _several(part, "required"):
            if name not in required:
                says = "is required now" if self._narrows else "is not required any more"
                yield _Reason(f"{at}/required", f"{_shown(name)} {says}")
        properties, patterns = _named(part, "properties"), _named(part, "patternProperties")
        for name, schema in properties.items():
            pointer = _join(f"{at}/properties", name)
            schemas = inner.property(name)
            if schemas == [False] and schema is not False:
                yield _Reason(pointer, f"{_shown(name)} {'is new' if self._narrows else 'is gone'}", strict=False)
            yield from self._within(self._flat(schemas), schema, pointer)
        for pattern, schema in patterns.items():
            yield from self._pattern(inner, pattern, schema, _join(f"{at}/patternProperties", pattern))
        if (others := _get(part, "additionalProperties")) is not None:
            yield from self._others(inner, properties, patterns, others, at)

    def _pattern(self, inner: _Flat, pattern: str, schema: Any, at: str) -> Iterator[_Reason]:
        for name in inner.named():
            if _matches(pattern, name) is not False:
                yield from self._within(self._flat(inner.property(name)), schema, at)
        known = inner.patterns()
        if pattern in known and not _strict(reasons := self._within(self._flat(known[pattern]), schema, at)):
            yield from reasons
            return
        for schemas in (*known.values(), inner.further()):
            yield from self._within(self._flat(schemas), schema, at)

    def _others(
        self, inner: _Flat, properties: dict[str, Any], patterns: dict[str, Any], schema: Any, at: str
    ) -> Iterator[_Reason]:
        pointer = f"{at}/additionalProperties"
        for name in inner.named():
            if name not in properties and not any(_matches(pattern, name) for pattern in patterns):
                flat = self._flat(inner.property(name))
                if schema is not False:
                    yield from self._within(flat, schema, pointer)
                elif flat.types():
                    yield _Reason(_join(f"{at}/properties", name), self._lost(_shown(name)))
        known = [schemas for pattern, schemas in inner.patterns().items() if pattern not in patterns]
        for schemas in (*known, inner.further()):
            flat = self._flat(schemas)
            if schema is not False:
                yield from self._within(flat, schema, pointer)
            elif flat.types():
                yield _Reason(pointer, self._lost("any further property"))

    def _choice(self, inner: _Flat, at: str, keyword: str, branches: list[Any]) -> list[_Reason]:
        pointer = f"{at}/{keyword}"
        cases = inner.split()
        if keyword == "oneOf":
            if _key(self._outer.canonical({"oneOf": branches})) in inner.exactly:
                return []
            if not self._at_most_one(inner, branches):
                if len(cases) > 1:
                    return [reason for case in cases for reason in self._choice(case, at, keyword, branches)]
                return [_Reason(pointer, "more than one of its schemas may hold; it cannot be judged")]
        near = [i for i, branch in enumerate(branches) if not _apart(inner, self._outer_flat(branch))]
        found = [self._within(inner, branches[i], f"{pointer}/{i}") for i in near]
        within = sorted((reasons for reasons in found if not _strict(reasons)), key=len)
        if within:
            return within[0]
        if len(cases) > 1:
            return [reason for case in cases for reason in self._choice(case, at, keyword, branches)]
        if len(found) == 1:
            return found[0]
        values = inner.values()
        return [_Reason(pointer, self._lost(_cut(", ".join(values)) if values else _spoken(inner.types())))]

    def _at_most_one(self, inner: _Flat, branches: list[Any]) -> bool:
        near = [flat for branch in branches if not _apart(inner, flat := self._outer_flat(branch))]
        return all(_apart(one, other) for i, one in enumerate(near) for other in near[:i])

    def _flat(self, schemas: list[Any]) -> _Flat:
        return _Flat(self._inner, [("", schema) for schema in schemas], closed=True)

    def _outer_flat(self, schema: Any) -> _Flat:
        return _Flat(self._outer, [("", schema)], closed=False)


def _apart(one: _Flat, other: _Flat, depth: int = 3) -> bool:
    """Whether it is sure that no value is in both."""
    types = one.types() & other.types()
    if not types:
        return True
    values, others = one.values(), other.values()
    if values is not None and others is not None:
        return not values.keys() & others.keys()
    if depth == 0 or types != _OBJECT:
        return False
    # Told apart by a property that one of them has to have.
    names = one.required() | other.required()
    return any(_apart(_property(one, name), _property(other, name), depth - 1) for name in names)


def _property(flat: _Flat, name: str) -> _Flat:
    return _Flat(flat.document, [("", schema) for schema in flat.property(name)], closed=False)


def _opaque(document: _Document, part: dict[str, Any]) -> Iterator[tuple[frozenset[str], str, Any]]:
    """What cannot be taken apart: the types it is about, the keyword, and all that it says."""
    for keyword, value in part.items():
        if keyword in _OPAQUE:
            about, group = _OPAQUE[keyword]
            saying = {key: part[key] for key in group if key in part} if group else part
        elif keyword == "$ref" and document.resolve(value) is not _NONE:
            continue
        elif keyword == "$ref" or (keyword in _SHAPES and not _SHAPES[keyword](value)):
            about, saying = _ATOMS, {keyword: value}
        else:
            continue
        yield about, keyword, document.canonical(saying)


def _get(part: dict[str, Any], keyword: str) -> Any:
    """What a part says with a keyword, or `None` if it says nothing that is understood."""
    value = part.get(keyword)
    return value if value is not None and _SHAPES[keyword](value) else None


def _named(part: dict[str, Any], keyword: str) -> dict[str, Any]:
    return _get(part, keyword) or dict[str, Any]()


def _several(part: dict[str, Any], keyword: str) -> list[Any]:
    return _get(part, keyword) or list[Any]()


def _types(part: dict[str, Any]) -> frozenset[str]:
    names = _get(part, "type")
    return _ATOMS if names is None else frozenset[str]().union(*(_TYPES[name] for name in _one_or_more(names)))


def _listed(part: dict[str, Any]) -> dict[str, Any] | None:
    """The values of `enum` or `const` by their keys, or `None`."""
    values = _get(part, "enum")
    listed = None if values is None else {_key(value): value for value in values}
    if "const" in part:
        const = {_key(part["const"]): part["const"]}
        listed = const if listed is None else {key: value for key, value in const.items() if key in listed}
    return listed


def _atom(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "fraction"
    return "string" if isinstance(value, str) else "array" if _is_list(value) else "object"


def _size(value: Any, measure: str) -> float | None:
    if _atom(value) not in _MEASURED[measure]:
        return None
    return value if measure == "value" else len(value)


def _matches(pattern: str, name: str) -> bool | None:
    """Whether a name matches, or `None` if that cannot be told: the language of patterns is another one."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return None


def _strict(reasons: list[_Reason]) -> bool:
    return any(reason.strict for reason in reasons)


def _spoken(types: frozenset[str]) -> str:
    names = types - _NUMBER | {"number"} if types >= _NUMBER else types
    return " or ".join("a number that is not whole" if name == "fraction" else name for name in sorted(names))


def _was_is(what: str, old: Any, new: Any) -> str:
    was, now = ("nothing" if value is _NONE else _cut(_key(value)) for value in (old, new))
    return f"{printable(what)} was {was}, is {now}"


def _shown(name: str) -> str:
    return _cut(_key(name))


def _cut(text: str) -> str:
    return printable(text) if len(text) <= 80 else f"{printable(text[:77])}..."


def _join(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def _key(value: Any) -> str:
    """The same for two values exactly if they are equal in JSON, in which 1 is 1.0 and true is not 1."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if _is_dict(value):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if _is_list(value) else value


def _first(values: list[Any]) -> Any:
    return values[0] if values else _NONE


def _one_or_more(value: Any) -> list[Any]:
    return value if _is_list(value) else [value]


def _as_object(value: Any) -> dict[str, Any] | None:
    return value if _is_dict(value) else None


def _as_list(value: Any) -> list[Any]:
    return value if _is_list(value) else []


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
