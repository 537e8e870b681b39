"""Pictures are clips of one frame: found, decoded, turned upright, and refused where broken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moescope.platform.errors import MoescopeError
from moescope.trainer.config import DataConfig
from moescope.trainer.data import pictures
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.decode import read_sample
from moescope.trainer.data.headers import UnreadableClip
from moescope.trainer.data.pictures import read_picture
from moescope.trainer.data.write_clip import write_clip, write_picture

DATA = DataConfig(num_frames=3, height=32, width=32, num_mel_steps=4)


def quarters(size: int = 32) -> NDArray[np.uint8]:
    """Red, green, blue and white quarters, so that each way of turning shows."""
    picture_HWC = np.empty((size, size, 3), dtype=np.uint8)
    half = size // 2
    picture_HWC[:half, :half], picture_HWC[:half, half:] = (250, 5, 5), (5, 250, 5)
    picture_HWC[half:, :half], picture_HWC[half:, half:] = (5, 5, 250), (250, 250, 250)
    return picture_HWC


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_picture(tmp_path / "a.png", quarters())
    return tmp_path / "a.png"


def test_a_png_comes_back_as_it_was_written(written: Path) -> None:
    frame = read_picture(written)
    assert np.array_equal(frame.to_ndarray(format="rgb24"), quarters())
    assert [path.name for path in written.parent.iterdir()] == ["a.png"]


def test_a_picture_is_a_clip_without_time_or_sound_and_is_held(written: Path) -> None:
    (clip,) = find_clips(written.parent).clips
    assert (clip.duration_s, clip.frames_per_s, clip.has_sound) == (0.0, 0.0, False)
    sample = read_sample(clip, DATA, 0, 0)
    assert sample.video_CFHW.shape == (3, 3, 32, 32)
    for frame_CHW in sample.video_CFHW.swapaxes(0, 1):
        assert np.array_equal(frame_CHW.transpose(1, 2, 0), quarters())
    assert not sample.has_sound
    assert not sample.mel_NM.any()


@pytest.mark.parametrize(
    ("suffix", "options", "is_grey", "apart"),
    [
        pytest.param("jpg", ("-q:v", "2"), False, 12, id="jpg"),
        pytest.param("png", ("-pix_fmt", "gray"), True, 3, id="png-grey"),
        # ffmpeg's palette is a coarse one
        pytest.param("png", ("-pix_fmt", "pal8"), False, 40, id="png-palette"),
        pytest.param("png", ("-pix_fmt", "rgba64be"), False, 2, id="png-16-bit-transparent"),
        pytest.param("webp", ("-lossless", "1"), False, 2, id="webp"),
    ],
)
def test_pictures_of_other_programs_are_read(
    written: Path,
    ffmpeg: Callable[..., Path],
    suffix: str,
    options: tuple[str, ...],
    is_grey: bool,
    apart: int,
) -> None:
    path = ffmpeg("-i", written, *options, "-frames:v", "1", written.with_name(f"b.{suffix}"))
    index = find_clips(written.parent)
    assert [clip.name for clip in index.clips] == ["a.png", f"b.{suffix}"]
    found_HWC = read_picture(path).to_ndarray(format="rgb24").astype(int)
    # luma of ITU-R BT.601, the same in all colours
    grey_HWC = (quarters() @ np.array([0.299, 0.587, 0.114]))[..., None]
    # the middles of the quarters: a jpg blurs colours across their borders
    off = np.abs(found_HWC - (grey_HWC if is_grey else quarters()))[4::8, 4::8]
    assert off.max() < apart


def test_the_first_bytes_tell_the_format_and_not_the_name(written: Path) -> None:
    named_otherwise = written.rename(written.with_name("a.jpg"))
    assert read_picture(named_otherwise).format.name == "rgb24"


def with_orientation(jpg: bytes, orientation: int) -> bytes:
    """Puts Exif's orientation tag (274, a short) behind the first marker of a jpg."""
    tag = (274).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    tiff = b"II*\0" + (8).to_bytes(4, "little") + (1).to_bytes(2, "little") + tag
    exif = b"Exif\0\0" + tiff + orientation.to_bytes(4, "little") + bytes(4)
    return jpg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpg[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_picture_taken_with_a_turned_camera_stands_upright(
    written: Path, ffmpeg: Callable[..., Path], orientation: int, turns: int
) -> None:
    path = ffmpeg("-i", written, "-q:v", "2", "-frames:v", "1", written.with_name("b.jpg"))
    path.write_bytes(with_orientation(path.read_bytes(), orientation))
    written.unlink()
    (clip,) = find_clips(written.parent).clips
    found_HWC = read_sample(clip, DATA, 0, 0).video_CFHW[:, 0].transpose(1, 2, 0).astype(int)
    # Exif 6: the camera's right is up, so that the picture is turned to the right, rot90 by 3
    off = np.abs(found_HWC - np.rot90(quarters(), turns))[4::8, 4::8]
    assert off.max() < 12


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_picture_that_is_cut_off_is_passed_over(
    tmp_path: Path, ffmpeg: Callable[..., Path], suffix: str, share: float
) -> None:
    whole = ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=96x96", "-frames:v", "1", tmp_path / f"a.{suffix}"
    )
    content = whole.read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(len(content) * share)])
    index = find_clips(tmp_path)
    assert [clip.name for clip in index.clips] == [f"a.{suffix}"]
    assert index.passed_over == ((f"cut.{suffix}", "a picture cut off or damaged"),)


