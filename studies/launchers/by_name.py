"""The launcher that a study asks for."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ...platform.settings import Settings
from ...platform.store import Store
from ..spec import Launch
from .contract import Launcher
from .local import LocalLauncher
from .slurm import SlurmLauncher

Make = Callable[[Store, Settings, str, Launch, Path | None], Launcher]
LAUNCHERS: Mapping[str, Make] = {"local": LocalLauncher, "slurm": SlurmLauncher}


def launcher_for(
    store: Store, settings: Settings, study: str, launch: Launch, log: Path | None
) -> Launcher:
    """Raises MoescopeError where its engine is not there, or has not what the study asks for."""
    return LAUNCHERS[launch.launcher](store, settings, study, launch, log)
