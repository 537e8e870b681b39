"""A corpus for the tests of this folder, and ffmpeg's own sources as foreign clips."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from moescope.trainer.data.clips import Clip, ClipIndex, find_clips
from moescope.trainer.data.make_clips import make_clips


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for part in ("part-1", "part-2", "part-10"):
        make_clips(folder / part, 6, seed=len(part))
    return folder


@pytest.fixture(scope="session")
def made_index(made_folder: Path) -> ClipIndex:
    return find_clips(made_folder)


@pytest.fixture(scope="session")
def made_clip(made_index: ClipIndex) -> Clip:
    return made_index.clips[0]


@pytest.fixture(scope="session")
def ffmpeg() -> Callable[..., Path]:
    """Runs ffmpeg with the given arguments and returns the file that it wrote, the last one."""
    program = shutil.which("ffmpeg")
    assert program, "these tests need the ffmpeg program: apt-get install ffmpeg"

    def run(*arguments: str | Path) -> Path:
        command = [program, "-v", "error", "-y", *map(str, arguments)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=60)
        return Path(arguments[-1])

    return run
