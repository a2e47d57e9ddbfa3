"""Exception groups, which task groups make of what is raised, and the exceptions inside them."""

from __future__ import annotations

import logging

logger = logging.getLogger("mcp_intercept")


def inside(error: BaseException | None) -> tuple[BaseException, ...]:
    """What is in a group; nothing where there is none."""
    exceptions: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return exceptions


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group and the groups inside it, or the one that is none."""
    return [leaf for one in inside(error) for leaf in leaves(one)] or [error]


def raise_ungrouped(error: BaseException, body_error: BaseException | None) -> None:
    """Raise what left the body, else the one exception inside the groups that the transports made of it.

    Args:
        error: What left the transports.
        body_error: What left the body inside them.
    """
    original = error
    # Trio may have rebuilt a group that the body raised, around the same exceptions.
    body_group = inside(body_error)
    while len(inside(original)) == 1 and original is not body_error and inside(original) != body_group:
        original = inside(original)[0]
    if isinstance(body_error, Exception):
        if original is not body_error:
            logger.debug("the connection failed as well while it closed: %s", [type(e).__name__ for e in leaves(error)])
        original = body_error
    context = original.__context__
    try:
        raise original
    finally:
        # Raising it here would chain it to the group it came in.
        original.__context__ = context
        del error, original, body_error
