"""What the marks of a test say about its cassette."""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import signature
from typing import Any, NamedTuple

import pytest


class Marked(NamedTuple):
    """What the markers of a test say together, of which the closest wins."""

    name: str | os.PathLike[str] | None
    options: dict[str, Any]


def marks_of(item: pytest.Item) -> Marked:
    """What the marks of a test say."""
    marked = Marked(None, {})
    for marker in reversed(list(item.iter_markers("mcp_tape"))):
        named = (*marker.args, *([marker.kwargs["name"]] if "name" in marker.kwargs else []))
        _check(marker, named)
        options = {option: value for option, value in marker.kwargs.items() if option != "name"}
        marked = Marked(named[0] if named else marked.name, together(marked.options, options))
    return marked


def _check(marker: pytest.Mark, named: tuple[Any, ...]) -> None:
    from mcp_intercept.errors import InterceptError

    if len(named) > 1 or not all(map(_is_name, named)):
        raise InterceptError(f"mcp_tape takes the name of a cassette and named options, not {named!r}")
    known = _options()
    for option in marker.kwargs:
        if option not in ("name", *known):
            raise InterceptError(f"mcp_tape has no option {option!r}; it has name and {', '.join(known)}")


def check_options(options: Any) -> None:
    """Refuse what the fixture `mcp_tape_options` cannot give.

    Raises:
        InterceptError: These are no options.
    """
    from mcp_intercept.errors import InterceptError

    if not isinstance(options, Mapping):
        raise InterceptError(f"the fixture mcp_tape_options gives a dict of options of use_cassette(), not {options!r}")
    known = _options()
    for option in options:  # pyright: ignore[reportUnknownVariableType]
        if option not in known:
            raise InterceptError(f"there is no option {option!r}, which mcp_tape_options gives; {', '.join(known)} are")


def _options() -> list[str]:
    from mcp_intercept._cassette import use_cassette

    return [option for option in signature(use_cassette).parameters if option != "path"]


def _is_name(name: Any) -> bool:
    return isinstance(name, (str, os.PathLike)) and bool(os.fspath(name))  # pyright: ignore[reportUnknownArgumentType]


def together(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Options, of which the inner ones win; what is secret by the outer ones stays so, unless nothing is."""
    from mcp_intercept.recording import Redaction

    options = {**outer, **inner}
    of_outer, of_inner = outer.get("redaction"), inner.get("redaction")
    if isinstance(of_outer, Redaction) and isinstance(of_inner, Redaction):  # anything else is judged where it is used
        options["redaction"] = of_outer | of_inner
    return options


def is_taped(item: pytest.Item) -> bool:
    """Whether a test has a cassette of its own."""
    return "mcp_tape" in getattr(item, "fixturenames", ()) or item.get_closest_marker("mcp_tape") is not None
