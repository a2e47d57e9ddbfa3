"""What secrets look like, what the keys are called that they stand under, and what stands in for them."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Final


def words(*lines: str) -> list[str]:
    """The words of some lines, as long lists of them are written."""
    return " ".join(lines).split()


MARK: Final = "REDACTED"
"""What all that stands in for a secret begins with."""
_PLACEHOLDER: Final = re.compile(MARK + r"(?:-[A-Za-z0-9_]{1,64})?")


def is_placeholder(text: str) -> bool:
    """Whether `text` is what stands in for a secret, and nothing else."""
    # One may be cut off, since it is never longer than its secret.
    return _PLACEHOLDER.fullmatch(text) is not None or (text != "" and MARK.startswith(text))


def placeholder(secret: str) -> str:
    """What stands in for a secret."""
    secret = secret.strip()
    # Readable base64 is long, too, but a dictionary may have what it says: mostly a user and a password.
    is_pem = secret.startswith("-----BEGIN") and len(secret) >= 20  # else it would be shorter than its placeholder
    if is_pem or (looks_random(secret) and not is_readable_base64(secret)):
        digest = sha256(b"mcp-cassette:" + secret.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{MARK}-{digest[:8]}"
    return MARK[: len(secret)]


_RUNS: Final = re.compile(r"[a-z]+|[A-Z]+|[0-9]+|[^A-Za-z0-9\s]+")


def looks_random(text: str) -> bool:
    """Whether `text` was made by a machine: a long word in which the kinds of characters take turns often."""
    if len(text) < 20 or any(map(str.isspace, text)):
        return False
    head = text[:200]
    return len(set(head)) >= 10 and has_digit(head) and 5 * len(_RUNS.findall(head)) >= len(head)


def is_readable_base64(text: str) -> bool:
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
    words("basic bearer false include no none null off omit on optional required same-origin string true undefined yes")
)
_SCHEME: Final = re.compile(r"\s*(?:Bearer|Basic|Token|ApiKey|Digest|Negotiate)\s+(?=\S)", re.IGNORECASE)


def after_scheme(text: str) -> str:
    """What `text` says after the `Bearer` or the like that it may begin with."""
    scheme = _SCHEME.match(text)
    return text[scheme.end() :] if scheme else text


def is_said(secret: str) -> bool:
    """Whether what stands in the place of a secret is none."""
    return (
        not secret or is_placeholder(secret) or secret.lower() in _VOCABULARY or _STAND_IN.fullmatch(secret) is not None
    )


def is_token_like(text: str) -> bool:
    """Whether a word in a text is more than one of a language."""
    return has_digit(text) or len(text) >= 24 or not (text.islower() or text.isupper() or text.istitle())


def has_digit(text: str) -> bool:
    """Whether there is a digit in it."""
    return any(map(str.isdigit, text))


# --- Names of keys ---------------------------------------------------------------------------------------------------

NOT_SECRET: Final = 0
SECRET_IF_RANDOM: Final = 1
"""Secret if it looks random: an id of a session may also be `3`, and what it links must stay apart."""
SECRET: Final = 2
ALLOWED: Final = 3
"""Not secret, whatever it looks like, as its user says so."""

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W0-9A-Za-z_]+")
_SECRET_WORDS: Final = frozenset(
    words(
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
    words(
        "bos cancel cancellation cls completion continuation continue cursor end eos first input last mask max min",
        "next output pad page pagination paging per prev previous progress prompt resume sep special start stop sync",
        "unk",
    )
)
# After the word that says it: it is the secret still.
_TAILS: Final = frozenset(
    words(
        "again b64 base64 confirm confirmation confirmed current data encrypted env hash hashed header new old plain",
        "plaintext raw repeat string text value",
    )
)
ABOUT_SECRETS: Final = frozenset(
    words(
        "createdat description domain email expires expiresat expiresin id kind method name path samesite scheme scope",
        "scopes status title tokentype type updatedat uri url user username",
    )
)
"""Beneath a key that is secret, what tells of the secret and is none."""


def normal(key: str) -> str:
    """The name of a key, whatever stands between its words."""
    return re.sub(r"[\W_]+", "", key).lower()


def judge(key: str) -> int:
    """Whether a string under this key is secret."""
    parts = [word.lower() for word in _WORD.findall(key)]
    while parts:
        last, pair = parts[-1], " ".join(parts[-2:])
        if last == "token" and len(parts) > 1 and parts[-2] in _PLACES:
            return NOT_SECRET
        if last in _SECRET_WORDS or pair in _SECRET_PAIRS:
            return SECRET
        if last in _RANDOM_WORDS or pair in _RANDOM_PAIRS:
            return SECRET_IF_RANDOM
        if not last.isdigit() and last not in _TAILS:
            break
        parts.pop()
    return NOT_SECRET
