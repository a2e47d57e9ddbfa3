"""What is taken out of a cassette, what stays as it is, and that what is left still replays."""

from __future__ import annotations

import base64
import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_intercept.errors import InterceptError
from mcp_intercept.recording.looks import is_placeholder
from mcp_intercept.recording.redaction import Redaction, Redactor
from mcp_intercept.recording.scan import Finding, scan

DEFAULT = Redactor(Redaction())

RANDOM = "aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY"
"""A secret as machines make them."""

# Each is put together here, so that nothing in this file is taken for a secret by those who look for such.
SHAPES = {
    "JWT": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
    "OpenAI": "sk-" + "proj-" + RANDOM,
    "Anthropic": "sk-" + "ant-api03-" + RANDOM,
    "AWS": "AK" + "IAIOSFODNN7EXAMPLE",
    "AWS of a session": "AS" + "IAIOSFODNN7EXAMPLE",
    "GitHub": "gh" + "p_" + RANDOM + "abcd",
    "GitHub, fine-grained": "github" + "_pat_" + RANDOM,
    "GitLab": "gl" + "pat-" + RANDOM,
    "Slack": "xo" + "xb-123456789012-123456789012-" + RANDOM,
    "Google": "AI" + "za" + RANDOM + "abc",
    "Stripe": "sk" + "_live_" + RANDOM,
    "npm": "np" + "m_" + RANDOM + "abcd",
    "PyPI": "py" + "pi-" + RANDOM + RANDOM,
    "Hugging Face": "h" + "f_" + RANDOM,
    "SendGrid": "S" + "G." + RANDOM[:22] + "." + RANDOM,
    "Telegram": "1234567890:" + "AA" + RANDOM + "z",
    "Slack webhook": "https://hooks.slack.com/services/" + "T00000000/B00000000/" + RANDOM,
    "Azure": "DefaultEndpointsProtocol=https;AccountName=x;Account" + "Key=" + RANDOM + RANDOM + "==",
    "PEM": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + RANDOM + "\n" + RANDOM + "==\n-----END RSA " + "PRIVATE KEY-----",
    "PEM cut off": "-----BEGIN " + "PRIVATE KEY-----\n" + RANDOM + "\n" + RANDOM,
    "Bearer": "Bearer " + RANDOM,
    "bearer in small": "authorization: bearer " + RANDOM,
    "Basic": "Basic " + base64.b64encode(b"ada:lovelace-1815").decode(),
    "user info": "https://ada:lovelace@example.com/x",
    "user info with an @ in it": "postgres://ada:love@lace@db.example.com:5432/x",
    "user info without a password": f"https://{RANDOM}@example.com/x.git",
    "query": "https://example.com/x?page=2&api_key=lovelace&y=1#z",
    "signature in a query": "https://example.com/x?X-Amz-Signature=0f3a9&y=1",
    "fragment": "https://example.com/cb#access_token=lovelace&state=1",
    "form": "grant_type=password&username=ada&password=lovelace",
    "connection string": "Server=db;User=ada;Password=lovelace;",
    "header": "GET / HTTP/1.1\nX-Api-Key: lovelace-1815\nAccept: */*",
    "header with a scheme": "curl -H 'Authorization: Token lovelace-1815' https://example.com",
    "cookie": "Set-Cookie: sid=lovelace; Path=/",
    "dotenv": "# mine\nexport DB_PASSWORD='lovelace'\nDEBUG=1\n",
    "configuration": "[default]\naws_secret_access_key = " + RANDOM + "\nregion = x",
    "YAML": "x:\n  y: 1\n  - api_key: " + RANDOM + "\n  - password: 'lovelace'",
    "source": 'connect(user="ada", password = "lovelace")',
    "escaped JSON in a text": 'he said {\\"password\\": \\"lovelace\\"}',
    "JSON in a string": json.dumps('{"password": "lovelace"}'),
    "escaped query": "https://example.com/x?token%5B%5D=lovelace",
    "JSON": '{"user": "ada", "password": "lovelace"}',
    "JSON with an escape in its name": '{"user": "ada", "p\\u0061ssword": "lovelace"}',
    "JSON with a name twice": '{"password": "lovelace", "password": 5}',
    "JSON in JSON": json.dumps({"body": json.dumps({"token": "lovelace"})}),
    "JSON cut off": '{"password": "lovelace", "text": "and so',
    "JSON in Markdown": 'Here:\n```json\n{"password": "lovelace"}\n```\n',
    "JSON lines": '{"password": "lovelace"}\n{"password": "lovelace"}\n',
    "a Python dict": "{'password': 'lovelace', 'n': None}",
    "JSON too deep": "[" * 900 + '{"password": "lovelace"}' + "]" * 900,
    "URL with escaped slashes": '{"db": "https:\\/\\/ada:lovelace@example.com"}',
}
"""Texts that hold a secret."""

SECRETS = re.compile(
    "lovelace|love@lace|" + RANDOM + "|EXAMPLE|0f3a9|" + base64.b64encode(b"ada:lovelace").decode()[:12]
)
"""What must not be left of any."""

KEYS = """password Passwd pwd secret token accessToken refresh_token api_key apiKey api-key X-API-Key APIKEY
authorization Proxy-Authorization client_secret clientSecret private_key cookie Set-Cookie credentials credential
userPassword new_password password2 password_hash DB_PASSWORD OPENAI_API_KEY aws_secret_access_key session_token
csrf_token passphrase connection_string basic_auth""".split()  # noqa: SIM905

