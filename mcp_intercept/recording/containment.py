"""Two JSON Schemas: `Containment`, whether all values of one are values of the other, and `notes_that_differ`.

What that means for anybody is not known here: which of both is the new one only decides how reasons are worded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

from mcp_intercept._context import printable
from mcp_intercept.recording.conjunctions import Choice, Conjunction, Part, are_apart, exactly_one
from mcp_intercept.recording.matching import shown, shown_apart
from mcp_intercept.recording.schemas import (
    LIMITS,
    MEASURED,
    NUMBER,
    SAME,
    SchemaDocument,
    TooLargeError,
    matches,
    named_in,
    opaque_in,
    said,
    schemas_in,
    several_in,
    types_in,
    values_in,
)
from mcp_intercept.recording.values import ABSENT, Json, canonical, is_object, pointer_to


class Reason(NamedTuple):
    """Why one schema is not within another."""

    pointer: str
    """Where, in the schema that is not wide enough."""
    detail: str
    """What has changed there, in a sentence."""
    strict: bool = True
    """Whether some value may be in the one and not in the other; else a property is only not named there."""


class Containment:
    """Whether all values of one schema are values of another, and where not.

    It errs on one side only: without a reason, they are.

    Args:
        inner: The schema that ought to be within the other.
        outer: The other.
        narrows: Whether the outer one is the new one; else it is the old one. Decides how reasons are worded.
        names_all: Whether the inner one, if it names no properties at all, has none.
    """

    def __init__(self, inner: SchemaDocument, outer: SchemaDocument, *, narrows: bool, names_all: bool) -> None:
        self._inner = inner
        self._outer = outer
        self._narrows = narrows
        self._names_all = names_all
        self._assumed: set[object] = set()

    def reasons(self) -> list[Reason]:
        """Why not, without any that is there twice; empty if they are.

        Raises:
            TooLargeError: It takes too long to find out.
        """
        inner = self._holding([self._inner.root])
        inner.names_all = self._names_all and not inner.choices
        return list(dict.fromkeys(self._within(inner, self._outer.root, "")))

    def _within(self, inner: Conjunction, schema: Json, pointer: str) -> list[Reason]:
        self._outer.step()
        if not inner.types():
            return []
        outer = Conjunction(self._outer, [(pointer, schema)], closed=False)
        # Schemas that hold themselves: what was assumed on the way down holds if nothing else speaks against it.
        assumption = (inner.key, outer.key)
        if assumption in self._assumed:
            return []
        self._assumed.add(assumption)
        try:
            if outer.nothing:
                return [Reason(pointer, self._lost("any value" if len(inner.types()) > 1 else _spoken(inner.types())))]
            # Taken as a whole it is hardly ever within one of several, and that takes long to see.
            if not (inner.choices and outer.choices):
                reasons = [reason for part in outer.parts for reason in self._part(inner, part.schema, part.pointer)]
                reasons += [reason for choice in outer.choices for reason in self._choice(inner, choice)]
                if not (inner.choices and _any_strict(reasons)):
                    return reasons
            return [reason for case in inner.split() for reason in self._within(case, schema, pointer)]
        finally:
            self._assumed.discard(assumption)

    def _part(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        """What speaks against one part of the outer schema, references and choices left out."""
        types = inner.types()
        yield from self._types_and_values(inner, part, at)
        yield from self._limits(inner, part, at)
        if "array" in types:
            yield from self._items(inner, part, at)
        if "object" in types:
            yield from self._properties(inner, part, at)
        for about, keyword, saying in opaque_in(self._outer, part):
            if types & about and canonical(saying) not in inner.opaque():
                detail = f"what it says with {shown(keyword)} is not the same; it cannot be judged"
                yield Reason(f"{at}/{keyword}", detail)

    def _types_and_values(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        if missing := inner.types() - types_in(part):
            yield Reason(f"{at}/type", self._lost(_spoken(missing)))
            return
        listed = values_in(part)
        if listed is None:
            return
        keyword = "enum" if said(part, "enum") is not None else "const"
        values = inner.values()
        if values is None:
            few = _all_shown(listed.values())
            detail = f"only {few} is allowed now" if self._narrows else f"more than {few} is allowed now"
            yield Reason(f"{at}/{keyword}", detail)
        elif lost := [value for key, value in values.items() if key not in listed]:
            yield Reason(f"{at}/{keyword}", self._lost(_all_shown(lost)))

    def _limits(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        types = inner.types()
        for keyword, (measure, sign, out) in LIMITS.items():
            value = said(part, keyword)
            if value is not None and types & MEASURED[measure] and inner.limit(measure, sign) < (sign * value, out):
                yield Reason(f"{at}/{keyword}", self._was_is(keyword, inner.all(keyword), value))
        for keyword, about in SAME.items():
            value, others = said(part, keyword), inner.all(keyword)
            if value is not None and types & about and value not in others:
                yield Reason(f"{at}/{keyword}", self._was_is(keyword, others, value))
        if (divisor := said(part, "multipleOf")) is not None and types & NUMBER:
            others = inner.all("multipleOf")
            steps = [Fraction(str(step)) for step in others] + ([Fraction(1)] if "fraction" not in types else [])
            if not any((step / Fraction(str(divisor))).denominator == 1 for step in steps):
                yield Reason(f"{at}/multipleOf", self._was_is("multipleOf", others, divisor))

    def _items(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        if said(part, "uniqueItems") and True not in inner.all("uniqueItems"):
            yield Reason(f"{at}/uniqueItems", self._was_is("uniqueItems", [False], True))
        prefix, after = several_in(part, "prefixItems"), said(part, "items")
        most = -inner.limit("items", -1)[0]
        # One more than all that have schemas of their own stands for the rest.
        for index in range(max(len(prefix), inner.prefix()) + 1):
            schema, pointer = (prefix[index], f"prefixItems/{index}") if index < len(prefix) else (after, "items")
            if schema is not None and index < most:
                yield from self._within(self._holding(inner.item(index)), schema, f"{at}/{pointer}")

    def _properties(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        required = inner.required()
        for name in several_in(part, "required"):
            if name not in required:
                detail = "is required now" if self._narrows else "is not required any more"
                yield Reason(f"{at}/required", f"{shown(name)} {detail}")
        for name, schema in named_in(part, "properties").items():
            pointer = pointer_to(f"{at}/properties", name)
            schemas = inner.property(name)
            if schemas == [False] and schema is not False:
                yield Reason(pointer, f"{shown(name)} {'is new' if self._narrows else 'is gone'}", strict=False)
            yield from self._within(self._holding(schemas), schema, pointer)
        for pattern, schema in named_in(part, "patternProperties").items():
            yield from self._pattern(inner, pattern, schema, pointer_to(f"{at}/patternProperties", pattern))
        yield from self._further(inner, part, at)

    def _pattern(self, inner: Conjunction, pattern: str, schema: Json, at: str) -> Iterator[Reason]:
        for name in inner.named():
            if matches(pattern, name) is not False:
                yield from self._within(self._holding(inner.property(name)), schema, at)
        known = inner.patterns()
        if pattern in known and not _any_strict(reasons := self._within(self._holding(known[pattern]), schema, at)):
            yield from reasons
            return
        for schemas in (*known.values(), inner.further()):
            yield from self._within(self._holding(schemas), schema, at)

    def _further(self, inner: Conjunction, part: dict[str, Any], at: str) -> Iterator[Reason]:
        """What speaks against `additionalProperties`."""
        if (schema := said(part, "additionalProperties")) is None:
            return
        properties, patterns = named_in(part, "properties"), named_in(part, "patternProperties")
        pointer = f"{at}/additionalProperties"
        others = [
            (inner.property(name), shown(name), pointer_to(f"{at}/properties", name))
            for name in inner.named()
            if name not in properties and not any(matches(pattern, name) for pattern in patterns)
        ]
        known = [schemas for pattern, schemas in inner.patterns().items() if pattern not in patterns]
        others += [(schemas, "any further property", pointer) for schemas in (*known, inner.further())]
        for schemas, which, where in others:
            holding = self._holding(schemas)
            if schema is not False:
                yield from self._within(holding, schema, pointer)
            elif holding.types():
                yield Reason(where, self._lost(which))

    def _choice(self, inner: Conjunction, choice: Choice) -> list[Reason]:
        """What speaks against `anyOf` or `oneOf`."""
        pointer, branches = f"{choice.pointer}/{choice.keyword}", choice.branches
        if choice.keyword == "oneOf" and exactly_one(self._outer, branches) in inner.exactly:
            return []
        cases = inner.split()
        near = [i for i, branch in enumerate(branches) if not are_apart(inner, self._outer_holding(branch))]
        found: list[list[Reason]] = []
        if choice.keyword == "anyOf" or self._are_apart([branches[i] for i in near]):
            found = [self._within(inner, branches[i], f"{pointer}/{i}") for i in near]
            within = sorted((reasons for reasons in found if not _any_strict(reasons)), key=len)
            if within:
                return within[0]
            lost = _all_shown((inner.values() or {}).values()) or _spoken(inner.types())
            otherwise = found[0] if len(found) == 1 else [Reason(pointer, self._lost(lost))]
        else:
            otherwise = [Reason(pointer, "more than one of its schemas may hold; it cannot be judged")]
        if len(cases) > 1:
            return [reason for case in cases for reason in self._choice(case, choice)]
        return otherwise

    def _are_apart(self, branches: list[Any]) -> bool:
        schemas = [self._outer_holding(branch) for branch in branches]
        return all(are_apart(one, other) for i, one in enumerate(schemas) for other in schemas[:i])

    def _holding(self, schemas: list[Any]) -> Conjunction:
        return Conjunction(self._inner, [("", schema) for schema in schemas], closed=True)

    def _outer_holding(self, schema: Json) -> Conjunction:
        return Conjunction(self._outer, [("", schema)], closed=False)

    def _lost(self, what: str) -> str:
        return f"{what} is not allowed any more" if self._narrows else f"{what} is allowed now"

    def _was_is(self, keyword: str, inner: list[Any], outer: Json) -> str:
        said_inside = inner[0] if inner else ABSENT
        return was_is(keyword, said_inside, outer) if self._narrows else was_is(keyword, outer, said_inside)


# The vocabulary of meta-data (JSON Schema draft 2020-12, validation, section 9).
_NOTES: Final = ("title", "description", "default", "deprecated", "examples", "readOnly", "writeOnly")


_Place: TypeAlias = "tuple[str, Json]"
"""A value within a schema, often a schema itself, after the pointer to it."""


def notes_that_differ(old: SchemaDocument, new: SchemaDocument) -> list[tuple[str, str]]:
    """Where schemas differ in what they say that decides nothing, and is read all the same: defaults, descriptions, ...

    Both are gone through side by side, so what only one of them has is not looked into. What is within a schema that
    several places refer to is told at the first of them.

    Args:
        old: The one before.
        new: The one after.

    Returns:
        The places, as JSON pointers, each with what was said there and what is.
    """
    found: list[tuple[str, str]] = []
    pairs: list[tuple[_Place, _Place]] = [(("", old.root), ("", new.root))]
    seen: set[tuple[int, int]] = set()
    try:
        for before, after in pairs:  # which grows
            key = id(before[1]), id(after[1])
            if key not in seen:
                seen.add(key)
                found += _compared(old, new, before, after, pairs)
    except TooLargeError:
        found.append(("", "it is too large; not all that describes it is compared"))
    return found


def _compared(
    old: SchemaDocument, new: SchemaDocument, before: _Place, after: _Place, pairs: list[tuple[_Place, _Place]]
) -> Iterator[tuple[str, str]]:
    """What differs at one place; `pairs` gets those within."""
    olds, news = list(_parts(old, *before)), list(_parts(new, *after))
    choices, others = _choices(olds), _choices(news)
    if len(choices) > 1 or len(others) > 1:
        pairs += _paired(old, new, choices, others)
    else:  # what may also be null, or has one choice only, is that
        olds += [part for place in choices for part in _parts(old, *place)]
        news += [part for place in others for part in _parts(new, *place)]
    notes, notes_now = _notes(olds), _notes(news)
    for keyword in notes | notes_now:
        was, now = notes.get(keyword), notes_now.get(keyword)
        pointer, _ = now or was or ("", None)
        values = [ABSENT if place is None else place[1] for place in (was, now)]
        if ABSENT in values or canonical(values[0]) != canonical(values[1]):
            yield pointer, was_is(keyword, *values)
    inner, inner_now = _inner(olds), _inner(news)
    pairs += [(inner[step], inner_now[step]) for step in inner if step in inner_now]


def _parts(document: SchemaDocument, pointer: str, schema: Json, above: tuple[int, ...] = ()) -> Iterator[Part]:
    """A schema, and those that hold together with it: what it refers to, and `allOf`."""
    document.step()
    if not is_object(schema) or id(schema) in above:
        return
    yield Part(pointer, schema)
    above = (*above, id(schema))
    yield from _parts(document, pointer, document.resolve(said(schema, "$ref")), above)
    for i, item in enumerate(several_in(schema, "allOf")):
        yield from _parts(document, f"{pointer}/allOf/{i}", item, above)


def _choices(parts: list[Part]) -> list[_Place]:
    """The schemas of `anyOf` and `oneOf`, but for null."""
    return [
        (f"{pointer}/{keyword}/{i}", branch)
        for pointer, schema in parts
        for keyword in ("anyOf", "oneOf")
        for i, branch in enumerate(several_in(schema, keyword))
        if not (is_object(branch) and types_in(branch) <= {"null"})
    ]


def _paired(
    old: SchemaDocument, new: SchemaDocument, before: list[_Place], after: list[_Place]
) -> Iterator[tuple[_Place, _Place]]:
    """Those that accept the same; and if as many are left of both, these in their order."""
    waiting: dict[str, list[_Place]] = {}
    for place in before:
        waiting.setdefault(canonical(old.canonical(place[1])), []).append(place)
    left: list[_Place] = []
    for place in after:
        same = waiting.get(canonical(new.canonical(place[1])))
        if same:
            yield same.pop(0), place
        else:
            left.append(place)
    gone = [place for places in waiting.values() for place in places]
    if len(gone) == len(left):
        yield from zip(gone, left, strict=True)


def _notes(parts: list[Part]) -> dict[str, _Place]:
    """What is said by keyword, each with where. The first that says something is heard."""
    return {
        keyword: (f"{pointer}/{keyword}", schema[keyword])
        for pointer, schema in reversed(parts)
        for keyword in _NOTES
        if keyword in schema
    }


def _inner(parts: list[Part]) -> dict[str, _Place]:
    """The schemas of what is within the value."""
    return {step: (pointer + step, inner) for pointer, schema in reversed(parts) for step, inner in schemas_in(schema)}


def was_is(what: str, old: Json, new: Json) -> str:
    """That something was one value and is another now; `ABSENT` is nothing."""
    told = zip((old, new), shown_apart(old, new), strict=True)
    was, now = ("nothing" if value is ABSENT else text for value, text in told)
    return f"{printable(what)} was {was}, is {now}"


def _any_strict(reasons: list[Reason]) -> bool:
    return any(reason.strict for reason in reasons)


def _all_shown(values: Iterable[Json]) -> str:
    text = ", ".join(map(shown, values))
    return text if len(text) <= 80 else f"{text[:80]}…"


def _spoken(types: frozenset[str]) -> str:
    names = types - NUMBER | {"number"} if types >= NUMBER else types
    return " or ".join("a number that is not whole" if name == "fraction" else name for name in sorted(names))
