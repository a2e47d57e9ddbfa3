"""Cassettes of other recorders of MCP, made into interactions of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_intercept.errors import CassetteFormatError
from mcp_intercept.recording.convert import convert
from mcp_intercept.recording.interactions import Interaction

PEERS = Path(__file__).parent / "cassettes_of_peers"

FORECAST = {
    "content": [{"type": "text", "text": "Oslo: light snow"}],
    "structuredContent": {"result": "Oslo: light snow"},
    "isError": False,
}
PROGRESS = {"server_notification": "notifications/progress", "params": {"progress": 1.0, "total": 2.0}}
LOG = {"server_notification": "notifications/message", "params": {"level": "info", "data": "asking the sky"}}


def called(interactions: list[Interaction], name: str) -> Interaction:
    return next(each for each in interactions if each.name == name)


def rec(tmp_path: Path, *messages: tuple[str, Any]) -> list[Interaction]:
    """Messages from the client (`>`) and the server (`<`), written down the way mcp-rec does it."""
    ways = {">": "client->server", "<": "server->client"}
    lines = [json.dumps({"ts": 1.0, "dir": ways[way], "msg": message}) for way, message in messages]
    path = tmp_path / "session.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return convert(path)


def request(id: int | str, method: str = "tools/call", **params: Any) -> tuple[str, dict[str, Any]]:  # noqa: A002
    return ">", {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def response(id: int | str, **result: Any) -> tuple[str, dict[str, Any]]:  # noqa: A002
    return "<", {"jsonrpc": "2.0", "id": id, "result": result}


def notification(way: str, method: str, **params: Any) -> tuple[str, dict[str, Any]]:
    return way, {"jsonrpc": "2.0", "method": method, "params": params}


# Recordings by the peers themselves.


@pytest.mark.filterwarnings("ignore:.* is left out:UserWarning")
@pytest.mark.parametrize("name", sorted(path.name for path in PEERS.iterdir()))
def test_every_recorder_is_told_by_what_is_in_its_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cassette"
    path.write_bytes((PEERS / name).read_bytes())
    interactions = convert(path)
    assert [each.n for each in interactions] == list(range(1, len(interactions) + 1))
    assert {(each.server, each.connection) for each in interactions} == {("weather", 1)}
    assert [each.method for each in interactions[:3]] == ["initialize", "notifications/initialized", "tools/list"]
    assert [each.kind for each in interactions[:3]] == ["request", "notification", "request"]
    assert interactions[1].params is None
    assert [tool["name"] for tool in (interactions[2].result or {})["tools"]] == ["forecast", "book"]
    assert called(interactions, "fail").events == [
        {
            "result": {
                "content": [{"type": "text", "text": "Error executing tool fail: no such city: Atlantis"}],
                "isError": True,
            }
        }
    ]
    assert called(interactions, "memo://none").error == {"code": 0, "message": "Unknown resource: memo://none"}
    text = json.dumps([[each.params, each.events] for each in interactions])
    assert not any(word in text for word in ("_meta", "progressToken", "jsonrpc"))


@pytest.mark.parametrize("name", ["mcp_cassette_stdio.json", "mcp_cassette_http.json", "mcp_rec_stdio.jsonl"])
def test_notifications_lie_with_the_call_that_they_are_about(name: str) -> None:
    forecast = called(convert(PEERS / name), "forecast")
    assert forecast.params == {"name": "forecast", "arguments": {"city": "Oslo"}}
    assert forecast.events == [
        PROGRESS,
        LOG,
        {**PROGRESS, "params": {"progress": 2.0, "total": 2.0}},
        {"result": FORECAST},
    ]


@pytest.mark.parametrize("name", ["mcp_cassette_stdio.json", "mcp_rec_stdio.jsonl"])
def test_questions_of_the_server_lie_with_the_call_and_with_their_answers(name: str) -> None:
    question, result = called(convert(PEERS / name), "book").events
    assert (question["server_request"], question["params"]["message"]) == ("elicitation/create", "Are you sure?")
    assert question["client_result"] == {"action": "accept", "content": {"sure": True}}
    assert result["result"]["structuredContent"] == {"result": "Oslo: accept"}


def test_mcp_recorder_over_stdio_has_answers_only() -> None:
    assert called(convert(PEERS / "mcp_recorder_stdio.json"), "forecast").events == [{"result": FORECAST}]


# What they have no example of.


def test_answers_that_overtake_each_other_find_their_requests(tmp_path: Path) -> None:
    interactions = rec(
        tmp_path, request(1, name="a"), request(2, name="b"), response(2, said="b"), response("1", said="a")
    )
    assert [(each.name, each.result) for each in interactions] == [("a", {"said": "a"}), ("b", {"said": "b"})]


def test_messages_of_the_server_find_their_call_by_token_subscription_or_else_take_the_latest(tmp_path: Path) -> None:
    subscribed = {"_meta": {"io.modelcontextprotocol/subscriptionId": 1, "more": 2}}
    interactions = rec(
        tmp_path,
        notification("<", "notifications/message", data="too early"),
        request(1, "subscriptions/listen"),
        request(2, name="a", _meta={"progressToken": "t"}),
        request(3, name="b", _meta={"progressToken": "u"}),
        notification("<", "notifications/progress", progressToken="t", progress=1),
        notification("<", "notifications/progress", progressToken="of nobody", progress=2),
        notification("<", "notifications/tools/list_changed", **subscribed),
        response(3),
        response(2),
        ("<", {"id": 1, "result": {}}),
        notification("<", "notifications/message", data="late"),
    )
    assert [each.events for each in interactions] == [
        [
            {"server_notification": "notifications/message", "params": {"data": "too early"}},
            {"server_notification": "notifications/tools/list_changed", "params": {"_meta": {"more": 2}}},
            {"result": {}},
        ],
        [{"server_notification": "notifications/progress", "params": {"progress": 1}}, {"result": {}}],
        [
            {"server_notification": "notifications/progress", "params": {"progress": 2}},
            {"result": {}},
            {"server_notification": "notifications/message", "params": {"data": "late"}},
        ],
    ]


def test_a_notification_within_an_http_exchange_belongs_to_its_request(tmp_path: Path) -> None:
    def message(seq: int, sender: str, exchange: int, payload: dict[str, Any]) -> dict[str, Any]:
        return {"seq": seq, "sender": sender, "kind": "any", "payload": payload, "exchange": exchange}

    hidden = {"_meta": {"progressToken": "REDACTED"}}
    told = {"method": "notifications/progress", "params": {"progressToken": "REDACTED", "progress": 1}}
    messages = [
        message(0, "client", 1, {"id": 1, "method": "tools/call", "params": {"name": "a", **hidden}}),
        message(1, "client", 2, {"id": 2, "method": "tools/call", "params": {"name": "b", **hidden}}),
        message(2, "server", 1, told),
        {"seq": 3, "sender": "server", "kind": "raw", "payload": "listening ..."},
        message(4, "server", 7, {"method": "notifications/message"}),
    ]
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"format_version": 1, "messages": messages}), "utf-8")
    assert [each.events for each in convert(path)] == [
        [{"server_notification": "notifications/progress", "params": {"progress": 1}}],
        [{"server_notification": "notifications/message"}],
    ]


def test_cancelled_calls_and_withdrawn_questions_are_kept_as_such(tmp_path: Path) -> None:
    [call] = rec(
        tmp_path,
        request(1, name="a"),
        ("<", {"id": 1, "method": "roots/list"}),
        ("<", {"id": "q", "method": "sampling/createMessage", "params": {"maxTokens": 1, "_meta": {"x": 1}}}),
        notification("<", "notifications/cancelled", requestId=1),
        notification("<", "notifications/cancelled", requestId="of nothing"),
        (">", {"id": "q", "error": {"code": -1, "message": "no", "data": 7, "more": 8}}),
        (">", {"id": "q", "result": {}}),
        notification(">", "notifications/cancelled", requestId=1),
        notification(">", "notifications/cancelled", requestId=1),
        response(1),
    )
    assert call.events == [
        {"server_request": "roots/list", "withdrawn": True},
        {
            "server_request": "sampling/createMessage",
            "params": {"maxTokens": 1},
            "client_error": {"code": -1, "message": "no", "data": 7},
        },
        {"cancelled": True},
    ]


def test_what_is_of_use_to_one_session_only_is_left_out(tmp_path: Path) -> None:
    asking, answered, progress = rec(
        tmp_path,
        request(1, name="a"),
        response(1, requestState="secret", inputRequests={}),
        request(2, name="a", requestState="secret", inputResponses={}, _meta={"traceparent": "00"}),
        notification(">", "notifications/progress", progressToken=1, progress=1),
    )
    assert asking.result == {"requestState": "recorded", "inputRequests": {}}
    assert answered.params == {"name": "a", "inputResponses": {}}
    assert (progress.kind, progress.params, progress.events) == ("notification", {"progress": 1}, [])


def test_sessions_that_were_appended_are_connections_of_their_own(tmp_path: Path) -> None:
    twice = tmp_path / "twice.jsonl"
    once = (PEERS / "mcp_rec_stdio.jsonl").read_text("utf-8")
    twice.write_text(once + "\n" + once, "utf-8")
    interactions = convert(twice)
    half = len(interactions) // 2
    assert [each.connection for each in interactions] == [1] * half + [2] * half
    assert [each.events for each in interactions[:half]] == [each.events for each in interactions[half:]]
    assert [each.n for each in interactions] == [*range(1, 2 * half + 1)]


def test_a_session_that_begins_with_a_discovery_is_named_by_it(tmp_path: Path) -> None:
    named = {"_meta": {"io.modelcontextprotocol/serverInfo": {"name": "modern"}}}
    session = [
        request(0, "server/discover"),
        ("<", {"id": 0, "error": {"code": -32601, "message": "unknown"}}),
        request(1, "server/discover"),
        response(1, **named),
        request(2, name="a"),
        response(2),
    ]
    asked_again = [request(3, "server/discover"), response(3, **named)]
    interactions = rec(tmp_path, *session, *asked_again, *session)
    assert [each.connection for each in interactions] == [1, 1, 1, 1, 2, 2, 2]
    assert {each.server for each in interactions} == {"modern"}


def test_a_server_that_says_no_name_gets_one(tmp_path: Path) -> None:
    [call] = rec(tmp_path, request(1, "initialize"), response(1, serverInfo={"name": ""}, _meta=7))
    assert call.server == "server"


def test_batches_and_lines_that_are_no_messages_are_taken_as_they_come(tmp_path: Path) -> None:
    (_, one), (_, other) = request(1, name="a"), request(2, name="b")
    interactions = rec(
        tmp_path,
        ("<", {"_raw": "listening", "_unparsed": True}),
        (">", [one, other]),
        ("<", [response(2)[1], response(1)[1]]),
    )
    assert [(each.name, each.result) for each in interactions] == [("a", {}), ("b", {})]


def test_calls_whose_answer_mcp_recorder_has_lost_are_left_out_with_a_warning(tmp_path: Path) -> None:
    def entry(request: Any, response: Any, kind: str = "jsonrpc_request") -> dict[str, Any]:
        return {"type": kind, "request": request, "response": response, "response_status": 200}

    with pytest.warns(UserWarning, match=r"interactions\[3\] \(tools/call forecast\) .* only a notification"):
        streamed = convert(PEERS / "mcp_recorder_http.json")
    assert "forecast" not in [each.name for each in streamed]
    assert called(streamed, "echo").result is not None

    lost = [
        entry({"id": 1, "method": "ping"}, None),
        entry(None, None),
        entry({"id": 2, "method": "ping"}, {"id": "x", "result": {}}),
    ]
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"version": "1.0", "interactions": lost}), "utf-8")
    with pytest.warns(UserWarning, match="is left out") as warned:
        [ping] = convert(path)
    assert ping.events == [{"result": {}}]
    assert [str(each.message).removeprefix(f"{path}: ") for each in warned] == [
        "interactions[0] (ping) is left out: mcp-recorder kept no response; record it anew",
        "interactions[1] has no request, and is left out: mcp-recorder keeps none of a batch",
    ]


# What cannot be read.


def refused(path: Path, content: str | bytes) -> CassetteFormatError:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CassetteFormatError) as caught:
        convert(path)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n \n",
        "{}",
        "[]",
        "interactions: []\nversion: 1\n",
        '{"version": 1, "interactions": []}',
        '{"messages": []}',
        '{"dir": "sideways", "msg": {}}',
        "[" * 100_000,
    ],
)
def test_whatever_else_there_is_in_a_file_is_refused(tmp_path: Path, content: str) -> None:
    error = refused(tmp_path / "a", content)
    assert error.reason.startswith("this is nothing that can be converted: that are recordings by mcp-cassette")


def test_a_cassette_of_ours_needs_no_converting(tmp_path: Path) -> None:
    content = '{"format":"mcp-cassette","version":1}\n{"end":true}\n'
    assert refused(tmp_path / "a", content).reason == "this is a cassette of mcp-intercept already; use it as it is"


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "a", b"\xff\xfe{").reason == "this is no text in UTF-8"


GOOD = '{"dir": "client->server", "msg": {"id": 1, "method": "ping"}}'


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ('{"dir": "client->ser', "this is no line of a recording by mcp-rec"),
        ("7", "this is no line of a recording by mcp-rec"),
        ('{"format": "mcp-cassette"}', "this is no line of a recording by mcp-rec"),
        ('{"dir": "client->server", "msg": {"id": 1}}', "this is no message of JSON-RPC"),
        ('{"dir": "client->server", "msg": [7]}', "this is no message of JSON-RPC"),
        ('{"dir": "client->server", "msg": {"method": "ping", "params": []}}', "this is no message of JSON-RPC"),
        ('{"dir": "server->client", "msg": {"id": 1, "error": {"code": "a"}}}', "this is no message of JSON-RPC"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, second: str, reason: str) -> None:
    error = refused(tmp_path / "a", f"{GOOD}\n\n{second}\n")
    assert (error.reason, error.line) == (reason, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"format_version": 4, "messages": []},
            "it was written by mcp-cassette in its format 4, and formats up to 3 can be",
        ),
        (
            {"format_version": "x", "messages": []},
            "it was written by mcp-cassette in its format x, and formats up to 3 can be",
        ),
        ({"format_version": 3, "messages": [{}]}, "messages[0] is no message with a sender and a payload"),
        (
            {"format_version": 3, "messages": [{"sender": "client", "payload": {}}]},
            "messages[0] is no message of JSON-RPC",
        ),
        (
            {"version": "2.0", "interactions": []},
            "it was written by mcp-recorder in its format 2.0, and 1.x can be read",
        ),
        ({"version": "1.0", "interactions": [7]}, "interactions[0] is no request with a response"),
        (
            {"version": "1.0", "interactions": [{"type": "notification", "request": {}}]},
            "interactions[0] is no message of JSON-RPC",
        ),
    ],
)
def test_a_file_of_a_later_version_or_with_a_damaged_entry_is_refused(
    tmp_path: Path, content: Any, reason: str
) -> None:
    assert refused(tmp_path / "a", json.dumps(content)).reason.startswith(reason)