NO_KEYS = """text input_tokens max_tokens maxTokens total_tokens tokens token_count tokenCount token_type tokenizer
progressToken nextPageToken page_token continuationToken cursor nextCursor requestState secretary passwordless compass
passenger bypass key keys public_key primary_key keyboard monkey author authors authority authenticated cookies_enabled
secret_name password_policy has_token_expired session_title stop_token eos_token pin_code_required""".split()  # noqa: SIM905


def everything(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def shape_of(value: Any) -> Any:
    """All of a value but what its strings say."""
    if isinstance(value, str):
        return str
    if isinstance(value, dict):
        return {key: shape_of(member) for key, member in value.items()}
    if isinstance(value, list):
        return [shape_of(item) for item in value]
    return (type(value), value)


def call(**arguments: Any) -> dict[str, Any]:
    return {"name": "tool", "arguments": arguments}


def redacted(redactor: Redactor = DEFAULT, /, **arguments: Any) -> dict[str, Any]:
    params = redactor.params("tools/call", call(**arguments))
    assert params is not None
    found: dict[str, Any] = params["arguments"]
    return found


READABLE = base64.b64encode(b"administrator:1815-hunter").decode()


# What is taken out.


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_nothing_is_left_of_a_planted_secret_wherever_it_is(text: str) -> None:
    nested = {"a": [{"b": f"x\n{text}" if text[0] not in '{"' else text}, text]}
    messages: list[Any] = [
        DEFAULT.params("tools/call", call(text=text, nested=nested)),
        DEFAULT.params("acme/unknown", {"x": text}),
        DEFAULT.params("notifications/message", {"level": "info", "data": text}),
        DEFAULT.params("notifications/message", {"level": "info", "data": nested}),
        DEFAULT.params(
            "sampling/createMessage", {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
        ),
        DEFAULT.params("notifications/cancelled", {"requestId": 1, "reason": text}),
        DEFAULT.result("tools/call", {"content": [{"type": "text", "text": text}], "structuredContent": nested}),
        DEFAULT.result("resources/read", {"contents": [{"uri": "x://y", "text": text}]}),
        DEFAULT.result("prompts/get", {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}),
        DEFAULT.result("elicitation/create", {"action": "accept", "content": {"type": text, "x": text}}),
        DEFAULT.result(
            "tools/call", {"inputRequests": {"a": {"method": "elicitation/create", "params": {"message": text}}}}
        ),
        DEFAULT.error({"code": -1, "message": text, "data": text}),
        DEFAULT.error({"code": -1, "message": "", "data": nested}),
        DEFAULT.text(text),
        DEFAULT.text(json.dumps({"x": text}, indent=2)),
    ]
    for message in messages:
        assert not SECRETS.search(everything(message))
        assert "REDAC" in everything(message)


@pytest.mark.parametrize("key", KEYS)
def test_strings_under_a_secret_name_are_taken_out(key: str) -> None:
    given = {key: "lovelace", "list": [{key: ["lovelace", {"value": "lovelace", "type": "x"}]}], "n": {key: 1815}}
    assert redacted(**given) == {
        key: "REDACTED",
        "list": [{key: ["REDACTED", {"value": "REDACTED", "type": "x"}]}],
        "n": {key: 1815},
    }
    assert json.loads(DEFAULT.text(json.dumps(given)))[key] == "REDACTED"
    assert redacted(headers=[{"name": key, "value": "lovelace"}]) == {"headers": [{"name": key, "value": "REDACTED"}]}


@pytest.mark.parametrize("key", NO_KEYS)
def test_names_that_only_sound_secret_are_not(key: str) -> None:
    params = call(**{key: RANDOM, "list": [{key: "lovelace"}]})
    assert DEFAULT.params("tools/call", params) is params


def test_what_may_be_secret_is_if_it_looks_random() -> None:
    assert redacted(session_id="3", session="keynote", signature="Ada") == {
        "session_id": "3",
        "session": "keynote",
        "signature": "Ada",
    }
    assert redacted(session_id=RANDOM)["session_id"].startswith("REDACTED-")
    assert redacted(session={"title": "Keynote"}) == {"session": {"title": "Keynote"}}


@pytest.mark.parametrize(
    "said", ["", "none", "Bearer", "***", "<your token>", "{{token}}", "${TOKEN}", "REDACTED", "REDA"]
)
def test_what_stands_in_the_place_of_a_secret_stays(said: str) -> None:
    params = call(token=said)
    assert DEFAULT.params("tools/call", params) is params


@pytest.mark.parametrize(
    "text",
    [
        "Use a Bearer token, or basic authentication; BEARER TOKENS work as well.",
        "Basic understanding of the API key concept, and of Well-Known tokens",
        "Password: ask Ada. Token: see above.",
        "mailto:ada@example.com, http://example.com:80/@ada?page=2&next_page_token=abc",
        "http://{user}:{password}@example.com/?token={token}",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "call(password=password, token=self.token)",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "Set-Cookie: see RFC 6265",
        '{"input_tokens": "12", "note": "no key, no token"} ',
        "[token]",
        "sort-key: ada",
        "{token}",
    ],
)
def test_text_about_secrets_stays(text: str) -> None:
    assert DEFAULT.text(text) is text


# What is written instead.


def test_the_same_secret_has_the_same_placeholder_wherever_it_is_and_another_has_another() -> None:
    placeholder = redacted(token=RANDOM)["token"]
    other = redacted(token=RANDOM[::-1])["token"]
    assert re.fullmatch("REDACTED-[0-9a-f]{8}", placeholder)
    assert re.fullmatch("REDACTED-[0-9a-f]{8}", other)
    assert placeholder != other
    assert redacted(api_key=RANDOM)["api_key"] == placeholder
    assert redacted(authorization=f"Bearer {RANDOM}")["authorization"] == f"Bearer {placeholder}"
    assert DEFAULT.text(f"Bearer {RANDOM}") == f"Bearer {placeholder}"
    assert DEFAULT.text(f"https://x.example/?token={RANDOM}&y") == f"https://x.example/?token={placeholder}&y"
    assert DEFAULT.text(f'{{"token":"{RANDOM}"}}') == f'{{"token":"{placeholder}"}}'
    assert Redactor(Redaction()).text(f"see {SHAPES['GitHub']}!") == DEFAULT.text(f"see {SHAPES['GitHub']}!")


@pytest.mark.parametrize(
    "weak",
    ["1815", "hunter2", "correct horse battery staple", "9" * 40, "Passwordpassword1234567890", "a" * 30, READABLE],
)
def test_what_a_dictionary_may_have_gets_no_hash(weak: str) -> None:
    assert redacted(token=weak) == {"token": "REDACTED"[: len(weak)]}
    assert redacted(token=f"Basic {weak}") == {"token": "Basic " + "REDACTED"[: len(weak)]}


@given(st.text(min_size=1))
def test_no_placeholder_is_longer_than_its_secret(secret: str) -> None:
    assert len(redacted(password=secret)["password"]) <= len(secret)


def test_what_is_a_placeholder_is_known() -> None:
    for text in ("REDACTED", "REDACTED-0123abcd", "REDACTED-MY_TOKEN", "RED"):
        assert is_placeholder(text)
    for text in ("", "redacted", "REDACTED ", "REDACTEDx", "xREDACTED"):
        assert not is_placeholder(text)


def test_json_within_text_keeps_its_form() -> None:
    text = (
        '\n{\n   "a" :1.50, "b":1e3,"ü":"\\u00e9", '
        '"token":\t"lovelace",\n "c":["x", {"secret":"lovelace"}, "y"],"d":12345678901234567890}\n'
    )
    assert DEFAULT.text(text) == text.replace("lovelace", "REDACTED")
    ascii_only = '{"pässword-ä": "ä", "token": "ä lovelace"}'
    assert DEFAULT.text(ascii_only) == '{"pässword-ä": "ä", "token": "REDACTED"}'


def test_a_uri_stays_a_uri() -> None:
    uri = f"https://ada:{RANDOM}@[2001:db8::1]:8080/a%20b?x=1&token={RANDOM}&y=%41#f"
    given = {"contents": [{"uri": uri, "text": ""}]}
    changed = DEFAULT.result("resources/read", given)["contents"][0]["uri"]
    before, after = urlsplit(uri), urlsplit(changed)
    assert (after.scheme, after.hostname, after.port, after.path, after.fragment) == (
        *(before.scheme, before.hostname, before.port, before.path, before.fragment),
    )
    assert after.username == "ada"
    assert parse_qs(after.query) == {"x": ["1"], "token": [after.password], "y": ["A"]}
    assert RANDOM not in changed


# What stays.

TOOL = {
    "name": "token",
    "title": "Password",
    "description": "Takes a token",
    "inputSchema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "api_key": {"type": "string", "description": "The API key", "default": "lovelace", "pattern": "^sk-.*$"},
            "input_tokens": {"type": "integer"},
            "progressToken": {"type": "string", "enum": ["lovelace"]},
            "password": {"$ref": "#/$defs/secret"},
            "default": {"anyOf": [{"type": "string", "const": "token"}, {"type": "null"}]},
        },
        "patternProperties": {"^token=.*$": {"type": "string"}},
        "$defs": {"secret": {"type": "string", "format": "password"}},
        "required": ["api_key", "password"],
        "examples": [{"password": "lovelace"}],
    },
}


