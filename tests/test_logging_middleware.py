from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, get_args

import anyio
import mcp.types as types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_serializer

from mcp_intercept import (
    CallbackClientSession,
    InterceptError,
    MCPResponseContext,
    MiddlewareContext,
    MiddlewareManager,
    NextFunctionT,
    Outcome,
    connect,
    middleware,
)
from mcp_intercept.errors import MissingExtraError
from mcp_intercept.middleware import LoggingMiddleware
from tests.server import make_server
from tests.wire import Frame, WireServer, never, wire

pytestmark = pytest.mark.anyio

SECRET = "hunter2"
FORGED = "add\r\n2026 ERROR forged \x1b[31m\u2028\u202e"


class Log(logging.Logger):
    """A logger that keeps its records."""

    def __init__(self, level: int = logging.DEBUG) -> None:
        super().__init__("tests", level)
        self.records: list[logging.LogRecord] = []

    def handle(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def of(self, method: str) -> list[logging.LogRecord]:
        return [record for record in self.records if vars(record)["mcp_method"] == method]


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """What a record knows of its message."""
    return {name: value for name, value in vars(record).items() if name.startswith("mcp_")}


@asynccontextmanager
async def wired(*middlewares: Any) -> AsyncGenerator[tuple[CallbackClientSession, WireServer], None]:
    async with wire() as (streams, server), connect(streams, *middlewares, connection_id="wire") as session:
        yield session, server


async def process(
    middleware: LoggingMiddleware,
    result: Any = None,
    *,
    error: Exception | None = None,
    method: str = "acme/do",
    **fields: Any,
) -> MCPResponseContext:
    """Pass a message of the test's own through the middleware."""

    async def answer(context: MiddlewareContext[Any]) -> Any:
        if error:
            raise error
        return result

    fields = {"id": "1", "params": None, "connection_id": "own", "timestamp": 0.0, **fields}
    context: MiddlewareContext[Any] = MiddlewareContext(method=method, **fields)
    return await MiddlewareManager([middleware]).process_request(context, answer)


async def refuse(server: WireServer, frame: Frame) -> None:
    await server.refuse(frame["id"], -32000, SECRET)


def tool_error(*content: Frame) -> types.CallToolResult:
    return types.CallToolResult.model_validate({"content": content, "isError": True})


async def end_as(outcome: Outcome, *, text: str, log: Log, **options: Any) -> None:
    """Have a tool call end with an outcome, with `text` in all that is sent and answered."""

    async def hurry(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        if outcome == "timeout" and context.method == "tools/call":
            context.options.timeout = 0.01
        return await call_next(context)

    async def answer(frame: Frame) -> Frame | None:
        if outcome == "error":
            await server.refuse(frame["id"], -32000, text)
        if outcome in ("ok", "tool_error"):
            return {"content": [{"type": "text", "text": text}], "isError": outcome == "tool_error"}
        return None

    async with wired(LoggingMiddleware(log, **options), hurry) as (session, server), anyio.create_task_group() as tasks:
        server.answers["tools/call"] = answer

        async def call() -> None:
            if outcome in ("error", "timeout"):
                with pytest.raises(Exception, match=r"hunter2|[Tt]imed out"):
                    await session.call_tool("tool", {"argument": text})
            else:
                await session.call_tool("tool", {"argument": text})

        tasks.start_soon(call)
        if outcome == "cancelled":
            await server.wait_for("tools/call")
            tasks.cancel_scope.cancel()


async def test_a_call_is_one_readable_line() -> None:
    log = Log()
    async with connect(make_server(), LoggingMiddleware(log), connection_id="calc") as session:
        await session.call_tool("add", {"a": 1, "b": 2})
    [record] = log.of("tools/call")
    duration = vars(record)["mcp_duration"]
    assert record.getMessage() == f"tools/call add ok in {duration * 1000:.1f} ms (request 40 B, response 89 B) [calc]"


async def test_a_record_carries_every_fact_of_its_message() -> None:
    log = Log()
    async with connect(make_server(), LoggingMiddleware(log), connection_id="calc") as session:
        await session.call_tool("add", {"a": 1, "b": 2})
    [record] = log.of("tools/call")
    known = facts(record)
    assert 0 < known.pop("mcp_duration") < 5
    assert known.pop("mcp_message_id") != vars(log.of("initialize")[0])["mcp_message_id"]
    assert known == {
        "mcp_method": "tools/call",
        "mcp_name": "add",
        "mcp_outcome": "ok",
        "mcp_connection_id": "calc",
        "mcp_direction": "outgoing",
        "mcp_kind": "request",
        "mcp_attempt": 1,
        "mcp_session_id": None,
        "mcp_protocol_version": "2025-11-25",
        "mcp_request_size": 40,
        "mcp_response_size": 89,
        "mcp_error_type": None,
        "mcp_error_code": None,
        "mcp_error_text": None,
        "mcp_params": None,
        "mcp_result": None,
    }


async def test_every_message_is_logged_when_it_has_ended() -> None:
    log = Log()
    async with connect(make_server(), LoggingMiddleware(log)) as session:
        await session.get_prompt("greet", {"name": "you"})
        await session.list_prompts()
    logged = [(known["mcp_method"], known["mcp_name"], known["mcp_kind"]) for known in map(facts, log.records)]
    assert logged == [
        ("initialize", None, "request"),
        ("notifications/initialized", None, "notification"),
        ("prompts/get", "greet", "request"),
        ("prompts/list", None, "request"),
    ]


async def test_what_the_server_sends_is_marked_as_incoming() -> None:
    log = Log()
    response = await process(LoggingMiddleware(log), {"roots": []}, method="roots/list", direction="incoming")
    assert response.error is None
    [record] = log.records
    assert record.getMessage().startswith("incoming roots/list ok in ")
    assert vars(record)["mcp_direction"] == "incoming"


async def test_a_logger_can_be_given_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await process(LoggingMiddleware())
    await process(LoggingMiddleware("of.my.own"))
    assert [record.name for record in caplog.records] == ["mcp_intercept.calls", "of.my.own"]


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        ("ok", logging.INFO),
        ("tool_error", logging.WARNING),
        ("error", logging.ERROR),
        ("timeout", logging.ERROR),
        ("cancelled", logging.INFO),
    ],
)
async def test_the_level_tells_how_a_call_ended(outcome: Outcome, level: int) -> None:
    log = Log()
    await end_as(outcome, text=SECRET, log=log)
    [record] = log.of("tools/call")
    assert (vars(record)["mcp_outcome"], record.levelno) == (outcome, level)
    assert record.getMessage().startswith(f"tools/call tool {outcome} in ")


