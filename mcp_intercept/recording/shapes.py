"""How secrets are told in a text: the shapes of tokens and keys, and what assigns or names one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from mcp_intercept.recording.looks import has_digit

# Each expression is linear on any text: a repetition either is bounded, or ends its expression, or begins only where
# a word does. Before each stand the strings without one of which it cannot match, as these are found much faster.

_Rule: TypeAlias = "tuple[str, tuple[str, ...], re.Pattern[str], Callable[[str], bool] | None]"


def _shape(kind: str, needles: str, rest: str, check: Callable[[str], bool] | None = None) -> _Rule:
    return kind, tuple(needles.split()), re.compile(r"(?<![A-Za-z0-9])(" + rest + ")"), check


SHAPES: Final[tuple[_Rule, ...]] = (
    _shape("JWT", "eyJ", r"(?<![_-])eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{4,}){2,4}"),
    _shape("API key", "sk-", r"sk-[A-Za-z0-9_-]{20,}", has_digit),
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
SEPARATED: Final = re.compile(r"[-_.:~][A-Za-z0-9_/+.~=-]{10}")
UNSEPARATED: Final = ("eyJ", "AKIA", "ASIA", "ABIA", "AIza", "dapi", "Key=", "hooks.slack.com", "ATATT3")
SHORTEST_SHAPE: Final = 15
# What is shorter needs a sign between a name and a secret.
SHORTEST: Final = len("basic ") + 6

PEM_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----")
PEM_BODY: Final = re.compile(r"\s{0,8}(?:[A-Za-z-]{1,20}: [^\n]{0,100}\n){0,4}[A-Za-z0-9+/=\s\\-]*")

# A password may have an `@` in it: what counts is the last one before the path.
USER_INFO: Final = re.compile(r"""://([^\s/?#@:"'<>\\]*)(?::([^\s/?#"'<>\\]*))?@""")
QUERY: Final = re.compile(r"""(?:\A|[?&#;]) ?([A-Za-z0-9_.%\[\]-]{2,64})=([^\s&#;"'<>\\]+)""")
ASSIGNED: Final = re.compile(
    r"""(?<![A-Za-z0-9_])(?<![A-Za-z0-9_]-)([A-Za-z_][A-Za-z0-9_-]{1,63})[ \t]{0,8}:?([=:])[ \t]{0,8}"""
    r"""(?:"([^"\r\n]+)|'([^'\r\n]+)|([^\s"'`,;(){}<>\[\]]+))"""
)
HEADER: Final = re.compile(
    r"""(?:^|["'])[ \t>*-]{0,8}((?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?[a-z-]{0,40}(?:key|token|secret))"""
    r"""[ \t]{0,8}:[ \t]{0,8}([^\s"'][^\r\n"']*)""",
    re.MULTILINE | re.IGNORECASE,
)
# Far cheaper, and without it there is none.
HEADER_HINT: Final = re.compile(r"(?:authorization|cookie|key|token|secret)[ \t]{0,8}:")
MEMBER: Final = re.compile(
    r"""(?:"([^"\\\n]{2,128})"\s{0,8}:\s{0,8}"([^"\\]*(?:\\.[^"\\]*)*)")"""
    r"""|(?:'([^'\\\n]{2,128})'\s{0,8}:\s{0,8}'([^'\\]*(?:\\.[^'\\]*)*)')"""
    r"""|(?:\\"([^"\\\n]{2,128})\\"\s{0,8}:\s{0,8}\\"([^"\\]*))""",
    re.DOTALL,
)
BEARER: Final = re.compile(r"(?<![A-Za-z0-9])bearer[ \t:=]{1,8}([A-Za-z0-9._~+/-]{6,}=*)", re.IGNORECASE)
BASIC: Final = re.compile(r"(?<![A-Za-z0-9])basic[ \t]{1,8}([A-Za-z0-9+/_-]{6,}={0,2})", re.IGNORECASE)
# In one of the names of keys that are secret, or in a part of it.
KEY_HINTS: Final = (
    *("pass", "pwd", "secret", "token", "key", "auth", "cookie", "cred", "jwt", "otp", "sess", "sid", "sig", "nonce"),
    *("string", "webhook", "code", "pin"),
)
# A name or a URL may be hidden by escapes.
ESCAPED_ASCII: Final = re.compile(r"\\u00[0-7]|\\/")