def test_what_is_no_picture_is_named_with_its_reason(
    written: Path, ffmpeg: Callable[..., Path]
) -> None:
    folder = written.parent
    (folder / "empty.png").touch()
    (folder / "words.jpg").write_text("no picture, only words\n" * 20)
    # names that would make a demuxer open a.png, or every numbered picture
    (folder / "list.webp").write_text("#EXTM3U\n#EXTINF:2,\na.png\n#EXT-X-ENDLIST\n")
    (folder / "all%03d.png").write_text("ffconcat version 1.0\nfile a.png\n")
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=32x32:r=5:d=1", "-c:v", "libwebp_anim",
        folder / "moving.webp",
    )  # fmt: skip
    index = find_clips(folder)
    assert [clip.name for clip in index.clips] == ["a.png"]
    no_picture = "not a jpg, png or webp picture"
    assert dict(index.passed_over) == {
        "all%03d.png": no_picture,
        "empty.png": "empty file",
        "list.webp": no_picture,
        "moving.webp": "a moving webp picture",
        "words.jpg": no_picture,
    }


def test_a_picture_beside_a_clip_of_its_name_is_its_cover(written: Path) -> None:
    folder = written.parent
    video = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    write_clip(folder / "a.mp4", video, None, 0, 8.0)
    index = find_clips(folder)
    assert [clip.name for clip in index.clips] == ["a.mp4"]
    assert index.passed_over == (("a.png", "the cover of a clip"),)


def test_a_picture_has_a_caption_and_a_class_as_a_clip_has(written: Path) -> None:
    (written.parent / "a.txt").write_text("four quarters")
    (written.parent / "captions.jsonl").write_text('{"file": "a.png", "label": 2}')
    (clip,) = find_clips(written.parent).clips
    assert (clip.caption, clip.label) == ("four quarters", 2)


def test_a_picture_that_would_fill_the_memory_is_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pictures.OPTIONS, "max_pixels", "1023")
    with pytest.raises(UnreadableClip, match=r"more than \d+ million pixels"):
        read_picture(written)
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    with pytest.raises(UnreadableClip, match="a picture of 0 MiB"):
        read_picture(written)


def test_a_picture_that_is_gone_is_unreadable(written: Path) -> None:
    (clip,) = find_clips(written.parent).clips
    written.unlink()
    with pytest.raises(UnreadableClip, match="No such file"):
        read_sample(clip, DATA, 0, 0)


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match="cannot write the picture"):
        write_picture(tmp_path / "missing" / "a.png", quarters())
    with pytest.raises(ValueError, match=r"\(32, 32\)"):
        write_picture(tmp_path / "a.png", quarters()[..., 0])
    assert not any(tmp_path.iterdir())
