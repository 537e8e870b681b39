"""YAML as a person means it: what a study or a rule is written in."""

import re
from typing import Any

import yaml

from .errors import MoescopeError

_MOST_SAID = 160
"""Characters of what is wrong with a text."""


def read_yaml(text: str, what: str) -> Any:
    """Reads YAML. Raises MoescopeError, one short line that begins with `what`, on anything that is
    none."""
    try:
        return yaml.load(text, _Loader)
    # ValueError: a date or a number that there is not
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, RecursionError):
            said = "it is nested too deeply"
        raise MoescopeError(f"{what} is no YAML: {said[:_MOST_SAID]}") from None


class _Loader(yaml.SafeLoader):
    """1e6 is a number, on and off are words, a key stands once, nothing refers to something else,
    and text can be written down."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to another part of itself (*): write it out")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise yaml.YAMLError(
                f"{value[error.start]!a} is half a character: write it whole"
            ) from None
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key} is given twice: keep one")
        return super().construct_mapping(node, deep)


_NUMBER, _WORD = "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool"
# YAML 1.1 reads 1e6 as text, being a number without a dot, and on, off, yes and no as true or false
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if not (tag == _WORD and first in "yYnNoO")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _NUMBER, re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
