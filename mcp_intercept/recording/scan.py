"""What got through: finds in a cassette what looks like a secret still."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from mcp_intercept.recording.embedded import OPENINGS, parsed_text
from mcp_intercept.recording.fields import ENCODED, HIDDEN, OPAQUE, PROTOCOL
from mcp_intercept.recording.looks import SECRET, has_digit, is_said
from mcp_intercept.recording.redaction import MAX_NESTED, Found, Redaction, Redactor
from mcp_intercept.recording.values import Json, is_object


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a cassette that looks like a secret."""

    where: str
    """The JSON pointer to it; into the JSON within a text, if it is there."""
    kind: str
    """What it looks like."""
    _: KW_ONLY
    preview: str = "…"
    """How it begins: at most four characters, and none of what is short."""


_LONG_WORD: Final = re.compile(r"[A-Za-z0-9+/_-]{32,}={0,2}")
# A name and what stands beside it, in whatever configuration or command line.
_BESIDE: Final = re.compile(
    r"""(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_-]{1,63})(?:['"]?[ \t]{0,8}(?:=>|[:=])[ \t]{0,8}['"]?|[ \t]{1,8}|>)"""
    r"""(?=([^\s'"<>,;&#]{6,256}))"""  # which may be a name itself
)
_HEX: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def scan(value: Json, redactor: Redactor | None = None) -> Iterator[Finding]:
    """What got through: all that a `Redactor` would take out, and what it leaves but looks random, or is a number.

    A password in the middle of a text is found, too, that a redactor leaves as it may be a word of a sentence.

    Names of keys are looked at, too. Left out are what the protocol passes on unread (`data`, `blob`, cursors, states),
    UUIDs, and placeholders.

    Args:
        value: Params, a result, an error, or a whole line of a cassette.
        redactor: With what is secret; by default, what is known to be.
    """
    findings: list[Finding] = []

    def found(where: str, kind: str, secret: str) -> None:
        findings.append(Finding(where, kind, preview=secret[:4] + "…" if len(secret) >= 16 else "…"))

    _Scanner(redactor or Redactor(Redaction()), found).scan(value)
    yield from findings


class _Scanner(Redactor):
    """A redactor that tells, and looks closer."""

    def __init__(self, redactor: Redactor, found: Found) -> None:
        self.__dict__.update(redactor.__dict__)
        self._found = found

    def scan(self, value: Json) -> None:
        self._walk(value, PROTOCOL, "", 0)

    def _walk(self, value: Any, mode: int, where: str | None, nested: int) -> Any:
        if is_object(value) and mode not in (OPAQUE, ENCODED):
            for key, member in value.items():
                self._scrub(key, False, where, MAX_NESTED)
                if type(member) is int and abs(member) >= 1000 and self._inner(value, key, "", mode) == HIDDEN:
                    self._note(f"{where}/{key}", "number under a secret name", "")
        return super()._walk(value, mode, where, nested)

    def _may_have_keys(self, text: str) -> bool:
        return True

    def _leaf(self, text: str, mode: int, where: str | None, nested: int) -> str:
        new = super()._leaf(text, mode, where, nested)
        # What is JSON was gone over leaf by leaf.
        if mode not in (OPAQUE, ENCODED) and (new[:1] not in OPENINGS or parsed_text(new) is None):
            for match in _LONG_WORD.finditer(new):
                if _is_entropic(match[0]):
                    self._note(where, "high entropy", match[0])
            for match in _BESIDE.finditer(new):
                if self._verdict(match[1]) == SECRET and _is_password(match[2]):
                    self._note(where, "secret by its name", match[2])
        return new


def _is_password(word: str) -> bool:
    return has_digit(word) and any(map(str.isalpha, word)) and not is_said(word)


def _is_entropic(word: str) -> bool:
    if _UUID.fullmatch(word):
        return False
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())
    if _HEX.fullmatch(word):
        return bits >= 3.0 and not word.isdigit()
    return bits >= 4.2 and has_digit(word) and word != word.lower() and word != word.upper()
