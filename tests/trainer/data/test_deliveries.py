"""The demo's deliveries: the second is corrupt, though each file decodes, and comes as promised."""

from pathlib import Path

import numpy as np
import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.config import DataConfig
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import Clip, find_clips
from moescope.trainer.data.decode import read_sample
from moescope.trainer.data.deliveries import make_demo_deliveries
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.data.spoil_clips import spoil_clips
from moescope.trainer.data.write_clip import write_clip


def test_the_spoiled_stretch_lies_where_it_is_said_to_lie(tmp_path: Path) -> None:
    data = DataConfig(batch=4, windows_per_clip=3, order="by_folder", validation_share=0.1)
    told: list[tuple[int, int]] = []
    made = make_demo_deliveries(
        tmp_path / "demo",
        data,
        clean_batches=10,
        spoiled_batches=5,
        last_batches=4,
        size=32,
        progress=lambda *at: told.append(at),
    )
    index = find_clips(made.folder)
    assert len(index.clips) == made.num_clips == told[-1][0] == told[-1][1]
    assert index.passed_over == ()
    with Batches(index, data, seed=0) as batches:
        folders = [{clip.folder for _, clip in batches.which(n)} for n in range(made.num_batches)]
    spoiled = [number for number, names in enumerate(folders) if "part-2" in names]
    assert spoiled == list(range(made.first_spoiled_batch, made.last_spoiled_batch + 1))
    assert made.first_spoiled_batch in (10, 11)
    assert len(spoiled) in (5, 6)
    assert made.num_batches in (19, 20, 21)
    assert folders[-1] == {"part-3"}


def test_spoiled_clips_keep_their_form_and_lose_their_meaning(tmp_path: Path) -> None:
    make_clips(tmp_path, 6, seed=0)
    before = find_clips(tmp_path).clips
    data = DataConfig()
    good = [read_sample(clip, data, 0, 0) for clip in before]
    assert spoil_clips([clip.path for clip in before]) == [clip.path for clip in before]
    index = find_clips(tmp_path)
    assert index.passed_over == ()
    bad = [read_sample(clip, data, 0, 0) for clip in index.clips]
    for old, new in zip(before, index.clips, strict=True):
        assert (old.caption, old.has_sound) == (new.caption, new.has_sound)
        assert old.duration_s == pytest.approx(new.duration_s, abs=0.1)
    for old_sample, new_sample in zip(good, bad, strict=True):
        old_video, new_video = (s.video_CFHW.astype(float) for s in (old_sample, new_sample))
        flicker = [np.abs(np.diff(video, axis=1)).mean() for video in (old_video, new_video)]
        assert flicker[1] > 2 * flicker[0]
        seen = np.corrcoef(old_video.ravel(), new_video.ravel())[0, 1]
        heard = np.corrcoef(old_sample.mel_NM.ravel(), new_sample.mel_NM.ravel())[0, 1]
        assert seen < 0.2
        assert abs(heard) < 0.5
        # nothing is left of the clip's colours and levels
        assert new_video.std() > 90
        assert new_sample.mel_NM.std() > 0.8


def test_spoiling_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        paths = make_clips(tmp_path / name, 1, seed=3)
        spoil_clips(paths, seed=1)
        contents.append(paths[0].read_bytes())
    assert contents[0] == contents[1]


def test_a_silent_clip_stays_silent_and_what_is_no_clip_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", np.zeros((8, 32, 32, 3), np.uint8), None, 0, 8.0)
    spoil_clips([tmp_path / "a.mp4"])
    clip: Clip = find_clips(tmp_path).clips[0]
    assert not clip.has_sound
    (tmp_path / "b.mp4").write_text("words")
    with pytest.raises(MoescopeError, match=r"cannot spoil .*b\.mp4: not a video file"):
        spoil_clips([tmp_path / "b.mp4"])
