"""What a run generated at its checkpoints: a clip or picture for each prompt."""

import re
from pathlib import Path

from ..platform.records import Run

_KINDS = (".mp4", ".png")


def samples_of(run: Run) -> dict[int, dict[str, Path]]:
    """Returns {step: {prompt's name: file}}, the newest step first; files made apart from
    checkpoints are of step -1. Nothing where the folder is on another machine.
    """
    if not run.folder:
        return {}
    root = Path(run.folder) / "samples"
    found: dict[int, dict[str, Path]] = {}
    try:
        for file in sorted(root.rglob("*")):
            if file.suffix in _KINDS and file.is_file():
                told = re.fullmatch(r"step-(\d+)", file.parent.name)
                found.setdefault(int(told[1]) if told else -1, {})[file.stem] = file
    except OSError:
        return {}
    return dict(sorted(found.items(), reverse=True))
