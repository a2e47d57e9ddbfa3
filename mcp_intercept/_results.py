"""Whether what a middleware returned is a result of the type that the caller waits for."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError


def admit_result(result_type: Any, value: Any) -> Any:
    """Return `value`, or the result that a wire dict describes.

    Args:
        result_type: A pydantic model, or a `TypeAdapter` where several models are possible.
        value: What a middleware returned.

    Raises:
        ValueError: It is no such result; the text reads on from the middleware's name.
    """
    if value is None:
        raise ValueError("returned None; write `return await call_next(context)`, or return a result")
    is_adapter = bool(isinstance(result_type, TypeAdapter))
    if not is_adapter:
        if isinstance(value, result_type):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"returned an object of type {type(value).__name__}, not {_name(result_type)}")
    try:
        validate = result_type.validate_python if is_adapter else result_type.model_validate
        return validate(value)
    except ValidationError as error:
        # Without the input, which may hold secrets; the cause has it.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top"
        noun = "a dict" if isinstance(value, dict) else f"an object of type {type(value).__name__}"
        complaint = f"returned {noun} that is no {_name(result_type)}: at {where}: {first['msg']}"
        raise ValueError(complaint) from error


def _name(result_type: Any) -> str:
    return getattr(result_type, "__name__", None) or "result of this method"
