"""What a person writes: frozen pydantic models, dotted keys into them, and validated changes."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import MoescopeError, did_you_mean
from .records import DamagedConfig

Config = TypeVar("Config", bound="Frozen")
MOST_SHOWN = 120
"""Characters of a wrong value."""


class Frozen(BaseModel):
    """Base of all configurations: immutable, unknown keys refused, a docstring under each field."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def leaves(config: Frozen, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every field that is not itself a configuration."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Frozen):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def difference(old: Frozen, new: Frozen) -> dict[str, tuple[Any, Any]]:
    """Returns {dotted key: (old value, new value)} for every leaf that differs."""
    before, after = dict(leaves(old)), dict(leaves(new))
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def parsed(config_type: type[Config], values: Mapping[str, Any], what: str) -> Config:
    """Validates nested values into a configuration.

    Raises MoescopeError: one line that tells each fault with field, value and what is allowed.
    """
    if isinstance(values, DamagedConfig):
        raise MoescopeError(f"{what} cannot be read: restore a backup of the store")
    try:
        return config_type.model_validate(dict(values))
    except ValidationError as error:
        known = [key for key, _ in _known_keys(config_type)]
        raise MoescopeError(
            f"{what}: " + "; ".join(_advice(e, known) for e in error.errors())
        ) from None


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Returns the configuration with dotted keys changed, validated anew (`model_copy` would not).

    Raises MoescopeError on an unknown key, with near names, or on a value that is not allowed.
    """
    known = [key for key, _ in leaves(config)]
    values = config.model_dump()
    for key, value in changes.items():
        if key not in known:
            short = key.rsplit(".", 1)[-1]
            by_last = [k for k in known if k.rsplit(".", 1)[-1] == short]
            hint = (
                f"; did you mean {' or '.join(by_last[:2])}?"
                if by_last
                else did_you_mean(key, known)
            )
            raise MoescopeError(f"unknown key {key}{hint}")
        *path, last = key.split(".")
        inner = values
        for name in path:
            inner = inner[name]
        inner[last] = value
    return parsed(type(config), values, "configuration")


def parse_assignment(text: str) -> tuple[str, Any]:
    """Splits `key=value` as given to `--set`; the value is read as YAML (1, true, [1, 2], text)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise MoescopeError(f"--set {text}: expected key=value, as in --set moe.num_chosen=1")
    try:
        # YAML 1.1 reads on and off as true and false, but policy.mode means the words
        read = value.strip() if value.strip() in ("on", "off") else yaml.safe_load(value)
        # YAML 1.1 reads 1e-4 as text: a number without a dot
        return key.strip(), float(read) if isinstance(read, str) and _is_number(read) else read
    except yaml.YAMLError:
        raise MoescopeError(f"--set {text}: cannot read the value {value!r} as YAML") from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.lower() not in ("nan", "inf", "-inf", "infinity")


def _known_keys(config_type: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in config_type.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"{prefix}{name}", field  # for near names of a section
            yield from _known_keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _advice(error: Any, known: list[str]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "values"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{did_you_mean(key, known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":  # its input is all that is there
        return f"{key}: {message[0].lower()}{message[1:]}"
    if error["type"] == "value_error" and key == "values":
        return message
    # the words nan and inf, as YAML 1.1 reads them, are numbers to whoever wrote them
    value = str(error["input"]) if error["type"] == "finite_number" else repr(error["input"])
    if len(value) > MOST_SHOWN:
        value = f"{value[:MOST_SHOWN]}..."
    return f"{key} is {value}: {message[0].lower()}{message[1:]}"
