"""`Redactor`: takes secrets out of what is recorded, in a way that what is left still replays.

It is pure: it knows messages, not files or sessions. The same function runs at write and on live requests before they
are matched, so it depends on nothing but the message, the `Redaction` and the environment variables that this names.

What stands in for a secret is `REDACTED`, or `REDACTED-` and eight hex digits of a hash where the secret is long and
looks random, or `REDACTED-` and the name of the environment variable that it is the value of. Thus

* the same secret has the same placeholder, in every call and every recording, whatever came before it;
* different random secrets have different ones, so that links between calls stay, while a PIN, a password or a
  `user:password` has no hash, since whoever has a dictionary could undo that;
* where a variable is named, a recording made with the real value replays with a dummy one;
* a URI stays a URI, and no placeholder but that of a variable is longer than its secret.

Strings only ever become strings; numbers, keys and the lengths of lists stay. What the protocol reads stays as it is
(names, types, tokens, cursors, states, schemas); see `fields`. A value that a tool's `outputSchema` lets pass keeps
passing unless it is replaced and its schema asks for a `pattern`, a `minLength` above that of the placeholder, or, for
what is secret by the name of its key, one of an `enum`: `allow` is for these. Schemas themselves are only scrubbed of
what looks like a secret anywhere else, too, so an `enum` goes with the values of it.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from mcp_intercept.errors import InterceptError
from mcp_intercept.methods import METHODS
from mcp_intercept.recording.embedded import OPENINGS, parsed_text, rewritten
from mcp_intercept.recording.fields import (
    DATA,
    ENCODED,
    HIDDEN,
    NAMED,
    OPAQUE,
    PLAIN,
    PROTOCOL,
    SCHEMA,
    SCHEMA_FIELDS,
    SCHEMAS,
    SKIP,
    VALUES,
    field_mode,
    is_schema,
)
from mcp_intercept.recording.known import MIN_ENV_LENGTH, KnownValues, is_no_word, secrets_within
from mcp_intercept.recording.looks import (
    ABOUT_SECRETS,
    ALLOWED,
    MARK,
    NOT_SECRET,
    SECRET,
    SECRET_IF_RANDOM,
    after_scheme,
    is_placeholder,
    is_readable_base64,
    is_said,
    is_token_like,
    judge,
    looks_random,
    normal,
    placeholder,
)
from mcp_intercept.recording.shapes import (
    ASSIGNED,
    BASIC,
    BEARER,
    ESCAPED_ASCII,
    HEADER,
    HEADER_HINT,
    KEY_HINTS,
    MEMBER,
    PEM_BEGIN,
    PEM_BODY,
    PEM_END,
    QUERY,
    SEPARATED,
    SHAPES,
    SHORTEST,
    SHORTEST_SHAPE,
    UNSEPARATED,
    USER_INFO,
)
from mcp_intercept.recording.values import is_array, is_object, pointer_to


@dataclass(frozen=True, kw_only=True, slots=True)
class Redaction:
    """What is secret, beside what is known to be.

    Raises:
        InterceptError: An option is not what it should be.
    """

    keys: Collection[str] = ()
    """Names of keys whose strings are secret, in whatever case and with whatever between their words. Fields of the
    protocol itself, such as `text`, are none of them."""
    patterns: Collection[str | re.Pattern[str]] = field(default=(), repr=False)
    """Regular expressions of secrets within strings: their first group if they have one, else all that they match."""
    env: Collection[str] = ()
    """Names of environment variables whose exact values are secret. They may be unset; values of less than six
    characters are not looked for, see `Redactor.too_short`."""
    allow: Collection[str] = ()
    """What is not secret: names of keys, or JSON pointers into params, result or error, such as `/arguments/token`.
    What is there, and below, is left as it is, except for the values of `env`."""
    function: Callable[[str, str], str | None] | None = None
    """Called with each string that may be changed, and the JSON pointer to it, before all else but `env`; returns what
    to write instead, or `None` to leave it to the rest. What it returns for its own answers should be the same again.
    What it raises comes out of the `Redactor`."""
    defaults: bool = True
    """Whether to look for what is known to be secret, by the names of keys and by its looks."""

    def __post_init__(self) -> None:
        for option in ("keys", "env", "allow"):
            given = _collection(option, getattr(self, option))
            for item in given:
                if not isinstance(item, str) or not item.strip():
                    raise InterceptError(f"redaction: {option} takes names as strings that are not empty, not {item!r}")
            object.__setattr__(self, option, given)
        object.__setattr__(self, "patterns", _collection("patterns", self.patterns))
        for pattern in self.patterns:
            _compiled(pattern)
        for name in self.keys:
            if not normal(name):
                raise InterceptError(f"redaction: keys has {name!r}, a name without a letter or digit")
        if self.function is not None and not callable(self.function):
            raise InterceptError(f"redaction: function is called with (value, where), and {self.function!r} cannot be")
        if not isinstance(self.defaults, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterceptError(f"redaction: defaults is True or False, not {self.defaults!r}")

    def __or__(self, other: Redaction) -> Redaction:
        """What is secret by either. The function of `other` is asked first."""
        mine, others = self.function, other.function

        def ask(value: str, where: str) -> str | None:
            answer = None if others is None else others(value, where)
            return answer if answer is not None or mine is None else mine(value, where)

        return Redaction(
            keys=(*self.keys, *other.keys),
            patterns=(*self.patterns, *other.patterns),
            env=(*self.env, *other.env),
            allow=(*self.allow, *other.allow),
            function=ask if mine is not None and others is not None else mine or others,
            defaults=self.defaults or other.defaults,
        )


def _collection(option: str, given: Any) -> tuple[Any, ...]:
    if isinstance(given, (str, bytes, re.Pattern, Mapping)) or not isinstance(given, Collection):
        raise InterceptError(f"redaction: {option} takes a list or tuple, not {given!r}; put it in brackets")
    return tuple(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _compiled(pattern: Any) -> re.Pattern[str]:
    try:
        compiled: re.Pattern[Any] = re.compile(pattern)
    except (TypeError, re.error) as error:
        raise InterceptError(f"redaction: patterns has {pattern!r}, no regular expression: {error}") from error
    if not isinstance(compiled.pattern, str):
        raise InterceptError(f"redaction: patterns has {pattern!r}, which is for bytes; give one for str")
    return compiled


# Names of the protocol that are no secrets wherever they stand.
_NEVER: Final = dict.fromkeys(
    ["progressToken", "cursor", "nextCursor", "requestState", "maxTokens", "_meta"], NOT_SECRET
)
_MAX_KEY: Final = 128
_MAX_VERDICTS: Final = 4096
# What holds strings of JSON that hold strings of JSON is followed so far; escapes double on the way.
MAX_NESTED: Final = 6
# After so many rounds over one text, whatever still changes is of a user's patterns that never come to rest.
_MAX_ROUNDS: Final = 8

_SHORTEST_LEARNED: Final = 8
_MOST_LEARNED: Final = 64
"""How many values are looked for at once: each costs a search in every text."""

Found: TypeAlias = Callable[[str, str, str], None]
"""Told of each secret: the JSON pointer to it, what it looks like, and it."""


class Redactor:
    """Takes secrets out of messages.

    It never changes what it is given, and returns the very object if there is nothing to take out. What it has been
    over once it leaves alone. Made once, it may be used from several threads.

    Not found is what only a reader would know for a secret: in a sentence (`the password is ...`), in a number, in the
    name of a key, in what is compressed or encoded, and what was a secret elsewhere but stands here without a name,
    unless it learns.

    Args:
        redaction: What is secret.
        environ: Instead of `os.environ`; read here and not again. What else is known comes with `also()`.
        learns: Whether what was secret by its name is looked for from then on, whatever it is called: a token that a
            server has given is sent back to it, and a password is said again. What comes of a message depends on those
            before it, then.
    """

    def __init__(self, redaction: Redaction, environ: Mapping[str, str] | None = None, *, learns: bool = False) -> None:
        self.redaction: Final = redaction
        self._function = redaction.function
        self._defaults = redaction.defaults
        self._patterns = [_compiled(pattern) for pattern in redaction.patterns]
        self._user_keys = {normal(key) for key in redaction.keys}
        self._allowed_keys = {normal(key) for key in redaction.allow if not key.startswith("/")}
        self._allowed = frozenset(pointer for pointer in redaction.allow if pointer.startswith("/"))
        self._verdicts: dict[str, int] = dict(_NEVER)
        self._found: Found | None = None
        known = os.environ if environ is None else environ
        given = {name: (known.get(name) or "").strip() for name in redaction.env}
        self.too_short: Final = tuple(name for name, value in given.items() if 0 < len(value) < MIN_ENV_LENGTH)
        """The variables whose values are too short to be looked for."""
        self._without_value = {name for name, value in given.items() if not value}
        self._learns = learns
        self._learned: dict[str, str] = {}
        """What stands in for values that were secret by their names, the latest last."""
        self._sought: list[tuple[str, str]] = []
        self._known = KnownValues(redaction.env)
        self._look_for(given.items())

    @property
    def without_value(self) -> list[str]:
        """The variables of `Redaction.env` that have no value anywhere."""
        return sorted(self._without_value)

    def also(self, values: Iterable[tuple[str, str]]) -> None:
        """Look for what else is known by names: of variables, options or HTTP headers that a server was handed.

        These are the values of `Redaction.env`, and, unless it has no defaults, those that are secret by their names
        and no mere words, and what is secret within any of them: see `secrets_within`.

        Args:
            values: Names and values; a name may have several.
        """
        given: list[tuple[str, str]] = []
        named = {name.lower(): name for name in self.redaction.env}  # headers are written in either case
        for name, value in values:
            secret = after_scheme(value).strip()
            known_as = named.get(name.lower())
            if known_as is not None:
                self._without_value.discard(known_as)
                given.append((known_as, secret))
            elif self._defaults and self._verdict(name) == SECRET and is_no_word(secret):
                given.append((name, secret))
            if self._defaults:
                given += [(known_as or name, part) for part in secrets_within(name, value)]
        if given:
            self._look_for(given)

    def _look_for(self, values: Iterable[tuple[str, str]]) -> None:
        self._known.learn(values)
        # With nothing to look for, it does not look.
        has_any = self._defaults or self._patterns or self._user_keys or self._known.pattern or self._function
        self._is_idle = not has_any

    def params(self, method: str, params: dict[str, Any] | None) -> dict[str, Any] | None:
        """The params of a request or notification, of either side."""
        return params if params is None or self._is_idle else self._whole(params, _mode_of(method))

    def result(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """The result of a request of that method, of either side."""
        return result if self._is_idle else self._whole(result, _mode_of(method))

    def error(self, error: dict[str, Any]) -> dict[str, Any]:
        """The error of a response."""
        return error if self._is_idle else self._whole(error, PROTOCOL)

    def text(self, text: str) -> str:
        """Any text that stands for itself."""
        return text if self._is_idle else self._leaf(text, DATA, self._root(), 0)

    def _whole(self, value: dict[str, Any], mode: int) -> dict[str, Any]:
        learned = self._learned
        found: dict[str, Any] = self._walk(value, mode, self._root(), 0)
        # What was learned at the end may stand at the beginning, too.
        return found if self._learned is learned else self._walk(found, mode, self._root(), 0)

    def _root(self) -> str | None:
        # Pointers are made only for those who ask.
        return "" if self._function is not None or self._allowed or self._found is not None else None

    # The walk. One frame for each level, since JSON may be as deep as the stack.

    def _walk(self, value: Any, mode: int, where: str | None, nested: int) -> Any:
        if type(value) is str:
            return self._leaf(value, mode, where, nested)
        if is_object(value):
            changed: dict[str, Any] | None = None
            if mode == DATA and is_schema(value):
                mode = SCHEMA
            for key, member in value.items():
                # What is neither text nor container never changes.
                if not member or isinstance(member, (int, float)):
                    continue
                inner = self._inner(value, key, member, mode)
                below = where
                if where is not None:
                    below = pointer_to(where, key)
                    if below in self._allowed:
                        inner = OPAQUE
                if inner == SKIP:
                    continue
                new = self._walk(member, inner, below, nested)
                if new is not member:
                    if changed is None:
                        changed = dict(value)
                    changed[key] = new
                    if self._learns and inner == HIDDEN != mode and type(member) is str:
                        self._learn(member, new)
            return value if changed is None else changed
        if is_array(value):
            copy: list[Any] | None = None
            for index, item in enumerate(value):
                below = where if where is None else f"{where}/{index}"
                new = self._walk(item, OPAQUE if below in self._allowed else mode, below, nested)
                if new is not item:
                    if copy is None:
                        copy = list(value)
                    copy[index] = new
            return value if copy is None else copy
        return value

    def _inner(self, members: dict[str, Any], key: str, member: Any, mode: int) -> int:
        """How to go over the member of an object that is gone over as `mode`."""
        if mode == PROTOCOL:
            known = field_mode(members, key, member)
            if known is not None:
                return known
        elif mode == SCHEMA:
            return SCHEMA_FIELDS.get(key, PLAIN if type(member) is str else SCHEMA)
        elif mode == SCHEMAS:
            return SCHEMA
        elif mode == NAMED:
            return PROTOCOL
        elif mode in (OPAQUE, PLAIN, VALUES):
            return SKIP if key == "progressToken" else mode
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._verdict(key)
        if verdict == ALLOWED:
            return OPAQUE
        if mode == HIDDEN:
            return DATA if verdict == NOT_SECRET and normal(key) in ABOUT_SECRETS else HIDDEN
        if verdict == NOT_SECRET:
            if key == "_meta":
                return PLAIN
            if key in ("data", "blob") and "mimeType" in members:
                return ENCODED
            if key == "value" and self._is_of_secret(members):
                return HIDDEN
            if key in ("inputSchema", "outputSchema", "requestedSchema"):
                return SCHEMA
            return DATA
        if verdict == SECRET_IF_RANDOM:
            return HIDDEN if type(member) is str and looks_random(member) else DATA
        return HIDDEN

    def _is_of_secret(self, members: dict[str, Any]) -> bool:
        """Whether a `value` is that of a secret named beside it, as in a list of headers or variables."""
        name = members.get("name", members.get("key"))
        return type(name) is str and self._verdict(name) == SECRET

    def _verdict(self, key: str) -> int:
        verdict = self._verdicts.get(key)
        if verdict is not None:
            return verdict
        if len(key) > _MAX_KEY:
            return NOT_SECRET
        name = normal(key)
        if name in self._allowed_keys:
            verdict = ALLOWED
        elif name in self._user_keys:
            verdict = SECRET
        else:
            verdict = judge(key) if self._defaults else NOT_SECRET
        if len(self._verdicts) < _MAX_VERDICTS:
            self._verdicts[key] = verdict
        return verdict

    def _learn(self, value: str, hidden: str) -> None:
        """Look for a value from now on, and write what stands in for it here: so links between calls stay."""
        secret, written = after_scheme(value).strip(), after_scheme(hidden).strip()
        if secret in self._learned or len(secret) < _SHORTEST_LEARNED:
            return
        # A number or a date stands in many places for something else, as words do.
        has_letter = secret.lower() != secret.upper()
        if has_letter and is_no_word(secret) and is_placeholder(written):
            latest = [*self._learned.items()][1 - _MOST_LEARNED :]
            self._learned = {**dict(latest), secret: written}
            # The longest first: one may be a part of another.
            self._sought = sorted(self._learned.items(), key=lambda pair: len(pair[0]), reverse=True)

    # Strings.

    def _leaf(self, text: str, mode: int, where: str | None, nested: int) -> str:
        new = text if self._known.pattern is None else self._without_known(text, where, encoded=mode == ENCODED)
        # What is hidden anyway is hidden as a whole, with the placeholder that it has elsewhere.
        if self._sought and mode not in (ENCODED, HIDDEN) and len(new) >= _SHORTEST_LEARNED:
            for secret, written in self._sought:
                if secret in new:
                    self._note(where, "key name", secret)
                    new = new.replace(secret, written)
        if mode in (OPAQUE, ENCODED):
            return new
        if self._function is not None:
            answer: Any = self._function(new, where or "")
            if answer is not None:
                return self._answer(new, answer, where)
        if mode == HIDDEN:
            new = self._hide(new, "key name", where)
            if is_placeholder(after_scheme(new)):
                return text if new == text else new
        data = mode not in (PLAIN, SCHEMA)
        # What was put in may be found in turn, by a pattern of a user's or beside what stood next to it.
        for _ in range(_MAX_ROUNDS):
            before = new
            new = self._scrub(before, data, where, nested)
            if new == before:
                break
            new = self._without_known(new, where)
            if mode == HIDDEN:
                new = self._hide(new, "key name", where)  # which was a harmless word before, and is none any longer
        # To be equal is not enough: that nothing was found is told by giving back what was given.
        return text if new == text else new

    def _answer(self, text: str, answer: Any, where: str | None) -> str:
        if not isinstance(answer, str):
            raise InterceptError(
                f"the function of a redaction returns a string or None, not {type(answer).__name__} (for {where!r})"
            )
        if answer != text:
            self._note(where, "function", text)
        return answer

    def _scrub(self, text: str, data: bool, where: str | None, nested: int) -> str:
        """Take out of a text what looks like a secret; of data, also what its names say."""
        for pattern in self._patterns:
            text = self._without(pattern, text, where)
        if len(text) < SHORTEST and ":" not in text and "=" not in text and text[:1] not in OPENINGS:
            return text
        if data and nested < MAX_NESTED and text[:1] in OPENINGS and self._may_have_keys(text):
            parsed = parsed_text(text)
            if parsed is not None:
                try:
                    new = self._walk(parsed, DATA, where, nested + 1)
                    return text if new is parsed else rewritten(text, parsed, new)
                except RecursionError:
                    pass  # then it is a text like any other
        if not self._defaults:
            return self._without_names(text, where, data) if self._user_keys else text
        if len(text) >= SHORTEST_SHAPE and (
            SEPARATED.search(text) is not None or any(hint in text for hint in UNSEPARATED)
        ):
            text = self._without_shapes(text, where)
        if "-----BEGIN " in text:
            text = self._without_pem(text, where)
        if "@" in text and "://" in text:
            text = USER_INFO.sub(lambda match: self._user_info(match, where), text)
        if "earer" in text or "EARER" in text:
            text = self._sub(BEARER, text, 1, "bearer token", where, is_token_like)
        if "asic" in text or "ASIC" in text:
            text = self._sub(BASIC, text, 1, "basic credentials", where, is_readable_base64)
        return self._without_names(text, where, data) if "=" in text or (data and ":" in text) else text

    def _may_have_keys(self, text: str) -> bool:
        """Whether it is worth while to read a text as JSON. What is no name is found without that."""
        if self._user_keys or self._function is not None or self._allowed or self._allowed_keys or self._patterns:
            return True
        lower = text.lower()
        return any(hint in lower for hint in KEY_HINTS) or ESCAPED_ASCII.search(text) is not None or "-----" in text

    def _without_names(self, text: str, where: str | None, data: bool) -> str:
        """Take out what is called a secret in a text: in queries, assignments, headers, and parts of JSON."""
        lower = text.lower()
        if not self._user_keys and not any(hint in lower for hint in KEY_HINTS):
            return text
        if "=" in text:
            text = QUERY.sub(lambda match: self._named(match, 1, "URL query", where, sure=True), text)
        if not data:
            return text
        text = ASSIGNED.sub(lambda match: self._assigned(match, where), text)
        if ":" in text:
            if HEADER_HINT.search(lower) is not None:
                text = HEADER.sub(lambda match: self._header(match, where), text)
            text = MEMBER.sub(lambda match: self._named(match, (match.lastindex or 0) - 1, "key name", where), text)
        return text

    def _named(self, match: re.Match[str], group: int, kind: str, where: str | None, *, sure: bool = False) -> str:
        verdict = self._verdict(unquote(match[group]))
        secret = match[group + 1]
        if verdict == SECRET or (verdict == SECRET_IF_RANDOM and (sure or looks_random(secret))):
            return self._put(match, group + 1, self._hide(secret, kind, where))
        return match[0]

    def _assigned(self, match: re.Match[str], where: str | None) -> str:
        if self._verdict(match[1]) != SECRET:
            return match[0]
        group = match.lastindex or 0
        # What is not in quotes may be the name of something else, unless this is how variables are set.
        if group == 5 and not (match[1].isupper() and match[2] == "=") and not looks_random(match[group]):
            return match[0]
        return self._put(match, group, self._hide(match[group], "assignment", where))

    def _header(self, match: re.Match[str], where: str | None) -> str:
        name, value = match[1].lower(), match[2].rstrip()
        if self._verdict(match[1]) != SECRET:
            return match[0]
        if "cookie" in name:
            said = "=" in value
        else:
            secret = after_scheme(value)
            said = " " not in secret and is_token_like(secret)
        return self._put(match, 2, self._hide(value, "header", where)) if said else match[0]

    def _user_info(self, match: re.Match[str], where: str | None) -> str:
        user, password = match[1], match[2]
        if password:
            return self._put(match, 2, self._hide(password, "URL credentials", where))
        return self._put(match, 1, self._hide(user, "URL credentials", where)) if looks_random(user) else match[0]

    @staticmethod
    def _put(match: re.Match[str], group: int, new: str) -> str:
        whole, start = match[0], match.start()
        return whole[: match.start(group) - start] + new + whole[match.end(group) - start :]

    def _sub(
        self,
        pattern: re.Pattern[str],
        text: str,
        group: int,
        kind: str,
        where: str | None,
        check: Callable[[str], bool] | None = None,
    ) -> str:
        def replace(match: re.Match[str]) -> str:
            secret = match[group]
            if check is not None and not check(secret):
                return match[0]
            return self._put(match, group, self._hide(secret, kind, where))

        return pattern.sub(replace, text)

    def _without_shapes(self, text: str, where: str | None) -> str:
        for kind, needles, pattern, check in SHAPES:
            if any(needle in text for needle in needles):
                text = self._sub(pattern, text, 1, kind, where, check)
        return text

    def _without_pem(self, text: str, where: str | None) -> str:
        parts: list[str] = []
        done = 0
        ends = True
        while (begin := PEM_BEGIN.search(text, done)) is not None:
            # Where there is no end after one, there is none after the next, and no need to go and see.
            end = PEM_END.search(text, begin.end()) if ends else None
            ends = end is not None
            # One that was cut off: as much as looks like one.
            stop = end.end() if end else _end_of(PEM_BODY.match(text, begin.end()))
            parts += [text[done : begin.start()], self._hide(text[begin.start() : stop], "private key", where)]
            done = stop
        return "".join([*parts, text[done:]])

    def _without(self, pattern: re.Pattern[str], text: str, where: str | None) -> str:
        """Take out what a user's pattern finds."""
        spans = [match.span() for match in self._known.placeholders.finditer(text)] if MARK in text else []

        def replace(match: re.Match[str]) -> str:
            group = next((number for number in range(1, pattern.groups + 1) if match[number]), 0)
            start, end = match.span(group)
            last = bisect_right(spans, (start, len(text)))
            # What is within a placeholder is none of the secret that it stands for.
            if start == end or (last and end <= spans[last - 1][1]):
                return match[0]
            self._note(where, "pattern", match[group])
            return self._put(match, group, placeholder(match[group]))

        return pattern.sub(replace, text)

    def _without_known(self, text: str, where: str | None, *, encoded: bool = False) -> str:
        """Take out the values that are known."""
        return self._known.without(text, lambda secret: self._note(where, "environment", secret), encoded=encoded)

    def _hide(self, secret: str, kind: str, where: str | None) -> str:
        """What to write instead of a secret."""
        rest = after_scheme(secret)
        if is_said(rest.strip()):
            return secret
        self._note(where, kind, rest)
        return secret[: len(secret) - len(rest)] + placeholder(rest)

    def _note(self, where: str | None, kind: str, secret: str) -> None:
        if self._found is not None:
            self._found(where or "", kind, secret)


def _mode_of(method: str) -> int:
    return PROTOCOL if method in METHODS else DATA


def _end_of(match: re.Match[str] | None) -> int:
    assert match is not None  # noqa: S101 - it matches the empty string, too
    return match.end()
