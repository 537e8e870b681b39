"""What is written can be played, and comes back nearly as it was."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.data.headers import read_header
from moescope.trainer.data.write_clip import write_clip


def probed(path: Path) -> dict[str, dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=30)
    return {stream["codec_type"]: stream for stream in json.loads(answer.stdout)["streams"]}


def test_a_clip_is_h264_and_aac_and_as_long_as_asked(tmp_path: Path) -> None:
    video = np.random.default_rng(0).integers(0, 255, (12, 32, 48, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", video, np.zeros(16000, np.float32), 16000, 12.0)
    streams = probed(tmp_path / "a.mp4")
    assert streams["video"]["codec_name"] == "h264"
    assert streams["video"]["pix_fmt"] == "yuv420p"
    assert (streams["video"]["width"], streams["video"]["height"]) == (48, 32)
    assert streams["audio"]["codec_name"] == "aac"
    assert float(streams["video"]["duration"]) == pytest.approx(1.0)
    assert float(streams["audio"]["duration"]) == pytest.approx(1.0, abs=0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_grow_to_even_ones_and_sound_is_optional(tmp_path: Path) -> None:
    video = np.full((3, 33, 47, 3), 200, dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", video, None, 0, 29.97)
    streams = probed(tmp_path / "a.mp4")
    assert set(streams) == {"video"}
    assert (streams["video"]["width"], streams["video"]["height"]) == (48, 34)
    assert read_header(tmp_path / "a.mp4").frames_per_s == pytest.approx(29.97, rel=1e-3)


def test_colours_come_back(tmp_path: Path) -> None:
    video = np.empty((8, 32, 32, 3), dtype=np.uint8)
    video[:, :, :16], video[:, :, 16:] = (245, 15, 25), (20, 20, 245)
    write_clip(tmp_path / "a.mp4", video, None, 0, 8.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 8
    # 4:2:0 blurs colours across the border by a pixel or two
    inner = np.stack(frames).astype(int) - video
    assert np.abs(inner[:, :, [*range(12), *range(20, 32)]]).max() < 16


def test_a_clip_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    video = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    with pytest.raises(MoescopeError, match="cannot write the clip"):
        write_clip(tmp_path / "missing" / "a.mp4", video, None, 0, 8.0)
    (tmp_path / "a.mp4").write_text("old")
    with pytest.raises(MoescopeError, match="cannot write the clip"):
        write_clip(tmp_path / "a.mp4", video, np.zeros(100, np.float32), 12345, 8.0)
    assert (tmp_path / "a.mp4").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 16, 16\)"):
        write_clip(tmp_path / "a.mp4", np.zeros((2, 16, 16), np.uint8), None, 0, 8.0)


def test_ffmpeg_finds_no_fault_with_it(tmp_path: Path, ffmpeg: Callable[..., Path]) -> None:
    audio = (0.3 * np.sin(np.arange(32000) * 0.2)).astype(np.float32)
    video = np.zeros((32, 64, 64, 3), dtype=np.uint8)
    write_clip(tmp_path / "a.mp4", video, audio, 16000, 16.0)
    ffmpeg("-xerror", "-i", tmp_path / "a.mp4", "-f", "null", "-")
