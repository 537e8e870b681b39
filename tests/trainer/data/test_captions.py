"""Captions are found, tidied and turned into bytes."""

from pathlib import Path

import pytest

from moescope.platform.errors import MoescopeError
from moescope.trainer.data.captions import encode_caption, read_caption_beside, read_caption_file


def test_a_caption_becomes_its_bytes_plus_one_and_padding() -> None:
    # A is byte 65; e with acute accent is the bytes 195, 169
    assert encode_caption("Aé", 5).tolist() == [66, 196, 170, 0, 0]


def test_a_long_caption_is_cut() -> None:
    assert encode_caption("abcdef", 3).tolist() == [98, 99, 100]


def test_no_caption_is_all_padding() -> None:
    assert not encode_caption("", 4).any()


def test_a_caption_file_is_read_with_its_usual_keys(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(
        '\ufeff{"file": "a.mp4", "caption": "one  ball\\n rises"}\n\n'
        '{"file_name": "in/b.mp4", "text": "two", "more": 1}\n',
        encoding="utf-8",
    )
    assert read_caption_file(path) == {"a.mp4": "one ball rises", "in/b.mp4": "two"}


def test_a_line_with_a_class_needs_no_caption(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file": "a.mp4", "label": 3}\n{"file": "b.mp4", "text": "b", "class": "x"}\n')
    assert read_caption_file(path) == {"b.mp4": "b"}


@pytest.mark.parametrize("line", ["{oops", '["a.mp4", "b"]', '{"file": "a.mp4"}', '{"caption": 1}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text('{"file": "a.mp4", "caption": "fine"}\n' + line + "\n")
    with pytest.raises(MoescopeError, match=r"captions\.jsonl line 2"):
        read_caption_file(path)


def test_a_text_beside_the_clip_is_its_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa  red \n ball\n")
    assert read_caption_beside(tmp_path / "a.mp4") == "a red ball"
    assert read_caption_beside(tmp_path / "b.mp4") is None
