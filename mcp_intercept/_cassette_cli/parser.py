"""What `mcp-intercept cassette` takes. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mcp_intercept.errors import InterceptError, MissingExtraError

if TYPE_CHECKING:
    from argparse import _SubParsersAction  # pyright: ignore[reportPrivateUsage] - argparse has no other name for it

    Commands = _SubParsersAction["_Parser"]

_NUMBERS = re.compile(r"([1-9][0-9]{0,17})(?:-([1-9][0-9]{0,17}))?")
_HEADER = re.compile(r"([\w!#$%&'*+.^`|~-]+):(.*)", re.ASCII | re.DOTALL)
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_FAIL_ON: Final = ("breaking", "compatible", "any", "never")


class _Parser(ArgumentParser):
    """A parser for commands whose arguments `argparse` by itself would not tell apart."""

    takes_command = False
    """Whether what stands behind `--` is a command, which goes to `command`."""
    takes_several = False
    """Whether options may stand between its arguments."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - its overloads differ in nothing else
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """The same, with that."""
        given: list[str] = list(args or ())
        if self.takes_several:
            self.takes_several = False  # it comes here again
            return self.parse_known_intermixed_args(given, namespace)
        if not self.takes_command:
            return super().parse_known_args(given, namespace)
        at = given.index("--") if "--" in given else len(given)
        parsed, unknown = super().parse_known_args(given[:at], namespace)
        parsed.command = given[at + 1 :] if at < len(given) else None
        return parsed, unknown


