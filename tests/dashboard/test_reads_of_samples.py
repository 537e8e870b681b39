"""Samples by checkpoint and prompt, and no trouble where their folder is elsewhere."""

from pathlib import Path
from typing import Any

from moescope.dashboard.reads_of_samples import samples_of


def test_the_newest_checkpoint_comes_first_with_a_file_per_prompt(
    make: Any, tmp_path: Path
) -> None:
    for name in ("step-000100/a-cat.mp4", "step-000200/a-cat.mp4", "step-000200/a-dog.png"):
        file = tmp_path / "samples" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "samples" / "mine.mp4").write_bytes(b"x")
    (tmp_path / "samples" / "step-000200" / "notes.txt").write_text("no clip")
    found = samples_of(make.run(folder=str(tmp_path)))
    assert list(found) == [200, 100, -1]
    assert sorted(found[200]) == ["a-cat", "a-dog"]
    assert found[-1]["mine"].name == "mine.mp4"


def test_a_folder_that_is_not_here_has_no_samples(make: Any, tmp_path: Path) -> None:
    assert samples_of(make.run(folder=str(tmp_path / "gone"))) == {}
    assert samples_of(make.run()) == {}
