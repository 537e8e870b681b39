"""A folder is searched: usable clips in order of delivery, all else named with its reason."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.data.clips import Clip, ClipIndex, find_clips


def test_clips_come_in_order_of_delivery_with_numbers_as_numbers(made_index: ClipIndex) -> None:
    assert [clip.name for clip in made_index.clips[::6]] == [
        "part-1/clip-0000.mp4",
        "part-2/clip-0000.mp4",
        "part-10/clip-0000.mp4",
    ]
    assert [clip.folder for clip in made_index.clips] == [
        *["part-1"] * 6,
        *["part-2"] * 6,
        *["part-10"] * 6,
    ]


def test_a_clip_says_what_it_is(made_clip: Clip) -> None:
    assert made_clip.duration_s == pytest.approx(2.0, abs=0.05)
    assert made_clip.frames_per_s == 16
    assert made_clip.has_sound
    assert ": a " in made_clip.caption


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path: Path, made_clip: Clip) -> None:
    whole = made_clip.path.read_bytes()
    (tmp_path / "good.mp4").write_bytes(whole)
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "words.mp4").write_text("this is no video, only words\n" * 50)
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:2,\ngood.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "notes.pdf").write_text("notes")
    (tmp_path / ".hidden").write_text("not looked at")
    index = find_clips(tmp_path)
    assert [clip.name for clip in index.clips] == ["good.mp4"]
    assert dict(index.passed_over) == {
        "cut.mp4": "not a video file, or cut off",
        "empty.mp4": "empty file",
        "words.mp4": "not a video file, or cut off",
        "playlist.mp4": "not a video file, or cut off",
        "notes.pdf": "no clip: .pdf",
    }


@pytest.mark.parametrize("share", [0.4, 0.9], ids=["early", "late"])
@pytest.mark.parametrize(
    "suffix_and_codec",
    [("mp4", "libx264"), ("webm", "libvpx-vp9")],
    ids=["mp4 whose index comes first", "webm"],
)
def test_a_clip_whose_header_is_whole_but_whose_end_is_missing_is_cut_off(
    tmp_path: Path, ffmpeg: Callable[..., Path], suffix_and_codec: tuple[str, str], share: float
) -> None:
    suffix, codec = suffix_and_codec
    arguments = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10:duration=6", "-c:v", codec]
    path = ffmpeg(*arguments, "-g", "10", "-movflags", "faststart", tmp_path / f"a.{suffix}")
    assert len(find_clips(tmp_path).clips) == 1
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(MoescopeError, match="cut off"):
        find_clips(tmp_path)


def test_a_sound_file_and_a_picture_are_no_clips(
    tmp_path: Path, ffmpeg: Callable[..., Path]
) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc2=duration=0.1", "-frames:v", "1", tmp_path / "p.png")
    (tmp_path / "p.png").rename(tmp_path / "picture.mp4")
    with pytest.raises(MoescopeError) as caught:
        find_clips(tmp_path)
    assert "2 found" in str(caught.value)
    assert "no video in it" in str(caught.value)


def test_a_folder_without_a_usable_clip_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match="it holds no file"):
        find_clips(tmp_path)
    for number in range(3):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "x.doc").touch()
    with pytest.raises(MoescopeError) as caught:
        find_clips(tmp_path)
    assert "4 found (3 x empty file, 1 x no clip: .doc; first 0.mp4)" in str(caught.value)


def test_a_missing_folder_a_file_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match=r"nowhere, which does not exist"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MoescopeError, match="which is not a folder"):
        find_clips(tmp_path / "file")
    with pytest.raises(MoescopeError, match=r"data\.folder is empty"):
        find_clips("")


def test_the_caption_beside_a_clip_wins_over_the_nearest_list(
    tmp_path: Path, made_clip: Clip
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for name in ("beside", "near", "far", "none"):
        shutil.copy(made_clip.path, inner / f"{name}.mp4")
    (inner / "beside.txt").write_text("from beside")
    (inner / "captions.jsonl").write_text(
        '{"file": "near.mp4", "caption": "from near"}\n{"file": "beside.mp4", "caption": "no"}\n'
    )
    (tmp_path / "captions.jsonl").write_text(
        '{"file": "inner/near.mp4", "caption": "no"}\n'
        '{"file": "inner/far.mp4", "caption": "from far"}\n'
        '{"file": "inner/gone.mp4", "caption": "of nothing"}\n'
    )
    index = find_clips(tmp_path)
    captions = {clip.path.stem: clip.caption for clip in index.clips}
    assert captions == {"beside": "from beside", "near": "from near", "far": "from far", "none": ""}
    assert index.passed_over == (("inner/gone.mp4", "has a caption, but is not there"),)


def test_the_fingerprint_follows_clips_and_captions(tmp_path: Path, made_clip: Clip) -> None:
    shutil.copy(made_clip.path, tmp_path / "a.mp4")
    first = find_clips(tmp_path).fingerprint
    os.utime(tmp_path / "a.mp4")
    assert find_clips(tmp_path).fingerprint == first
    (tmp_path / "a.txt").write_text("now with a caption")
    second = find_clips(tmp_path).fingerprint
    shutil.copy(made_clip.path, tmp_path / "b.mp4")
    assert len({first, second, find_clips(tmp_path).fingerprint}) == 3


def test_links_are_followed_and_a_circle_of_them_ends(tmp_path: Path, made_clip: Clip) -> None:
    store, folder = tmp_path / "store", tmp_path / "folder"
    store.mkdir()
    folder.mkdir()
    shutil.copy(made_clip.path, store / "a.mp4")
    (folder / "linked").symlink_to(store)
    (store / "back").symlink_to(folder)
    assert [clip.name for clip in find_clips(folder).clips] == ["linked/a.mp4"]


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path: Path, made_clip: Clip) -> None:
    shutil.copy(made_clip.path, tmp_path / os.fsdecode(b"caf\xe9.mp4"))
    (clip,) = find_clips(tmp_path).clips
    assert clip.name == "caf\\xe9.mp4"
    clip.name.encode("utf-8")
