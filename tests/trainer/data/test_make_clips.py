"""The made corpus: real files in which picture, sound and caption belong together."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.platform.errors import MoescopeError
from moescope.trainer.config import DataConfig
from moescope.trainer.data.clips import ClipIndex, find_clips
from moescope.trainer.data.decode import DecodedSample, read_sample
from moescope.trainer.data.make_clips import (
    COLOURS,
    GROUNDS,
    SKIES,
    Scene,
    make_clips,
    paint,
    play,
    scene_of,
)
from moescope.trainer.data.pictures import read_picture


@pytest.fixture(scope="module")
def samples(made_index: ClipIndex) -> list[DecodedSample]:
    data = DataConfig(num_frames=16, frames_per_s=8.0, num_mel_steps=64)
    return [read_sample(clip, data, 0, 0) for clip in made_index.clips]


def test_the_files_are_h264_and_aac_with_a_caption_for_each(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    paths = make_clips(tmp_path, 2, seed=5, progress=lambda *at: told.append(at))
    assert [path.name for path in paths] == ["clip-0000.mp4", "clip-0001.mp4"]
    assert told == [(1, 2), (2, 2)]
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0"]
    names = subprocess.run([*command, paths[0]], capture_output=True, text=True, check=True)
    assert names.stdout.split() == ["h264", "aac"]
    lines = (tmp_path / "captions.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in lines] == [path.name for path in paths]
    assert json.loads(lines[0])["caption"] == scene_of(5, "clip-0000.mp4").caption


def test_the_same_seed_makes_the_same_clips_and_another_others(tmp_path: Path) -> None:
    first, again, other = (
        make_clips(tmp_path / name, 1, seed)[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_clips_by_class_lie_in_a_folder_of_their_sky(tmp_path: Path) -> None:
    plain, sorted_ = tmp_path / "plain", tmp_path / "sorted"
    (one,) = make_clips(plain, 1, seed=3)
    paths = make_clips(sorted_, 9, seed=3, is_by_class=True)
    index = find_clips(sorted_)
    assert not index.passed_over
    for path in paths:
        scene = scene_of(3, path.name)
        assert path.parent.name == scene.sky
        (clip,) = (clip for clip in index.clips if clip.path == path)
        assert (clip.label, clip.caption) == (index.classes[scene.sky], scene.caption)
    # the same scenes as without
    assert paths[0].read_bytes() == one.read_bytes()


def test_pictures_show_the_middle_of_their_clips_in_full_light(tmp_path: Path) -> None:
    paths = make_clips(tmp_path, 3, seed=3, size=48, are_pictures=True)
    assert [path.name for path in paths] == ["clip-0000.png", "clip-0001.png", "clip-0002.png"]
    index = find_clips(tmp_path)
    assert [clip.path for clip in index.clips] == paths
    assert not index.passed_over
    for path in paths:
        scene = replace(scene_of(3, f"{path.stem}.mp4"), beats=(1.0,))
        # of 32 frames the seventeenth begins at half the time
        expected_HWC = paint(scene, 48, 16.0, 2.0)[16]
        assert np.array_equal(read_picture(path).to_ndarray(format="rgb24"), expected_HWC)


def test_captions_name_everything_within_the_bytes_that_a_sample_keeps() -> None:
    for number in range(200):
        scene = scene_of(0, str(number))
        told = [scene.sky, scene.colour, scene.shape, scene.move]
        assert all(word in scene.caption for word in told)
        assert len(scene.caption.encode()) <= DataConfig().num_text_bytes
    assert not set(SKIES) & set(COLOURS)


@pytest.mark.parametrize("move", ["rises", "falls", "goes left", "goes right"])
def test_the_picture_moves_as_the_caption_says(move: str) -> None:
    scene = next(s for s in (scene_of(0, str(n)) for n in range(99)) if s.move == move)
    # black on white, in an even light
    scene = replace(scene, sky="haze", colour="coal", ground=0, beats=(1.0,))
    video_FHW = paint(scene, 64, 8.0, 2.0)[..., 0]
    is_shape_FHW = video_FHW < 60
    rows_F, columns_F = (
        np.array([np.nonzero(frame)[axis].mean() for frame in is_shape_FHW]) for axis in (0, 1)
    )
    downward, rightward = np.diff(rows_F).mean(), np.diff(columns_F).mean()
    expected = {"rises": (-1, 0), "falls": (1, 0), "goes left": (0, -1), "goes right": (0, 1)}
    along = np.array([downward, rightward]) @ np.array(expected[move])
    # it crosses at least half of 64 pixels in 16 frames; what leaves the picture slows its middle
    assert along > 1
    assert np.abs([downward, rightward]).sum() == pytest.approx(along, abs=0.5)


def still(y: float, ground: int = 0, light: float = 1.0) -> Scene:
    """A small shape at a height, in an even light."""
    place = (0.5, y)
    scene = replace(scene_of(0, "any"), colour="coal", shape="ball", radius=0.1, ground=ground)
    return replace(scene, start=place, end=place, beats=(light,))


def spectrum_of(scene: Scene) -> NDArray[np.float64]:
    """One second's, so that frequencies are in hertz."""
    return np.abs(np.fft.rfft(play(scene, 1.0)))


