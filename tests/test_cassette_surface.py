"""Which changes of a server's surface break those who know it as it was."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from mcp_intercept.recording.compatibility import Change, compare
from mcp_intercept.recording.interactions import Interaction
from mcp_intercept.recording.surface import Surface

Json = Any

STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NULL = {"type": "null"}


def answered(method: str, result: dict[str, Any], params: dict[str, Any] | None = None, **more: Any) -> Interaction:
    named: dict[str, Any] = {"n": 1, "server": "weather", "connection": 1, "kind": "request", **more}
    return Interaction(method=method, params=params, events=[{"result": result}], **named)


def with_tool(**tool: Any) -> Surface:
    return Surface(tools={"forecast": {"name": "forecast", "inputSchema": {"type": "object"}, **tool}})


def of_part(part: str, entries: Any) -> Surface:
    named: dict[str, Any] = {part: entries}
    return Surface(**named)


def told(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(change.kind, change.pointer, change.detail) for change in changes]


def takes(old: Json, new: Json) -> list[tuple[str, str, str]]:
    """What changes for a tool that took one argument of one schema and takes one of the other."""
    changes = compare(with_tool(inputSchema=argument(old)), with_tool(inputSchema=argument(new)))
    return [
        (kind, pointer.removeprefix("/inputSchema/properties/x"), detail) for kind, pointer, detail in told(changes)
    ]


def gives(old: Json, new: Json) -> list[tuple[str, str, str]]:
    """The same for what a tool gives."""
    changes = compare(with_tool(outputSchema=argument(old)), with_tool(outputSchema=argument(new)))
    return [
        (kind, pointer.removeprefix("/outputSchema/properties/x"), detail) for kind, pointer, detail in told(changes)
    ]


def argument(schema: Json) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}


def breaks(changes: list[tuple[str, str, str]]) -> bool:
    return any(kind == "breaking" for kind, _, _ in changes)


# What a surface is.


def test_a_surface_is_made_of_the_last_answers_of_its_server() -> None:
    surface = Surface.of(
        [
            answered(
                "initialize",
                {"protocolVersion": "2025-11-25", "serverInfo": {"name": "w"}, "capabilities": {"tools": {}}},
            ),
            answered("tools/list", {"tools": [{"name": "old"}]}),
            answered("tools/list", {"tools": [{"name": "forecast"}]}, connection=2),
            answered("tools/list", {"tools": [{"name": "other"}]}, server="news"),
            answered("prompts/list", {"prompts": [{"name": "greet"}]}),
            answered("resources/list", {"resources": [{"uri": "memo://1"}]}),
            answered("resources/templates/list", {"resourceTemplates": [{"uriTemplate": "memo://{id}"}]}),
            answered("tools/call", {"content": []}),
        ],
        "weather",
    )
    assert surface == Surface(
        tools={"forecast": {"name": "forecast"}},
        prompts={"greet": {"name": "greet"}},
        resources={"memo://1": {"uri": "memo://1"}},
        templates={"memo://{id}": {"uriTemplate": "memo://{id}"}},
        capabilities={"tools": {}},
        server_info={"name": "w"},
        protocol_version="2025-11-25",
    )


def test_a_server_without_a_handshake_says_in_its_discovery_who_it_is() -> None:
    result = {
        "supportedVersions": ["2026-07-28", "2025-11-25"],
        "capabilities": {},
        "instructions": "Ask.",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "w", "version": "2"}},
    }
    assert Surface.of([answered("server/discover", result)], "weather") == Surface(
        capabilities={}, server_info={"name": "w", "version": "2"}, protocol_version="2026-07-28", instructions="Ask."
    )


def test_pages_make_one_list() -> None:
    pages = [
        answered("tools/list", {"tools": [{"name": "a"}], "nextCursor": "2"}),
        answered("tools/list", {"tools": [{"name": "b"}], "nextCursor": "3"}, {"cursor": "2"}),
        answered("tools/list", {"tools": [{"name": "c"}]}, {"cursor": "3"}),
    ]
    assert list(Surface.of(pages, "weather").tools or ()) == ["a", "b", "c"]


@pytest.mark.parametrize("last", [(), ("prompts/list",)])
def test_what_was_not_listed_to_the_end_is_not_known(last: tuple[str, ...]) -> None:
    pages = [
        answered("tools/list", {"tools": [{"name": "a"}], "nextCursor": "2"}),
        answered("tools/list", {"tools": [{"name": "z"}]}, {"cursor": "of another listing"}),
        *(
            Interaction(1, "weather", 1, "request", method, None, [{"error": {"code": -32601, "message": ""}}])
            for method in last
        ),
    ]
    surface = Surface.of(pages, "weather")
    assert (surface.tools, surface.prompts) == (None, None)


def test_entries_that_break_the_protocol_are_passed_over() -> None:
    listing = answered("tools/list", {"tools": [7, {"title": "no name"}, {"name": "a"}]})
    nonsense = answered("initialize", {"capabilities": 7, "supportedVersions": 7, "serverInfo": [], "_meta": 7})
    assert Surface.of([listing, nonsense], "weather") == Surface(tools={"a": {"name": "a"}})
    assert Surface.of([answered("tools/list", {"tools": {}})], "weather") == Surface(tools={})


# What is there, and what is gone.


@pytest.mark.parametrize(
    ("part", "subject"),
    [
        ("tools", "tool a"),
        ("prompts", "prompt a"),
        ("resources", "resource a"),
        ("templates", "resource template a"),
        ("capabilities", "capability a"),
    ],
)
def test_what_is_gone_breaks_and_what_is_new_does_not(part: str, subject: str) -> None:
    with_it, without = of_part(part, {"a": {}}), of_part(part, {})
    assert compare(with_it, without) == [Change(kind="breaking", subject=subject, pointer="", detail="it is gone")]
    assert compare(without, with_it) == [Change(kind="compatible", subject=subject, pointer="", detail="it is new")]


@pytest.mark.parametrize("part", ["tools", "prompts", "resources", "templates", "capabilities"])
def test_what_is_known_on_one_side_only_is_not_compared_and_said_so(part: str) -> None:
    there: list[Any] = [of_part(part, {"a": {}}), Surface()]
    for old, new, side in ((*there, "new"), (*reversed(there), "old")):
        [change] = compare(old, new)
        assert (change.kind, change.subject) == ("compatible", "server")
        assert change.detail.endswith(f"are not compared, since the {side} one has no full list of them")


def test_a_server_that_tells_other_things_of_itself_breaks_nobody() -> None:
    old = Surface(protocol_version="2025-06-18", server_info={"name": "w", "version": "1"}, instructions="Ask.")
    new = Surface(server_info={"name": "w", "version": "2", "title": "W"})
    assert [str(change) for change in compare(old, new)] == [
        "compatible: server at /protocolVersion: "
        "the protocol was 2025-06-18, is unknown; the SDK settles which to speak",
        'compatible: server at /serverInfo/title: title was nothing, is "W"',
        'compatible: server at /serverInfo/version: version was "1", is "2"',
        "compatible: server at /instructions: its instructions have changed",
    ]


def test_a_capability_that_offers_less_breaks() -> None:
    old = Surface(
        capabilities={"resources": {"subscribe": True, "listChanged": False}, "tasks": {"list": {}}, "x": {"a/b": 1}}
    )
    new = Surface(capabilities={"resources": {"listChanged": True}, "tasks": {"list": None}, "x": {"a/b": 2}})
    assert [(change.kind, change.subject, change.pointer) for change in compare(old, new)] == [
        ("compatible", "capability resources", "/listChanged"),
        ("breaking", "capability resources", "/subscribe"),
        ("breaking", "capability tasks", "/list"),
        ("compatible", "capability x", "/a~1b"),
    ]


def test_a_capability_that_is_said_not_to_be_there_may_as_well_not_be_named() -> None:
    old, new = Surface(capabilities={"resources": {"subscribe": False}}), Surface(capabilities={"resources": {}})
    assert compare(old, new) == compare(new, old) == []
    old, new = Surface(capabilities={"experimental": {}}), Surface(capabilities={})
    assert compare(old, new) == compare(new, old) == []


def test_descriptions_titles_icons_and_meta_break_nobody() -> None:
    old = with_tool(description="Tell the weather.", _meta={"a": 1})
    new = with_tool(description="Tell the weather of tomorrow.", title="Forecast", icons=[])
    assert [(change.kind, change.pointer) for change in compare(old, new)] == [
        ("compatible", "/_meta"),
        ("compatible", "/description"),
        ("compatible", "/icons"),
        ("compatible", "/title"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"readOnlyHint": True}, {}, {"/annotations/readOnlyHint": "breaking"}),
        ({}, {"readOnlyHint": True}, {"/annotations/readOnlyHint": "compatible"}),
        ({"destructiveHint": False}, {}, {"/annotations/destructiveHint": "breaking"}),
        ({}, {"destructiveHint": True}, {}),
        ({"idempotentHint": True}, {"idempotentHint": False}, {"/annotations/idempotentHint": "breaking"}),
        ({"openWorldHint": False}, {"openWorldHint": True}, {"/annotations/openWorldHint": "breaking"}),
        ({"openWorldHint": True}, {"openWorldHint": False}, {"/annotations/openWorldHint": "compatible"}),
        (
            {"readOnlyHint": True, "idempotentHint": True},
            {"readOnlyHint": True},
            {"/annotations/idempotentHint": "compatible"},
        ),
        ({"title": "A"}, {"title": "B"}, {"/annotations/title": "compatible"}),
    ],
)
def test_a_hint_that_turns_to_the_less_safe_side_breaks(old: Json, new: Json, expected: dict[str, str]) -> None:
    changes = compare(with_tool(annotations=old), with_tool(annotations=new))
    assert {change.pointer: change.kind for change in changes} == expected


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (None, "required", "breaking"),
        ("optional", "required", "breaking"),
        ("optional", "forbidden", "breaking"),
        (None, "optional", "compatible"),
        ("required", "optional", "compatible"),
    ],
)
def test_a_tool_that_cannot_be_run_the_way_it_was_breaks(old: str | None, new: str, kind: str) -> None:
    before = {} if old is None else {"execution": {"taskSupport": old}}
    [change] = compare(with_tool(**before), with_tool(execution={"taskSupport": new}))
    assert (change.kind, change.pointer) == (kind, "/execution/taskSupport")


def test_a_tool_that_no_longer_says_what_it_gives_breaks() -> None:
    silent, speaking = with_tool(), with_tool(outputSchema={"type": "object"})
    assert told(compare(speaking, silent)) == [("breaking", "/outputSchema", "it does not say any more what it gives")]
    assert told(compare(silent, speaking)) == [("compatible", "/outputSchema", "it says now what it gives")]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([], [{"name": "a"}], [("compatible", '"a": it is new')]),
        ([], [{"name": "a", "required": True}], [("breaking", '"a": it is new, and required')]),
        ([{"name": "a"}], [], [("breaking", '"a": it is gone')]),
        ([{"name": "a"}], [{"name": "a", "required": True}], [("breaking", '"a": it is required now')]),
        ([{"name": "a", "required": True}], [{"name": "a"}], [("compatible", '"a": it is not required any more')]),
        ([{"name": "a"}], [{"name": "a", "title": "A"}], [("compatible", 'title was nothing, is "A"')]),
        (
            [{"name": "a", "description": "One."}],
            [{"name": "a", "description": "Two.", "required": True}],
            [("breaking", '"a": it is required now'), ("compatible", 'description was "One.", is "Two."')],
        ),
        ([{"name": "a"}], [{"name": "a", "required": False}, {"title": "no name"}, 7], []),
    ],
)
def test_a_prompt_that_asks_for_more_breaks(old: Json, new: Json, expected: list[tuple[str, str]]) -> None:
    changes = compare(Surface(prompts={"p": {"arguments": old}}), Surface(prompts={"p": {"arguments": new}}))
    assert [(change.kind, change.detail) for change in changes] == expected
    assert {change.pointer for change in changes} <= {"/arguments/a", "/arguments/a/title", "/arguments/a/description"}


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [("text/plain", "text/html", "breaking"), (None, "text/html", "compatible"), ("a/b", None, "compatible")],
)
def test_a_resource_of_another_type_breaks(old: str | None, new: str | None, kind: str) -> None:
    before, after = ({"name": "m", "mimeType": each} if each else {"name": "m"} for each in (old, new))
    [change] = compare(Surface(resources={"m": before}), Surface(resources={"m": {**after}}))
    assert (change.kind, change.pointer) == (kind, "/mimeType")
    assert compare(Surface(resources={"m": before}), Surface(resources={"m": dict(before)})) == []


def test_text_of_a_server_is_shown_on_one_line_and_cut_short() -> None:
    name, title = "a\nb", "long " * 100
    [change] = compare(Surface(tools={name: {}}), Surface(tools={name: {"title": title}}))
    assert change.subject == "tool a\\nb"
    assert len(change.detail) < 120


# Schemas. Each row: what was, what is, what has changed for a tool that takes it.

NARROWER: list[tuple[Json, Json, str, str]] = [
    ({"type": ["string", "null"]}, STRING, "/type", "null is not allowed any more"),
    ({"type": "number"}, INTEGER, "/type", "a number that is not whole is not allowed any more"),
    ({"type": ["number", "string"]}, STRING, "/type", "number is not allowed any more"),
    ({}, {"type": ["string", "number", "object", "array", "null"]}, "/type", "boolean is not allowed any more"),
    (STRING, False, "", "string is not allowed any more"),
    (True, False, "", "any value is not allowed any more"),
    ({"enum": ["a", "b"]}, {"enum": ["b"]}, "/enum", '"a" is not allowed any more'),
    ({"enum": [1, True]}, {"enum": [1.0]}, "/enum", "true is not allowed any more"),
    ({"enum": [1, 2]}, {"const": 1.0}, "/const", "2 is not allowed any more"),
    (STRING, {"enum": ["a"]}, "/enum", 'only "a" is allowed now'),
    ({"type": "boolean"}, {"const": True}, "/const", "false is not allowed any more"),
    ({"type": "integer", "minimum": 0}, {"type": "integer", "minimum": 1}, "/minimum", "minimum was 0, is 1"),
    (INTEGER, {"type": "integer", "maximum": 9}, "/maximum", "maximum was nothing, is 9"),
    ({"minimum": 0}, {"exclusiveMinimum": 0}, "/exclusiveMinimum", "exclusiveMinimum was nothing, is 0"),
    ({"maxLength": 9}, {"maxLength": 8}, "/maxLength", "maxLength was 9, is 8"),
    ({"type": "array"}, {"type": "array", "minItems": 1}, "/minItems", "minItems was nothing, is 1"),
    ({"type": "object"}, {"type": "object", "maxProperties": 1}, "/maxProperties", "maxProperties was nothing, is 1"),
    ({"multipleOf": 2}, {"multipleOf": 4}, "/multipleOf", "multipleOf was 2, is 4"),
    ({"type": "number"}, {"type": "number", "multipleOf": 1}, "/multipleOf", "multipleOf was nothing, is 1"),
    (STRING, {"type": "string", "format": "date"}, "/format", 'format was nothing, is "date"'),
    ({"items": {}}, {"items": STRING}, "/items/type", ""),
    ({"type": "array"}, {"type": "array", "uniqueItems": True}, "/uniqueItems", "uniqueItems was false, is true"),
    ({"prefixItems": [{}, {}]}, {"prefixItems": [{}, STRING]}, "/prefixItems/1/type", ""),
    ({"properties": {"a": {}}}, {"properties": {"a": {}}, "required": ["a"]}, "/required", '"a" is required now'),
    (
        {"properties": {"a": STRING}},
        {"properties": {}, "additionalProperties": False},
        "/properties/a",
        '"a" is not allowed any more',
    ),
    ({"type": "object"}, {"type": "object", "additionalProperties": STRING}, "/additionalProperties/type", ""),
    (
        {"type": "object"},
        {"type": "object", "additionalProperties": False},
        "/additionalProperties",
        "any further property is not allowed any more",
    ),
    (
        {"properties": {"a": {}}, "additionalProperties": True},
        {"properties": {"a": {}, "b": STRING}},
        "/properties/b/type",
        "",
    ),
    ({"properties": {"ab": {}, "b": {}}}, {"patternProperties": {"^a": STRING}}, "/patternProperties/^a/type", ""),
    ({"properties": {"ab": {}}}, {"patternProperties": {"(?<a>": STRING}}, "/patternProperties/(?<a>/type", ""),
    (
        {"properties": {"ab": {}}},
        {"patternProperties": {"a{9999999999}": {"maximum": 0}}},
        "/patternProperties/a{9999999999}/maximum",
        "",
    ),
    (
        {"type": "integer", "exclusiveMinimum": 0},
        {"type": "integer", "minimum": 1.5},
        "/minimum",
        "minimum was nothing, is 1.5",
    ),
    ({"minimum": 0}, {"minimum": 0.5}, "/minimum", "minimum was 0, is 0.5"),
    ({"enum": [["a"], ["b"]]}, {"enum": ["a"], "const": "b"}, "/enum", '["a"], ["b"] is not allowed any more'),
    (
        {"properties": {"a": STRING}, "dependentRequired": {"a": ["b"]}},
        {"properties": {"a": STRING, "b": INTEGER}, "dependentRequired": {"a": ["b"]}},
        "/properties/b/type",
        "",
    ),
    (
        {"properties": {"a": {}}, "propertyNames": {"maxLength": 1}},
        {"properties": {"a": {}, "b": INTEGER}, "propertyNames": {"maxLength": 1}},
        "/properties/b/type",
        "",
    ),
    (
        {"properties": {"a": {}}, "minProperties": 2},
        {"properties": {"a": {}, "b": INTEGER}, "minProperties": 2},
        "/properties/b/type",
        "",
    ),
    (
        {"properties": {"a": {}}, "enum": [{"b": 1}]},
        {"properties": {"a": {}, "b": STRING}, "enum": [{"b": 1}]},
        "/properties/b/type",
        "",
    ),
    (
        {"patternProperties": {"^a": {}, "^b": STRING}},
        {"patternProperties": {"^a": STRING, "^b": STRING}},
        "/patternProperties/^a/type",
        "",
    ),
    ({"type": "string"}, {"allOf": [STRING, {"minLength": 1}]}, "/allOf/1/minLength", "minLength was nothing, is 1"),
    ({"anyOf": [STRING, NULL]}, STRING, "/type", "null is not allowed any more"),
    (
        {"anyOf": [{"type": "string", "minLength": 1}, NULL]},
        {"anyOf": [{"type": "string", "minLength": 2}, NULL]},
        "/anyOf/0/minLength",
        "minLength was 1, is 2",
    ),
    (
        {"$ref": "#/properties/x/$defs/a~1b/0", "$defs": {"a/b": [STRING]}},
        {"$ref": "#/properties/x/$defs/a", "$defs": {"a": {"type": "string", "maxLength": 2}}},
        "/maxLength",
        "maxLength was nothing, is 2",
    ),
]

# Neither is within the other.
NEITHER: list[tuple[Json, Json, str, str]] = [
    ({"enum": ["", "a"]}, {"minLength": 1}, "/minLength", "minLength was nothing, is 1"),
    ({"enum": [5, "a"]}, {"exclusiveMaximum": 5}, "/exclusiveMaximum", "exclusiveMaximum was nothing, is 5"),
    ({"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}, "/pattern", 'pattern was "^a", is "^b"'),
    ({"prefixItems": [INTEGER], "items": STRING}, {"items": STRING}, "/items/type", "integer is not allowed any more"),
    (
        {"properties": {"a": STRING}},
        {"additionalProperties": INTEGER},
        "/additionalProperties/type",
        "string is not allowed any more",
    ),
    (
        {"patternProperties": {"^a": STRING}, "additionalProperties": False},
        {"patternProperties": {"^b": STRING}, "additionalProperties": False},
        "/additionalProperties",
        "any further property is not allowed any more",
    ),
    ({"anyOf": [STRING, NULL]}, {"anyOf": [INTEGER, NULL]}, "/anyOf", "string is not allowed any more"),
    ({"enum": ["a", "b"]}, {"anyOf": [{"const": "a"}, {"const": "c"}]}, "/anyOf", '"b" is not allowed any more'),
]


@pytest.mark.parametrize(("old", "new", "pointer", "detail"), NARROWER + NEITHER)
def test_a_tool_may_not_take_less_than_before(old: Json, new: Json, pointer: str, detail: str) -> None:
    changes = takes(old, new)
    assert [each for each in changes if each[0] == "breaking"] == [("breaking", pointer, detail or changes[0][2])]


@pytest.mark.parametrize(("new", "old"), [row[:2] for row in NARROWER])
def test_a_tool_may_take_more_than_before(old: Json, new: Json) -> None:
    changes = takes(old, new)
    assert changes
    assert not breaks(changes)


@pytest.mark.parametrize(("new", "old", "pointer", "detail"), NARROWER + NEITHER)
def test_a_tool_may_not_give_more_than_before(old: Json, new: Json, pointer: str, detail: str) -> None:
    assert ("breaking", pointer) in {(kind, where) for kind, where, _ in gives(old, new)}


@pytest.mark.parametrize(("old", "new"), [row[:2] for row in NARROWER if row[2] not in ("", "/properties/a")])
def test_a_tool_may_give_less_than_before(old: Json, new: Json) -> None:
    changes = gives(old, new)
    assert changes
    assert not breaks(changes)


SAME: list[tuple[Json, Json]] = [
    ({"type": "string", "enum": ["a", "b", 1]}, {"enum": ["b", "a"]}),
    ({"type": "boolean"}, {"enum": [True, False]}),
    ({"type": ["integer", "null"]}, {"anyOf": [INTEGER, NULL]}),
    ({"type": ["integer", "null"]}, {"oneOf": [INTEGER, NULL]}),
    ({"type": "integer", "minimum": 1}, {"allOf": [INTEGER, {"minimum": 1}]}),
    (
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 9},
        {"type": "integer", "minimum": 1, "exclusiveMaximum": 10},
    ),
    ({"type": "integer", "minimum": 0.5}, {"type": "integer", "exclusiveMinimum": 0.5}),
    (INTEGER, {"type": "number", "multipleOf": 1}),
    ({"multipleOf": 0.1}, {"allOf": [{"multipleOf": 0.1}, {"multipleOf": 0.05}]}),
    ({"enum": [1, 2]}, {"enum": [1, 2, 1.0], "minimum": 1, "maximum": 2}),
    ({"type": "string", "minLength": 0}, STRING),
    ({"type": "array", "maxItems": 1, "prefixItems": [STRING]}, {"type": "array", "maxItems": 1, "items": STRING}),
    (
        {"type": "object", "additionalProperties": True},
        {"type": "object", "additionalProperties": {"$comment": "any"}},
    ),
    (
        {"type": "object", "properties": {"a": STRING}, "additionalProperties": {"type": "string"}},
        {"type": "object", "additionalProperties": STRING},
    ),
    (
        {"properties": {"kind": {"const": "a"}}, "required": ["kind"], "additionalProperties": False},
        {
            "properties": {"kind": {"enum": ["a"], "type": "string"}},
            "required": ["kind"],
            "additionalProperties": False,
        },
    ),
    ({"enum": ["a"], "const": "a"}, {"const": "a"}),
    (
        {"type": "string", "pattern": "^a", "format": "date"},
        {"allOf": [{"type": "string", "format": "date"}, {"pattern": "^a"}]},
    ),
    (
        {"type": "object", "properties": {"a": False}, "additionalProperties": False},
        {"type": "object", "additionalProperties": False},
    ),
    ({"enum": ["b"], "const": "a"}, {"type": []}),
    (
        {"oneOf": [{"type": "string", "minLength": 1}, {"type": "string", "maxLength": 0}], "minLength": 1},
        {
            "oneOf": [{"maxLength": 0, "type": "string"}, {"type": "string", "minLength": 1}],
            "allOf": [{"minLength": 1}],
        },
    ),
    (
        {"type": "object", "patternProperties": {"^a": STRING, "^b": {}}, "additionalProperties": False},
        {"type": "object", "patternProperties": {"^a": {"allOf": [STRING]}, "^b": {}}, "additionalProperties": False},
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_written_in_another_way_breaks_nobody(one: Json, other: Json) -> None:
    said = [("compatible", "it is written in another way, and accepts the same")]
    for old, new in ((one, other), (other, one)):
        for changes in (takes(old, new), gives(old, new)):
            assert changes == [] or [(kind, detail) for kind, _, detail in changes] in (
                said,
                [("compatible", "it is described in another way, and means the same")],
            )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"required": ["b", "a"]}, {"required": ["a", "b"], "$comment": "X", "x-mine": 1}),
        ({"enum": [1, "a"]}, {"enum": ["a", 1.0]}),
        ({"type": "string"}, {"type": ["string"]}),
        (
            {"not": {"$ref": "#/$defs/a"}, "$defs": {"a": STRING}},
            {"not": {"$ref": "#/$defs/b"}, "$defs": {"b": STRING}},
        ),
        (
            {"$ref": "#/$defs/tree", "$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}}},
            {"$ref": "#/$defs/t", "$defs": {"t": {"properties": {"left": {"$ref": "#/$defs/t"}}}}},
        ),
        ({"if": STRING, "then": {"minLength": 1}}, {"if": {"type": ["string"]}, "then": {"minLength": 1.0}}),
        ({"dependentSchemas": {"a": {"required": ["b", "c"]}}}, {"dependentSchemas": {"a": {"required": ["c", "b"]}}}),
        ({"dependentRequired": {"a": ["b", "c"]}}, {"dependentRequired": {"a": ["c", "b"]}}),
        (
            {"dependencies": {"a": ["b", "c"], "b": STRING}},
            {"dependencies": {"a": ["c", "b"], "b": {"type": ["string"]}}},
        ),
    ],
)
def test_another_order_or_way_to_put_it_is_no_other_schema(old: Json, new: Json) -> None:
    changes = compare(with_tool(inputSchema=old), with_tool(inputSchema=new))
    assert told(changes) == [("compatible", "/inputSchema", "it is described in another way, and means the same")]


PLACE = {"type": "object", "properties": {"lat": {"type": "number", "default": 0}, "name": STRING}}
LATER = {"type": "object", "properties": {"lat": {"type": "number", "default": 1}, "name": STRING}}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"default": 5}, {"default": 3}, {"/default": "default was 5, is 3"}),
        ({}, {"default": None}, {"/default": "default was nothing, is null"}),
        ({"default": False}, {}, {"/default": "default was false, is nothing"}),
        ({"default": True, "x-mine": 1}, {"default": 1, "x-mine": 2}, {"/default": "default was true, is 1"}),
        (
            {"description": "At most 5.", "title": "X", "examples": [1], "deprecated": False},
            {"description": "At most 2.", "title": "Y", "examples": [2], "deprecated": True},
            {
                "/description": 'description was "At most 5.", is "At most 2."',
                "/title": 'title was "X", is "Y"',
                "/examples": "examples was [1], is [2]",
                "/deprecated": "deprecated was false, is true",
            },
        ),
        # Wherever it is said.
        (PLACE, LATER, {"/properties/lat/default": "default was 0, is 1"}),
        ({"items": PLACE}, {"items": LATER}, {"/items/properties/lat/default": "default was 0, is 1"}),
        (
            {"prefixItems": [STRING, {"default": 1}]},
            {"prefixItems": [STRING, {"default": 2}]},
            {"/prefixItems/1/default": "default was 1, is 2"},
        ),
        (
            {"additionalProperties": {"title": "X"}},
            {"additionalProperties": {}},
            {"/additionalProperties/title": 'title was "X", is nothing'},
        ),
        ({"allOf": [{}, {"title": "X"}]}, {"title": "Y", "allOf": [{}]}, {"/title": 'title was "X", is "Y"'}),
        (
            {"anyOf": [PLACE, NULL], "default": 1},
            {"anyOf": [NULL, LATER], "default": 1},
            {"/anyOf/1/properties/lat/default": "default was 0, is 1"},
        ),
        (PLACE, {"anyOf": [LATER, NULL]}, {"/anyOf/0/properties/lat/default": "default was 0, is 1"}),
        (
            {"oneOf": [{"const": "a", "title": "A"}, {"const": "b", "title": "B"}, {"const": "c", "title": "C"}]},
            {"oneOf": [{"const": "b", "title": "Bee"}, {"const": "a", "title": "A"}, {"const": "d", "title": "D"}]},
            {"/oneOf/0/title": 'title was "B", is "Bee"', "/oneOf/2/title": 'title was "C", is "D"'},
        ),
        (
            {"anyOf": [{**STRING, "title": "A"}, {**STRING, "title": "B"}]},
            {"anyOf": [{**STRING, "title": "A"}, {**STRING, "title": "C"}, {**INTEGER, "title": "D"}]},
            {"/anyOf/1/title": 'title was "B", is "C"'},
        ),
        # What is new or gone is so with all that describes it.
        ({"properties": {"a": {"default": 1}}}, {"properties": {"b": {"default": 2}}}, {}),
    ],
)
def test_what_describes_a_value_breaks_nobody_and_is_told(old: Json, new: Json, expected: dict[str, str]) -> None:
    for changes in (takes(old, new), gives(old, new)):
        said = {where: (kind, detail) for kind, where, detail in changes if where.rpartition("/")[2] in DESCRIBING}
        assert said == {where: ("compatible", detail) for where, detail in expected.items()}
        assert not [detail for _, _, detail in changes if "means the same" in detail]


DESCRIBING = {"default", "description", "title", "examples", "deprecated"}


def test_what_describes_a_value_is_told_beside_what_breaks() -> None:
    old, new = {"type": "integer", "default": 5, "minimum": 0}, {"type": "integer", "default": 3, "minimum": 1}
    assert takes(old, new) == [
        ("compatible", "/default", "default was 5, is 3"),
        ("breaking", "/minimum", "minimum was 0, is 1"),
    ]
    assert takes({"enum": ["a", "a"], "title": "A"}, {"const": "a", "title": "B"}) == [
        ("compatible", "/inputSchema", "it is written in another way, and accepts the same"),
        ("compatible", "/title", 'title was "A", is "B"'),
    ]


def test_what_is_within_a_schema_that_several_refer_to_is_told_once() -> None:
    def referring(name: str, default: int) -> Surface:
        reference = {"$ref": f"#/$defs/{name}"}
        node = {"type": "object", "properties": {"left": reference, "depth": {"default": default}}}
        return with_tool(inputSchema={"properties": {"a": reference, "b": {**reference}}, "$defs": {name: node}})

    assert told(compare(referring("node", 1), referring("tree", 2))) == [
        ("compatible", "/inputSchema/properties/a/properties/depth/default", "default was 1, is 2")
    ]


def test_long_descriptions_are_shown_where_they_differ() -> None:
    one, other = (f"{'The city, as it is called there. ' * 9}At most {most} days." for most in (7, 3))
    [(_, _, detail)] = takes({"description": one}, {"description": other})
    assert "At most 7 days." in detail
    assert "At most 3 days." in detail


def test_descriptions_that_take_too_long_to_compare_are_told_of() -> None:
    def build(schema: Json) -> Json:
        for _ in range(80):
            schema = {"anyOf": [schema, *({"const": each} for each in range(10))]}
        return {"properties": {"a": schema}}

    changes = compare(with_tool(inputSchema=build({"title": "A"})), with_tool(inputSchema=build({"title": "B"})))
    assert told(changes) == [
        ("compatible", "/inputSchema", "it is too large; not all that describes it is compared"),
    ]


UNJUDGED: list[tuple[Json, Json, str]] = [
    ({"not": STRING}, {"not": NULL}, "/not"),
    ({"if": STRING, "then": {"minLength": 1}}, {"if": STRING, "then": {"minLength": 0}}, "/if"),
    ({"type": "array", "contains": STRING}, {"type": "array", "contains": STRING, "minContains": 2}, "/contains"),
    ({"items": [STRING], "additionalItems": False}, {"items": [NULL], "additionalItems": False}, "/additionalItems"),
    ({"dependentRequired": {"a": ["b"]}}, {"dependentRequired": {"a": ["c"]}}, "/dependentRequired"),
    ({"dependencies": {"a": ["b"]}}, {"dependencies": {"a": ["c"]}}, "/dependencies"),
    ({"propertyNames": {"maxLength": 2}}, {"propertyNames": {"maxLength": 1}}, "/propertyNames"),
    (
        {"properties": {"a": {}}, "unevaluatedProperties": False},
        {"properties": {"a": STRING}, "unevaluatedProperties": False},
        "/unevaluatedProperties",
    ),
    (
        {"additionalProperties": True, "unevaluatedProperties": False},
        {"unevaluatedProperties": False},
        "/unevaluatedProperties",
    ),
    ({"items": True, "unevaluatedItems": False}, {"unevaluatedItems": False}, "/unevaluatedItems"),
    ({"oneOf": [{"minimum": 1}, {"maximum": 0}]}, {"oneOf": [{"minimum": 1}, {"maximum": 1}]}, "/oneOf"),
    ({"$ref": "https://example.org/a"}, {"$ref": "https://example.org/b"}, "/$ref"),
    ({"$ref": "#a"}, {"$ref": "#b"}, "/$ref"),
    ({"$ref": "#/a/b"}, {"$ref": "#/nowhere"}, "/$ref"),
    ({"$ref": "#/required/7"}, {"$ref": "#/required/x/y"}, "/$ref"),
    ({"type": 7}, {"type": 8}, "/type"),
    ({"minimum": float("inf")}, {"minimum": "1"}, "/minimum"),
    ({"required": [1]}, {"required": "a"}, "/required"),
    ({"properties": []}, {"properties": 7}, "/properties"),
]


@pytest.mark.parametrize(("old", "new", "pointer"), UNJUDGED)
def test_what_cannot_be_judged_breaks_if_it_is_not_the_same(old: Json, new: Json, pointer: str) -> None:
    for changes in (takes(old, new), gives(old, new)):
        broken = [(where, detail) for kind, where, detail in changes if kind == "breaking"]
        assert [where for where, _ in broken if where == pointer] == [pointer]
        assert all("cannot be judged" in detail for where, detail in broken if where == pointer)


@pytest.mark.parametrize("schema", [each for *both, where in UNJUDGED if where != "/$ref" for each in both])
def test_what_cannot_be_judged_stands_in_nobodys_way_as_long_as_it_is_the_same(schema: Json) -> None:
    changes = takes({"allOf": [schema], "description": "Old."}, {"allOf": [schema, {}]})
    assert not breaks(changes)
    assert not breaks(gives(schema, schema))


def test_a_rule_that_cannot_be_judged_breaks_only_where_it_is_new() -> None:
    free, ruled = {"type": "array"}, {"type": "array", "contains": STRING}
    assert breaks(takes(free, ruled))
    assert breaks(gives(ruled, free))
    assert not breaks(takes(ruled, free))
    assert not breaks(gives(free, ruled))
    assert not breaks(takes({"type": "null"}, {"type": "null", "contains": STRING}))


def test_a_reference_by_name_breaks_if_anything_changes_that_it_may_lead_to() -> None:
    old, new = (
        {"$dynamicRef": "#a", "$defs": {"x": {"$dynamicAnchor": "a", "type": kind}}} for kind in ("string", "null")
    )
    assert breaks(takes(old, new))


def identified(leaf: Json, root: str | None, name: str, reference: str) -> Surface:
    """A tool with an argument that refers to one of its own schemas by name."""
    schemas = {"x": {"$id": name, **leaf}, "y": {"$id": "y"}}
    properties = {"a": {"$ref": reference}}
    return with_tool(inputSchema={"$defs": schemas, "properties": properties} | ({"$id": root} if root else {}))


def test_a_reference_to_a_schema_by_its_id_is_followed() -> None:
    old, new = (identified({"type": kind}, "https://example.org/all", "x", "x") for kind in ("integer", "number"))
    assert told(compare(old, new)) == [
        (
            "compatible",
            "/inputSchema/properties/a/type",
            "a number that is not whole is allowed now",
        )
    ]
    assert breaks(told(compare(new, old)))


@pytest.mark.parametrize(
    ("root", "name", "reference"),
    [
        (None, "https://example.org/x", "https://example.org/x"),
        (None, "y", "y"),
        (None, "x", "#/$defs/x"),
        ("https://example.org/all", "x", "https://example.org/all#/$defs/x"),
    ],
)
def test_a_reference_by_id_that_is_not_plain_breaks_if_anything_changes_that_it_may_lead_to(
    root: str | None, name: str, reference: str
) -> None:
    old, new = (identified({"type": kind}, root, name, reference) for kind in ("string", "null"))
    detail = 'what it says with "$ref" is not the same; it cannot be judged'
    assert told(compare(old, new)) == [("breaking", "/inputSchema/properties/a/$ref", detail)]
    assert compare(old, copy.deepcopy(old)) == []


def test_an_argument_that_may_be_left_out_may_be_added() -> None:
    old = {"type": "object", "properties": {"city": STRING}, "required": ["city"]}
    new = {"type": "object", "properties": {"city": STRING, "days": INTEGER}, "required": ["city"]}
    changes = compare(with_tool(inputSchema=old), with_tool(inputSchema=new))
    assert told(changes) == [("compatible", "/inputSchema/properties/days", '"days" is new')]


@pytest.mark.parametrize(
    "something", [{"const": {"days": "7"}}, {"minProperties": 1}, {"propertyNames": {"maxLength": 9}}]
)
def test_a_tool_that_took_arguments_without_naming_them_may_not_begin_to_ask_for_types(something: Json) -> None:
    old = {"type": "object", **something}
    changes = compare(with_tool(inputSchema=old), with_tool(inputSchema={**old, "properties": {"days": INTEGER}}))
    assert ("breaking", "/inputSchema/properties/days/type") in {(kind, where) for kind, where, _ in told(changes)}


@pytest.mark.parametrize("nothing", [{"type": "object"}, {}, {"type": "object", "properties": {}}])
def test_a_tool_that_took_no_arguments_may_take_some(nothing: Json) -> None:
    new = {"type": "object", "properties": {"days": INTEGER}}
    changes = compare(with_tool(inputSchema=nothing), with_tool(inputSchema=new))
    assert [change.kind for change in changes if change.pointer == "/inputSchema/properties/days"] == ["compatible"]
    required = compare(with_tool(inputSchema=nothing), with_tool(inputSchema={**new, "required": ["days"]}))
    assert ("breaking", "/inputSchema/required", '"days" is required now') in told(required)


def test_an_argument_that_is_gone_breaks_only_if_it_is_refused() -> None:
    old = {"type": "object", "properties": {"city": STRING}}
    ignored = compare(with_tool(inputSchema=old), with_tool(inputSchema={"type": "object", "properties": {}}))
    assert told(ignored) == [("compatible", "/inputSchema/properties/city", '"city" is gone')]
    refused = with_tool(inputSchema={"type": "object", "properties": {}, "additionalProperties": False})
    assert told(compare(with_tool(inputSchema=old), refused)) == [
        ("breaking", "/inputSchema/properties/city", '"city" is not allowed any more')
    ]


def test_an_object_that_took_anything_may_not_begin_to_ask_for_types() -> None:
    assert takes({"type": "object"}, {"type": "object", "properties": {"a": STRING}})[0][0] == "breaking"


def test_a_property_that_had_to_be_there_and_was_not_described_counts_as_sent() -> None:
    old = {"properties": {"a": {}}, "required": ["b"]}
    assert takes(old, {"properties": {"a": {}, "b": INTEGER}, "required": ["b"]})[0][:2] == (
        "breaking",
        "/properties/b/type",
    )


def test_a_result_that_lacks_what_was_promised_breaks_even_if_it_was_optional() -> None:
    old = {"properties": {"a": STRING, "b": STRING}}
    new = {"properties": {"a": STRING, "c": STRING}}
    assert gives(old, new) == [
        ("breaking", "/properties/b", '"b" is gone'),
        ("compatible", "/properties/c", '"c" is new'),
    ]
    assert gives({"anyOf": [old, NULL]}, {"anyOf": [NULL, new]})[0] == (
        "breaking",
        "/anyOf/0/properties/b",
        '"b" is gone',
    )


def test_what_was_promised_within_a_pattern_may_not_be_gone_either() -> None:
    old = {"patternProperties": {"^a": {"properties": {"b": STRING}}}}
    new: Json = {"patternProperties": {"^a": {"properties": {}}}}
    assert gives(old, new) == [("breaking", "/patternProperties/^a/properties/b", '"b" is gone')]


CAT = {"properties": {"kind": {"const": "cat"}, "lives": INTEGER}, "required": ["kind"]}
DOG = {"properties": {"kind": {"const": "dog"}}, "required": ["kind"]}


def test_alternatives_that_a_property_tells_apart_are_judged_one_by_one() -> None:
    old, new = (
        {"oneOf": [CAT, DOG]},
        {"oneOf": [DOG, CAT, {"properties": {"kind": {"const": "cow"}}, "required": ["kind"]}]},
    )
    assert not breaks(takes({"type": "object", **old}, {"type": "object", "oneOf": [*new["oneOf"], STRING]}))
    objects = [{"type": "object", **each} for each in (CAT, DOG)]
    assert not breaks(takes({"oneOf": objects}, {"oneOf": [*objects, NULL]}))
    assert breaks(takes({"oneOf": [*objects, NULL]}, {"oneOf": objects}))
    loose = {key: value for key, value in objects[1].items() if key != "required"}
    assert breaks(takes({"oneOf": objects}, {"oneOf": [objects[0], {**loose, "properties": {}}]}))


def test_an_alternative_that_is_gone_breaks() -> None:
    names = [{"type": "string", "const": name} for name in "abc"]
    assert takes({"oneOf": names}, {"oneOf": names[:2]}) == [("breaking", "/oneOf", '"c" is not allowed any more')]
    assert takes({"enum": ["a", "b"]}, {"anyOf": []})[0][:2] == ("breaking", "/anyOf")
    assert not breaks(takes({"anyOf": []}, STRING))


def test_schemas_may_hold_themselves() -> None:
    def tree(**leaf: Any) -> Json:
        node = {"type": "object", "properties": {"value": leaf, "left": {"$ref": "#/$defs/node"}}}
        return {"type": "object", "properties": {"tree": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}

    old, new = with_tool(inputSchema=tree(type="string")), with_tool(inputSchema=tree(type=["string", "null"]))
    [wider] = compare(old, new)
    assert (wider.kind, wider.pointer) == ("compatible", "/inputSchema/properties/tree/properties/value/type")
    [narrower] = compare(new, old)
    assert (narrower.kind, narrower.pointer) == ("breaking", "/inputSchema/properties/tree/properties/value/type")


@pytest.mark.parametrize("root", [{"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"anyOf": [{"$ref": "#"}, STRING]}])
def test_schemas_that_are_nothing_but_themselves_come_to_an_end(root: Json) -> None:
    old, new = with_tool(inputSchema=root), with_tool(inputSchema={"allOf": [root], "maxLength": 1, **root})
    assert compare(old, new) is not None


def test_what_is_too_large_cannot_be_judged() -> None:
    def build(leaf: Json) -> Json:
        return {"anyOf": [{"properties": {"a": leaf, str(i): {"enum": [*range(40)]}}} for i in range(40)]}

    changes = compare(with_tool(inputSchema=build(STRING)), with_tool(inputSchema=build(NULL)))
    assert told(changes) == [("breaking", "/inputSchema", "it has changed, and is too large; it cannot be judged")]


def test_what_is_nested_too_deeply_cannot_be_judged() -> None:
    def build(leaf: Json) -> Json:
        for _ in range(2_000):
            leaf = {"items": leaf}
        return leaf

    old, new = build(STRING), build(NULL)
    for before, after in (
        (Surface(tools={"a": old}), Surface(tools={"a": new})),
        (Surface(capabilities={"a": old}), Surface(capabilities={"a": new})),
        (Surface(server_info=old), Surface(server_info=new)),
    ):
        assert told(compare(before, after))[-1] == ("breaking", "", "it is nested too deeply; it cannot be judged")


def test_a_schema_that_is_none_does_no_harm() -> None:
    assert (
        breaks(
            told(
                compare(
                    with_tool(inputSchema={"properties": {"a": 7}}), with_tool(inputSchema={"properties": {"a": False}})
                )
            )
        )
        is True
    )
    assert not breaks(told(compare(with_tool(inputSchema=True), with_tool(inputSchema={}))))


# Laws.

NAMES = st.sampled_from("ab")
SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["", "a", "ab"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=4,
)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
KEYWORDS: dict[str, st.SearchStrategy[Any]] = {
    "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
    "enum": st.lists(SCALARS, min_size=1, max_size=3),
    "const": SCALARS,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), st.integers(-1, 2)),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), st.integers(0, 2)
    ),
    "multipleOf": st.sampled_from([0.5, 1, 2]),
    "pattern": st.sampled_from(["^a", "b$"]),
    "required": st.lists(NAMES, max_size=2, unique=True),
    "uniqueItems": st.booleans(),
}


def composed(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    some = st.lists(inner, min_size=1, max_size=2)
    closed = {"additionalProperties": inner}
    return st.one_of(
        st.fixed_dictionaries(
            closed, optional={"properties": st.dictionaries(NAMES, inner, max_size=2), "required": KEYWORDS["required"]}
        ),
        st.fixed_dictionaries(
            closed, optional={"patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=2)}
        ),
        st.fixed_dictionaries({}, optional={"items": inner, "prefixItems": some, "contains": inner}),
        st.fixed_dictionaries({"unevaluatedProperties": inner}, optional=closed),
        st.fixed_dictionaries({"unevaluatedItems": inner}, optional={"items": st.just(True), "prefixItems": some}),
        st.fixed_dictionaries({"if": inner}, optional={"then": inner, "else": inner}),
        *(
            st.fixed_dictionaries({keyword: some}, optional={"type": KEYWORDS["type"]})
            for keyword in ("allOf", "anyOf", "oneOf")
        ),
        inner.map(lambda schema: {"not": schema}),
    )


SCHEMAS = st.recursive(
    st.booleans() | st.fixed_dictionaries({}, optional=KEYWORDS) | st.fixed_dictionaries({"type": KEYWORDS["type"]}),
    composed,
    max_leaves=5,
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Json, Json]:
    """Two schemas of which the second is often the first with something changed."""
    old = draw(SCHEMAS)
    new = copy.deepcopy(old)
    if not isinstance(new, dict) or draw(st.integers(0, 3)) == 0:
        return old, draw(SCHEMAS)
    where = new
    for _ in range(draw(st.integers(0, 3))):
        inner = [item for item in nested(where) if isinstance(item, dict)]
        where = draw(st.sampled_from(inner)) if inner else where
    change = draw(st.sampled_from(["drop", "add", "wrap"]))
    # What was closed and no longer is counts as the same.
    if change == "drop" and "additionalProperties" not in where and where:
        del where[draw(st.sampled_from(sorted(where)))]
    elif change == "add":
        keyword = draw(st.sampled_from(sorted(KEYWORDS)))
        where[keyword] = draw(KEYWORDS[keyword])
    else:
        new = {draw(st.sampled_from(["anyOf", "oneOf", "allOf"])): [new, draw(SCHEMAS)]}
    return (old, new) if draw(st.booleans()) else (new, old)


def nested(schema: dict[str, Any]) -> list[Json]:
    found: list[Json] = []
    for value in schema.values():
        found += value if isinstance(value, list) else value.values() if isinstance(value, dict) else []
    return found


@settings(max_examples=400)
@given(pairs(), st.lists(VALUES, min_size=12, max_size=12))
def test_whatever_was_taken_is_taken_if_nothing_breaks(pair: tuple[Json, Json], values: list[Json]) -> None:
    old, new = pair
    judged: dict[Literal["takes", "gives"], bool] = {"takes": breaks(takes(old, new)), "gives": breaks(gives(old, new))}
    before, after = Draft202012Validator(old), Draft202012Validator(new)
    for value in values:
        was, now = before.is_valid(value), after.is_valid(value)
        assert now or not was or judged["takes"]
        assert was or not now or judged["gives"]


@settings(max_examples=100)
@given(SCHEMAS)
def test_nothing_has_changed_from_a_schema_to_itself(schema: Json) -> None:
    assert takes(schema, copy.deepcopy(schema)) == gives(schema, copy.deepcopy(schema)) == []
    wrapped = {"allOf": [schema], "title": "x"}
    assert not breaks(takes(schema, wrapped))
    assert not breaks(gives(schema, wrapped))


@settings(max_examples=100)
@given(st.dictionaries(NAMES, SCHEMAS, max_size=2), SCHEMAS)
def test_a_property_that_may_be_left_out_can_always_be_added(properties: dict[str, Json], schema: Json) -> None:
    old = {"type": "object", "properties": properties}
    new = {"type": "object", "properties": {**properties, "z": schema}}
    assert not breaks(takes(old, new))
    assert not breaks(gives(old, new))


TYPED: st.SearchStrategy[Json] = st.fixed_dictionaries({"type": TYPES}) | st.just({})
FLAT = st.fixed_dictionaries(
    {}, optional={"properties": st.fixed_dictionaries({"a": TYPED, "b": TYPED}), "required": KEYWORDS["required"]}
)
ARGUMENTS = st.builds(
    lambda schema, shared: {**schema, "$defs": {"x": shared}},
    st.recursive(
        FLAT | st.just({"$ref": "#/$defs/x"}),
        lambda inner: st.one_of(
            *(
                st.fixed_dictionaries({key: st.lists(inner, min_size=1, max_size=2)})
                for key in ("allOf", "anyOf", "oneOf")
            ),
            st.fixed_dictionaries({"if": inner, "then": inner}, optional={"properties": st.just({"a": {}})}),
            st.fixed_dictionaries({"$ref": st.just("#/$defs/x"), "properties": st.just({"a": STRING, "b": {}})}),
        ),
        max_leaves=4,
    ),
    FLAT,
)


@settings(max_examples=300)
@given(ARGUMENTS, ARGUMENTS, st.lists(st.dictionaries(NAMES, SCALARS, max_size=2), min_size=8, max_size=8))
def test_arguments_that_were_named_are_taken_if_nothing_breaks(old: Json, new: Json, values: list[Json]) -> None:
    changes = compare(with_tool(inputSchema=old), with_tool(inputSchema=new))
    broken = any(change.kind == "breaking" for change in changes)
    before, after = Draft202012Validator(old), Draft202012Validator(new)
    own = str({**old, "$defs": None})
    names_some = "properties" in own or ("$ref" in own and "properties" in str(old["$defs"]))
    for value in values if names_some else [{}]:
        if before.is_valid(value):
            assert broken or after.is_valid(value)
