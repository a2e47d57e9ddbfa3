"""`Conjunction`: what several schemas say of a value if all of them hold.

It answers what a comparison asks: which types and values are left, within which limits, and what holds for a property
or an item. What it is compared with is not known here; that is in `containment.py`, above.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor
from typing import Any, Final, Literal, NamedTuple

from mcp_intercept.recording.schemas import (
    COMPARED,
    LIMITS,
    OBJECT,
    TYPES,
    SchemaDocument,
    dependents_in,
    matches,
    measure_of,
    named_in,
    opaque_in,
    said,
    several_in,
    type_of,
    types_in,
    values_in,
)
from mcp_intercept.recording.values import ABSENT, Json, canonical, is_object

_NAMING: Final = frozenset({"if", "dependentSchemas", "dependencies", "propertyNames", "$dynamicRef", "$recursiveRef"})


class Part(NamedTuple):
    """One of the schemas that hold, of which only what it says itself counts here."""

    pointer: str
    schema: dict[str, Any]


class Choice(NamedTuple):
    """Schemas of which one at least holds."""

    pointer: str
    """Where the schema is in which they are."""
    keyword: Literal["anyOf", "oneOf"]
    branches: list[Any]


class Conjunction:
    """Schemas that hold at once, with their references and `allOf` taken apart.

    Args:
        document: In which the references lead.
        schemas: All of which hold, each with a pointer to it.
        closed: Whether properties that are named nowhere are taken not to be there.
    """

    def __init__(self, document: SchemaDocument, schemas: Iterable[tuple[str, Json]] = (), *, closed: bool) -> None:
        self.document: SchemaDocument = document
        self.parts: list[Part] = []
        """All that holds, whichever of the choices do."""
        self.choices: list[Choice] = []
        """All of which hold, too."""
        self.exactly: frozenset[str] = frozenset()
        """All that was said with `oneOf`, of whatever became of the choices."""
        self.nothing: bool = False
        """Whether it is plain that no value is left."""
        self.names_all: bool = False
        """Whether an object that names no properties has none, rather than any."""
        self._closed = closed
        self._only = TYPES
        self._value: Json = ABSENT
        self._values: dict[str, Any] | Literal["unknown"] | None = "unknown"
        self._types: frozenset[str] | None = None
        for pointer, schema in schemas:
            self._take(pointer, schema, ())

    def _take(self, pointer: str, schema: Json, above: tuple[int, ...]) -> None:
        self.document.step()
        if schema is False:
            self.nothing = True
        if not is_object(schema) or id(schema) in above:
            return
        target = self.document.resolve(said(schema, "$ref"))
        # Without those that only refer, a schema that holds itself is soon seen to be the same again.
        if target is ABSENT or len(COMPARED.intersection(schema)) > 1:
            self.parts.append(Part(pointer, schema))
        above = (*above, id(schema))
        if target is not ABSENT:
            self._take(pointer, target, above)
        for i, item in enumerate(several_in(schema, "allOf")):
            self._take(f"{pointer}/allOf/{i}", item, above)
        for keyword in ("anyOf", "oneOf"):
            if (branches := said(schema, keyword)) is not None:
                self.choices.append(Choice(pointer, keyword, branches))
                if keyword == "oneOf":
                    self.exactly |= {exactly_one(self.document, branches)}

    @property
    def key(self) -> object:
        """The same for two that hold for the same values, as long as the documents are there."""
        parts = tuple(id(part.schema) for part in self.parts)
        choices = tuple(id(choice.branches) for choice in self.choices)
        value = None if self._value is ABSENT else canonical(self._value)
        return parts, choices, self._only, value, self.nothing, self.names_all

    def values(self) -> dict[str, Any] | None:
        """All values by what they are as `canonical` text, if they are listed."""
        if self._values == "unknown":
            self._values = self._find_values()
        return self._values

    def _find_values(self) -> dict[str, Any] | None:
        listed = [values_in(part.schema) for part in self.parts]
        listed.append(None if self._value is ABSENT else {canonical(self._value): self._value})
        types = self._said_types()
        if types <= {"null", "boolean"}:
            listed.append({canonical(value): value for value in (None, False, True)})
        known = [each for each in listed if each is not None]
        if not known:
            return None
        self.document.step(sum(map(len, known)))
        common = set[str]().union(*known).intersection(*known)
        return {
            key: value for each in known for key, value in each.items() if key in common and type_of(value) in types
        }

    def types(self) -> frozenset[str]:
        """The types that a value may have."""
        if self._types is None:
            values = self.values()
            found = self._said_types() if values is None else frozenset(map(type_of, values.values()))
            self._types = frozenset() if self.nothing else found
        return self._types

    def _said_types(self) -> frozenset[str]:
        types = self._only.intersection(*(types_in(part.schema) for part in self.parts))
        whole = any(type_of(divisor) == "integer" for divisor in self.all("multipleOf"))
        return types - {"fraction"} if whole else types

    def limit(self, measure: str, sign: int) -> tuple[float, bool]:
        """The tightest limit from below (1) or above (-1), times that sign, and whether it is out itself."""
        limits: list[tuple[float, bool]] = [(0 if measure != "value" and sign > 0 else float("-inf"), False)]
        for _, part in self.parts:
            for keyword, (of, side, out) in LIMITS.items():
                if (of, side) == (measure, sign) and (value := said(part, keyword)) is not None:
                    limits.append((sign * value, out))
        if (values := self.values()) is not None:
            sizes = [sign * size for value in values.values() if (size := measure_of(value, measure)) is not None]
            limits += [(min(sizes), False)] if sizes else []
        bound, out = max(limits)
        if measure == "value" and bound > float("-inf") and "fraction" not in self.types():
            return floor(bound) + 1 if out else ceil(bound), False
        return bound, out

    def all(self, keyword: str) -> list[Any]:
        """What all parts say with a keyword."""
        return [value for _, part in self.parts if (value := said(part, keyword)) is not None]

    def required(self) -> set[str]:
        """The names of properties that have to be there."""
        return {name for names in self.all("required") for name in names}

    def _asked_for(self) -> set[str]:
        return self.required().union(*(dependents_in(part.schema) for part in self.parts))

    def named(self) -> list[str]:
        """The names of properties that something is said about, in order."""
        return sorted({name for names in self.all("properties") for name in names} | self._asked_for())

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
        told = name in self._asked_for()
        for _, part in self.parts:
            properties, patterns = named_in(part, "properties"), named_in(part, "patternProperties")
            told = told or name in properties or bool(patterns)
            found += [properties[name]] if name in properties else []
            found += [schema for pattern, schema in patterns.items() if matches(pattern, name)]
            # Where there are patterns, it is left open whether one matches by the rules of another language.
            if name not in properties and not patterns and (others := said(part, "additionalProperties")) is not None:
                found.append(others)
        return found if told or not self._has_no_others() else [False]

    def further(self) -> list[Any]:
        """The schemas that hold for properties that are named nowhere."""
        return [False] if self._has_no_others() else self.all("additionalProperties")

    def _has_no_others(self) -> bool:
        if not self._closed or self.choices or self.values() is not None or self.all("additionalProperties"):
            return False
        names = self.names_all or self.all("properties") or self.all("patternProperties")
        wanted, _ = self.limit("properties", 1)
        if not names or (wanted > len(self.named()) and not self.patterns()):
            return False
        return not any(self._may_name_more(part.schema) for part in self.parts)

    def _may_name_more(self, part: dict[str, Any]) -> bool:
        """Whether properties may be named where they are not looked for."""
        unresolved = "$ref" in part and self.document.resolve(part["$ref"]) is ABSENT
        return unresolved or not _NAMING.isdisjoint(part) or part.get("unevaluatedProperties", False) is not False

    def item(self, index: int) -> list[Any]:
        """The schemas that hold for an item; for one that is far behind, with a large index."""
        found: list[Any] = []
        for _, part in self.parts:
            prefix, after = several_in(part, "prefixItems"), said(part, "items")
            found += [prefix[index]] if index < len(prefix) else [] if after is None else [after]
        return found

    def prefix(self) -> int:
        """How many items have schemas of their own."""
        return max(map(len, self.all("prefixItems")), default=0)

    def opaque(self) -> set[str]:
        """All that is said and can only be compared as a whole."""
        return {canonical(saying) for _, part in self.parts for _, _, saying in opaque_in(self.document, part)}

    def split(self) -> list[Conjunction]:
        """Conjunctions of which one at least holds wherever this one does; only this one if it cannot be split."""
        if self.choices:
            return [self._with(branch=branch) for branch in self.choices[0].branches]
        values = self.values()
        if values is not None and len(values) > 1:
            return [self._with(value=value) for value in values.values()]
        types = self.types()
        return [self._with(only=frozenset({name})) for name in sorted(types)] if len(types) > 1 else [self]

    def _with(self, *, branch: Json = ABSENT, value: Json = ABSENT, only: frozenset[str] | None = None) -> Conjunction:
        copy = Conjunction(self.document, closed=self._closed)
        copy.parts, copy.choices, copy.exactly = [*self.parts], [*self.choices], self.exactly
        copy.nothing, copy.names_all = self.nothing, self.names_all
        copy._only, copy._value = only or self._only, self._value if value is ABSENT else value
        if branch is not ABSENT:
            copy.choices = copy.choices[1:]
            copy._take("", branch, ())
        return copy


def exactly_one(document: SchemaDocument, branches: list[Any]) -> str:
    """The same for two lists of schemas exactly if `oneOf` says the same with them."""
    return canonical(document.canonical({"oneOf": branches}))


def are_apart(one: Conjunction, other: Conjunction, depth: int = 3) -> bool:
    """Whether it is sure that no value is in both."""
    types = one.types() & other.types()
    if not types:
        return True
    values, others = one.values(), other.values()
    if values is not None and others is not None:
        return not values.keys() & others.keys()
    if depth == 0 or types != OBJECT:
        return False
    # Told apart by a property that one of them has to have.
    names = one.required() | other.required()
    return any(are_apart(_property(one, name), _property(other, name), depth - 1) for name in names)


def _property(conjunction: Conjunction, name: str) -> Conjunction:
    return Conjunction(conjunction.document, [("", schema) for schema in conjunction.property(name)], closed=False)