def describe(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: Those of `mcp-intercept`.
    """
    summary = "look at recordings of MCP sessions, compare, clean and serve them"
    cassette = commands.add_parser("cassette", help=summary, description=summary.capitalize() + ".")

    def run(arguments: Namespace) -> int:
        cassette.error("which command? try: mcp-intercept cassette show FILE")

    cassette.set_defaults(run=run)
    group = cassette.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)
    for add in (_show, _diff, _verify, _redact, _scan, _prune, _recover, _convert, _serve, _schema):
        add(group)


def _add(commands: Commands, name: str, run: Callable[[Namespace], int], summary: str, details: str = "") -> _Parser:
    def guarded(arguments: Namespace) -> int:
        try:
            return run(arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            from mcp_intercept._cassette_cli.lines import told

            raise InterceptError(told(error)) from None

    description = f"{summary[:1].upper()}{summary[1:]}.{details and ' '}{details}"
    parser: _Parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=guarded)
    return parser


def _numbers(text: str) -> range:
    match = _NUMBERS.fullmatch(text)
    if match is None:
        raise ArgumentTypeError(f"give the number of an interaction, or a range such as 5-7, not {text!r}")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise ArgumentTypeError(f"{text} is empty; write {last}-{first}")
    return range(first, last + 1)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ArgumentTypeError(f"give a number of seconds above 0, not {text!r}")
    return seconds


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= 65535):
        raise ArgumentTypeError(f"give a port from 1 to 65535, or 0 for one that is free, not {text!r}")
    return int(text)


# What is wrong with these is told without what was given, which may be a secret.


def _header(text: str) -> tuple[str, str, dict[str, str]]:
    """The name and the value of a header, and the variables that are in it."""
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ArgumentTypeError("give a header as 'NAME: VALUE'")

    variables: dict[str, str] = {}

    def value_of(reference: re.Match[str]) -> str:
        variables[reference[1]] = value = os.environ.get(reference[1], "")
        if not value:
            raise ArgumentTypeError(f"the environment variable {reference[1]!r} is not set, or empty")
        return value

    value = _REFERENCE.sub(value_of, match[2]).strip()
    if not (value and value.isascii() and value.isprintable()):
        raise ArgumentTypeError(f"the value of {match[1]} is {'not one line of ASCII' if value else 'missing'}")
    return match[1], value, variables


def _variable(text: str) -> tuple[str, str]:
    name, has_value, value = text.partition("=")
    if not name or not (has_value or name in os.environ):
        raise ArgumentTypeError(
            f"the environment variable {name!r} is not set"
            if name.isidentifier()
            else "give the name of an environment variable, or NAME=VALUE"
        )
    return name, value if has_value else os.environ[name]


def _file(parser: ArgumentParser, name: str = "FILE", help: str = "the cassette") -> None:  # noqa: A002 - as in argparse
    parser.add_argument(name.lower(), metavar=name, type=Path, help=help)


def _files(parser: ArgumentParser, help: str) -> None:  # noqa: A002 - as in argparse
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+", help=help)


def _output(parser: ArgumentParser, help: str, *, required: bool = False) -> None:  # noqa: A002 - as in argparse
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=required, help=help)


def _secrets(parser: ArgumentParser) -> None:
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--key", metavar="NAME", **several, help="the strings under keys of this name are secret, too")
    parser.add_argument("--pattern", metavar="REGEX", **several, help="what this expression matches is secret, too")
    parser.add_argument("--env", metavar="NAME", **several, help="the value of this environment variable is secret")
    parser.add_argument(
        "--allow", metavar="NAME", **several, help="what is under this key, or at this JSON pointer, is no secret"
    )


def _fail_on(parser: ArgumentParser, default: str | None, note: str) -> None:
    parser.add_argument(
        "--fail-on",
        choices=_FAIL_ON,
        default=default,
        help="what makes the exit code 1: a breaking change of what a server offers, also a compatible one, "
        f"any change at all, or none ({note})",
    )


def _show(commands: Commands) -> None:
    details = (
        "Each server and each connection to it has a part of its own. Beneath a call are the progress, log messages "
        "and questions that came before its answer, and what the client answered."
    )
    parser = _add(commands, "show", _run_show, "see what was said, call by call", details)
    _file(parser)
    parser.add_argument("--server", metavar="NAME", help="only what was said to this server")
    parser.add_argument("--calls", action="store_true", help="only calls of tools, prompts, resources and completions")
    parser.add_argument(
        "-n", metavar="N", type=_numbers, action="append", dest="numbers", help="only these interactions: 3, or 5-7"
    )
    parser.add_argument("--full", action="store_true", help="cut nothing short, and show results")
    parser.add_argument("--json", action="store_true", help="a JSON object for each interaction, on a line")


def _run_show(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.lines import Selection, as_json

    numbers: list[range] | None = arguments.numbers
    selection = Selection(server=arguments.server, calls=arguments.calls, numbers=numbers)
    if arguments.json:
        return as_json(arguments.file, selection)
    if find_spec("rich") is None:
        raise MissingExtraError("mcp-intercept cassette show without --json", "cli")
    from mcp_intercept._cassette_cli.show import show

    return show(arguments.file, selection, full=arguments.full)


def _diff(commands: Commands) -> None:
    details = (
        "What servers offer (tools with their schemas, prompts, resources, capabilities) is compared by whether an "
        "agent that knows the old one may fail on the new one; calls are compared by what was asked."
    )
    parser = _add(commands, "diff", _run_diff, "see what has changed from one cassette to another", details)
    _file(parser, "OLD", "the one before")
    _file(parser, "NEW", "the one after")
    parser.add_argument("--server", metavar="NAME", help="only this server")
    parser.add_argument("--json", action="store_true", help="a JSON object for each change, on a line")
    _fail_on(parser, "breaking", "default: breaking")


def _run_diff(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.diff import diff

    return diff(arguments.old, arguments.new, arguments.server, fail_on=arguments.fail_on, as_json=arguments.json)


def _verify(commands: Commands) -> None:
    details = (
        "With a command behind `--`, or a URL, the server there is asked what it offers, which is compared with what "
        "the cassette has. Nothing is called unless you say so, since calls may change things."
    )
    parser = _add(
        commands, "verify", _run_verify, "check that a cassette is sound, and still true of its server", details
    )
    parser.usage = (
        "mcp-intercept cassette verify FILE ... [--server NAME]\n"
        "       mcp-intercept cassette verify FILE [--server NAME] [--calls | --all-calls] [--timeout SECONDS]\n"
        "                                      [--fail-on WHAT] [--json]\n"
        "                                      [--url URL [--header 'NAME: VALUE' ...] |\n"
        "                                       [--env NAME[=VALUE] ...] -- COMMAND ...]"
    )
    parser.takes_command = True
    _files(parser, "a cassette; also several, or a folder with cassettes, where these are not compared with a server")
    parser.add_argument("--server", metavar="NAME", help="which server of the cassette it is, if there are several")
    parser.add_argument("--url", help="where the server listens, instead of a command that starts it")
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument(
        "--header",
        metavar="'NAME: VALUE'",
        type=_header,
        **several,
        help="an HTTP header for the URL; ${VARIABLE} in the value is what the environment has, "
        "as in 'Authorization: Bearer ${TOKEN}'",
    )
    parser.add_argument(
        "--env",
        metavar="NAME[=VALUE]",
        type=_variable,
        **several,
        help="an environment variable for the command; without a value, what it is here",
    )
    calls = parser.add_mutually_exclusive_group()
    calls.add_argument("--calls", action="store_true", help="call again the tools that say they only read")
    calls.add_argument("--all-calls", action="store_true", help="call all tools again, whatever that does")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=30.0, help="how long each answer may take (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object for each change, on a line")
    _fail_on(parser, None, "default: breaking, and any with --calls or --all-calls")


def _run_verify(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.verify import verify_files

    command: Sequence[str] | None = arguments.command
    if command is not None and not command:
        raise InterceptError("there is no command behind --")  # a variable that is not set, perhaps
    calls: Literal["none", "reading", "all"] = (
        "all" if arguments.all_calls else "reading" if arguments.calls else "none"
    )
    if arguments.url is not None and command:
        raise InterceptError("give either --url or a command behind --, not both")
    target: Any = arguments.url if arguments.url is not None else list(command or ())
    if not target:
        for option, given in (
            ("--calls", calls != "none"),
            ("--header", arguments.header),
            ("--env", arguments.env),
            ("--json", arguments.json),
            ("--fail-on", arguments.fail_on),
        ):
            if given:
                raise InterceptError(f"{option} needs a server to compare with: --url URL, or -- COMMAND ...")
        return verify_files(arguments.files, arguments.server)
    if len(arguments.files) > 1:
        raise InterceptError(f"one cassette is compared with a server, not {len(arguments.files)}")
    if arguments.header and command:
        raise InterceptError("--header goes with --url; what a command is to have, give with --env")
    if arguments.env and not command:
        raise InterceptError("--env goes with a command behind --; what a URL is to have, give with --header")
    from mcp_intercept._cassette_cli.live import Handed, verify_live

    return verify_live(
        arguments.files[0],
        arguments.server,
        target,
        Handed(
            headers={name: value for name, value, _ in arguments.header},
            env=dict(arguments.env),
            parts={name: part for _, _, variables in arguments.header for name, part in variables.items()},
        ),
        calls=calls,
        timeout=arguments.timeout,
        fail_on=arguments.fail_on or ("breaking" if calls == "none" else "any"),
        as_json=arguments.json,
    )


def _redact(commands: Commands) -> None:
    details = "It may be run again and again. Use `scan` to see what is left."
    parser = _add(commands, "redact", _run_redact, "take secrets out of cassettes", details)
    parser.takes_several = True
    _files(parser, "a cassette, or a folder with cassettes")
    _output(parser, "write to this file instead, if it is one cassette")
    _secrets(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _run_redact(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.edit import redact
    from mcp_intercept.recording.redaction import Redaction

    redaction = Redaction(keys=arguments.key, patterns=arguments.pattern, env=arguments.env, allow=arguments.allow)
    return redact(arguments.files, arguments.output, redaction, dry_run=arguments.dry_run)


def _scan(commands: Commands) -> None:
    details = (
        "It looks at every value and every name in cassettes and in journals of recordings, and tells where something "
        "is, never what. The exit code is 1 if it has found something."
    )
    parser = _add(commands, "scan", _run_scan, "look for secrets that got into cassettes", details)
    parser.takes_several = True
    _files(parser, "a cassette, a journal, or a folder with cassettes")
    _secrets(parser)


def _run_scan(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.scan import scan_files
    from mcp_intercept.recording.redaction import Redaction

    redaction = Redaction(keys=arguments.key, patterns=arguments.pattern, env=arguments.env, allow=arguments.allow)
    return scan_files(arguments.files, redaction)


def _prune(commands: Commands) -> None:
    details = "The others keep their numbers. Files beside the cassette that nothing refers to any longer go, too."
    parser = _add(commands, "prune", _run_prune, "remove interactions from a cassette", details)
    parser.takes_several = True
    _file(parser)
    parser.add_argument(
        "numbers", metavar="N", type=_numbers, nargs="*", help="the number of an interaction, or a range: 3 5-7"
    )
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--method", metavar="METHOD", **several, help="all interactions of this method")
    parser.add_argument("--tool", metavar="NAME", **several, help="all calls of this tool")
    parser.add_argument("--server", metavar="NAME", **several, help="all that was said to this server")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _run_prune(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.edit import Pruned, prune

    if not (arguments.numbers or arguments.method or arguments.tool or arguments.server):
        raise InterceptError("which ones? give numbers, --method, --tool or --server")
    which = Pruned(numbers=arguments.numbers, methods=arguments.method, tools=arguments.tool, servers=arguments.server)
    return prune(arguments.file, which, dry_run=arguments.dry_run)


def _recover(commands: Commands) -> None:
    details = (
        "A recording writes a journal while it goes on (FILE.part, or FILE.part.1 if another one began meanwhile). "
        "Once the cassette is there, the journal is removed."
    )
    parser = _add(
        commands, "recover", _run_recover, "make a cassette of a recording that did not come to its end", details
    )
    _file(parser, help="the cassette that was being recorded, or the journal")
    _output(parser, "where the cassette is to be")
    parser.add_argument("--keep", action="store_true", help="leave the journal where it is")


def _run_recover(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.edit import recover_file

    return recover_file(arguments.file, arguments.output, keep=arguments.keep)


def _convert(commands: Commands) -> None:
    parser = _add(commands, "convert", _run_convert, "make a cassette of a recording of another tool")
    _file(parser, help="the recording")
    _output(parser, "where the cassette is to be; there must be none", required=True)
    parser.add_argument("--server", metavar="NAME", help="what to call the server, where there is one")


def _run_convert(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.edit import convert_file

    return convert_file(arguments.file, arguments.output, arguments.server)


def _serve(commands: Commands) -> None:
    details = (
        "On standard input and output, or as streamable HTTP with --http. What the cassette has no answer to is "
        "refused with an error that says why, and reported on standard error."
    )
    parser = _add(commands, "serve", _run_serve, "be the server that a cassette was recorded with", details)
    _file(parser)
    parser.add_argument("--server", metavar="NAME", help="which server of the cassette to be, if there are several")
    parser.add_argument("--http", metavar="PORT", type=_port, help="listen on this port; 0 takes one that is free")
    parser.add_argument(
        "--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, for this machine only)"
    )
    parser.add_argument(
        "--order", choices=["any", "tool", "strict"], default="any", help="in what order to answer (default: any)"
    )
    parser.add_argument(
        "--patience",
        metavar="SECONDS",
        type=_seconds,
        default=30.0,
        help="how long a client may wait for what it did not wait for when it was recorded (default: 30)",
    )


def _run_serve(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.serve import serve_stdio, served

    with served(arguments.file, arguments.server, arguments.order, arguments.patience) as cassette:
        if arguments.http is None:
            return serve_stdio(cassette)
        from mcp_intercept._cassette_cli.http import serve_http  # with all that a web server needs

        return serve_http(cassette, arguments.host, arguments.http)


def _schema(commands: Commands) -> None:
    _add(commands, "schema", _run_schema, "print the JSON Schema of a line of a cassette")


def _run_schema(arguments: Namespace) -> int:
    from mcp_intercept._cassette_cli.lines import schema_text

    sys.stdout.write(schema_text())
    return 0
