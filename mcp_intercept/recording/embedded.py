"""JSON within a text: read, and written again with other strings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from mcp_intercept.recording.values import Json, is_array, is_object

OPENINGS: Final = frozenset('{[" \n\t\r')
"""What a text that is JSON, and more than a number, begins with."""
_JSON_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


def parsed_text(text: str) -> Json:
    """The object, list or string that `text` is as JSON, or `None`."""
    if text.rstrip()[-1:] not in ("}", "]", '"'):
        return None
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    whole = dict(members)
    if len(whole) != len(members):
        # The former would be hidden by the latter, and stay in the text.
        raise ValueError("a name twice")
    return whole


def rewritten(text: str, old: Json, new: Json) -> str:
    """The JSON `text` of `old`, with the strings of `new`, and everything else in it as it was."""
    replaced = dict(_replaced(old, new, count()))
    ascii_only = text.isascii()
    parts: list[str] = []
    done = 0
    for number, match in enumerate(_JSON_STRING.finditer(text)):
        if number in replaced:
            parts += [text[done : match.start()], json.dumps(replaced[number], ensure_ascii=ascii_only)]
            done = match.end()
    return "".join([*parts, text[done:]])


def _replaced(old: Json, new: Json, numbers: Iterator[int]) -> Iterator[tuple[int, str]]:
    """The strings that changed, by their number in the order of the text, where names of keys are strings, too."""
    if isinstance(old, str):
        number = next(numbers)
        if new is not old:
            yield number, new
    elif is_object(old):
        for key, member in old.items():
            next(numbers)
            yield from _replaced(member, new[key], numbers)
    elif is_array(old):
        for index, item in enumerate(old):
            yield from _replaced(item, new[index], numbers)
