"""What several commands of studies take: the study, its data, where it runs."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.terminal import console_for

if TYPE_CHECKING:
    from ..platform.store import Store
    from .spec import StudySpec

StudyFile = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study.yaml, or the name of a named study.")
]
StudyName = Annotated[str, typer.Argument(metavar="NAME", help="A study's name.")]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of clips, in place of the study's.")
]
Slots = Annotated[
    int | None,
    typer.Option("--slots", min=1, max=1024, help="Trials at once; the same as launch.slots."),
]
LauncherName = Annotated[
    str | None, typer.Option("--launcher", help="local or slurm; the same as launch.launcher.")
]


def asked_spec(
    study: str, data: Path | None, launch: Mapping[str, Any] | None = None
) -> "StudySpec":
    """Returns a study as its file and the options say.

    launch: {key of launch: value}; None leaves the file's. Raises MoescopeError as `read_spec`.
    """
    from ..platform.frozen import changed
    from .spec import read_spec

    changes: dict[str, Any] = {} if data is None else {"data": str(data.expanduser().absolute())}
    changes |= {
        f"launch.{key}": value for key, value in (launch or {}).items() if value is not None
    }
    spec = read_spec(study)
    return changed(spec, changes) if changes else spec


def kept_rate(store: "Store", spec: "StudySpec", *, is_anew: bool = False) -> dict[int, float]:
    """Returns how fast this machine trains the study's models, measured where it is not known."""
    from .calibration import calibrated
    from .points import shapes

    with console_for(sys.stderr).status("calibrating"):
        configs = (config for _, config in shapes(spec))
        return calibrated(store, configs, time.time(), is_anew=is_anew)
