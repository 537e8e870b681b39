"""A sample is the window that its key chooses: frames, sound and caption of one moment."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.trainer.config import DataConfig
from moescope.trainer.data import mel
from moescope.trainer.data.clips import Clip, find_clips
from moescope.trainer.data.decode import DecodedSample, read_sample, read_start
from moescope.trainer.data.headers import UnreadableClip
from moescope.trainer.data.make_clips import SAMPLE_RATE_HZ
from moescope.trainer.data.write_clip import write_clip, write_picture

DATA = DataConfig()
CLOCK_HZ = 24


def is_equal(one: DecodedSample, other: DecodedSample) -> bool:
    return (
        np.array_equal(one.video_CFHW, other.video_CFHW)
        and np.array_equal(one.mel_NM, other.mel_NM)
        and np.array_equal(one.text_S, other.text_S)
    )


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Three seconds in which brightness tells the frame, and loudness the half of the clip."""
    folder = tmp_path_factory.mktemp("clock")
    num_frames = 3 * CLOCK_HZ
    video = np.empty((num_frames, 32, 32, 3), dtype=np.uint8)
    video[:] = (20 + 3 * np.arange(num_frames))[:, None, None, None]
    times = np.arange(3 * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    audio = np.where(times < 1.5, 0.0, 0.5) * np.sin(2 * np.pi * 1000 * times)
    write_clip(
        folder / "a.mp4", video, audio.astype(np.float32), SAMPLE_RATE_HZ, CLOCK_HZ, quality=2
    )
    (folder / "a.txt").write_text("a clock")
    return find_clips(folder).clips[0]


def frame_numbers(sample: DecodedSample) -> NDArray[np.float64]:
    return np.asarray((sample.video_CFHW.mean(axis=(0, 2, 3)) - 20) / 3)


def test_a_sample_has_the_shapes_of_the_configuration(made_clip: Clip) -> None:
    data = DataConfig(
        num_frames=5, height=24, width=40, num_mels=20, num_mel_steps=12, num_text_bytes=7
    )
    sample = read_sample(made_clip, data, seed=0, position=0)
    assert sample.video_CFHW.shape == (3, 5, 24, 40)
    assert sample.mel_NM.shape == (20, 12)
    assert sample.text_S.tolist() == [byte + 1 for byte in made_clip.caption.encode()[:7]]
    assert sample.has_sound


def test_the_same_key_gives_the_same_sample_and_another_key_another(clock: Clip) -> None:
    first = read_sample(clock, DATA, seed=0, position=5)
    assert is_equal(first, read_sample(clock, DATA, seed=0, position=5))
    for seed, position in ((1, 5), (0, 6)):
        assert not is_equal(first, read_sample(clock, DATA, seed, position))


@pytest.mark.parametrize("frames_per_s", [6.0, 8.0, 10.0, 24.0, 60.0])
def test_frames_are_the_nearest_in_time(clock: Clip, frames_per_s: float) -> None:
    data = DataConfig(frames_per_s=frames_per_s)
    for position in range(6):
        numbers = frame_numbers(read_sample(clock, data, seed=0, position=position))
        wanted = numbers[0] + np.arange(8) * CLOCK_HZ / frames_per_s
        # the first is within half a frame of its time and so is each later one, and the encoder
        # is off by up to 0.3
        assert np.abs(numbers - wanted).max() <= 1.3


def test_windows_reach_from_the_first_frame_to_the_last(clock: Clip) -> None:
    starts = [frame_numbers(read_sample(clock, DATA, 0, p))[0] for p in range(60)]
    # a window of 1 s in 3 s starts in the first 2 s: frames 0 to 48
    assert min(starts) < 5
    assert 43 < max(starts) < 49


def test_sound_and_picture_are_of_the_same_moment(clock: Clip) -> None:
    for position in range(12):
        sample = read_sample(clock, DATA, 0, position)
        start_s = frame_numbers(sample)[0] / CLOCK_HZ
        is_loud_M = sample.mel_NM.max(axis=0) > 1
        middles_s = start_s + (np.arange(32) + 0.5) / 32
        # a window of two steps reaches 31 ms too far, AAC smears an attack over a packet of 64 ms,
        # and the start is known to half a frame, 21 ms
        assert is_loud_M[middles_s > 1.5 + 0.12].all()
        assert not is_loud_M[middles_s < 1.5 - 0.12].any()


def test_a_clip_shorter_than_the_window_holds_its_last_frame_and_falls_silent(
    clock: Clip,
) -> None:
    data = DataConfig(num_frames=12, frames_per_s=2.0, num_mel_steps=12)
    sample = read_sample(clock, data, 0, 0)
    numbers = frame_numbers(sample)
    assert numbers[:6] == pytest.approx(np.arange(6) * 12, abs=1)
    assert numbers[6:] == pytest.approx(np.full(6, 71), abs=1)
    assert (sample.mel_NM[:, 7:] == mel.silence(32, 5)).all()


def test_a_wide_clip_is_scaled_to_cover_and_cut_at_chance(tmp_path: Path) -> None:
    # brightness tells the place from left to right
    video = np.empty((16, 32, 128, 3), dtype=np.uint8)
    video[:] = np.linspace(0, 255, 128).astype(np.uint8)[:, None]
    write_clip(tmp_path / "a.mp4", video, None, 0, 8.0)
    (clip,) = find_clips(tmp_path).clips
    samples = [read_sample(clip, DataConfig(num_frames=2), 0, p) for p in range(40)]
    middles = [float(sample.video_CFHW.mean()) for sample in samples]
    # the cut is a quarter of the width: its middle lies between 1/8 and 7/8 of it
    assert min(middles) < 255 * 0.2
    assert max(middles) > 255 * 0.8
    for sample in samples:
        picture_FHW = sample.video_CFHW.mean(axis=0)
        assert np.ptp(picture_FHW, axis=2).mean() == pytest.approx(255 / 4, rel=0.1)
        assert np.abs(picture_FHW[0] - picture_FHW[1]).max() < 5
    assert not samples[0].has_sound
    assert not samples[0].mel_NM.any()


def test_as_many_samples_as_asked_are_mirrored_and_always_the_same(made_clip: Clip) -> None:
    plain, mirrored, some = (
        [read_sample(made_clip, DataConfig(flip_share=share), 0, p).video_CFHW for p in range(24)]
        for share in (0.0, 1.0, 0.5)
    )
    assert all(
        np.array_equal(one[..., ::-1], other) for one, other in zip(plain, mirrored, strict=True)
    )
    is_mirrored = [np.array_equal(one, other) for one, other in zip(some, mirrored, strict=True)]
    # 24 throws of a coin: less than 5 or more than 19 heads come once in 600 times
    assert 5 <= sum(is_mirrored) <= 19
    for position in (0, 7):
        again = read_sample(made_clip, DataConfig(flip_share=0.5), 0, position).video_CFHW
        assert np.array_equal(again, some[position])


def test_the_start_of_a_clip_is_cut_in_the_middle(clock: Clip, tmp_path: Path) -> None:
    frames_CFHW = read_start(clock.path, DataConfig(frames_per_s=8.0), 3)
    # every third frame of 24 a second, from the first
    assert (frames_CFHW.mean(axis=(0, 2, 3)) - 20) / 3 == pytest.approx([0, 3, 6], abs=1)
    video = np.empty((1, 32, 128, 3), dtype=np.uint8)
    video[:] = np.arange(128).astype(np.uint8)[:, None]
    write_picture(tmp_path / "a.png", video[0])
    picture_HW = read_start(tmp_path / "a.png", DATA, 1)[0, 0]
    # of 97 places the 48th is the middle one: pixels 48 to 79
    assert picture_HW[0].tolist() == list(range(48, 80))


def test_a_file_that_breaks_after_it_was_found_is_unreadable(
    tmp_path: Path, made_clip: Clip
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(made_clip.path.read_bytes())
    clip = replace(made_clip, path=path)
    read_sample(clip, DATA, 0, 0)
    os.truncate(path, 2000)
    with pytest.raises(UnreadableClip, match="cut off"):
        read_sample(clip, DATA, 0, 0)
    path.unlink()
    with pytest.raises(UnreadableClip, match="No such file"):
        read_sample(clip, DATA, 0, 0)


def test_damage_in_the_middle_is_noticed_or_survived_but_never_fatal(
    tmp_path: Path, made_clip: Clip
) -> None:
    whole = bytearray(made_clip.path.read_bytes())
    chance = np.random.default_rng(0)
    path = tmp_path / "a.mp4"
    outcomes = set()
    for position in range(30):
        damaged = bytearray(whole)
        for place in chance.integers(200, len(whole), 40):
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            sample = read_sample(replace(made_clip, path=path), DATA, 0, position)
            outcomes.add(str(sample.video_CFHW.shape))
        except UnreadableClip as reason:
            outcomes.add(f"unreadable: {reason}")
    assert any(outcome.startswith("unreadable") for outcome in outcomes)
    assert "unreadable: " not in outcomes