async def test_a_failure_is_logged_with_its_type_and_code() -> None:
    log = Log()
    await end_as("error", text=SECRET, log=log)
    [record] = log.of("tools/call")
    known = facts(record)
    error_type = known["mcp_error_type"]
    assert error_type.lower() == "mcperror"
    assert known["mcp_error_code"] == -32000
    assert known["mcp_response_size"] is None
    assert f" ({error_type}, code -32000, request {known['mcp_request_size']} B) [wire]" in record.getMessage()


async def test_levels_are_set_by_outcome(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    middleware = LoggingMiddleware(log, levels={"ok": None, "error": "CRITICAL", "timeout": 7})
    await process(middleware)
    await process(middleware, error=ValueError())
    await process(middleware, error=TimeoutError())
    await process(middleware, tool_error(), method="tools/call")
    assert [record.levelno for record in log.records] == [logging.CRITICAL, logging.WARNING]
    low = Log(level=7)
    await process(LoggingMiddleware(low, levels={"timeout": 7}), error=TimeoutError())
    assert [record.levelno for record in low.records] == [7]
    assert caplog.records == []


async def test_sizes_are_those_on_the_wire() -> None:
    log = Log()
    answered: list[Frame] = []

    async def answer(frame: Frame) -> Frame:
        content = [{"type": "text", "text": "für alle", "annotations": None}]
        answered.append({"content": content, "structuredContent": {"a": None}})
        return answered[-1]

    async with wired(LoggingMiddleware(log)) as (session, server):
        server.answers["tools/call"] = answer
        await session.call_tool("tool", {"a": 1, "b": None, "c": ["ü"]})
        sent = await server.wait_for("tools/call")
    # SDK line 2 puts its own there, below the chain; some versions an empty one.
    sent["params"].pop("_meta", None)
    [record] = log.of("tools/call")
    expected = [
        len(json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode())
        for frame in (sent["params"], *answered)
    ]
    assert [vars(record)["mcp_request_size"], vars(record)["mcp_response_size"]] == expected


async def test_sizes_can_be_left_out() -> None:
    log = Log()
    async with wired(LoggingMiddleware(log, sizes=False)) as (session, _):
        await session.call_tool("tool")
    [record] = log.of("tools/call")
    assert (vars(record)["mcp_request_size"], vars(record)["mcp_response_size"]) == (None, None)
    assert record.getMessage().endswith(" ms [wire]")


async def test_an_attempt_of_a_retry_tells_its_number() -> None:
    log = Log()

    async def again(context: MiddlewareContext[Any], call_next: NextFunctionT[Any, Any]) -> Any:
        await call_next(context)
        return await call_next(context)

    async with wired(again, LoggingMiddleware(log, sizes=False)) as (session, _):
        await session.list_prompts()
    first, second = log.of("prompts/list")
    assert (vars(first)["mcp_attempt"], vars(second)["mcp_attempt"]) == (1, 2)
    assert vars(first)["mcp_message_id"] == vars(second)["mcp_message_id"]
    assert second.getMessage().endswith(" ms (attempt 2) [wire]")


@pytest.mark.parametrize("outcome", get_args(Outcome))
async def test_no_record_holds_what_a_call_says_or_is_answered(outcome: Outcome) -> None:
    log = Log()
    await end_as(outcome, text=SECRET, log=log)
    assert len(log.of("tools/call")) == 1
    assert SECRET not in repr([(record.getMessage(), vars(record)) for record in log.records])


async def test_no_record_holds_a_uri() -> None:
    log = Log()
    async with connect(make_server(), LoggingMiddleware(log)) as session:
        await session.read_resource(f"memo://{SECRET}")
        with pytest.raises(Exception, match=SECRET):
            await session.read_resource(f"none://{SECRET}")
    assert [facts(record)["mcp_outcome"] for record in log.of("resources/read")] == ["ok", "error"]
    assert SECRET not in repr([(record.getMessage(), vars(record)) for record in log.records])


async def test_payloads_are_logged_if_asked_for() -> None:
    log = Log()
    async with connect(make_server(), LoggingMiddleware(log, payloads=True)) as session:
        await session.call_tool("echo", {"text": "ä\x1b\u2028"})
    [record] = log.of("tools/call")
    params = r'{"name":"echo","arguments":{"text":"ä\u001b\u2028"}}'
    assert vars(record)["mcp_params"] == params
    assert vars(record)["mcp_result"].startswith(r'{"content":[{"type":"text","text":"ä\u001b\u2028"}]')
    assert record.getMessage().endswith(f"] params={params} result={vars(record)['mcp_result']}")


async def test_payloads_do_not_need_sizes() -> None:
    log = Log()
    await process(LoggingMiddleware(log, payloads=True, sizes=False), [1], params=[2])
    [record] = log.records
    assert (vars(record)["mcp_request_size"], vars(record)["mcp_response_size"]) == (None, None)
    assert (vars(record)["mcp_params"], vars(record)["mcp_result"]) == ("[2]", "[1]")


async def test_payloads_and_error_texts_are_capped() -> None:
    log = Log()
    middleware = LoggingMiddleware(log, payloads=True, error_text=True, max_length=4)
    await process(middleware, ["aäöüß" * 1000])
    await process(middleware, [])
    await process(middleware, error=ValueError("\x1b no luck"))
    await process(middleware, error=ValueError("luck"))
    assert [facts(record)["mcp_result"] for record in log.records[:2]] == ['["aä...', "[]"]
    assert [facts(record)["mcp_error_text"] for record in log.records[2:]] == [r"\x1b...", "luck"]
    assert log.records[2].getMessage().endswith(r" (ValueError) [own]: \x1b...")


@pytest.mark.parametrize(
    ("outcome", "text"), [("ok", None), ("tool_error", SECRET), ("error", SECRET), ("cancelled", None)]
)
async def test_error_texts_are_logged_if_asked_for(outcome: Outcome, text: str | None) -> None:
    log = Log()
    await end_as(outcome, text=SECRET, log=log, error_text=True)
    [record] = log.of("tools/call")
    assert vars(record)["mcp_error_text"] == text
    assert (SECRET in record.getMessage()) is (text is not None)


async def test_the_text_of_a_tool_error_leaves_out_its_images() -> None:
    log = Log()
    image = {"type": "image", "data": "", "mimeType": "image/png"}
    result = tool_error({"type": "text", "text": "no"}, image, {"type": "text", "text": "luck"})
    await process(LoggingMiddleware(log, error_text=True), result, method="tools/call")
    assert vars(log.records[0])["mcp_error_text"] == "no luck"


async def test_names_from_outside_cannot_forge_a_line_or_reach_the_terminal() -> None:
    log = Log()
    async with wired(LoggingMiddleware(log)) as (session, _):
        await session.get_prompt(FORGED)
    [record] = log.of("prompts/get")
    escaped = r"add\r\n2026 ERROR forged \x1b[31m\u2028\u202e"
    assert vars(record)["mcp_name"] == escaped
    assert record.getMessage().startswith(f"prompts/get {escaped} ok in ")


@settings(max_examples=50)
@given(st.text(), st.text(), st.text(max_size=50).map(lambda text: text * 9))
def test_whatever_the_strings_a_record_is_one_printable_line(method: str, name: str, text: str) -> None:
    log = Log()

    async def run() -> None:
        fields = {"id": name, "connection_id": name, "session_id": name, "protocol_version": name}
        await process(
            LoggingMiddleware(log, error_text=True, payloads=True, max_length=100),
            method=method,
            error=type(name.replace("\0", "").encode(errors="ignore").decode(), (ValueError,), {})(text),
            params={"key": text.encode(errors="ignore")},
            **fields,
        )

    anyio.run(run)
    [record] = log.records
    strings = [record.getMessage(), *(value for value in facts(record).values() if isinstance(value, str))]
    assert [string for string in strings if not string.isprintable() or len(string) > 1200] == []


class Broken(logging.Handler):
    """A handler that raises, as some do; those of the standard library print instead."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("disk \x1b full")


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("disk \x1b full")


class BrokenLogger(logging.Logger):
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        raise RuntimeError("disk \x1b full")


def broken_logger(part: str) -> logging.Logger:
    logger = BrokenLogger("broken") if part == "logger" else logging.Logger("broken")
    if part == "handler":
        logger.addHandler(Broken())
    if part == "filter":
        logger.addFilter(BrokenFilter())
    return logger


@pytest.mark.parametrize("part", ["handler", "filter", "logger"])
async def test_a_logger_that_fails_is_reported_once_and_breaks_no_call(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(LoggingMiddleware(broken_logger(part))) as (session, server):
        await session.call_tool("tool")
        server.answers["tools/call"] = lambda frame: refuse(server, frame)
        with pytest.raises(Exception, match=SECRET):
            await session.call_tool("tool")
    [record] = [record for record in caplog.records if record.name == "mcp_intercept"]
    assert record.levelno == logging.ERROR
    assert r"RuntimeError(disk \x1b full) at " in record.getMessage()
    assert __file__ in record.getMessage()


async def test_the_report_of_a_failing_handler_does_not_show_the_error_of_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await process(LoggingMiddleware(broken_logger("handler")), error=ValueError(SECRET))
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_handler_that_fails_for_the_report_too_breaks_no_call() -> None:
    handler = Broken()
    package_logger = logging.getLogger("mcp_intercept")
    package_logger.addHandler(handler)
    try:
        response = await process(LoggingMiddleware("mcp_intercept.calls", levels={"ok": "CRITICAL"}), {"key": "value"})
    finally:
        package_logger.removeHandler(handler)
    assert response.result == {"key": "value"}


class FullDisk(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError("disk full")


@pytest.mark.parametrize("raise_exceptions", [True, False])
async def test_a_handler_of_the_standard_library_that_fails_breaks_no_call(
    raise_exceptions: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    logger = logging.Logger("closed")
    logger.addHandler(logging.StreamHandler(FullDisk()))
    response = await process(LoggingMiddleware(logger), {"key": "value"})
    assert response.result == {"key": "value"}
    assert ("Logging error" in capsys.readouterr().err) is raise_exceptions


class Reluctant(BaseModel):
    """A result that cannot be serialised, and counts how often that was tried."""

    tried: int

    @field_serializer("tried")
    def refuse(self, value: int) -> int:
        self.tried += 1
        raise ValueError(SECRET)


async def test_a_result_that_cannot_be_serialised_is_logged_without_its_size(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    middleware = LoggingMiddleware(log, payloads=True)
    result = Reluctant(tried=0)
    for _ in range(2):
        response = await process(middleware, result, params={"key": 1})
        assert response.result is result
    assert result.tried == 2
    for record in log.records:
        assert (vars(record)["mcp_request_size"], vars(record)["mcp_response_size"]) == (9, None)
        assert vars(record)["mcp_result"] is None
    [report] = caplog.records
    assert "failed to serialise a message: PydanticSerializationError at " in report.getMessage()
    assert SECRET not in caplog.text


async def test_why_a_result_cannot_be_serialised_is_told_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    await process(LoggingMiddleware(Log(), error_text=True), Reluctant(tried=0))
    assert SECRET in caplog.text


async def test_a_record_that_is_not_emitted_serialises_nothing() -> None:
    result = Reluctant(tried=0)
    await process(LoggingMiddleware(Log(logging.WARNING)), result)
    await process(LoggingMiddleware(Log(logging.CRITICAL)), result)
    await process(LoggingMiddleware(Log(), levels={"ok": None}), result)
    await process(LoggingMiddleware(Log(), sizes=False), result)
    assert result.tried == 0


class DisabledLog(Log):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the standard library's name
        self.asked.append(level)
        return False


@pytest.mark.parametrize(("levels", "highest"), [({}, logging.ERROR), (dict.fromkeys(get_args(Outcome)), 0)])
async def test_a_logger_that_is_enabled_for_no_level_is_asked_once(levels: Any, highest: int) -> None:
    log = DisabledLog()
    await process(LoggingMiddleware(log, levels=levels))
    assert (log.asked, log.records) == ([highest], [])


async def test_a_logger_that_is_enabled_for_no_level_gets_no_record() -> None:
    log = Log(logging.CRITICAL)
    async with wired(LoggingMiddleware(log)) as (session, server):
        server.answers["tools/call"] = lambda frame: refuse(server, frame)
        with pytest.raises(Exception, match=SECRET):
            await session.call_tool("tool")
    assert log.records == []


async def test_a_cancelled_call_leaves_a_session_that_works() -> None:
    log = Log()
    async with wired(LoggingMiddleware(log)) as (session, server):
        server.answers["tools/call"] = never
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.call_tool, "tool")
            await server.wait_for("tools/call")
            tasks.cancel_scope.cancel()
        assert (await session.list_prompts()).prompts == []
    assert [vars(record)["mcp_outcome"] for record in (*log.of("tools/call"), *log.of("prompts/list"))] == [
        "cancelled",
        "ok",
    ]


@pytest.mark.parametrize("error", [None, ValueError("no luck"), KeyboardInterrupt(), GeneratorExit()])
def test_it_suspends_nothing_and_changes_nothing(error: BaseException | None) -> None:
    log = Log()
    result = object()

    async def answer(context: MiddlewareContext[Any], /) -> Any:
        if error is not None:
            raise error
        return result

    call = LoggingMiddleware(log)(MiddlewareContext("1", "acme/do", None, "own", 0.0), answer)
    with pytest.raises(StopIteration if error is None else type(error)) as ended:
        call.send(None)
    if isinstance(ended.value, StopIteration):
        assert ended.value.value is result
    else:
        assert ended.value is error
        assert ended.value.__context__ is None
    assert len(log.records) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"logger": 7}, "logger must be a logging.Logger or the name of one, not 7"),
        ({"levels": {"okay": 10}}, "'okay' in levels is no outcome; outcomes are ok, tool_error"),
        ({"levels": {"ok": "CHATTY"}}, "the level of ok must be a number above 0 or the name of a level, not 'CHATTY'"),
        ({"levels": {"ok": True}}, "the level of ok must be .*, not True; to log nothing, None"),
        ({"levels": {"ok": 0}}, "the level of ok must be .*, not 0; to log nothing, None"),
        ({"levels": 20}, "levels must be a mapping of outcomes to levels, not 20"),
        ({"max_length": -1}, "max_length must be a number of characters, at least 0, not -1"),
        ({"max_length": True}, "max_length must be .*, not True"),
        ({"max_length": "9"}, "max_length must be .*, not '9'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: Any, complaint: str) -> None:
    with pytest.raises(InterceptError, match=complaint):
        LoggingMiddleware(**options)


def test_the_built_ins_are_listed_before_they_are_imported() -> None:
    spec = middleware.__spec__
    assert spec
    assert spec.loader
    fresh = module_from_spec(spec)
    spec.loader.exec_module(fresh)
    assert "LoggingMiddleware" not in vars(fresh)
    assert "LoggingMiddleware" in fresh.__all__
    assert {"LoggingMiddleware", "__doc__"} <= set(dir(fresh))
    assert fresh.LoggingMiddleware is LoggingMiddleware


def test_a_built_in_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'mcp_intercept\.middleware' has no attribute 'NoMiddleware'"):
        getattr(middleware, "NoMiddleware")  # noqa: B009 - type checkers rightly refuse middleware.NoMiddleware


@pytest.fixture
def add_built_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Adds `TestedMiddleware`, whose module has the given source."""

    def add(source: str, extra: str | None) -> None:
        tmp_path.joinpath("tested.py").write_text(source)
        monkeypatch.setattr(middleware, "__path__", [*middleware.__path__, str(tmp_path)])
        # So that what the import leaves behind is taken back.
        monkeypatch.setitem(sys.modules, "mcp_intercept.middleware.tested", None)
        monkeypatch.delitem(sys.modules, "mcp_intercept.middleware.tested")
        for name in ("TestedMiddleware", "tested"):
            monkeypatch.setattr(middleware, name, None, raising=False)
            monkeypatch.delattr(middleware, name)
        monkeypatch.setitem(vars(middleware)["_BUILT_INS"], "TestedMiddleware", ("tested", extra))

    return add


def test_a_built_in_is_imported_when_it_is_used(add_built_in: Any) -> None:
    add_built_in("class TestedMiddleware: pass", None)
    assert "mcp_intercept.middleware.tested" not in sys.modules
    built_in = vars(middleware)["__getattr__"]("TestedMiddleware")
    assert built_in is sys.modules["mcp_intercept.middleware.tested"].TestedMiddleware
    assert vars(middleware)["TestedMiddleware"] is built_in


@pytest.mark.parametrize("source", ["import no_such_module", "from json import no_such_name"])
def test_a_built_in_whose_extra_is_missing_says_what_to_install(add_built_in: Any, source: str) -> None:
    add_built_in(source, "useful")
    with pytest.raises(MissingExtraError, match=r'TestedMiddleware needs .* pip install "mcp-intercept-sdk\[useful\]"'):
        exec("from mcp_intercept.middleware import TestedMiddleware")


@pytest.mark.parametrize(
    ("source", "extra"),
    [("import no_such_module", None), ("from mcp_intercept.errors import no_such_name", "useful")],
)
def test_an_import_that_no_extra_mends_fails_as_it_is(add_built_in: Any, source: str, extra: str | None) -> None:
    add_built_in(source, extra)
    with pytest.raises(ImportError, match="no_such") as failure:
        exec("from mcp_intercept.middleware import TestedMiddleware")
    assert not isinstance(failure.value, MissingExtraError)
