"""Busy clips are harder than others and as honest: what they show, what is heard and what is told
belong together."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.trainer.config import DataConfig
from moescope.trainer.data.busy_clips import busy_clips
from moescope.trainer.data.clips import ClipIndex, find_clips
from moescope.trainer.data.decode import DecodedSample, read_sample
from moescope.trainer.data.make_clips import COLOURS, SKIES, make_clips

DATA = DataConfig(
    num_frames=32, frames_per_s=16.0, height=64, width=64, num_mel_steps=64, num_text_bytes=0
)
# rows of 64
ABOVE_GROUND = 38


@pytest.fixture(scope="module")
def indices(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipIndex, ClipIndex]:
    """The same clips, ordinary and busy."""
    root = tmp_path_factory.mktemp("busy")
    for name in ("ordinary", "busy"):
        paths = make_clips(root / name, 6, seed=3)
    assert busy_clips(paths, seed=3) == paths
    return find_clips(root / "ordinary"), find_clips(root / "busy")


def read(index: ClipIndex) -> list[DecodedSample]:
    assert index.passed_over == ()
    return [read_sample(clip, DATA, 0, 0) for clip in index.clips]


def most_of(pixels_PC: NDArray[np.float64]) -> str:
    """The sky or colour that most pixels are nearest to."""
    named = {**SKIES, **COLOURS}
    places_NC = np.array(list(named.values()))
    nearest_P = np.abs(pixels_PC[:, None] - places_NC).sum(2).argmin(1)
    return list(named)[np.bincount(nearest_P).argmax()]


def test_each_half_shows_the_sky_that_its_part_of_the_caption_names(
    indices: tuple[ClipIndex, ClipIndex],
) -> None:
    _, busy = indices
    for clip, sample in zip(busy.clips, read(busy), strict=True):
        told = [scene.split(":")[0] for scene in clip.caption.split("; ")]
        seen = []
        for half_CFHW in np.split(sample.video_CFHW[:, :, :ABOVE_GROUND].astype(float), 2, axis=3):
            bright_F = half_CFHW.mean((0, 2, 3))
            lit_CP = half_CFHW[:, bright_F > bright_F.max() / 2].reshape(3, -1)
            seen.append(most_of(lit_CP.T))
        assert seen == told


def test_it_is_loud_where_it_is_bright(indices: tuple[ClipIndex, ClipIndex]) -> None:
    # a beat is one frame, and two steps of the sound
    for sample in read(indices[1]):
        halves_F2 = np.stack(
            [h.mean((0, 2, 3)) for h in np.split(sample.video_CFHW.astype(float), 2, axis=3)], 1
        )
        is_bright_F = (halves_F2 > halves_F2.mean(0)).any(1)
        loud_F = sample.mel_NM.astype(float).mean(0).reshape(-1, 2).mean(1)
        assert loud_F[is_bright_F].mean() > loud_F[~is_bright_F].mean() + 0.3


def test_they_keep_their_form_and_are_livelier(indices: tuple[ClipIndex, ClipIndex]) -> None:
    for old, new in zip(indices[0].clips, indices[1].clips, strict=True):
        assert new.name == old.name
        assert new.has_sound
        assert new.duration_s == pytest.approx(old.duration_s, abs=0.1)
    change = [
        np.mean([np.abs(np.diff(s.video_CFHW.astype(float), axis=1)).mean() for s in read(index)])
        for index in indices
    ]
    assert change[1] > 2 * change[0]


def test_they_are_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        paths = make_clips(tmp_path / name, 1, seed=3, size=32, duration_s=1.0)
        busy_clips(paths, seed=1)
        contents.append((paths[0].read_bytes(), (tmp_path / name / "captions.jsonl").read_text()))
    assert contents[0] == contents[1]
