"""`compare`: which changes of what a server offers break those who know it as it was.

Seen from an agent that goes on calling with what it has learned: it may ask for everything that was there, send
everything that was accepted, and read everything that was promised. So what a tool takes may only grow, and what it
gives may only shrink. A change is compatible if that can be shown, and breaking if not.

One thing is assumed that JSON Schema does not say: where an object names its properties, and says nothing of others,
no others are sent. Else no property could ever be added, since somebody might have sent its name with another type.

Below: `surface.py` says what there is, and `containment.py` what of one JSON Schema another does not accept. How
changes are shown, and what is to fail because of them, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from mcp_intercept._context import printable
from mcp_intercept.recording.containment import Containment, Reason, notes_that_differ, was_is
from mcp_intercept.recording.matching import shown
from mcp_intercept.recording.schemas import SchemaDocument, TooLargeError
from mcp_intercept.recording.surface import Entries, Surface
from mcp_intercept.recording.values import ABSENT, Json, as_array, as_object, canonical, pointer_to

Kind: TypeAlias = Literal["breaking", "compatible"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A difference between two surfaces."""

    kind: Kind
    """Whether an agent that knows the old one may fail on the new one."""
    subject: str
    """What has changed: `tool forecast`, `prompt greet`, `resource memo://1`, `resource template memo://{id}`,
    `capability tools`, `server`."""
    pointer: str
    """Where in the subject, as a JSON pointer (RFC 6901); empty for all of it."""
    detail: str
    """What has happened, in a sentence."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.subject}{self.pointer and f' at {self.pointer}'}: {self.detail}"


def compare(old: Surface, new: Surface) -> list[Change]:
    """What has changed from one surface to the other.

    - Gone tools, prompts, resources and capabilities are breaking, added ones compatible.
    - Of schemas, what a tool takes may accept more, and what it gives may be less; what cannot be shown to be so is
      breaking. A named property of an output that is gone is breaking even if it was optional.
    - Hints of tools that turn to the less safe side (`readOnlyHint` no longer true, `destructiveHint` no longer false,
      ...) are breaking, since agents decide by them what to call without asking.
    - What is only shown or told (titles, descriptions, icons, versions, instructions) is compatible, and so are the
      defaults and examples of schemas, which accept and refuse nothing.
    - What was not listed on both sides is not compared, and a compatible change says so.

    Returns:
        The changes, by subject: the server, its capabilities, tools, prompts, resources and templates, each by name.
    """
    changes = [
        *_bounded("server", _server(old, new)),
        *_capabilities(old, new),
        *_entries("tool", "tools", old.tools, new.tools, _tool),
        *_entries("prompt", "prompts", old.prompts, new.prompts, _prompt),
        *_entries("resource", "resources", old.resources, new.resources, _resource),
        *_entries("resource template", "resource templates", old.templates, new.templates, _resource),
    ]
    return list(dict.fromkeys(changes))


def _server(old: Surface, new: Surface) -> Iterator[Change]:
    if old.protocol_version != new.protocol_version:
        was, now = (printable(surface.protocol_version or "unknown") for surface in (old, new))
        detail = f"the protocol was {was}, is {now}; the SDK settles which to speak"
        yield _change("compatible", "server", "/protocolVersion", detail)
    for key, before, after in _differing(old.server_info or {}, new.server_info or {}):
        yield _change("compatible", "server", pointer_to("/serverInfo", key), was_is(key, before, after))
    if old.instructions != new.instructions:
        yield _change("compatible", "server", "/instructions", "its instructions have changed")


def _capabilities(old: Surface, new: Surface) -> Iterator[Change]:
    if old.capabilities is None or new.capabilities is None:
        yield from _not_compared("capabilities", old.capabilities, new.capabilities)
        return
    for name in sorted({*old.capabilities, *new.capabilities}):
        subject = f"capability {printable(name)}"
        before, after = old.capabilities.get(name), new.capabilities.get(name)
        if name == "experimental" and not before and not after:
            continue  # servers of SDK 1.x say that they have none
        if before is not None and after is None:
            yield _change("breaking", subject, "", "it is gone")
        elif before is None and after is not None:
            yield _change("compatible", subject, "", "it is new")
        else:
            yield from _bounded(subject, _flags(subject, "", before, after))


def _flags(subject: str, pointer: str, old: Any, new: Any) -> Iterator[Change]:
    """What a capability says in detail: to say less is breaking, to say more or something else is not."""
    before, after = as_object(old), as_object(new)
    if before is not None and after is not None:
        for key in sorted({*before, *after}):
            yield from _flags(subject, pointer_to(pointer, key), before.get(key), after.get(key))
    elif canonical(None if old is False else old) != canonical(None if new is False else new):
        kind: Kind = "breaking" if new is None or new is False else "compatible"
        yield _change(kind, subject, pointer, was_is("it", _or_absent(old), _or_absent(new)))


def _entries(
    noun: str,
    part: str,
    old: Entries | None,
    new: Entries | None,
    differ: Callable[[str, dict[str, Any], dict[str, Any]], Iterator[Change]],
) -> Iterator[Change]:
    if old is None or new is None:
        yield from _not_compared(part, old, new)
        return
    for name in sorted({*old, *new}):
        subject = f"{noun} {printable(name)}"
        if name not in new:
            yield _change("breaking", subject, "", "it is gone")
        elif name not in old:
            yield _change("compatible", subject, "", "it is new")
        else:
            yield from _bounded(subject, differ(subject, old[name], new[name]))


def _bounded(subject: str, changes: Iterator[Change]) -> Iterator[Change]:
    try:
        yield from changes
    except (RecursionError, ValueError):
        yield _change("breaking", subject, "", "it is nested too deeply; it cannot be judged")


def _not_compared(part: str, old: object, new: object) -> Iterator[Change]:
    if old is not None or new is not None:
        side = "old" if old is None else "new"
        detail = f"{part} are not compared, since the {side} one has no full list of them"
        yield _change("compatible", "server", "", detail)


def _tool(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    yield from _schemas(subject, "/inputSchema", old.get("inputSchema", {}), new.get("inputSchema", {}), gives=False)
    before, after = old.get("outputSchema"), new.get("outputSchema")
    if before is None and after is not None:
        yield _change("compatible", subject, "/outputSchema", "it says now what it gives")
    elif before is not None and after is None:
        yield _change("breaking", subject, "/outputSchema", "it does not say any more what it gives")
    elif before is not None:
        yield from _schemas(subject, "/outputSchema", before, after, gives=True)
    yield from _hints(subject, as_object(old.get("annotations")) or {}, as_object(new.get("annotations")) or {})
    yield from _tasks(subject, old, new)
    yield from _others(subject, old, new, "inputSchema", "outputSchema", "annotations", "execution")


# The defaults of the specification (schema of `ToolAnnotations`), and which value is the safer one.
_HINTS: Final = {
    "readOnlyHint": (False, True),
    "destructiveHint": (True, False),
    "idempotentHint": (False, True),
    "openWorldHint": (True, False),
}


def _hints(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    # What only reads destroys nothing, and may be repeated: there, these two mean nothing.
    meaningless = (
        {"destructiveHint", "idempotentHint"} if True in (old.get("readOnlyHint"), new.get("readOnlyHint")) else ()
    )
    for key in sorted({*old, *new}):
        default, safe = _HINTS.get(key, (None, None))
        before, after = old.get(key, default), new.get(key, default)
        if canonical(before) != canonical(after):
            worse = before is safe and safe is not None and key not in meaningless
            kind: Kind = "breaking" if worse else "compatible"
            yield _change(kind, subject, pointer_to("/annotations", key), was_is(key, before, after))


def _tasks(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = (
        str((as_object(tool.get("execution")) or {}).get("taskSupport", "forbidden")) for tool in (old, new)
    )
    if before != after:
        kind: Kind = "compatible" if after == "optional" else "breaking"
        yield _change(kind, subject, "/execution/taskSupport", was_is("to run it as a task", before, after))


def _prompt(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = _arguments(old), _arguments(new)
    for name in sorted({*before, *after}):
        pointer = pointer_to("/arguments", name)
        kind, detail = _argument(before.get(name), after.get(name))
        if detail:
            yield _change(kind, subject, pointer, f"{shown(name)}: {detail}")
        if name in before and name in after:
            yield from _others(subject, before[name], after[name], "required", pointer=pointer)
    yield from _others(subject, old, new, "arguments")


def _argument(old: dict[str, Any] | None, new: dict[str, Any] | None) -> tuple[Kind, str]:
    if new is None:
        return "breaking", "it is gone"
    required = new.get("required") is True
    if old is None:
        return ("breaking", "it is new, and required") if required else ("compatible", "it is new")
    if required != (old.get("required") is True):
        return ("breaking", "it is required now") if required else ("compatible", "it is not required any more")
    return "compatible", ""


def _arguments(prompt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    arguments = [as_object(argument) or {} for argument in as_array(prompt.get("arguments"))]
    return {str(argument["name"]): argument for argument in arguments if "name" in argument}


def _resource(subject: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    before, after = old.get("mimeType"), new.get("mimeType")
    if canonical(before) != canonical(after):
        # To say it for the first time, or no more, does not change what it is.
        kind: Kind = "compatible" if before is None or after is None else "breaking"
        yield _change(kind, subject, "/mimeType", was_is("its type", _or_absent(before), _or_absent(after)))
    yield from _others(subject, old, new, "mimeType")


def _others(subject: str, old: dict[str, Any], new: dict[str, Any], *done: str, pointer: str = "") -> Iterator[Change]:
    """All that is only shown or told."""
    left = ({key: value for key, value in entry.items() if key not in done} for entry in (old, new))
    for key, before, after in _differing(*left):
        yield _change("compatible", subject, pointer_to(pointer, key), was_is(key, before, after))


def _differing(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Json, Json]]:
    """The keys of two objects under which the values differ, each with both; `None` is as good as no key."""
    for key in sorted({*old, *new}):
        if canonical(old.get(key)) != canonical(new.get(key)):
            yield key, old.get(key, ABSENT), new.get(key, ABSENT)


def _or_absent(value: Json) -> Json:
    return ABSENT if value is None else value


def _change(kind: Kind, subject: str, pointer: str, detail: str) -> Change:
    return Change(kind=kind, subject=subject, pointer=pointer, detail=detail)


def _schemas(subject: str, pointer: str, old: Json, new: Json, *, gives: bool) -> Iterator[Change]:
    """What has changed from one schema to another.

    Args:
        subject: Of the changes.
        pointer: Where the schemas are.
        old: What is known to those who call.
        new: What holds now.
        gives: Whether it is about what the server gives, and not about what it takes.
    """
    if canonical(old) == canonical(new):
        return
    notes = notes_that_differ(SchemaDocument(old), SchemaDocument(new))
    found = [(Reason(where, detail), False) for where, detail in notes]
    try:
        if canonical(SchemaDocument(old).canonical(old)) != canonical(SchemaDocument(new).canonical(new)):
            same = Reason("", "it is written in another way, and accepts the same")
            found += _reasons(old, new, gives=gives) or [(same, False)]
    except TooLargeError:
        found.append((Reason("", "it has changed, and is too large; it cannot be judged"), True))
    broken = {reason.pointer for reason, breaks in found if breaks}
    found = found or [(Reason("", "it is described in another way, and means the same"), False)]
    for reason, breaks in sorted(found, key=lambda pair: (pair[0].pointer, not pair[1], pair[0].detail)):
        if breaks or reason.pointer not in broken:
            yield _change("breaking" if breaks else "compatible", subject, pointer + reason.pointer, reason.detail)


def _reasons(old: Json, new: Json, *, gives: bool) -> list[tuple[Reason, bool]]:
    """Why schemas do not accept the same, each with whether that breaks somebody.

    Raises:
        TooLargeError: It takes too long to find out.
    """
    narrowed, widened = (
        Containment(SchemaDocument(inner), SchemaDocument(outer), narrows=outer is new, names_all=not gives)
        for inner, outer in ((old, new), (new, old))
    )
    # What is named no more may not have been sent at all; but those who were promised it miss it.
    found = [(reason, reason.strict and not gives) for reason in narrowed.reasons()]
    return [*found, *((reason, gives) for reason in widened.reasons())]
