"""What a person asked of `moescope train`: a recipe or a run's own configuration, with changes.

No torch here: a mistake is told before anything heavy is loaded.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..platform.errors import MoescopeError
from ..platform.frozen import changed, parse_assignment
from .config import RunConfig
from .recipes.by_name import recipe
from .stored_config import stored_config
from .without_effect import refuse_keys_without_effect

PATH_KEYS = ("data.folder", "data.vae", "data.text_encoder")


def asked_changes(
    assignments: Iterable[str], options: Mapping[str, Any | None] | None = None
) -> dict[str, Any]:
    """Reads `--set key=value` texts and options that stand for a key into {dotted key: value}.

    options: {dotted key: value, or None where the option was not given}.
    Raises MoescopeError on an unreadable assignment and on a key set twice to different values.
    """
    changes: dict[str, Any] = {}
    read = [parse_assignment(text) for text in assignments]
    read += [(key, value) for key, value in (options or {}).items() if value is not None]
    for key, value in read:
        value = _absolute(value) if key in PATH_KEYS else value
        if key in changes and changes[key] != value:
            raise MoescopeError(
                f"{key} is set twice, to {changes[key]} and to {value}: give it once"
            )
        changes[key] = value
    return changes


def new_config(recipe_name: str, changes: Mapping[str, Any]) -> RunConfig:
    """Returns a new run's configuration. Raises MoescopeError on anything that cannot be."""
    config = recipe(recipe_name, changes)
    if not config.data.folder:
        raise MoescopeError(
            "data.folder is empty: give a folder of clips with --data FOLDER "
            "(`moescope data make-clips FOLDER` writes some)"
        )
    return config


def resumed_config(
    stored: Mapping[str, Any], changes: Mapping[str, Any], run_name: str
) -> RunConfig:
    """Returns a stored run's configuration with changes.

    Raises MoescopeError where this program cannot read it, and on a change that cannot be.
    """
    config = changed(stored_config(stored, run_name), changes)
    refuse_keys_without_effect(config, changes)
    return config


def _absolute(folder: Any) -> str:
    # a run is resumed from anywhere: what it remembers must not depend on where it was started
    return str(Path(str(folder)).expanduser().absolute()) if folder else ""