def test_schemas_are_not_gone_over_by_names() -> None:
    result = {"tools": [TOOL]}
    assert DEFAULT.result("tools/list", result) is result
    asked = {"message": "Who?", "requestedSchema": TOOL["inputSchema"]}
    assert DEFAULT.params("elicitation/create", asked) is asked
    assert redacted(thing={"type": "object", "properties": {"token": "lovelace"}}) == {
        "thing": {"type": "object", "properties": {"token": "REDACTED"}}
    }
    data = call(schema=TOOL["inputSchema"], inputSchema={"properties": {"token": {"default": "lovelace"}}})
    assert DEFAULT.params("tools/call", data) is data


def test_the_values_of_schemas_are_scrubbed_as_the_values_they_are_for() -> None:
    keys = [SHAPES["GitHub"], SHAPES["OpenAI"]]
    schema = {
        "type": "object",
        "properties": {
            "which": {"type": "string", "enum": keys, "default": keys[0], "description": f"As {keys[0]}"},
            "x": {"const": {"of": [keys[1]]}},
            "url": {"type": "string", "format": "uri", "pattern": "^https://[^ ]*$"},
        },
        "x-note": keys[0],
        "if": True,
    }
    content = {"which": keys[1], "x": {"of": [keys[1]]}, "url": f"https://x.example/?token={RANDOM}"}
    jsonschema.validate(content, schema)
    tool = DEFAULT.result("tools/list", {"tools": [{"name": "t", "inputSchema": {}, "outputSchema": schema}]})["tools"][
        0
    ]
    result = DEFAULT.result("tools/call", {"content": [], "structuredContent": content})
    for message in (tool, result):
        assert not SECRETS.search(everything(message))
    assert shape_of(tool["outputSchema"]) == shape_of(schema)
    jsonschema.Draft202012Validator.check_schema(tool["outputSchema"])
    jsonschema.validate(result["structuredContent"], tool["outputSchema"])


