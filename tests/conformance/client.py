"""The client that the conformance suite runs: lists the tools of its server, and calls each of them.

    MCP_CONFORMANCE_SCENARIO=tools_call python tests/conformance/client.py [--layers 3] [--loop trio] URL

The suite tells the scenario, and what a user would know beforehand, in environment variables. With `--layers`, every
session of this process is intercepted by that many layers that pass everything on; without, the package is not even
imported. What the client sends and sees goes to standard output, what the layers met to standard error, see
`tests.conformance.compare`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import anyio
import mcp.types as types
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

LINE_1 = isinstance(types.ClientRequest, type)
if TYPE_CHECKING or not LINE_1:
    import httpx2 as httpx
    from mcp.client.client import Client
    from mcp.shared.auth import AuthorizationCodeResult
else:
    import httpx

SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
VERSION = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25")
TOLD: Mapping[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
"""What the suite tells this scenario: credentials, or the calls to make."""

# The suite compares this URL, which nobody ever opens.
CLIENT_ID_DOCUMENT = "https://conformance-test.local/client-metadata.json"
REDIRECT_URL = "http://localhost:3000/callback"

LAYERS_MET = "layers met: "
"""Begins the line on standard error that tells the methods each layer met."""

EXAMPLES: Mapping[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 2.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def saw(what: str, value: Any) -> None:
    """Write down what a user of the SDK gets to see."""
    if isinstance(value, BaseException):
        value = {"raised": repr(value)}
    else:
        value = value.model_dump(mode="json", by_alias=True)
    print("saw", what, json.dumps(value), flush=True)


async def sends(request: httpx.Request) -> None:
    """Write down what goes over the wire, as far as it is MCP: the rest of OAuth's is never twice the same."""
    headers = {name: value for name, value in request.headers.items() if name.startswith(("mcp-", "last-event-id"))}
    is_json = request.headers.get("content-type") == "application/json"
    body = request.content.decode() if is_json else ""
    print("sent", request.method, request.url.copy_with(query=None), json.dumps(headers), body, flush=True)


