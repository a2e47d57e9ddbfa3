"""Kill a recording at random moments, and see that nothing that was answered before is lost.

    python -m tests.kills [--kills 200] [--seed 1]

Each recording runs in a process forked from this one, so that it starts at once. It acknowledges each call after its
answer has arrived; what `recover` makes of what is left must have every acknowledged call with its answer.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from time import sleep
from typing import Any

import anyio

from mcp_intercept import use_cassette
from mcp_intercept.recording.journal import journal_of
from mcp_intercept.recording.recovery import recover
from mcp_intercept.recording.store import CassetteFile
from tests.test_cassette_traps import call_plainly, taped
from tests.wire import Frame

CALLS = 120


def text_of(number: int) -> str:
    """What call `number` is answered with: short mostly, and now and then for a side file."""
    return f"{number} " + "x" * (70_000 if number % 40 == 7 else number % 300)


async def record(path: Path, acknowledge: int) -> None:
    """Record calls, some of them at once, and write the number of each that was answered."""

    async def answer(frame: Frame) -> Frame:
        return {"content": [{"type": "text", "text": text_of(frame["params"]["arguments"]["n"])}]}

    async def one(session: Any, number: int) -> None:
        await call_plainly(session, "tool", {"n": number})
        os.write(acknowledge, b"%d\n" % number)

    with use_cassette(path, mode="rewrite") as cassette:
        async with taped(cassette) as (session, server):
            server.answers["tools/call"] = answer
            for number in range(0, CALLS, 4):
                await one(session, number)
                async with anyio.create_task_group() as tasks:
                    for other in range(number + 1, number + 4):
                        tasks.start_soon(one, session, other)
    os.write(acknowledge, b"end\n")


def killed(path: Path, chance: random.Random) -> set[str]:
    """Record, kill the recording at some moment, and return what it had acknowledged."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        anyio.run(record, path, write, backend="asyncio")
        os._exit(0)
    os.close(write)
    wanted, delay = chance.randrange(CALLS + 2), chance.random() * 0.003
    acknowledged = b""
    while acknowledged.count(b"\n") < wanted and (some := os.read(read, 65536)):
        acknowledged += some
    sleep(delay)  # that is the moment
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while some := os.read(read, 65536):
        acknowledged += some
    os.close(read)
    return set(acknowledged.decode().split())


def answered(path: Path) -> dict[int, Any]:
    """The answers in a cassette, by the number of the call."""
    file = CassetteFile(path)
    try:
        return {
            one.params["arguments"]["n"]: one.result["content"][0]["text"]
            for one in file
            if one.method == "tools/call" and one.params is not None and one.result is not None
        }
    finally:
        file.close()


def check(folder: Path, chance: random.Random) -> tuple[int, bool]:
    """One kill; how many calls had been answered, and whether a line was torn.

    Raises:
        AssertionError: Something is lost.
    """
    path = folder / "killed.mcp.jsonl"
    acknowledged = killed(path, chance)
    was_torn = False
    if path.exists():
        found = answered(path)  # it had come to its end
    elif journal_of(path).exists() and journal_of(path).stat().st_size:
        was_torn = recover(journal_of(path), path).torn
        found = answered(path)
    else:
        found = {}
    acknowledged.discard("end")
    for number in map(int, acknowledged):
        assert found.get(number) == text_of(number), f"call {number} was answered and is lost"
    # Whatever is left there, it is in nobody's way.
    with use_cassette(path, mode="rewrite"):
        pass
    return len(acknowledged), was_torn


def main() -> None:
    """Kill as often as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable()  # of recordings that did not come to their end, there are many
    chance = random.Random(options.seed)
    total = torn = 0
    for _ in range(options.kills):
        with tempfile.TemporaryDirectory() as folder:
            count, was_torn = check(Path(folder), chance)
        total, torn = total + count, torn + was_torn
    print(f"{options.kills} kills: {total} answered calls, none of them lost; {torn} torn lines", file=sys.stdout)


if __name__ == "__main__":
    main()
