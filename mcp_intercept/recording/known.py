"""`KnownValues`: takes values that are known to be secret out of texts, whatever they look like.

They come by name, from the environment of this process or from what a server is handed, and each is replaced by its
name: so a recording that is made with the real value replays with a dummy one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final
from urllib.parse import quote, unquote

from mcp_intercept.recording.looks import MARK, is_placeholder, is_said, is_token_like
from mcp_intercept.recording.shapes import USER_INFO

MIN_ENV_LENGTH: Final = 6
"""Values shorter than this would be found all over the place, and are not looked for."""

_PATH: Final = re.compile(r"[.~]{0,2}[/\\]|[A-Za-z]:[/\\]")
_BASIC: Final = re.compile(r"\s*Basic\s+(\S+)\s*", re.IGNORECASE)


class KnownValues:
    """Values to be taken out of texts, and what stands in for them.

    It may be used from several threads, and told more by one at a time.

    Args:
        names: Names whose placeholders may be in a text, whether or not there is a value for them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._values: dict[str, str] = {}
        self.pattern: re.Pattern[str] | None = None
        """What finds them, or placeholders as a whole; `None` if there is nothing to be found."""
        self.placeholders: re.Pattern[str] = self._placeholders()
        """What finds the placeholders that are whole: what only begins like one may be part of a secret."""

    def learn(self, values: Iterable[tuple[str, str]]) -> None:
        """Look for more values.

        Args:
            values: Names and values. What is too short or a placeholder is left.
        """
        known = dict(self._values)
        for name, value in values:
            if len(value) >= MIN_ENV_LENGTH and not is_placeholder(value):
                for written in _spellings(value):
                    known.setdefault(written, name)
        self._values = known  # first, as others may be looking
        self.placeholders = self._placeholders()
        found = "|".join(re.escape(value) for value in sorted(known, key=len, reverse=True))
        self.pattern = re.compile(f"{self.placeholders.pattern}|({found})") if known else None

    def _placeholders(self) -> re.Pattern[str]:
        names = dict.fromkeys((*self._names, *self._values.values()))
        marks = "|".join(["[0-9a-f]{8}", *(re.escape(_variable(name)) for name in names)])
        return re.compile(rf"{MARK}(?:-(?:{marks}))?(?![A-Za-z0-9_-])")

    def without(self, text: str, tell: Callable[[str], None], *, encoded: bool = False) -> str:
        """A text with placeholders for the values.

        Args:
            text: Any text.
            tell: Called with each value that is found.
            encoded: Whether it may be base64, what is within which is looked at, too.
        """
        pattern = self.pattern
        if pattern is None:
            return text
        if not any(value in text for value in self._values):
            return self._without_within(text, tell) if encoded else text

        def replace(match: re.Match[str]) -> str:
            secret = match[1]
            if secret is None:
                return match[0]
            tell(secret)
            # Within base64, what is put there is of its alphabet and as long, so that the rest can be read.
            if encoded:
                return (MARK * (len(secret) // len(MARK) + 1))[: len(secret)]
            return f"{MARK}-{_variable(self._values[secret])}"

        return pattern.sub(replace, text)

    def _without_within(self, text: str, tell: Callable[[str], None]) -> str:
        """The same in what base64 says."""
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:
            return text
        found = False
        for value, name in self._values.items():
            secret = value.encode("utf-8", "surrogatepass")
            if secret in content:
                mark = f"{MARK}-{_variable(name)}".encode()
                # One that is a part of its own placeholder would be found again, and again.
                content = content.replace(secret, MARK.encode() if secret in mark else mark)
                tell(value)
                found = True
        return base64.b64encode(content).decode() if found else text


def secrets_within(name: str, value: str) -> Iterator[str]:
    """The secrets that are parts of a value, which a server may say without the rest of it.

    Those are the password in a URL, the one that `Basic` credentials encode, and the values in a header of cookies.

    Args:
        name: The name of a variable or header.
        value: Its value.
    """
    parts: list[str] = []
    if (url := USER_INFO.search(value)) is not None:
        parts += [url[2] or "", unquote(url[2] or "")]
    if (basic := _BASIC.fullmatch(value)) is not None:
        parts.append(_said_by_base64(basic[1]).partition(":")[2])
    if name.lower() == "cookie":
        parts += [cookie.partition("=")[2].strip() for cookie in value.split(";")]
    yield from filter(is_no_word, parts)


def _said_by_base64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return ""


def is_no_word(secret: str) -> bool:
    """Whether a value is none that stands in many places for something else, as words and paths do."""
    # `PWD` is the name of a folder.
    return is_token_like(secret) and not is_said(secret) and _PATH.match(secret) is None


def _spellings(value: str) -> tuple[str, ...]:
    """How a value is written: as it is, in a URL, and in JSON within a text."""
    in_json = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return value, quote(value, "", errors="surrogatepass"), *in_json


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:64]