@pytest.mark.parametrize("length", [1, 4, 6, 8, 12, 40])
def test_what_was_no_longer_than_its_schema_asks_for_is_no_longer_than_that(length: int) -> None:
    schema = {"type": "object", "properties": {"password": {"type": "string", "minLength": 1, "maxLength": length}}}
    content = {"password": (RANDOM * 2)[:length]}
    after = DEFAULT.result("tools/call", {"content": [], "structuredContent": content})["structuredContent"]
    assert after != content
    jsonschema.validate(after, schema)


def test_what_the_protocol_reads_stays() -> None:
    odd = "Bearer " + RANDOM
    messages: list[tuple[str, dict[str, Any]]] = [
        (
            "tools/call",
            {
                "name": odd,
                "requestState": odd,
                "_meta": {"progressToken": odd, "token": "x", "x": {"progressToken": odd}},
            },
        ),
        ("tools/list", {"cursor": odd}),
        ("resources/list", {"resources": [], "nextCursor": odd}),
        ("notifications/progress", {"progressToken": odd, "progress": 1}),
        ("sampling/createMessage", {"maxTokens": 100, "messages": [{"role": odd, "content": {"type": odd}}]}),
        (
            "initialize",
            {"protocolVersion": odd, "clientInfo": {"name": "secret", "version": "1"}, "capabilities": {"token": {}}},
        ),
        ("prompts/list", {"prompts": [{"name": "token", "arguments": [{"name": "password", "required": True}]}]}),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "token"}, "argument": {"name": "x", "value": "y"}},
        ),
        ("tasks/get", {"taskId": odd}),
        ("acme/unknown", {"_meta": {"token": "x"}, "progressToken": RANDOM, "nextCursor": RANDOM, "maxTokens": 5}),
        ("tools/call", {"content": [{"type": "image", "data": f"{odd}==", "mimeType": odd}]}),
        ("tools/call", {"structuredContent": {"image": {"data": odd, "mimeType": "image/png"}}}),
        ("resources/read", {"contents": [{"uri": "x://y", "blob": odd}]}),
    ]
    for method, message in messages:
        assert DEFAULT.params(method, message) is message
        assert DEFAULT.result(method, message) is message


def test_the_value_that_completes_a_secret_argument_is_taken_out() -> None:
    params = {"ref": {"type": "ref/prompt", "name": "x"}, "argument": {"name": "api_key", "value": "lovelace"}}
    changed = DEFAULT.params("completion/complete", params)
    assert changed == {**params, "argument": {"name": "api_key", "value": "REDACTED"}}


def test_a_message_without_params_stays() -> None:
    assert DEFAULT.params("ping", None) is None


# Laws.

texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*SHAPES.values(), "lovelace", RANDOM, "REDACTED", "REDACTED-01234567", "none"]),
    st.lists(
        st.sampled_from(
            [
                *SHAPES.values(),
                "REDACTED",
                "-",
                "=",
                "&",
                "?",
                " ",
                "://",
                "@",
                ":",
                '"',
                "'",
                "{",
                "}",
                "token",
                "Bearer ",
                "a",
                "\\",
            ]
        ),
        max_size=8,
    ).map("".join),
)
keys = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [*KEYS, *NO_KEYS, "type", "name", "value", "content", "data", "mimeType", "_meta", "inputSchema", "properties"]
    ),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=3).map(json.dumps),
    ),
    max_leaves=12,
)
objects = st.dictionaries(keys, values, max_size=5)
redactors = st.sampled_from(
    [
        DEFAULT,
        Redactor(
            Redaction(env=["A", "B"], patterns=[r"\d{4}", "love(lace)", "[A-Z]+"]), {"A": "lovelace", "B": "REDACTED"}
        ),
        Redactor(Redaction(keys=["text"], allow=["token", "/arguments/password"], env=["A"]), {"A": RANDOM}),
        Redactor(Redaction(defaults=False, patterns=[r"\S+ \S+"], keys=["user"])),
    ]
)


@settings(max_examples=300)
@example(Redactor(Redaction(patterns=["[A-Z]+"])), {"a": {"Password": "NoNE"}}, "tools/call")
@given(redactors, objects, st.sampled_from(["tools/call", "tools/list", "acme/unknown", "elicitation/create"]))
def test_redaction_is_idempotent_deterministic_and_keeps_all_but_what_strings_say(
    redactor: Redactor, message: dict[str, Any], method: str
) -> None:
    before = copy.deepcopy(message)
    redacts: list[Callable[[str, Any], Any]] = [redactor.params, redactor.result]
    for redact in redacts:
        once = redact(method, message)
        assert message == before
        assert shape_of(once) == shape_of(before)
        assert redact(method, once) is once
        assert redact(method, copy.deepcopy(message)) == once
        assert (once is message) == (once == message)
        json.dumps(once)
    error = {"code": 1, "message": "x", "data": message}
    assert redactor.error(redactor.error(error)) == redactor.error(error)