def example(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each property of an object: its default, or any of its type."""
    return {
        name: rules.get("default", EXAMPLES.get(rules.get("type"), "text"))
        for name, rules in schema.get("properties", {}).items()
    }


async def elicit(context: Any, params: Any) -> types.ElicitResult:
    saw("elicitation/create", params)
    asked = params.model_dump(by_alias=True).get("requestedSchema", {})
    return types.ElicitResult(action="accept", content=example(asked))


async def sample(context: Any, params: Any) -> types.CreateMessageResult:
    saw("sampling/createMessage", params)
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="sampled"), model="none"
    )


async def list_roots(context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[])


class Memory:
    """A `TokenStorage` that ends with the process."""

    def __init__(self) -> None:
        self._tokens: OAuthToken | None = None
        self._client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._client = client_info


class User:
    """Opens the page of the authorization server, where the suite agrees at once and sends the user back."""

    def __init__(self) -> None:
        self._returned: dict[str, str] = {}

    async def open(self, url: str) -> None:
        async with httpx.AsyncClient() as browser:
            page = await browser.get(url)
        query = parse_qs(urlsplit(page.headers["location"]).query)
        self._returned = {name: values[0] for name, values in query.items()}

    async def come_back(self) -> Any:
        code, state = self._returned["code"], self._returned.get("state")
        return (
            (code, state) if LINE_1 else AuthorizationCodeResult(code=code, state=state, iss=self._returned.get("iss"))
        )


async def with_user(url: str) -> httpx.Auth:
    """The authorization code flow, for a client that is registered already if the suite tells its id."""
    storage = Memory()
    if "client_id" in TOLD:
        known = {"redirect_uris": [REDIRECT_URL], "token_endpoint_auth_method": "client_secret_basic", **TOLD}
        await storage.set_client_info(OAuthClientInformationFull.model_validate(known))
    metadata = OAuthClientMetadata.model_validate({"client_name": "conformance", "redirect_uris": [REDIRECT_URL]})
    user = User()
    return OAuthClientProvider(
        server_url=url,
        client_metadata=metadata,
        storage=storage,
        redirect_handler=user.open,
        callback_handler=user.come_back,
        client_metadata_url=CLIENT_ID_DOCUMENT,
    )


async def with_secret(url: str) -> httpx.Auth:
    return ClientCredentialsOAuthProvider(url, Memory(), TOLD["client_id"], TOLD["client_secret"])


async def with_key(url: str) -> httpx.Auth:
    signed = SignedJWTParameters(
        issuer=TOLD["client_id"],
        subject=TOLD["client_id"],
        signing_algorithm=TOLD["signing_algorithm"],
        signing_key=TOLD["private_key_pem"],
    )
    return PrivateKeyJWTOAuthProvider(url, Memory(), TOLD["client_id"], signed.create_assertion_provider())


async def with_identity(url: str) -> httpx.Auth:
    """What the enterprise's identity provider vouches for; line 1 does not know of it."""
    from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider

    async def vouch(audience: str, resource: str) -> str:
        kind = "urn:ietf:params:oauth:{}".format
        form = {
            "grant_type": kind("grant-type:token-exchange"),
            "requested_token_type": kind("token-type:id-jag"),
            "subject_token": TOLD["idp_id_token"],
            "subject_token_type": kind("token-type:id_token"),
            "client_id": TOLD["idp_client_id"],
            "audience": audience,
            "resource": resource,
        }
        async with httpx.AsyncClient() as http:
            answer = await http.post(TOLD["idp_token_endpoint"], data=form)
        token: str = answer.json()["access_token"]
        return token

    # A user knows the issuer; the suite does not tell it, but its server does.
    server = urlsplit(url)
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://{server.netloc}/.well-known/oauth-protected-resource{server.path}")
    return IdentityAssertionOAuthProvider(
        url,
        Memory(),
        TOLD["client_id"],
        TOLD["client_secret"],
        answer.json()["authorization_servers"][0],
        vouch,
        token_endpoint_auth_method="client_secret_basic",
    )


AUTHORIZATIONS = {
    "auth/client-credentials-basic": with_secret,
    "auth/client-credentials-jwt": with_key,
    "auth/enterprise-managed-authorization": with_user if LINE_1 else with_identity,
}


async def authorization(url: str) -> httpx.Auth | None:
    return await AUTHORIZATIONS.get(SCENARIO, with_user)(url) if SCENARIO.startswith("auth/") else None


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[tuple[Any, Any], None]:
    """The SDK's own client, `Client` on line 2, a session on line 1, which has no other; and what the server can."""
    callbacks: dict[str, Any] = {
        "sampling_callback": sample,
        "elicitation_callback": elicit,
        "list_roots_callback": list_roots,
    }
    async with httpx.AsyncClient(
        auth=await authorization(url), follow_redirects=True, timeout=30, event_hooks={"request": [sends]}
    ) as http:
        streams = streamable_http_client(url, http_client=http)
        if LINE_1:
            async with streams as (read, write, *_), ClientSession(read, write, **callbacks) as session:
                yield session, (await session.initialize()).capabilities
        else:
            # The server of one scenario knows nothing but the handshake, whatever version the suite claims to speak.
            handshake = VERSION < "2026" or SCENARIO == "json-schema-ref-no-deref"
            async with Client(streams, mode="legacy" if handshake else "auto", **callbacks) as client:
                yield client, client.server_capabilities


def calls_to_make(tools: list[types.Tool]) -> list[tuple[str, dict[str, Any]]]:
    schemas = {tool.name: tool.model_dump(by_alias=True)["inputSchema"] for tool in tools}
    if "toolCalls" in TOLD:
        return [(call["name"], call["arguments"]) for call in TOLD["toolCalls"] if call["name"] in schemas]
    if SCENARIO == "json-schema-2020-12-preservation":
        return [("json_schema_echo", {"schema": schemas["json_schema_2020_12_tool"]})]
    return [(name, example(schema)) for name, schema in schemas.items()]


async def call(client: Any, name: str, arguments: dict[str, Any]) -> None:
    try:
        saw(name, await client.call_tool(name, arguments))
    except Exception as error:
        saw(name, error)  # and go on: what a client does after a failure is what several scenarios look at


async def visit(url: str) -> None:
    """Use everything that the server offers, once."""
    async with connected(url) as (client, offered):
        listed = await client.list_tools()
        saw("tools/list", listed)
        for name, arguments in calls_to_make(listed.tools):
            await call(client, name, arguments)
        if offered.resources:
            for resource in (await client.list_resources()).resources:
                saw(str(resource.uri), await client.read_resource(resource.uri))
        if offered.prompts:
            for prompt in (await client.list_prompts()).prompts:
                saw(prompt.name, await client.get_prompt(prompt.name))


@contextmanager
def intercepted(count: int) -> Generator[None, None, None]:
    """Stand `count` layers that change nothing round every session, and tell what they met."""
    from mcp_intercept import Middleware, intercept_all

    class Everything(Middleware):
        def __init__(self, met: list[str]) -> None:
            self.met = met

        async def on_message(self, context: Any, call_next: Any) -> Any:
            self.met.append(context.method)
            return await call_next(context)

    class EachKind(Middleware):
        def __init__(self, met: list[str]) -> None:
            self.met = met

        async def on_request(self, context: Any, call_next: Any) -> Any:
            self.met.append(context.method)
            return await call_next(context)

        async def on_notification(self, context: Any, call_next: Any) -> Any:
            self.met.append(context.method)
            return await call_next(context)

    def function(met: list[str]) -> Any:
        async def layer(context: Any, call_next: Any) -> Any:
            met.append(context.method)
            return await call_next(context)

        return layer

    kinds: list[Callable[[list[str]], Any]] = [function, Everything, EachKind]
    met: list[list[str]] = [[] for _ in range(count)]
    try:
        with intercept_all(*(kinds[index % len(kinds)](methods) for index, methods in enumerate(met))):
            yield
    finally:
        print(f"\n{LAYERS_MET}{json.dumps(met)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("url")
    options = parser.parse_args()
    try:
        with intercepted(options.layers) if options.layers else nullcontext():
            anyio.run(visit, options.url, backend=options.loop)
    except Exception as error:
        saw("at the end", error)
        raise


if __name__ == "__main__":
    main()
