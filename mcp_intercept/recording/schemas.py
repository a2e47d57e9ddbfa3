"""A JSON Schema by itself: its keywords, where its references lead, and what it says apart from how it is put.

Only JSON Schema is known here (draft 2020-12, and what is left of older drafts), and no more than one schema at a time.
What several say at once is in `conjunctions.py`, and whether one is within another in `containment.py`, both above.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from mcp_intercept.recording.values import ABSENT, Json, canonical, is_array, is_object, parts_of_pointer, pointer_to

NUMBER: Final = frozenset({"integer", "fraction"})
STRING: Final = frozenset({"string"})
ARRAY: Final = frozenset({"array"})
OBJECT: Final = frozenset({"object"})
TYPES: Final = NUMBER | STRING | ARRAY | OBJECT | {"null", "boolean"}
"""The types of JSON, of which no two share a value. A `fraction` is a number that is no integer."""

_TYPES_BY_NAME: Final[dict[str, frozenset[str]]] = {name: frozenset({name}) for name in TYPES - {"fraction"}} | {
    "number": NUMBER
}

LIMITS: Final = {
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

MEASURED: Final = {"value": NUMBER, "length": STRING, "items": ARRAY, "properties": OBJECT}
"""The types that have a measure."""

SAME: Final = {"pattern": STRING, "format": STRING, "contentEncoding": STRING, "contentMediaType": STRING}
"""Keywords of which nothing is known but whether they say the same, by the types they are about."""

_OPAQUE: Final = {
    "not": (TYPES, ("not",)),
    "if": (TYPES, ("if", "then", "else")),
    "contains": (ARRAY, ("contains", "minContains", "maxContains")),
    "additionalItems": (ARRAY, ("items", "additionalItems")),
    "dependentRequired": (OBJECT, ("dependentRequired",)),
    "dependentSchemas": (OBJECT, ("dependentSchemas",)),
    "dependencies": (OBJECT, ("dependencies",)),
    "propertyNames": (OBJECT, ("propertyNames",)),
    "$dynamicRef": (TYPES, ("$dynamicRef",)),
    "$recursiveRef": (TYPES, ("$recursiveRef",)),
    # These mean something only together with all that stands beside them.
    "unevaluatedItems": (ARRAY, ()),
    "unevaluatedProperties": (OBJECT, ()),
}
"""Keywords that are compared as a whole, with those that belong to them; with none, all that stands beside them."""


def _is_number(value: Json) -> bool:
    # Python takes 1e999 from JSON as infinite, which is no number to reckon with.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_schema(value: Json) -> bool:
    return isinstance(value, bool | dict)


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _are_texts(value: Json) -> bool:
    return is_array(value) and all(map(_is_text, value))


_SHAPES: Final[dict[str, Callable[[Json], bool]]] = {
    **dict.fromkeys(LIMITS, _is_number),
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "prefixItems", "enum"), is_array),
    **dict.fromkeys(("properties", "patternProperties"), is_object),
    **dict.fromkeys(("additionalProperties", "items"), _is_schema),
    **dict.fromkeys(("$ref", *SAME), _is_text),
    "const": lambda value: True,
    "uniqueItems": lambda value: isinstance(value, bool),
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "required": _are_texts,
    "type": lambda value: all(name in _TYPES_BY_NAME for name in map(str, _one_or_more(value))),
}
"""Keywords that are understood, and what their values have to look like for that."""

_SCHEMA_IN: Final = frozenset(
    {"not", "if", "then", "else", "contains", "propertyNames", "items", "additionalItems", "additionalProperties"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMAS_IN: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_NAMED_SCHEMAS_IN: Final = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
_OF_ALL: Final = frozenset({"allOf", "anyOf", "oneOf"})
_NAMED_LISTS_IN: Final = frozenset({"dependentRequired", "dependencies"})
_UNORDERED: Final = frozenset({"allOf", "anyOf", "oneOf", "required", "enum", "type"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
# `additionalProperties` and `items` say something even if they are true: `unevaluatedProperties` is about the others.
_SAYS_NOTHING: Final = {"uniqueItems": "false", "required": "[]"}
COMPARED: Final[frozenset[str]] = frozenset(
    {*_SHAPES, *_SCHEMA_IN, *_SCHEMAS_IN, *_NAMED_SCHEMAS_IN, *(key for _, group in _OPAQUE.values() for key in group)}
    | {*_OPAQUE}
)
"""All keywords that decide what is accepted; the others describe."""

# Real schemas take a few hundred, which is a few milliseconds.
_MAX_STEPS: Final = 30_000

# As an `$id`, it leaves those within it as they are.
_PLAIN_ID: Final = re.compile(r"[\w.-]+")


class TooLargeError(Exception):
    """A schema takes too long to compare."""


class SchemaDocument:
    """A schema as a whole, within which references lead.

    Args:
        root: The schema.
    """

    def __init__(self, root: Json) -> None:
        self.root: Json = root
        self._steps = 0
        by_id: dict[str, list[Json]] = {}
        for name, schema in _with_ids(root):
            by_id.setdefault(name, []).append(schema)
        # In a schema with an `$id` of its own, `#` is that schema.
        self._has_one_root = not by_id
        self._has_ids = bool(by_id) or (is_object(root) and "$id" in root)
        plain = all(map(_PLAIN_ID.fullmatch, by_id))
        self._by_id = {name: schemas[0] for name, schemas in by_id.items() if plain and len(schemas) == 1}

    def step(self, count: int = 1) -> None:
        """Count what it takes to compare.

        Raises:
            TooLargeError: It takes too long.
        """
        self._steps += count
        if self._steps > _MAX_STEPS:
            raise TooLargeError

    def resolve(self, reference: Json) -> Json:
        """What a reference leads to, or `ABSENT` if that is not known."""
        if not isinstance(reference, str):
            return ABSENT
        # An anchor has no slash, and would lead to the root.
        if not self._has_one_root or reference[:1] != "#" or reference[1:2] not in ("", "/"):
            return self._by_id.get(reference, ABSENT)
        found = self.root
        for part in parts_of_pointer(unquote(reference[1:])):
            if is_object(found):
                found = found.get(part, ABSENT)
            elif is_array(found) and part.isdecimal() and int(part) < len(found):
                found = found[int(part)]
            else:
                return ABSENT
        return found if _is_schema(found) else ABSENT

    def canonical(self, schema: Json, above: tuple[int, ...] = ()) -> Json:
        """The schema without what only describes, references replaced, and in an order that depends on nothing.

        Args:
            schema: Of this document.
            above: What the references on the way have led to.
        """
        self.step()
        if not is_object(schema):
            return schema
        found: dict[str, Any] = {}
        for keyword, value in schema.items():
            if keyword not in COMPARED or (keyword in _SAYS_NOTHING and canonical(value) == _SAYS_NOTHING[keyword]):
                continue
            if keyword == "const" and "enum" not in schema:
                found["enum"] = [value]
            else:
                found[keyword] = self._canonical_value(keyword, value, above)
        return found or True

    def _canonical_value(self, keyword: str, value: Json, above: tuple[int, ...]) -> Json:
        if keyword in _REFERENCES:
            return self._canonical_reference(keyword, value, above)
        if keyword in _SCHEMAS_IN and is_array(value):
            value = [self.canonical(item, above) for item in value]
        elif keyword in _NAMED_LISTS_IN | _NAMED_SCHEMAS_IN and is_object(value):
            value = {
                name: sorted(item) if keyword in _NAMED_LISTS_IN and _are_texts(item) else self.canonical(item, above)
                for name, item in value.items()
            }
        elif keyword in _SCHEMA_IN:
            value = self.canonical(value, above)
        elif keyword == "type":
            value = _one_or_more(value)
        return sorted(value, key=canonical) if keyword in _UNORDERED and is_array(value) else value

    def _canonical_reference(self, keyword: str, value: Json, above: tuple[int, ...]) -> Json:
        target = self.resolve(value) if keyword == "$ref" else ABSENT
        if target is not ABSENT:
            again = id(target) in above
            return above.index(id(target)) if again else self.canonical(target, (*above, id(target)))
        # It may lead anywhere within.
        return [value, self.root] if self._has_ids or str(value).startswith("#") else value


def _with_ids(root: Json) -> Iterator[tuple[str, Json]]:
    """All schemas below the root that have an `$id`, each with it."""
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if is_object(value):
            if value is not root and isinstance(name := value.get("$id"), str):
                yield name, value
            waiting += value.values()
        elif is_array(value):
            waiting += value


def said(part: dict[str, Any], keyword: str) -> Any:
    """What a schema says with a keyword, or `None` if it says nothing that is understood."""
    value = part.get(keyword)
    return value if value is not None and _SHAPES[keyword](value) else None


def named_in(part: dict[str, Any], keyword: str) -> dict[str, Any]:
    """The same of a keyword that holds schemas by name; empty if there is nothing."""
    return said(part, keyword) or dict[str, Any]()


def several_in(part: dict[str, Any], keyword: str) -> list[Any]:
    """The same of a keyword that holds a list."""
    return said(part, keyword) or list[Any]()


def schemas_in(part: dict[str, Any]) -> Iterator[tuple[str, Json]]:
    """What a schema says of parts of a value, each with a pointer from the schema; not what it says of all of it."""
    for keyword, value in part.items():
        if keyword in _OF_ALL:
            continue
        if keyword in _NAMED_SCHEMAS_IN and is_object(value):
            yield from ((pointer_to(f"/{keyword}", name), schema) for name, schema in value.items())
        elif keyword in _SCHEMAS_IN and is_array(value):
            yield from ((f"/{keyword}/{i}", schema) for i, schema in enumerate(value))
        elif keyword in _SCHEMA_IN:
            yield f"/{keyword}", value


def types_in(part: dict[str, Any]) -> frozenset[str]:
    """The `TYPES` that it lets through with `type`."""
    names = said(part, "type")
    return TYPES if names is None else frozenset[str]().union(*(_TYPES_BY_NAME[name] for name in _one_or_more(names)))


def values_in(part: dict[str, Any]) -> dict[str, Any] | None:
    """The values of `enum` or `const` by what they are as `canonical` text; `None` if all are allowed."""
    values = said(part, "enum")
    listed = None if values is None else {canonical(value): value for value in values}
    if "const" in part:
        const = {canonical(part["const"]): part["const"]}
        listed = const if listed is None else {key: value for key, value in const.items() if key in listed}
    return listed


def dependents_in(part: dict[str, Any]) -> frozenset[str]:
    """The names of properties of which one asks for another with `dependentRequired`."""
    asked = part.get("dependentRequired")
    groups = [[name, *names] for name, names in asked.items() if _are_texts(names)] if is_object(asked) else []
    return frozenset[str]().union(*groups)


def opaque_in(document: SchemaDocument, part: dict[str, Any]) -> Iterator[tuple[frozenset[str], str, Any]]:
    """What cannot be taken apart: the types it is about, the keyword, and all that it says."""
    for keyword, value in part.items():
        if keyword in _OPAQUE:
            about, group = _OPAQUE[keyword]
            saying = {key: part[key] for key in group if key in part} if group else part
        elif keyword == "$ref" and document.resolve(value) is not ABSENT:
            continue
        elif keyword == "$ref" or (keyword in _SHAPES and not _SHAPES[keyword](value)):
            about, saying = TYPES, {keyword: value}
        else:
            continue
        yield about, keyword, document.canonical(saying)


def type_of(value: Json) -> str:
    """Which of the `TYPES` a value has."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "fraction"
    return "string" if isinstance(value, str) else "array" if is_array(value) else "object"


def measure_of(value: Json, measure: str) -> float | None:
    """How large a value is, by a measure of `LIMITS`; `None` if it has no such measure."""
    if type_of(value) not in MEASURED[measure]:
        return None
    return value if measure == "value" else len(value)


def matches(pattern: str, name: str) -> bool | None:
    """Whether a name matches, or `None` if that cannot be told: the language of patterns is another one."""
    try:
        return re.search(pattern, name) is not None
    except (re.error, OverflowError):
        return None


def _one_or_more(value: Json) -> list[Any]:
    return value if is_array(value) else [value]