@settings(max_examples=300)
@given(redactors, texts)
def test_the_same_holds_of_text(redactor: Redactor, text: str) -> None:
    once = redactor.text(text)
    assert redactor.text(once) is once


@settings(max_examples=200)
@given(values, st.text(max_size=10), st.text(max_size=10))
def test_the_value_of_a_variable_is_left_nowhere(value: Any, before: str, after: str) -> None:
    redactor = Redactor(Redaction(env=["MY_TOKEN"]), {"MY_TOKEN": "ada-1815-ada"})
    planted = {
        "a": value,
        "x": f"{before}ada-1815-ada{after}",
        "json": json.dumps({"y": [f"{before}ada-1815-ada{after}"]}),
    }
    assert "ada-1815-ada" not in everything(redactor.params("tools/call", call(**planted)))


def test_secrets_within_what_a_server_was_handed_are_found_without_the_rest() -> None:
    redactor = Redactor(Redaction(env=["CACHE_URL"]), {})
    redactor.also(
        [
            ("DATABASE_URL", "postgres://ada:s3cr%40et99@db.example/x"),
            ("CACHE_URL", "redis://:cache-pa55@cache.example"),
            ("authorization", "Basic " + base64.b64encode(b"ada:love:1ace").decode()),
            ("cookie", "theme=dark; sid=abc123xyz ; empty=; odd"),
            ("x-auth", "Basic no-base64!"),
            ("GREETING_URL", "https://ada:correct@db.example"),
        ]
    )
    said = "s3cr@et99 s3cr%40et99 cache-pa55 love:1ace abc123xyz dark correct"
    assert redactor.text(said) == (
        "REDACTED-DATABASE_URL REDACTED-DATABASE_URL REDACTED-CACHE_URL REDACTED-authorization REDACTED-cookie"
        " dark correct"
    )
    without = Redactor(Redaction(defaults=False), {})
    without.also([("DATABASE_URL", "postgres://ada:s3cr%40et99@db.example/x")])
    assert without.text(said) == said


@pytest.mark.parametrize(
    "text",
    [
        "password: Sommer2026!",
        "passwd = Winter2027?x",
        "serve --token=Herbst2028! now",
        "serve --password Lenz2029!",
        "<password>Mai2030!</password>",
        "machine x login ada password Juni2031!",
        "'db_password' => 'Juli2032!',",
    ],
)
def test_a_password_that_may_be_a_word_is_left_by_who_redacts_and_told_by_who_scans(text: str) -> None:
    assert DEFAULT.text(text) == text
    [finding] = scan({"content": [{"type": "text", "text": text}]})
    assert (finding.where, finding.kind, finding.preview) == ("/content/0/text", "secret by its name", "…")


@pytest.mark.parametrize(
    "text",
    [
        "the password is correct",
        "password: required, at least eight characters",
        "token: string",
        "secret REDACTED-0123abcd",
        "password=REDACTED",
        "max_tokens 128000 of 4096k1",
        "tokens 1234567",
        "api_key: ${API_KEY_2}",
        "the year 2026-11-21T10",
    ],
)
def test_what_only_speaks_of_secrets_is_no_finding(text: str) -> None:
    assert list(scan({"content": [{"type": "text", "text": text}]})) == []


def test_the_name_of_a_resource_is_for_people_and_that_of_a_tool_to_call_it_by() -> None:
    redactor = Redactor(Redaction(env=["MY_TOKEN"]), {"MY_TOKEN": "lovelace"})
    name = f"{SHAPES['GitHub']} of lovelace"
    resources = {"resources": [{"uri": "x://y", "name": name}, {"uriTemplate": "x://{y}", "name": name}]}
    told = redactor.result("resources/list", resources)["resources"]
    link = redactor.result("tools/call", {"content": [{"type": "resource_link", "uri": "x://y", "name": name}]})
    for one in (*told, *link["content"]):
        assert re.fullmatch("REDACTED-[0-9a-f]{8} of REDACTED-MY_TOKEN", one["name"])
    tool = redactor.result("tools/list", {"tools": [{"name": name, "inputSchema": {}}]})
    assert tool["tools"][0]["name"] == f"{SHAPES['GitHub']} of REDACTED-MY_TOKEN"
    assert redactor.params("tools/call", {"name": name}) == {"name": tool["tools"][0]["name"]}


# What users add.


def test_a_variable_that_is_named_replays_with_another_value() -> None:
    redaction = Redaction(env=("MY_TOKEN", "UNSET", "SHORT"))
    mine = Redactor(redaction, {"MY_TOKEN": RANDOM, "SHORT": "12345", "OTHER": "lovelace"})
    theirs = Redactor(redaction, {"MY_TOKEN": "dummy-value", "UNSET": ""})
    assert mine.too_short == ("SHORT",)
    assert theirs.too_short == ()
    for written in ("{}", "Bearer {}", "https://x.example/?token={}&x", "say {} twice {}", '{{"token":"{}"}}'):
        for key in ("text", "token"):
            found = redacted(mine, **{key: written.replace("{}", RANDOM)})
            assert found == redacted(theirs, **{key: written.replace("{}", "dummy-value")})
    assert redacted(mine, token=RANDOM) == {"token": "REDACTED-MY_TOKEN"}
    assert redacted(mine, text="12345 lovelace") == {"text": "12345 lovelace"}


