"""Clips that moescope did not write, good and bad ones, train without a special case."""

import subprocess
from pathlib import Path

import numpy as np

from moescope.platform import catalogue
from moescope.platform.frozen import changed
from moescope.platform.series import read_series
from moescope.platform.settings import Settings
from moescope.platform.store import open_store
from moescope.trainer.config import RunConfig
from moescope.trainer.data.clips import find_clips
from moescope.trainer.run import open_trainer

SINE = ("-f", "lavfi", "-i", "sine=frequency=440:duration=2")
H264, VP9 = ("-c:v", "libx264", "-pix_fmt", "yuv420p"), ("-c:v", "libvpx-vp9", "-cpu-used", "8")
CLIPS = {
    "test-25.mp4": ("testsrc2=size=64x48:rate=25", SINE, (*H264, "-c:a", "aac")),
    "zoom-24.mov": ("mandelbrot=size=98x62:rate=24", SINE, (*H264, "-c:a", "aac")),
    "life-30.webm": ("life=size=65x47:rate=30", SINE, (*VP9, "-c:a", "libopus")),
    "mute-25.mp4": ("testsrc2=size=48x96:rate=25", (), H264),
    "mute-30.webm": ("life=size=33x71:rate=30", (), VP9),
}


def written(folder: Path) -> Path:
    for name, (source, sound, codecs) in CLIPS.items():
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *sound, *codecs, "-t", "2"]
        subprocess.run([*command, str(folder / name)], check=True)
    (folder / "test-25.txt").write_text("coloured bars, größer")
    whole = (folder / "test-25.mp4").read_bytes()
    (folder / "cut-off.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "empty.mp4").touch()
    (folder / "story.mov").write_text("not a film")
    return folder


def test_they_train_and_bad_files_are_named_counted_and_passed_over(
    small: RunConfig, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    index = find_clips(written(folder))
    assert {clip.name: clip.has_sound for clip in index.clips} == {
        name: not name.startswith("mute") for name in CLIPS
    }
    assert {name for name, _ in index.passed_over} == {"cut-off.mp4", "empty.mp4", "story.mov"}
    config = changed(small, {"data.folder": str(folder), "data.validation_share": 0})
    with open_trainer(config, settings, run_id="r") as trainer:
        for _ in range(8):
            trainer.train_step()
    store = open_store(settings.store_url)
    try:
        losses = read_series(store, "r", catalogue.LOSS_TOTAL).values
        bad = read_series(store, "r", catalogue.BAD_CLIPS).values
    finally:
        store.close()
    assert len(losses) == 8
    assert np.isfinite(losses).all()
    assert set(bad.tolist()) == {3.0}