def test_the_pitch_tells_the_height() -> None:
    # the drones lie below 500 Hz
    pitches = [int(spectrum_of(still(y))[500:].argmax()) for y in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert pitches == sorted(set(pitches))


def test_the_brighter_the_light_the_louder_the_sound() -> None:
    lights = (0.0, 0.25, 0.5, 0.75, 1.0)
    brightness = [float(paint(still(0.5, light=light), 32, 8.0, 0.5).mean()) for light in lights]
    loudness_db = [20 * np.log10(play(still(0.5, light=light), 0.5).std()) for light in lights]
    assert np.diff(brightness).min() > 10
    assert np.diff(loudness_db).min() > 3


def test_each_ground_has_a_colour_and_a_drone_of_its_own() -> None:
    scenes = [still(0.9, ground) for ground in range(len(GROUNDS))]
    colours = {tuple(paint(scene, 32, 8.0, 0.5)[0, -1, 0].tolist()) for scene in scenes}
    drones = {int(spectrum_of(scene)[:500].argmax()) for scene in scenes}
    assert len(colours) == len(drones) == len(GROUNDS)


def test_what_is_seen_and_what_is_heard_go_together(samples: list[DecodedSample]) -> None:
    """Correlates, over whole decoded clips, each frame's light with the loudness of its time."""
    light, loudness = [], []
    for sample in samples:
        light.append(sample.video_CFHW.astype(float).mean(axis=(0, 2, 3)))
        loudness.append(sample.mel_NM.max(axis=0).reshape(16, 4).mean(axis=1))
    together = [np.corrcoef(*pair)[0, 1] for pair in zip(light, loudness, strict=True)]
    assert np.median(together) > 0.6


def test_video_and_audio_have_about_zero_mean_and_unit_scale(samples: list[DecodedSample]) -> None:
    mel = np.stack([sample.mel_NM for sample in samples])
    assert abs(mel.mean()) < 0.4
    assert 0.7 < mel.std() < 1.3
    video = np.stack([sample.video_CFHW for sample in samples]) / 127.5 - 1
    assert abs(video.mean()) < 0.6
    assert 0.4 < video.std() < 1


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(MoescopeError, match="is not empty: name a new folder"):
        make_clips(tmp_path, 1)
    with pytest.raises(MoescopeError, match="cannot write clips to"):
        make_clips(tmp_path / "mine.txt" / "below", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_all_made_clips_are_usable(made_folder: Path) -> None:
    assert find_clips(made_folder).passed_over == ()
