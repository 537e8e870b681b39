"""The configuration that a run of our own was trained with, as it is stored."""

from collections.abc import Mapping
from typing import Any

from ..platform.errors import MoescopeError
from ..platform.frozen import parsed
from .config import RunConfig


def stored_config(stored: Mapping[str, Any], run_name: str) -> RunConfig:
    """Raises MoescopeError where another program trained the run, or this one cannot read it."""
    if "watched" in stored:
        raise MoescopeError(
            f"run {run_name} is a training of another program, which was watched: start it there"
        )
    if isinstance(stored.get("imported"), Mapping):
        raise MoescopeError(
            f"run {run_name} was imported from {stored['imported'].get('from')}: its history is "
            "here, and nothing that could be trained or sampled"
        )
    return parsed(RunConfig, stored, f"stored configuration of {run_name}")
