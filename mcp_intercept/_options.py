"""What several entrances share: how options are judged, and how a scope decorates a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeVar, cast

from mcp_intercept._chain import describe
from mcp_intercept.errors import InterceptError

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def check_choice(option: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse a value that is none of those allowed.

    Raises:
        InterceptError: It is not.
    """
    # 1 is no True here.
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        choices = " or ".join(repr(choice) for choice in allowed)
        raise InterceptError(f"{option} must be {choices}, not {value!r}")


def check_seconds(option: str, value: object, also: str = "") -> None:
    """Refuse a value that is no number of seconds.

    Args:
        option: Its name.
        value: It.
        also: What else it may be.

    Raises:
        InterceptError: It is none.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InterceptError(f"{option} must be seconds{also}, not an object of type {type(value).__name__}")
    if not value >= 0:
        raise InterceptError(f"{option} must be seconds{also}, not {value}")


def inside(scope: Callable[[], AbstractContextManager[Any]], example: str, function: FunctionT) -> FunctionT:
    """`function`, async or not, run inside a scope that is made for each call.

    Args:
        scope: Makes it.
        example: How to write it in the place of a decorator.
        function: The function.

    Raises:
        InterceptError: It is a generator, which stops in the middle.
    """
    if not callable(function) or isinstance(function, type):  # pyright: ignore[reportUnnecessaryIsInstance, reportUnnecessaryComparison]
        raise InterceptError(f"this decorates functions, not {describe(function)}; write `with {example}:` instead")
    if isasyncgenfunction(function) or isgeneratorfunction(function):
        raise InterceptError(f"{describe(function)} is a generator; write `with {example}:` inside it instead")

    @wraps(function)
    async def in_scope_async(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return await function(*args, **kwargs)

    @wraps(function)
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return function(*args, **kwargs)

    return cast("FunctionT", in_scope_async if iscoroutinefunction(function) else in_scope)
