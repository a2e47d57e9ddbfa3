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
(names, types, tokens, cursors, states, schemas); see `_FIELDS`. A value that a tool's `outputSchema` lets pass keeps
passing unless it is replaced and its schema asks for a `pattern`, a `minLength` above that of the placeholder, or, for
what is secret by the name of its key, one of an `enum`: `allow` is for these. Schemas themselves are only scrubbed of
what looks like a secret anywhere else, too, so an `enum` goes with the values of it.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any, Final, TypeAlias, TypeGuard
from urllib.parse import quote, unquote

from mcp_intercept.errors import InterceptError
from mcp_intercept.methods import METHODS

__all__ = ["Finding", "Redaction", "Redactor", "is_placeholder", "scan"]

Json: TypeAlias = Any
"""A value of JSON: `None`, a bool, int, float, str, list or dict."""

MIN_ENV_LENGTH: Final = 6
"""Values of environment variables shorter than this would be found all over the place, and are not looked for."""

_MARK: Final = "REDACTED"
_PLACEHOLDER: Final = re.compile(_MARK + r"(?:-[A-Za-z0-9_]{1,64})?")


def is_placeholder(text: str) -> bool:
    """Whether `text` is what stands in for a secret, and nothing else."""
    # One may be cut off, since it is never longer than its secret.
    return _PLACEHOLDER.fullmatch(text) is not None or (text != "" and _MARK.startswith(text))


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
            if not _normal(name):
                raise InterceptError(f"redaction: keys has {name!r}, a name without a letter or digit")
        if self.function is not None and not callable(self.function):
            raise InterceptError(f"redaction: function is called with (value, where), and {self.function!r} cannot be")
        if not isinstance(self.defaults, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InterceptError(f"redaction: defaults is True or False, not {self.defaults!r}")


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


def _words(*lines: str) -> list[str]:
    return " ".join(lines).split()


def _is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value of JSON is an object."""
    return type(value) is dict


def _is_array(value: Any) -> TypeGuard[list[Any]]:
    """Whether a value of JSON is an array."""
    return type(value) is list


# --- Placeholders ----------------------------------------------------------------------------------------------------


def _placeholder(secret: str) -> str:
    secret = secret.strip()
    # Readable base64 is long, too, but a dictionary may have what it says: mostly a user and a password.
    if (_looks_random(secret) and not _is_readable_base64(secret)) or secret.startswith("-----BEGIN"):
        digest = sha256(b"mcp-cassette:" + secret.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_MARK}-{digest[:8]}"
    return _MARK[: len(secret)]


_RUNS: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9\s]+")


def _looks_random(text: str) -> bool:
    """Whether `text` was made by a machine: a long word in which the kinds of characters take turns often."""
    if len(text) < 20 or any(map(str.isspace, text)):
        return False
    head = text[:200]
    return len(set(head)) >= 10 and _has_digit(head) and 5 * len(_RUNS.findall(head)) >= len(head)


def _is_readable_base64(text: str) -> bool:
    """Whether `text` is the base64 of text that can be read."""
    text = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode().isprintable()
    except ValueError:
        return False


# What is said in the place of a secret by those who hide or ask for one: `***`, `<token>`, `{{token}}`, `${TOKEN}`.
_STAND_IN: Final = re.compile(r"[*•.…]+|<[\w .-]+>|\[[\w .-]+\]|\{\{?[\w .-]+\}\}?|%7[Bb][\w.-]+%7[Dd]|\$\{[\w.:-]+\}")
# Not secrets, but which kind of one, or none: without them, `enum`s would break the most.
_VOCABULARY: Final = frozenset(
    _words(
        "basic bearer false include no none null off omit on optional required same-origin string true undefined yes"
    )
)
_SCHEME: Final = re.compile(r"\s*(?:Bearer|Basic|Token|ApiKey|Digest|Negotiate)\s+(?=\S)", re.IGNORECASE)


def _after_scheme(text: str) -> str:
    """What `text` says after the `Bearer` or the like that it may begin with."""
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def _is_said(secret: str) -> bool:
    """Whether what stands in the place of a secret is none."""
    return (
        not secret or is_placeholder(secret) or secret.lower() in _VOCABULARY or _STAND_IN.fullmatch(secret) is not None
    )


def _is_token_like(text: str) -> bool:
    """Whether a word in a text is more than one of a language."""
    return _has_digit(text) or len(text) >= 24 or not (text.islower() or text.isupper() or text.istitle())


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))


# --- Names of keys ---------------------------------------------------------------------------------------------------

_NO: Final = 0
_RANDOM: Final = 1
"""Secret if it looks random: an id of a session may also be `3`, and what it links must stay apart."""
_YES: Final = 2
_ALLOWED: Final = 3

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W0-9A-Za-z_]+")
_SECRET_WORDS: Final = frozenset(
    _words(
        "accesskey accesstoken apikey apikeys apitoken authorization authtoken clientsecret cookie cookies credential",
        "credentials creds idtoken jwt otp passcode passphrase passwd password passwords passwort privatekey pwd",
        "refreshtoken secret secretkey secrets sessiontoken setcookie token totp userpass userpassword xapikey",
    )
)
_SECRET_PAIRS: Final = frozenset(
    f"{first} {second}"
    for second, firsts in {
        "key": "access account api app application auth encryption hmac license master private secret service shared "
        "signing ssh storage subscription deploy webhook",
        "keys": "access api private secret",
        "tokens": "access api auth refresh secret",
        "auth": "basic http proxy",
        "pass": "db user smtp mail ftp",
        "code": "otp mfa totp",
        "string": "connection",
        "url": "webhook",
        "pin": "card user",
    }.items()
    for first in firsts.split()
)
_RANDOM_WORDS: Final = frozenset(["auth", "session", "sessionid", "sid", "sig", "signature", "nonce", "sessid"])
_RANDOM_PAIRS: Final = frozenset(["session id", "session key", "key id"])
# Before `token`: it is a mark of a place, of a page, or of a language.
_PLACES: Final = frozenset(
    _words(
        "bos cancel cancellation cls completion continuation continue cursor end eos first input last mask max min",
        "next output pad page pagination paging per prev previous progress prompt resume sep special start stop sync",
        "unk",
    )
)
# After the word that says it: it is the secret still.
_TAILS: Final = frozenset(
    _words(
        "again b64 base64 confirm confirmation confirmed current data encrypted env hash hashed header new old plain",
        "plaintext raw repeat string text value",
    )
)
# Beneath a key that is secret, what tells of the secret and is none.
_ABOUT_SECRETS: Final = frozenset(
    _words(
        "createdat description domain email expires expiresat expiresin id kind method name path samesite scheme scope",
        "scopes status title tokentype type updatedat uri url user username",
    )
)
_MAX_KEY: Final = 128
_MAX_VERDICTS: Final = 4096


def _normal(key: str) -> str:
    return re.sub(r"[\W_]+", "", key).lower()


def _judge(key: str) -> int:
    """Whether a string under this key is secret."""
    words = [word.lower() for word in _WORD.findall(key)]
    while words:
        last, pair = words[-1], " ".join(words[-2:])
        if last == "token" and len(words) > 1 and words[-2] in _PLACES:
            return _NO
        if last in _SECRET_WORDS or pair in _SECRET_PAIRS:
            return _YES
        if last in _RANDOM_WORDS or pair in _RANDOM_PAIRS:
            return _RANDOM
        if not last.isdigit() and last not in _TAILS:
            break
        words.pop()
    return _NO


# --- Looks of secrets ------------------------------------------------------------------------------------------------
#
# Each expression is linear on any text: a repetition either is bounded, or ends its expression, or begins only where
# a word does. Before each stand the strings without one of which it cannot match, as these are found much faster.

_Rule: TypeAlias = "tuple[str, tuple[str, ...], re.Pattern[str], Callable[[str], bool] | None]"


def _shape(kind: str, needles: str, rest: str, check: Callable[[str], bool] | None = None) -> _Rule:
    return kind, tuple(needles.split()), re.compile(r"(?<![A-Za-z0-9])(" + rest + ")"), check


_SHAPES: Final[tuple[_Rule, ...]] = (
    _shape("JWT", "eyJ", r"(?<![_-])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{4,}){2,4}"),
    _shape("API key", "sk-", r"sk-[A-Za-z0-9_-]{20,}", _has_digit),
    _shape("AWS key", "AKIA ASIA ABIA", r"A[KSB]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _shape("GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{20,}"),
    _shape("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{20,}"),
    _shape("GitLab token", "glpat- gldt- glrt-", r"gl(?:pa|d|r)t-[A-Za-z0-9_.-]{20,}"),
    _shape("Slack token", "xox xapp-", r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,}"),
    _shape("Slack webhook", "hooks.slack.com", r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}"),
    _shape("Google key", "AIza", r"AIza[A-Za-z0-9_-]{35,}"),
    _shape("Google token", "ya29.", r"ya29\.[A-Za-z0-9_-]{20,}"),
    _shape("Google secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{20,}"),
    _shape("Stripe key", "k_live_ k_test_", r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    _shape("webhook secret", "whsec_", r"whsec_[A-Za-z0-9+/=]{20,}"),
    _shape("npm token", "npm_", r"npm_[A-Za-z0-9]{36,}"),
    _shape("PyPI token", "pypi-", r"pypi-[A-Za-z0-9_-]{40,}"),
    _shape("Hugging Face token", "hf_", r"hf_[A-Za-z0-9]{30,}"),
    _shape("SendGrid key", "SG.", r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,}"),
    _shape("Telegram token", ":AA", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{32,}"),
    _shape("Azure key", "Key=", r"(?<=Key=)[A-Za-z0-9+/]{40,}={0,2}"),
    _shape("Azure secret", "8Q~", r"[A-Za-z0-9_~.-]{3}8Q~[A-Za-z0-9_~.-]{30,}"),
    _shape("DigitalOcean token", "_v1_", r"do[opr]_v1_[a-f0-9]{32,}"),
    _shape("Shopify token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[A-Fa-f0-9]{32,}"),
    _shape("Databricks token", "dapi", r"dapi[a-f0-9]{32,}"),
    _shape("Notion token", "ntn_ secret_", r"(?:ntn|secret)_[A-Za-z0-9]{40,}"),
    _shape("Linear key", "lin_api_", r"lin_api_[A-Za-z0-9]{30,}"),
    _shape("Docker token", "dckr_pat_", r"dckr_pat_[A-Za-z0-9_-]{20,}"),
    _shape("Vault token", "hvs. hvb.", r"hv[sb]\.[A-Za-z0-9_-]{20,}"),
    _shape("Groq key", "gsk_", r"gsk_[A-Za-z0-9]{20,}"),
    _shape("xAI key", "xai-", r"xai-[A-Za-z0-9]{20,}"),
    _shape("Atlassian token", "ATATT3", r"ATATT3[A-Za-z0-9_=-]{20,}"),
    _shape("age key", "AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[A-Z0-9]{40,}"),
)
# Whether to look closer: all of them have the one or one of the others, and to look for these is cheap.
_SEPARATED: Final = re.compile(r"[-_.:~][A-Za-z0-9_/+.~=-]{10}")
_UNSEPARATED: Final = ("eyJ", "AKIA", "ASIA", "ABIA", "AIza", "dapi", "Key=", "hooks.slack.com", "ATATT3")
_SHORTEST_SHAPE: Final = 15
# What is shorter needs a sign between a name and a secret.
_SHORTEST: Final = len("basic ") + 6

_PEM_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
_PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
_PEM_BODY: Final = re.compile(r"\s{0,8}(?:[A-Za-z-]{1,20}: [^\n]{0,100}\n){0,4}[A-Za-z0-9+/=\s\\-]*")

# A password may have an `@` in it: what counts is the last one before the path.
_USER_INFO: Final = re.compile(r"""://([^\s/?#@:"'<>\\]*)(?::([^\s/?#"'<>\\]*))?@""")
_QUERY: Final = re.compile(r"""(?:\A|[?&#;]) ?([A-Za-z0-9_.%\[\]-]{2,64})=([^\s&#;"'<>\\]+)""")
_ASSIGNED: Final = re.compile(
    r"""(?<![A-Za-z0-9_])(?<![A-Za-z0-9_]-)([A-Za-z_][A-Za-z0-9_-]{1,63})[ \t]{0,8}:?([=:])[ \t]{0,8}"""
    r"""(?:"([^"\r\n]+)|'([^'\r\n]+)|([^\s"'`,;(){}<>\[\]]+))"""
)
_HEADER: Final = re.compile(
    r"""(?:^|["'])[ \t>*-]{0,8}((?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?[a-z-]{0,40}(?:key|token|secret))"""
    r"""[ \t]{0,8}:[ \t]{0,8}([^\s"'][^\r\n"']*)""",
    re.MULTILINE | re.IGNORECASE,
)
# Far cheaper, and without it there is none.
_HEADER_HINT: Final = re.compile(r"(?:authorization|cookie|key|token|secret)[ \t]{0,8}:")
_MEMBER: Final = re.compile(
    r"""(?:"([^"\\\n]{2,128})"\s{0,8}:\s{0,8}"([^"\\]*(?:\\.[^"\\]*)*)")"""
    r"""|(?:'([^'\\\n]{2,128})'\s{0,8}:\s{0,8}'([^'\\]*(?:\\.[^'\\]*)*)')"""
    r"""|(?:\\"([^"\\\n]{2,128})\\"\s{0,8}:\s{0,8}\\"([^"\\]*))""",
    re.DOTALL,
)
_BEARER: Final = re.compile(r"(?<![A-Za-z0-9])bearer[ \t:=]{1,8}([A-Za-z0-9._~+/-]{6,}=*)", re.IGNORECASE)
_BASIC: Final = re.compile(r"(?<![A-Za-z0-9])basic[ \t]{1,8}([A-Za-z0-9+/_-]{6,}={0,2})", re.IGNORECASE)
# In one of the names of keys that are secret, or in a part of it.
_KEY_HINTS: Final = (
    *("pass", "pwd", "secret", "token", "key", "auth", "cookie", "cred", "jwt", "otp", "sess", "sid", "sig", "nonce"),
    *("string", "webhook", "code", "pin"),
)
# A name or a URL may be hidden by escapes.
_ESCAPED_ASCII: Final = re.compile(r"\\u00[0-7]|\\/")
_JSON_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


# --- Fields of the protocol ------------------------------------------------------------------------------------------

_SKIP: Final = 0
"""Left alone."""
_OPAQUE: Final = 1
"""Passed on unread: only the values of environment variables are looked for."""
_ENCODED: Final = 2
"""The same, in base64."""
_PLAIN: Final = 3
"""Said to people and models: by looks, not by the names of keys."""
_VALUES: Final = 4
"""Values that a schema speaks of: each string as in data, but not by the names of keys."""
_DATA: Final = 5
"""Data of users: by looks, by the names of keys, and the JSON in strings."""
_PROTOCOL: Final = 6
"""An object of the protocol, or a list of such; what it does not know is data."""
_NAMED: Final = 7
"""An object of which each member is one of the protocol."""
_SCHEMA: Final = 8
_SCHEMAS: Final = 9
"""An object of which each member is a schema."""
_HIDDEN: Final = 10
"""What is beneath a key that is secret."""

_FIELDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(
        _words(
            "action audience cacheScope closed createdAt encoding format includeContext jsonrpc lastModified",
            "lastUpdatedAt level logger maxTokens method mimeType mode model name notification progressToken",
            "protocolVersion request resultType role server server_notification server_request sizes status stopReason",
            "supportedVersions theme type version",
        ),
        _SKIP,
    ),
    **dict.fromkeys(
        _words("cursor elicitationId id nextCursor requestId requestState subscriptionId taskId toolUseId"), _OPAQUE
    ),
    "blob": _ENCODED,
    **dict.fromkeys(
        _words(
            "_meta annotations capabilities clientInfo description execution icons instructions serverInfo",
            "stopSequences title uri uriTemplate url websiteUrl",
        ),
        _PLAIN,
    ),
    **dict.fromkeys(_words("input message metadata reason statusMessage structuredContent systemPrompt text"), _DATA),
    **dict.fromkeys(
        _words(
            "argument client_error client_result completion contents context error messages modelPreferences params",
            "prompts ref resource resourceTemplates resources result roots task tasks toolChoice tools",
        ),
        _PROTOCOL,
    ),
    **dict.fromkeys(_words("inputRequests inputResponses"), _NAMED),
    **dict.fromkeys(_words("inputSchema outputSchema requestedSchema"), _SCHEMA),
}
"""How the fields of the protocol's own objects are gone over; those not named are data."""

