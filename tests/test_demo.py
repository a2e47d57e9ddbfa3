"""The timeline: what is drawn of any exchanges, hostile ones among them."""

from __future__ import annotations

import io
from typing import Any

import mcp.types as types
import pytest
from rich.console import Console

from mcp_intercept import Exchange, MCPResponseContext, MiddlewareContext
from mcp_intercept._demo.timeline import summary, timeline


def exchange(
    start: float,
    duration: float,
    *,
    method: str = "tools/call",
    params: Any = None,
    result: Any = None,
    error: BaseException | None = None,
    **fields: Any,
) -> Exchange:
    context: MiddlewareContext[Any] = MiddlewareContext("id", method, params, "c", 1000.0 + start, **fields)
    return Exchange(context, MCPResponseContext("id", result, error, duration, {}))


def drawn(*exchanges: Exchange, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width, legacy_windows=False).print(timeline(exchanges))
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode(encoding).splitlines()


FAILED = types.CallToolResult.model_validate({"content": [{"type": "text", "text": "no luck"}], "isError": True})


def test_a_bar_stands_where_its_message_ran() -> None:
    first, second = drawn(exchange(0, 0.5), exchange(0.5, 0.5), width=60)[1:]
    bars = [line.rstrip()[-60:] for line in (first, second)]
    begin_of_second = bars[1].index("━")
    assert begin_of_second >= bars[0].rindex("━")
    assert abs(bars[0].count("━") - bars[1].count("━")) <= 1


def test_messages_are_drawn_in_the_order_they_started() -> None:
    lines = drawn(exchange(1, 0.1, method="second"), exchange(0, 0.1, method="first"))
    assert [line.split()[0] for line in lines[1:]] == ["first", "second"]


def test_how_each_message_ended_is_told_with_the_reason() -> None:
    lines = drawn(
        exchange(0, 0.1, params=types.CallToolRequestParams(name="add")),
        exchange(1, 0.1, result=FAILED),
        exchange(2, 0.1, error=ValueError("broken")),
        exchange(3, 0.1, error=TimeoutError()),
        exchange(4, 0.1, error=KeyboardInterrupt()),
        exchange(5, 0.1, method="ping", direction="incoming", attempt=3),
    )
    text = "\n".join(lines)
    for outcome in ("ok", "tool_error", "error", "timeout", "cancelled"):
        assert outcome in text
    assert "tools/call add" in text
    assert "╰ no luck" in text
    assert "╰ broken" in text
    assert "╰ TimeoutError" in text
    assert "← ping ×3" in text  # noqa: RUF001 - meant as it is
    assert len(lines) == 1 + 6 + 3


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(exchange(0, 12345, method="m" * 300), exchange(60, 4, error=ValueError("long " * 100)), width=width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 4


def test_what_takes_no_time_is_still_seen() -> None:
    for line in drawn(exchange(0, 0), exchange(0, 0))[1:]:
        assert line.rstrip()[-1] in "━╸╺┊" or "╸" in line


def test_ascii_is_drawn_where_the_output_can_show_nothing_else() -> None:
    lines = drawn(exchange(0, 1, method="größe"), exchange(1, 1, error=ValueError("größer")), encoding="ascii")
    assert "gr\\xf6\\xdfe" in lines[1]
    assert "=" in lines[1]
    assert "\\ gr\\xf6" in lines[3]


def test_a_hostile_string_is_harmless() -> None:
    hostile = "x\n\x1b[31mforged\x07[bold]" + "y" * 500
    lines = drawn(exchange(0, 1, method=hostile, error=ValueError(hostile)), width=500)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "[bold]" in lines[2]
    assert max(map(len, lines)) < 500 + 1


def test_nothing_is_drawn_of_nothing() -> None:
    assert drawn() == ["no messages"]
    assert summary([]).plain == "0 messages"


def test_the_summary_counts_messages_and_outcomes_and_how_many_ran_at_once() -> None:
    exchanges = [exchange(0, 0.2), exchange(0.1, 0.2, result=FAILED), exchange(0.5, 0), exchange(150, 0)]
    assert summary(exchanges).plain == "4 messages in 150 s, up to 2 at once: 3 ok, 1 tool_error"
    assert summary(exchanges[:1]).plain == "1 message in 200 ms, up to 1 at once: 1 ok"
    assert summary([exchange(0, 0.005), exchange(20_000, 1)]).plain.startswith("2 messages in 333 min")