def test_variables_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "ada lovelace")
    redactor = Redactor(Redaction(env=["MY_TOKEN"]))
    monkeypatch.setenv("MY_TOKEN", "something else")
    assert redactor.text("I am ada lovelace, at https://x.example/ada%20lovelace") == (
        "I am REDACTED-MY_TOKEN, at https://x.example/REDACTED-MY_TOKEN"
    )


def test_the_value_of_a_variable_is_taken_out_of_what_is_passed_on_unread() -> None:
    redactor = Redactor(Redaction(env=["A", "B", "C"]), {"A": "lovelace", "B": "REDACTED", "C": "ED-C-x"})
    blob = base64.b64encode(b"\x00I am lovelace").decode()
    contents = [
        {"uri": "x://y", "blob": blob},
        {"uri": "x://y", "blob": "lovelace"},
        {"uri": "x://y", "blob": "not base64!"},
    ]
    first, second, third = redactor.result("resources/read", {"contents": contents})["contents"]
    assert base64.b64decode(first["blob"]) == b"\x00I am REDACTED-A"
    assert second["blob"] == "REDACTED"
    assert third is contents[2]
    harmless = {"contents": [{"blob": base64.b64encode(b"REDACTED harmless").decode()}]}
    assert redactor.result("resources/read", harmless) is harmless
    assert redactor.params("tools/list", {"cursor": "at-lovelace"}) == {"cursor": "at-REDACTED-A"}


def test_a_value_that_is_part_of_its_own_placeholder_does_not_grow() -> None:
    redactor = Redactor(Redaction(env=["MY_TOKEN"]), {"MY_TOKEN": "MY_TOKEN"})
    assert redactor.text("MY_TOKEN") == "REDACTED-MY_TOKEN"
    once = redactor.result("resources/read", {"contents": [{"blob": base64.b64encode(b"MY_TOKEN").decode()}]})
    assert base64.b64decode(once["contents"][0]["blob"]) == b"REDACTED"


def test_users_add_names_of_keys() -> None:
    redactor = Redactor(Redaction(keys=["Corp-Id", "name"]))
    assert redacted(redactor, corpId="ada", corp_id=["ada"], CORPID=5, name="ada") == {
        "corpId": "RED",
        "corp_id": ["RED"],
        "CORPID": 5,
        "name": "RED",
    }
    assert redactor.text('{"corp id": "ada"} and ?corp_id=ada') == '{"corp id": "RED"} and ?corp_id=RED'
    alone = Redactor(Redaction(keys=["corp_id"], defaults=False))
    assert alone.text("?corp_id=ada&token=lovelace") == "?corp_id=RED&token=lovelace"
    assert redacted(alone, token="lovelace", text=SHAPES["GitHub"]) == {"token": "lovelace", "text": SHAPES["GitHub"]}


def test_users_add_patterns() -> None:
    redactor = Redactor(
        Redaction(patterns=[r"ACME-\d+", re.compile(r"id=(?:(\d{4,})|(\w+))"), "x*", r"\d{4}"], defaults=False)
    )
    assert redactor.text("ACME-123456 id=12345678; id=ada-lovelace") == "REDACTED id=REDACTED; id=RED-lovelace"
    assert redactor.text("REDACTED-12345678") == "REDACTED-12345678"
    assert redactor.text("token=lovelace") == "token=lovelace"
    assert redacted(redactor, a='{"y": "ACME-123456"}') == {"a": '{"y": "REDACTED"}'}
    assert "ACME" not in repr(redactor.redaction)


def test_patterns_that_never_come_to_rest_end() -> None:
    redactor = Redactor(Redaction(patterns=["a(?=.*b)", "D(?!$)"], defaults=False))
    assert "a" not in redactor.text("aaaaab")
    growing = Redactor(Redaction(function=lambda value, where: None if where.count("/") < 3 else value + "x"))
    assert redacted(growing, a='["b"]')["a"].startswith('["bx')


def test_users_say_what_is_not_secret() -> None:
    redactor = Redactor(
        Redaction(allow=["api-key", "/arguments/list/1", "/arguments/a~1b", "/arguments/json/token"], env=["A"]),
        {"A": "lovelace"},
    )
    assert redacted(
        redactor,
        apiKey=SHAPES["OpenAI"],
        secret={"api_key": ["x"]},
        token="x",
        json='{"token": "x", "secret": "x"}',
        **{"list": [{"token": "x"}, {"token": "x lovelace"}], "a/b": SHAPES["GitHub"]},
    ) == {
        "apiKey": SHAPES["OpenAI"],
        "secret": {"api_key": ["x"]},
        "token": "R",
        "json": '{"token": "x", "secret": "R"}',
        "list": [{"token": "R"}, {"token": "x REDACTED-A"}],
        "a/b": SHAPES["GitHub"],
    }


