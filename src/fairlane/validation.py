"""Values from outside held against the types and ranges that a signature declares.

A signature says once what an option may be (core/options.py has the ranges):

    checked(drr, {"quantum": "500"})  ->  quantum must be a valid number, not '500'

Types are strict: 1 is a number, true and "1" are none. What a type has no description for, such as
a predictor, only a program can give: it is passed on as it is.
"""

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticSchemaGenerationError

from fairlane.core.errors import FairlaneError, UnknownNameError

_STRICT = ConfigDict(strict=True, extra="forbid")


class Table(BaseModel):
    """A table of a TOML file: its keys with their types and ranges, and no others."""

    model_config = _STRICT


T = TypeVar("T", bound=Table)


def parsed(shape: type[T], data: Mapping[str, Any]) -> T:
    """The table in `data`. Raises FairlaneError, one line that begins with the key's path."""
    try:
        return shape.model_validate(dict(data))
    except ValidationError as error:
        raise FairlaneError(_line(error)) from None


def options_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The type of each option that a signature names, those of an unpacked TypedDict too."""
    hints = get_type_hints(target, include_extras=True)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            for shared in get_args(hints.get(name)):
                found |= get_type_hints(shared, include_extras=True)
        else:
            found[name] = hints.get(name, Any)
    return found


def checked(
    target: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    names: Mapping[str, str] | None = None,
    what: str = "setting",
) -> dict[str, Any]:
    """The given options as `target` takes them; those that it needs are its own to ask for.

    names: what options are called outside, where some are called otherwise; no others are known
    then. Raises FairlaneError, one line that begins with the option's name; UnknownNameError for
    `what` has no such name.
    """
    model = _model(target, None if names is None else tuple(names.items()))
    for name in given:
        if name not in _outside(model):
            raise UnknownNameError(what, name, _outside(model))
    try:
        found = model.model_validate(dict(given))
    except ValidationError as error:
        raise FairlaneError(_line(error)) from None
    return {name: getattr(found, name) for name in found.model_fields_set}


def _outside(model: type[BaseModel]) -> Iterable[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


@cache
def _model(target: Callable[..., Any], names: tuple[tuple[str, str], ...] | None) -> Any:
    options = options_of(target)
    outside = dict(names) if names is not None else {name: name for name in options}
    fields: dict[str, Any] = {}
    for alias, name in outside.items():
        fields[name] = (_described(options[name]), Field(None, alias=alias))
    return create_model("Options", __config__=_STRICT, **fields)


def _described(hint: Any) -> Any:
    """The type, or Any where pydantic has no description of it."""
    try:
        TypeAdapter(hint, config=ConfigDict(strict=True))
    except PydanticSchemaGenerationError:
        return Any
    return hint


def _line(error: ValidationError) -> str:
    """The first mistake, as one line."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "missing":
            return f"no {name}, which it needs"
        case "extra_forbidden":
            return f"unknown key {name}"
    must = first["msg"].replace("Input should", "must").removeprefix("Value error, ")
    return f"{name} {must}, not {reprlib.repr(first['input'])}"
