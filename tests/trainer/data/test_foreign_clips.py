"""Anybody's clips: what other programs write is read without a special case."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from moescope.trainer.config import DataConfig
from moescope.trainer.data.clips import Clip, find_clips
from moescope.trainer.data.decode import read_sample
from moescope.trainer.data.mel import HIGHEST_HZ, LOWEST_HZ, MEAN_DB, SCALE_DB

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
SILENT: tuple[str, ...] = ()
AAC_MONO = ("-c:a", "aac", "-ac", "1", "-ar", "22050")
AAC_STEREO = ("-c:a", "aac", "-ac", "2", "-ar", "48000")
OPUS = ("-c:a", "libopus", "-ac", "2", "-ar", "48000")
PCM = ("-c:a", "pcm_s16le", "-ac", "2", "-ar", "44100")
PCM_8_BIT = ("-c:a", "pcm_u8", "-ac", "1", "-ar", "8000")
TESTSRC, MANDELBROT, LIFE = "testsrc2=s={}:r={}", "mandelbrot=s={}:r={}", "life=s={}:r={}:mold=10"


@pytest.mark.parametrize(
    ("suffix", "source", "size", "rate", "video", "sound"),
    [
        pytest.param("mp4", TESTSRC, "64x48", "25", H264, AAC_MONO, id="mp4-25-mono"),
        pytest.param("mp4", MANDELBROT, "98x62", "24", H264, AAC_STEREO, id="mp4-24-stereo"),
        pytest.param("mp4", LIFE, "66x50", "30", H264, SILENT, id="mp4-30-silent"),
        pytest.param("mov", TESTSRC, "48x96", "30", H264, PCM, id="mov-upright-pcm"),
        pytest.param("mov", TESTSRC, "64x64", "30000/1001", H264, PCM_8_BIT, id="mov-29.97-8bit"),
        pytest.param("webm", TESTSRC, "65x47", "25", VP9, OPUS, id="webm-odd-opus"),
        pytest.param("webm", LIFE, "33x71", "24", VP9, SILENT, id="webm-odd-silent"),
        pytest.param("mkv", MANDELBROT, "64x48", "12", H264, AAC_MONO, id="mkv-12"),
        pytest.param(
            "mp4", TESTSRC, "65x47", "25", ("-c:v", "libx264", "-pix_fmt", "yuv444p"), AAC_MONO,
            id="mp4-odd-444",
        ),
        pytest.param(
            "mp4", TESTSRC, "64x48", "25", (*H264, "-bf", "3", "-g", "250"), AAC_MONO,
            id="one-key-frame",
        ),
        pytest.param(
            "mp4", TESTSRC, "64x48", "25", (*H264, "-movflags", "frag_keyframe+empty_moov"),
            AAC_MONO, id="fragmented",
        ),
    ],
)  # fmt: skip
def test_clips_of_other_programs_are_read(
    tmp_path: Path,
    ffmpeg: Callable[..., Path],
    suffix: str,
    source: str,
    size: str,
    rate: str,
    video: tuple[str, ...],
    sound: tuple[str, ...],
) -> None:
    inputs = ["-f", "lavfi", "-i", source.format(size, rate)]
    if sound:
        inputs += ["-f", "lavfi", "-i", "sine=frequency=1000"]
    ffmpeg(*inputs, "-t", "2.5", *video, *sound, tmp_path / f"a.{suffix}")
    index = find_clips(tmp_path)
    (clip,) = index.clips
    assert not index.passed_over
    assert clip.duration_s == pytest.approx(2.5, abs=0.1)
    assert clip.frames_per_s == pytest.approx(float(Fraction(rate)), rel=1e-3)
    assert clip.has_sound == bool(sound)
    for position in range(4):
        sample = read_sample(clip, DataConfig(), 0, position)
        assert sample.video_CFHW.std() > 5
        assert len({frame.tobytes() for frame in sample.video_CFHW.swapaxes(0, 1)}) == 8
        if sound:
            assert (sample.mel_NM.argmax(axis=0) == expected_band(1000.0)).all()
            # ffmpeg's sine has an amplitude of 1/8, -18 dB; spread on two channels it has -21 dB
            level_db = -21 if "2" in sound else -18
            loudest_M = sample.mel_NM.max(axis=0)
            expected = (level_db - MEAN_DB) / SCALE_DB
            assert loudest_M == pytest.approx(np.full(32, expected), abs=1.5 / SCALE_DB)
        else:
            assert not sample.mel_NM.any()


def expected_band(hz: float) -> int:
    """The band whose centre is nearest, of 32 between 60 and 8000 Hz on the mel scale."""
    low, high, want = (2595 * np.log10(1 + f / 700) for f in (LOWEST_HZ, HIGHEST_HZ, hz))
    return round(float((want - low) / (high - low) * 33)) - 1


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_clip_filmed_with_a_turned_phone_stands_upright(
    tmp_path: Path, ffmpeg: Callable[..., Path], turn: int
) -> None:
    lying, turned, upright = (tmp_path / name for name in ("lying.mp4", "turned.mp4", "up.mp4"))
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=8", "-t", "1", *H264, lying)
    ffmpeg("-i", lying, "-c", "copy", "-metadata:s:v", f"rotate={turn}", turned)
    # ffmpeg itself turns the picture when it decodes
    ffmpeg("-i", turned, *H264, "-crf", "5", upright)
    data = DataConfig(num_frames=4, frames_per_s=4.0, height=64, width=64)
    # one name for both, so that they are cut at the same place
    clips = {clip.path.name: replace(clip, name="a") for clip in find_clips(tmp_path).clips}
    clip, reference = clips["turned.mp4"], clips["up.mp4"]
    ours, theirs = (read_sample(c, data, 0, 3).video_CFHW.astype(float) for c in (clip, reference))
    assert np.abs(ours - theirs).mean() < 8


def test_pixels_that_are_not_square_become_square(
    tmp_path: Path, ffmpeg: Callable[..., Path]
) -> None:
    # stored at half its width: shown, the square in the middle is a square again
    square = "color=black:s=128x64:r=8,drawbox=x=48:y=16:w=32:h=32:c=white:t=fill"
    ffmpeg(
        "-f", "lavfi", "-i", square, "-t", "1", "-vf", "scale=64:64,setsar=2", *H264,
        tmp_path / "a.mp4",
    )  # fmt: skip
    (clip,) = find_clips(tmp_path).clips
    sample = read_sample(clip, DataConfig(num_frames=2, height=64, width=128), 0, 0)
    is_white_HW = sample.video_CFHW[0, 0] > 128
    assert is_white_HW.any(axis=0).sum() == pytest.approx(32, abs=2)
    assert is_white_HW.any(axis=1).sum() == pytest.approx(32, abs=2)


def test_libav_keeps_quiet_about_broken_files(
    tmp_path: Path, made_clip: Clip, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.mp4").write_bytes(made_clip.path.read_bytes())
    (tmp_path / "cut.mp4").write_bytes(made_clip.path.read_bytes()[:3000])
    (tmp_path / "words.webm").write_text("words")
    assert len(find_clips(tmp_path).passed_over) == 2
    assert capfd.readouterr() == ("", "")