def test_what_is_secret_by_either_of_two_is_secret_by_both_together() -> None:
    def cities(value: str, where: str) -> str | None:
        return "a city" if value in ("Oslo", "Bergen") else None

    def harbours(value: str, where: str) -> str | None:
        return "a harbour" if value in ("Bergen", "Rotterdam") else None

    one = Redaction(keys=["a"], patterns=[r"A-\d+"], env=["A"], defaults=False, function=cities)
    other = Redaction(keys=["b"], allow=["token"], function=harbours)
    redactor = Redactor(one | other, {"A": "lovelace"})
    said = {"a": "x", "b": "x", "c": "A-1 of lovelace", "token": "x", "password": "x"}
    assert redacted(redactor, **said) == {
        "a": "R",
        "b": "R",
        "password": "R",
        "token": "x",
        "c": "RED of REDACTED-A",
    }
    assert redacted(redactor, x=["Oslo", "Bergen", "Rotterdam", "Rome"]) == {
        "x": ["a city", "a harbour", "a harbour", "Rome"]
    }
    for together in (one | Redaction(), Redaction() | one):
        assert (together.function, together.defaults) == (cities, True)


def test_users_decide_by_a_function() -> None:
    seen: list[tuple[str, str]] = []

    def decide(value: str, where: str) -> str | None:
        seen.append((value, where))
        return {"/arguments/city": "Somewhere", "/arguments/json/0": "Nowhere", "/arguments/token": value}.get(where)

    redactor = Redactor(Redaction(function=decide, env=["A"]), {"A": "lovelace"})
    assert redacted(redactor, city="Oslo lovelace", token="x", pin="y", password="z", json='["a", "b"]') == {
        "city": "Somewhere",
        "token": "x",
        "pin": "y",
        "password": "R",
        "json": '["Nowhere", "b"]',
    }
    assert seen[:2] == [("Oslo REDACTED-A", "/arguments/city"), ("x", "/arguments/token")]
    assert ("b", "/arguments/json/1") in seen
    seen.clear()
    redactor.text("x")
    assert seen == [("x", "")]


def test_what_a_function_raises_comes_out() -> None:
    def fail(value: str, where: str) -> str:
        raise LookupError(where)

    with pytest.raises(LookupError, match="/arguments/a"):
        redacted(Redactor(Redaction(function=fail)), a="x")
    with pytest.raises(InterceptError, match=r"returns a string or None, not int \(for '/arguments/a'\)"):
        redacted(Redactor(Redaction(function=lambda value, where: 5)), a="x")  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "token"}, "keys takes a list or tuple, not 'token'"),
        ({"patterns": "x"}, "patterns takes a list or tuple, not 'x'"),
        ({"env": {"A": "b"}}, "env takes a list or tuple"),
        ({"allow": None}, "allow takes a list or tuple, not None"),
        ({"keys": [5]}, "keys takes names as strings that are not empty, not 5"),
        ({"keys": ["_-"]}, "keys has '_-', a name without a letter or digit"),
        ({"env": [""]}, "env takes names as strings that are not empty, not ''"),
        ({"patterns": ["("]}, r"patterns has '\(', no regular expression: "),
        ({"patterns": [5]}, "patterns has 5, no regular expression: "),
        ({"patterns": [re.compile(b"x")]}, r"patterns has re.compile\(b'x'\), which is for bytes"),
        ({"function": "f"}, "function is called with .*'f' cannot be"),
        ({"defaults": 1}, "defaults is True or False, not 1"),
    ],
)
def test_options_are_judged_when_they_are_given(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InterceptError, match=f"redaction: {message}"):
        Redaction(**options)


def test_a_redaction_is_a_value_that_shows_no_secret() -> None:
    redaction = Redaction(keys=["a"], env=["PATH"])
    assert redaction == Redaction(keys=("a",), env=("PATH",))
    assert hash(redaction) == hash(Redaction(keys=("a",), env=("PATH",)))
    assert Redactor(redaction, {"PATH": "lovelace"}).redaction is redaction
    assert "lovelace" not in repr(redaction) + repr(Redactor(redaction, {"PATH": "lovelace"}))


# Cost.


