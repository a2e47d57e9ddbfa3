"""A server over stdio that misbehaves in one of many ways.

    python tests/misbehaving.py MODE

It answers everything soundly but the tool `bad`, which each mode has its own way with, and ends with its input.
Standard library only, so that it starts at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from select import select
from typing import Any

Frame = dict[str, Any]

TEXT = {"content": [{"type": "text", "text": "done"}]}
RESULTS: dict[str, Frame] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "serverInfo": {"name": "misbehaving", "version": "1"},
    },
    "tools/call": TEXT,
    "tools/list": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("bad", "good")]},
}


def write(data: bytes) -> None:
    # Past Python's buffers, which could not be closed behind its back.
    while data:
        data = data[os.write(1, data) :]


def send(frame: Any) -> None:
    write(json.dumps(frame).encode() + b"\n")


def notify(method: str, params: Any) -> None:
    send({"jsonrpc": "2.0", "method": method, "params": params})


def answer(request: Frame, result: Any = None) -> None:
    result = RESULTS.get(request["method"], {}) if result is None else result
    send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def fail(request: Frame, error: Any) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "error": error})


def read() -> Frame:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    frame: Frame = json.loads(line)
    return frame


DEAFENING = {"no_utf_8"}
"""The modes after which nothing is heard any more: line 2 stops reading, line 1 ends the session."""

Mode = Callable[[Frame], None]

MODES: dict[str, Mode] = {}
"""What happens to a call of `bad`, by name."""

SILENT: set[str] = set()
"""The modes in which no answer ever arrives, so that only a timeout ends the call."""


def mode(function: Mode) -> Mode:
    MODES[function.__name__] = function
    return function


def silent_mode(function: Mode) -> Mode:
    SILENT.add(function.__name__)
    return mode(function)


@mode
def dies_at_start(request: Frame) -> None:
    """See `main`."""


@mode
def dies_in_the_handshake(request: Frame) -> None:
    """See `main`."""


@mode
def dies_during_the_call(request: Frame) -> None:
    sys.exit(3)


@mode
def is_killed_during_the_call(request: Frame) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@mode
def dies_after_half_a_line(request: Frame) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": TEXT}).encode()[:40])
    sys.exit(0)


@mode
def dies_at_the_next_call(request: Frame) -> None:
    answer(request)
    read()
    sys.exit(0)


@mode
def closes_its_output_but_lives(request: Frame) -> None:
    os.close(1)
    while True:
        read()


@silent_mode
def says_nothing(request: Frame) -> None:
    """No answer at all."""


@silent_mode
def answers_too_late(request: Frame) -> None:
    while True:
        frame = read()
        if frame.get("params", {}).get("name") == "good":
            answer(request)
            answer(frame)
            return


@mode
def takes_its_time(request: Frame) -> None:
    # Until the client has answered a question of its own.
    send({"jsonrpc": "2.0", "id": "p", "method": "ping"})
    while read().get("id") != "p":
        pass
    answer(request)


@mode
def malformed_line_first(request: Frame) -> None:
    write(b'{"jsonrpc": "2.0", "id"\n')
    answer(request)


@silent_mode
def malformed_line_instead(request: Frame) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": TEXT}).encode()[:-1] + b"\n")


@mode
def prints_to_its_output(request: Frame) -> None:
    write(b"INFO: listening on stdio\n42\nnull\n[]\n{}\n")
    answer(request)


@mode
def empty_lines(request: Frame) -> None:
    write(b"\n\n  \n")
    answer(request)


@mode
def carriage_returns(request: Frame) -> None:
    write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": TEXT}).encode() + b"\r\n")


@mode
def one_byte_at_a_time(request: Frame) -> None:
    for byte in json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": TEXT}).encode() + b"\n":
        write(bytes([byte]))


@mode
def two_frames_in_one_write(request: Frame) -> None:
    first = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    second = {"jsonrpc": "2.0", "id": request["id"], "result": TEXT}
    write(json.dumps(first).encode() + b"\n" + json.dumps(second).encode() + b"\n")


@silent_mode
def no_utf_8(request: Frame) -> None:
    write(b"\xff\xfe\xfa\n")
    answer(request)


@mode
def nul_bytes(request: Frame) -> None:
    write(b"\0\0\n")
    answer(request)


@silent_mode
def a_lone_surrogate(request: Frame) -> None:
    answer(request, {"content": [{"type": "text", "text": "\ud800"}]})


@mode
def numbers_that_are_none(request: Frame) -> None:
    answer(request, {**TEXT, "structuredContent": {"a": float("nan"), "b": float("inf")}})


@silent_mode
def a_number_of_5000_digits(request: Frame) -> None:
    write(
        b'{"jsonrpc": "2.0", "id": %d, "result": {"content": [], "_meta": {"n": %s}}}\n' % (request["id"], b"9" * 5000)
    )


@silent_mode
def nested_5000_deep(request: Frame) -> None:
    write(b'{"jsonrpc": "2.0", "id": %d, "result": %s}\n' % (request["id"], b'{"a":' * 5000 + b"1" + b"}" * 5000))


@mode
def a_line_of_a_megabyte(request: Frame) -> None:
    answer(request, {"content": [{"type": "text", "text": "x" * 1_000_000}]})


@silent_mode
def wrong_id(request: Frame) -> None:
    answer({**request, "id": 9999})


@mode
def the_id_as_a_string(request: Frame) -> None:
    answer({**request, "id": str(request["id"])})


@silent_mode
def another_string_for_id(request: Frame) -> None:
    answer({**request, "id": "nobody's"})


@silent_mode
def null_for_id(request: Frame) -> None:
    fail({**request, "id": None}, {"code": -32700, "message": "parse error"})


@mode
def answers_twice(request: Frame) -> None:
    answer(request)
    answer(request, {"content": []})


@mode
def result_and_error(request: Frame) -> None:
    send({"jsonrpc": "2.0", "id": request["id"], "result": TEXT, "error": {"code": 1, "message": "both"}})


@silent_mode
def neither_result_nor_error(request: Frame) -> None:
    send({"jsonrpc": "2.0", "id": request["id"]})


@silent_mode
def another_version_of_json_rpc(request: Frame) -> None:
    send({"jsonrpc": "1.0", "id": request["id"], "result": TEXT})


@silent_mode
def a_batch(request: Frame) -> None:
    send([{"jsonrpc": "2.0", "id": request["id"], "result": TEXT}])


@mode
def a_result_of_the_wrong_shape(request: Frame) -> None:
    answer(request, {"content": "text"})


@mode
def a_result_that_says_nothing(request: Frame) -> None:
    answer(request, {})


@silent_mode
def a_result_that_is_a_list(request: Frame) -> None:
    answer(request, ["text"])


@mode
def an_error(request: Frame) -> None:
    fail(request, {"code": -32602, "message": "no", "data": {"why": [1, None, {"a": "b"}]}})


@silent_mode
def an_error_without_a_message(request: Frame) -> None:
    fail(request, {"code": -32602})


@silent_mode
def an_error_with_a_word_for_code(request: Frame) -> None:
    fail(request, {"code": "E_FAIL", "message": "no"})


@mode
def an_error_that_looks_like_a_timeout(request: Frame) -> None:
    fail(request, {"code": -32001, "message": "timed out"})


@mode
def an_error_that_looks_like_a_hang_up(request: Frame) -> None:
    fail(request, {"code": -32000, "message": "Connection closed"})


@mode
def asks_for_the_unknown(request: Frame) -> None:
    send({"jsonrpc": "2.0", "id": "u", "method": "acme/unknown", "params": {"a": 1}})
    while (reply := read()).get("id") != "u":
        pass
    answer(request, {"content": [{"type": "text", "text": json.dumps(reply)}]})


@mode
def asks_in_the_wrong_shape(request: Frame) -> None:
    send({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {"messages": 1}})
    while (reply := read()).get("id") != "s":
        pass
    answer(request, {"content": [{"type": "text", "text": json.dumps(reply)}]})


@mode
def floods_with_notifications(request: Frame) -> None:
    for number in range(500):
        notify("notifications/message", {"level": "info", "data": number})
    answer(request)


@mode
def notifications_that_are_none(request: Frame) -> None:
    notify("notifications/unheard/of", {"a": 1})
    notify("notifications/message", {"level": "shouting"})
    notify("notifications/progress", {"progressToken": "nobody's", "progress": 1})
    notify("notifications/cancelled", {"requestId": "nobody's"})
    notify("notifications/cancelled", {})
    answer(request)


def main(name: str) -> None:
    if name == "dies_at_start":
        # Not before the client has written, which else might fail, or not.
        select([sys.stdin], [], [])
        sys.exit(1)
    while True:
        frame = read()
        if "id" not in frame or "method" not in frame:
            continue
        if frame["method"] == "initialize" and name == "dies_in_the_handshake":
            sys.exit(1)
        if frame["method"] == "tools/call" and frame["params"]["name"] == "bad":
            MODES[name](frame)
        else:
            answer(frame)


if __name__ == "__main__":
    main(sys.argv[1])