_SCHEMA_FIELDS: Final[Mapping[str, int]] = {
    **dict.fromkeys(_words("$defs definitions dependentSchemas patternProperties properties"), _SCHEMAS),
    **dict.fromkeys(
        _words(
            "$anchor $dynamicAnchor $dynamicRef $id $recursiveRef $ref $schema $vocabulary contentEncoding",
            "contentMediaType dependentRequired format id pattern required type",
        ),
        _SKIP,
    ),
    **dict.fromkeys(_words("const default enum example examples"), _VALUES),
}
"""How the keywords of a schema are; those not named are schemas, lists of such, or say something."""

# Names of the protocol that are no secrets wherever they stand.
_NEVER: Final = dict.fromkeys(["progressToken", "cursor", "nextCursor", "requestState", "maxTokens", "_meta"], _NO)
# What holds strings of JSON that hold strings of JSON is followed so far; escapes double on the way.
_MAX_NESTED: Final = 6
# After so many rounds over one text, whatever still changes is of a user's patterns that never come to rest.
_MAX_ROUNDS: Final = 8

_Found: TypeAlias = Callable[[str, str, str], None]


class Redactor:
    """Takes secrets out of messages.

    It never changes what it is given, and returns the very object if there is nothing to take out. What it has been
    over once it leaves alone. Made once, it may be used from several threads.

    Not found is what only a reader would know for a secret: in a sentence (`the password is ...`), in a number, in the
    name of a key, in what is compressed or encoded, and what was a secret elsewhere but stands here without a name.

    Args:
        redaction: What is secret.
        environ: Instead of `os.environ`; read here and not again.
    """

    def __init__(self, redaction: Redaction, environ: Mapping[str, str] | None = None) -> None:
        self.redaction: Final = redaction
        self._function = redaction.function
        self._defaults = redaction.defaults
        self._patterns = [_compiled(pattern) for pattern in redaction.patterns]
        self._user_keys = {_normal(key) for key in redaction.keys}
        self._allowed_keys = {_normal(key) for key in redaction.allow if not key.startswith("/")}
        self._allowed = frozenset(pointer for pointer in redaction.allow if pointer.startswith("/"))
        self._verdicts: dict[str, int] = dict(_NEVER)
        self._found: _Found | None = None
        values: dict[str, str] = {}
        short: list[str] = []
        for name in redaction.env:
            value = ((os.environ if environ is None else environ).get(name) or "").strip()
            if is_placeholder(value):
                continue
            if len(value) >= MIN_ENV_LENGTH:
                for written in _spellings(value):
                    values.setdefault(written, name)
            elif value:
                short.append(name)
        self.too_short: Final = tuple(short)
        """The variables whose values are too short to be looked for."""
        self._env = values
        names = "|".join(["[0-9a-f]{8}", *(re.escape(_variable(name)) for name in redaction.env)])
        # Where placeholders are, exactly: what only begins like one may be part of a secret.
        placeholder = rf"{_MARK}(?:-(?:{names}))?(?![A-Za-z0-9_-])"
        self._placeholders = re.compile(placeholder)
        found = "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True))
        self._env_values = re.compile(f"{placeholder}|({found})") if values else None
        # With nothing to look for, it does not look.
        self._is_idle = not (self._defaults or self._patterns or self._user_keys or values or self._function)

    def params(self, method: str, params: dict[str, Any] | None) -> dict[str, Any] | None:
        """The params of a request or notification, of either side."""
        return params if params is None or self._is_idle else self._whole(method, params)

    def result(self, method: str, result: dict[str, Any]) -> dict[str, Any]:
        """The result of a request of that method, of either side."""
        return result if self._is_idle else self._whole(method, result)

    def error(self, error: dict[str, Any]) -> dict[str, Any]:
        """The error of a response."""
        if self._is_idle:
            return error
        found: dict[str, Any] = self._walk(error, _PROTOCOL, self._root(), 0)
        return found

    def text(self, text: str) -> str:
        """Any text that stands for itself."""
        return text if self._is_idle else self._leaf(text, _DATA, self._root(), 0)

    def _whole(self, method: str, value: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._walk(value, _PROTOCOL if method in METHODS else _DATA, self._root(), 0)
        return found

    def _root(self) -> str | None:
        # Pointers are made only for those who ask.
        return "" if self._function is not None or self._allowed or self._found is not None else None

    # The walk. One frame for each level, since JSON may be as deep as the stack.

    def _walk(self, value: Any, mode: int, where: str | None, nested: int) -> Any:
        if type(value) is str:
            return self._leaf(value, mode, where, nested)
        if _is_object(value):
            members: dict[str, Any] = value
            changed: dict[str, Any] | None = None
            if mode == _DATA and _is_schema(members):
                mode = _SCHEMA
            for key, member in members.items():
                # What is neither text nor container is most of it, and never changes.
                if member is None or type(member) is bool or not member:
                    continue
                inner = self._inner(members, key, member, mode)
                below = where if where is None else f"{where}/{key.replace('~', '~0').replace('/', '~1')}"
                if below in self._allowed:
                    inner = _OPAQUE
                if inner == _SKIP:
                    continue
                new = self._walk(member, inner, below, nested)
                if new is not member:
                    if changed is None:
                        changed = dict(members)
                    changed[key] = new
            return value if changed is None else changed
        if _is_array(value):
            items: list[Any] = value
            copy: list[Any] | None = None
            for index, item in enumerate(items):
                below = where if where is None else f"{where}/{index}"
                new = self._walk(item, _OPAQUE if below in self._allowed else mode, below, nested)
                if new is not item:
                    if copy is None:
                        copy = list(items)
                    copy[index] = new
            return value if copy is None else copy
        return value

    def _inner(self, members: dict[str, Any], key: str, member: Any, mode: int) -> int:
        """How to go over the member of an object that is gone over as `mode`."""
        if mode == _PROTOCOL:
            known = _field(members, key, member)
            if known is not None:
                return known
        elif mode == _SCHEMA:
            return _SCHEMA_FIELDS.get(key, _PLAIN if type(member) is str else _SCHEMA)
        elif mode == _SCHEMAS:
            return _SCHEMA
        elif mode == _NAMED:
            return _PROTOCOL
        elif mode in (_OPAQUE, _PLAIN, _VALUES):
            return _SKIP if key == "progressToken" else mode
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._verdict(key)
        if verdict == _ALLOWED:
            return _OPAQUE
        if mode == _HIDDEN:
            return _DATA if verdict == _NO and _normal(key) in _ABOUT_SECRETS else _HIDDEN
        if verdict == _NO:
            if key == "_meta":
                return _PLAIN
            if key in ("data", "blob") and "mimeType" in members:
                return _ENCODED
            if key == "value" and self._is_of_secret(members):
                return _HIDDEN
            if key in ("inputSchema", "outputSchema", "requestedSchema"):
                return _SCHEMA
            return _DATA
        if verdict == _RANDOM:
            return _HIDDEN if type(member) is str and _looks_random(member) else _DATA
        return _HIDDEN

    def _is_of_secret(self, members: dict[str, Any]) -> bool:
        """Whether a `value` is that of a secret named beside it, as in a list of headers or variables."""
        name = members.get("name", members.get("key"))
        return type(name) is str and self._verdict(name) == _YES

    def _verdict(self, key: str) -> int:
        verdict = self._verdicts.get(key)
        if verdict is not None:
            return verdict
        if len(key) > _MAX_KEY:
            return _NO
        normal = _normal(key)
        if normal in self._allowed_keys:
            verdict = _ALLOWED
        elif normal in self._user_keys:
            verdict = _YES
        else:
            verdict = _judge(key) if self._defaults else _NO
        if len(self._verdicts) < _MAX_VERDICTS:
            self._verdicts[key] = verdict
        return verdict

    # Strings.

    def _leaf(self, text: str, mode: int, where: str | None, nested: int) -> str:
        new = self._without_env(text, where, encoded=mode == _ENCODED)
        if mode in (_OPAQUE, _ENCODED):
            return new
        if self._function is not None:
            answer: Any = self._function(new, where or "")
            if answer is not None:
                return self._answer(new, answer, where)
        if mode == _HIDDEN:
            new = self._hide(new, "key name", where)
            if is_placeholder(_after_scheme(new)):
                return text if new == text else new
        data = mode not in (_PLAIN, _SCHEMA)
        # What was put in may be found in turn, by a pattern of a user's or beside what stood next to it.
        for _ in range(_MAX_ROUNDS):
            before = new
            new = self._scrub(before, data, where, nested)
            if new == before:
                break
            new = self._without_env(new, where)
            if mode == _HIDDEN:
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
        if len(text) < _SHORTEST and ":" not in text and "=" not in text and text[:1] not in _OPENINGS:
            return text
        if data and nested < _MAX_NESTED and text[:1] in _OPENINGS and self._may_have_keys(text):
            parsed = _parsed(text)
            if parsed is not None:
                try:
                    new = self._walk(parsed, _DATA, where, nested + 1)
                    return text if new is parsed else _rewritten(text, parsed, new)
                except RecursionError:
                    pass  # then it is a text like any other
        if not self._defaults:
            return self._without_names(text, where, data) if self._user_keys else text
        if len(text) >= _SHORTEST_SHAPE and (
            _SEPARATED.search(text) is not None or any(hint in text for hint in _UNSEPARATED)
        ):
            text = self._without_shapes(text, where)
        if "-----BEGIN " in text:
            text = self._without_pem(text, where)
        if "@" in text and "://" in text:
            text = _USER_INFO.sub(lambda match: self._user_info(match, where), text)
        if "earer" in text or "EARER" in text:
            text = self._sub(_BEARER, text, 1, "bearer token", where, _is_token_like)
        if "asic" in text or "ASIC" in text:
            text = self._sub(_BASIC, text, 1, "basic credentials", where, _is_readable_base64)
        return self._without_names(text, where, data) if "=" in text or (data and ":" in text) else text

    def _may_have_keys(self, text: str) -> bool:
        """Whether it is worth while to read a text as JSON. What is no name is found without that."""
        if self._user_keys or self._function is not None or self._allowed or self._allowed_keys or self._patterns:
            return True
        lower = text.lower()
        return any(hint in lower for hint in _KEY_HINTS) or _ESCAPED_ASCII.search(text) is not None or "-----" in text

    def _without_names(self, text: str, where: str | None, data: bool) -> str:
        """Take out what is called a secret in a text: in queries, assignments, headers, and parts of JSON."""
        lower = text.lower()
        if not self._user_keys and not any(hint in lower for hint in _KEY_HINTS):
            return text
        if "=" in text:
            text = _QUERY.sub(lambda match: self._named(match, 1, "URL query", where, sure=True), text)
        if not data:
            return text
        text = _ASSIGNED.sub(lambda match: self._assigned(match, where), text)
        if ":" in text:
            if _HEADER_HINT.search(lower) is not None:
                text = _HEADER.sub(lambda match: self._header(match, where), text)
            text = _MEMBER.sub(lambda match: self._named(match, (match.lastindex or 0) - 1, "key name", where), text)
        return text

    def _named(self, match: re.Match[str], group: int, kind: str, where: str | None, *, sure: bool = False) -> str:
        verdict = self._verdict(unquote(match[group]))
        secret = match[group + 1]
        if verdict == _YES or (verdict == _RANDOM and (sure or _looks_random(secret))):
            return self._put(match, group + 1, self._hide(secret, kind, where))
        return match[0]

    def _assigned(self, match: re.Match[str], where: str | None) -> str:
        if self._verdict(match[1]) != _YES:
            return match[0]
        group = match.lastindex or 0
        # What is not in quotes may be the name of something else, unless this is how variables are set.
        if group == 5 and not (match[1].isupper() and match[2] == "=") and not _looks_random(match[group]):
            return match[0]
        return self._put(match, group, self._hide(match[group], "assignment", where))

    def _header(self, match: re.Match[str], where: str | None) -> str:
        name, value = match[1].lower(), match[2].rstrip()
        if self._verdict(match[1]) != _YES:
            return match[0]
        if "cookie" in name:
            said = "=" in value
        else:
            secret = _after_scheme(value)
            said = " " not in secret and _is_token_like(secret)
        return self._put(match, 2, self._hide(value, "header", where)) if said else match[0]

    def _user_info(self, match: re.Match[str], where: str | None) -> str:
        user, password = match[1], match[2]
        if password:
            return self._put(match, 2, self._hide(password, "URL credentials", where))
        return self._put(match, 1, self._hide(user, "URL credentials", where)) if _looks_random(user) else match[0]

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
        for kind, needles, pattern, check in _SHAPES:
            if any(needle in text for needle in needles):
                text = self._sub(pattern, text, 1, kind, where, check)
        return text

    def _without_pem(self, text: str, where: str | None) -> str:
        parts: list[str] = []
        done = 0
        ends = True
        while (begin := _PEM_BEGIN.search(text, done)) is not None:
            # Where there is no end after one, there is none after the next, and no need to go and see.
            end = _PEM_END.search(text, begin.end()) if ends else None
            ends = end is not None
            # One that was cut off: as much as looks like one.
            stop = end.end() if end else _end_of(_PEM_BODY.match(text, begin.end()))
            parts += [text[done : begin.start()], self._hide(text[begin.start() : stop], "private key", where)]
            done = stop
        return "".join([*parts, text[done:]])

    def _without(self, pattern: re.Pattern[str], text: str, where: str | None) -> str:
        """Take out what a user's pattern finds."""
        spans = [match.span() for match in self._placeholders.finditer(text)] if _MARK in text else []

        def replace(match: re.Match[str]) -> str:
            group = next((number for number in range(1, pattern.groups + 1) if match[number]), 0)
            start, end = match.span(group)
            last = bisect_right(spans, (start, len(text)))
            # What is within a placeholder is none of the secret that it stands for.
            if start == end or (last and end <= spans[last - 1][1]):
                return match[0]
            self._note(where, "pattern", match[group])
            return self._put(match, group, _placeholder(match[group]))

        return pattern.sub(replace, text)

    def _without_env(self, text: str, where: str | None, *, encoded: bool = False) -> str:
        """Take out the values of environment variables."""
        pattern = self._env_values
        if pattern is None:
            return text
        if not any(value in text for value in self._env):
            return self._without_env_within(text, where) if encoded else text

        def replace(match: re.Match[str]) -> str:
            secret = match[1]
            if secret is None:
                return match[0]
            self._note(where, "environment", secret)
            # Within base64, what is put there is of its alphabet and as long, so that the rest can be read.
            if encoded:
                return (_MARK * (len(secret) // len(_MARK) + 1))[: len(secret)]
            return f"{_MARK}-{_variable(self._env[secret])}"

        return pattern.sub(replace, text)

    def _without_env_within(self, text: str, where: str | None) -> str:
        """The same in what base64 says."""
        try:
            content = base64.b64decode(text, validate=True)
        except ValueError:
            return text
        found = False
        for value, name in self._env.items():
            secret = value.encode("utf-8", "surrogatepass")
            if secret in content:
                mark = f"{_MARK}-{_variable(name)}".encode()
                # One that is a part of its own placeholder would be found again, and again.
                content = content.replace(secret, _MARK.encode() if secret in mark else mark)
                self._note(where, "environment", value)
                found = True
        return base64.b64encode(content).decode() if found else text

    def _hide(self, secret: str, kind: str, where: str | None) -> str:
        """What to write instead of a secret."""
        rest = _after_scheme(secret)
        if _is_said(rest.strip()):
            return secret
        self._note(where, kind, rest)
        return secret[: len(secret) - len(rest)] + _placeholder(rest)

    def _note(self, where: str | None, kind: str, secret: str) -> None:
        if self._found is not None:
            self._found(where or "", kind, secret)


_OPENINGS: Final = frozenset('{[" \n\t\r')


def _field(members: dict[str, Any], key: str, member: Any) -> int | None:
    """How to go over a field of an object of the protocol, or `None` if it is none that is known."""
    known = _FIELDS.get(key)
    if known is not None:
        return known
    if key == "content":
        # A form that was filled in is data; everything else so called is for the model.
        return _DATA if "action" in members else _PROTOCOL
    if key == "arguments":
        return _PROTOCOL if type(member) is list else _DATA
    if key == "data" and ("mimeType" in members or members.get("type") in ("image", "audio")):
        return _ENCODED
    return None


def _is_schema(members: dict[str, Any]) -> bool:
    """Whether an object within data is a JSON Schema of an object."""
    properties = members.get("properties")
    if not _is_object(properties) or not (members.get("type") == "object" or "$schema" in members):
        return False
    return all(_is_object(schema) or type(schema) is bool for schema in properties.values())


def _spellings(value: str) -> tuple[str, ...]:
    """How a value is written: as it is, in a URL, and in JSON within a text."""
    in_json = (json.dumps(value, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
    return value, quote(value, "", errors="surrogatepass"), *in_json


def _variable(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:64]


def _end_of(match: re.Match[str] | None) -> int:
    assert match is not None  # noqa: S101 - it matches the empty string, too
    return match.end()


def _parsed(text: str) -> Any:
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


def _rewritten(text: str, old: Any, new: Any) -> str:
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


def _replaced(old: Any, new: Any, numbers: Iterator[int]) -> Iterator[tuple[int, str]]:
    """The strings that changed, by their number in the order of the text, where names of keys are strings, too."""
    if isinstance(old, str):
        number = next(numbers)
        if new is not old:
            yield number, new
    elif isinstance(old, dict):
        for key, member in old.items():  # pyright: ignore[reportUnknownVariableType]
            next(numbers)
            yield from _replaced(member, new[key], numbers)
    elif isinstance(old, list):
        for index, item in enumerate(old):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            yield from _replaced(item, new[index], numbers)


# --- What got through ------------------------------------------------------------------------------------------------


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
_HEX: Final = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def scan(value: Json, redactor: Redactor | None = None) -> Iterator[Finding]:
    """What got through: all that a `Redactor` would take out, and what it leaves but looks random, or is a number.

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

    def __init__(self, redactor: Redactor, found: _Found) -> None:
        self.__dict__.update(redactor.__dict__)
        self._found = found

    def scan(self, value: Json) -> None:
        self._walk(value, _PROTOCOL, "", 0)

    def _walk(self, value: Any, mode: int, where: str | None, nested: int) -> Any:
        if _is_object(value) and mode not in (_OPAQUE, _ENCODED):
            members: dict[str, Any] = value
            for key, member in members.items():
                self._scrub(key, False, where, _MAX_NESTED)
                if type(member) is int and abs(member) >= 1000 and self._inner(members, key, "", mode) == _HIDDEN:
                    self._note(f"{where}/{key}", "number under a secret name", "")
        return super()._walk(value, mode, where, nested)

    def _may_have_keys(self, text: str) -> bool:
        return True

    def _leaf(self, text: str, mode: int, where: str | None, nested: int) -> str:
        new = super()._leaf(text, mode, where, nested)
        # What is JSON was gone over leaf by leaf.
        if mode not in (_OPAQUE, _ENCODED) and (new[:1] not in _OPENINGS or _parsed(new) is None):
            for match in _LONG_WORD.finditer(new):
                if _is_entropic(match[0]):
                    self._note(where, "high entropy", match[0])
        return new


def _is_entropic(word: str) -> bool:
    if _UUID.fullmatch(word):
        return False
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())
    if _HEX.fullmatch(word):
        return bits >= 3.0 and not word.isdigit()
    return bits >= 4.2 and _has_digit(word) and word != word.lower() and word != word.upper()