def hostile(size: int) -> Iterator[str]:
    """Texts that make careless expressions go back and forth."""
    for part in (
        "eyJ",
        "eyJaaaaaaaa.",
        "sk-",
        "://",
        "://a:b",
        "://a@",
        '"',
        '"a":"',
        '"token":"\\"',
        "?token=",
        "bearer ",
    ):
        yield part * (size // len(part))
    for part in (
        "-----BEGIN PRIVATE KEY-----!",
        "authorization:",
        "token-",
        "SG.aaaaaaaaaaaaaaaa.",
        "8Q~",
        "\n",
        "cookie: a=b ",
    ):
        yield part * (size // len(part)) + "=key:"
    for part in ("REDACTED-", "A", "[", "1", " ", "{\\u0061", "'token' : '", "basic aaaaaaa:", "\\", "export "):
        yield "token=" + part * (size // len(part)) + ":AA="
    yield "://" + "a:" * (size // 2) + "@ token"
    yield "{" + '"token":"x",' * (size // 12) + '"a":1}'
    yield "[" + '{"token":"x"},' * (size // 14) + "1]"


def test_no_text_takes_more_than_its_length_allows() -> None:
    def cost(text: str) -> float:
        redactor = Redactor(Redaction(patterns=["[0-9a-f]{8}"], env=["A"]), {"A": "REDACTED-lovelace"})
        begin = time.process_time()
        redactor.text(text)
        return time.process_time() - begin

    for short, long in zip(hostile(20_000), hostile(320_000), strict=True):
        # Sixteen times as much; what is quadratic takes 256 times as long.
        assert cost(long) < 80 * max(cost(short), 0.005), long[:40]


def test_names_of_keys_are_remembered_only_so_many() -> None:
    redactor = Redactor(Redaction())
    for index in range(5000):
        redacted(redactor, **{f"token_{index}_": "x", f"k{index}": "x"})
    redacted(redactor, **{"token" * 100: "x"})
    assert len(redactor._verdicts) <= 4096
    assert redacted(redactor, token_9999_="lovelace") == {"token_9999_": "REDACTED"}


# What got through.


def test_a_scan_finds_what_would_be_taken_out_and_where() -> None:
    line = {
        "n": 3,
        "server": "x",
        "request": "tools/call",
        "params": call(**{"api_key": RANDOM, "a/b": [SHAPES["GitHub"]], "pin": 5, "otp": 181500, "password": "short"}),
    }
    findings = list(scan(line))
    assert [(finding.where, finding.kind, finding.preview) for finding in findings] == [
        ("/params/arguments/otp", "number under a secret name", "…"),
        ("/params/arguments/api_key", "key name", "aB3d…"),
        ("/params/arguments/a~1b/0", "GitHub token", "ghp_…"),
        ("/params/arguments/password", "key name", "…"),
    ]
    assert not SECRETS.search(repr(findings))
    assert findings[0] == Finding("/params/arguments/otp", "number under a secret name")


@pytest.mark.parametrize("text", SHAPES.values(), ids=SHAPES)
def test_a_scan_finds_every_kind_and_nothing_in_what_was_redacted(text: str) -> None:
    result = {"content": [{"type": "text", "text": text}]}
    found = list(scan({"n": 1, "result": result}))
    assert found
    assert found[0].where.startswith("/result/content/0/text")
    assert list(scan({"n": 1, "result": DEFAULT.result("tools/call", result)})) == []


def test_a_scan_finds_what_looks_random() -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    value = {"a": digest, "b": f"see {RANDOM}x=", "json": json.dumps({"c": digest}), "d": [digest.upper()]}
    assert [(finding.where, finding.kind) for finding in scan(value)] == [
        ("/a", "high entropy"),
        ("/b", "high entropy"),
        ("/json/c", "high entropy"),
        ("/d/0", "high entropy"),
    ]
    harmless = [
        *("0f8fad5b-d9cb-469f-a165-70867728950e", "a" * 40, "1" * 40, "0123456789" * 4, "REDACTED-0123abcd"),
        *("some/long/path/to/a/file/of/ours/with/a/name", "SOME_LONG_NAME_OF_A_CONSTANT_OF_OURS_1815"),
    ]
    assert list(scan({"x": harmless})) == []
    assert list(scan({"contents": [{"blob": RANDOM}], "cursor": RANDOM, "data": RANDOM, "mimeType": "x"})) == []


def test_a_scan_looks_at_the_names_of_keys_and_uses_what_a_user_added() -> None:
    assert [finding.where for finding in scan({"x": {SHAPES["GitHub"]: 1}})] == ["/x"]
    redactor = Redactor(
        Redaction(env=["A"], patterns=[r"ACME-\d+"], function=lambda value, where: None), {"A": "lovelace"}
    )
    assert [finding.kind for finding in scan({"x": ["lovelace", "ACME-1"]}, redactor)] == ["environment", "pattern"]
    changing = Redactor(Redaction(function=lambda value, where: "y"))
    assert [finding.kind for finding in scan({"x": ["x", "y"], "blob": "x"}, changing)] == ["function"]


# --- What was a secret elsewhere -------------------------------------------------------------------------------------


def test_one_that_learns_finds_what_was_a_secret_before_or_beside_it() -> None:
    redactor = Redactor(Redaction(), {}, learns=True)
    said = {"message": "at-123456789abc is out of date", "code": 1, "data": {"token": "at-123456789abc"}}
    assert redactor.error(said) == {"message": "REDACTED is out of date", "code": 1, "data": {"token": "REDACTED"}}
    # The longer one is no shorter one with something behind it.
    longer = {"token": "at-123456789abc-again"}
    alone = Redactor(Redaction(), {}).params("x", longer)
    assert alone is not None
    assert alone["token"].startswith("REDACTED-")
    assert redactor.params("x", longer) == alone
    repeated = redactor.params("x", {"a": "at-123456789abc-again", "b": "at-123456789abc"})
    assert repeated == {"a": alone["token"], "b": "REDACTED"}


@pytest.mark.parametrize("value", ["20261121", "2026-11-21", "sunflower", "short1"])
def test_what_stands_in_many_places_is_not_learned(value: str) -> None:
    redactor = Redactor(Redaction(), {}, learns=True)
    redactor.params("x", {"password": value})
    assert redactor.result("x", {"text": f"at {value}"}) == {"text": f"at {value}"}


def test_it_looks_for_the_latest_and_leaves_what_is_encoded() -> None:
    redactor = Redactor(Redaction(), {}, learns=True)
    for number in range(65):
        redactor.params("x", {"token": f"at-{number:09}"})
    blob = {"mimeType": "a/b", "data": "at000000064"}
    assert redactor.params("x", {"first": "at-000000000", "last": "at-000000064"}) == {
        "first": "at-000000000",
        "last": "REDACTED",
    }
    redactor.params("x", {"token": "at000000064"})
    assert redactor.result("x", blob) == blob
