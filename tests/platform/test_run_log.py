"""Logs of runs: what is kept, how their end is found, and that they never stop anybody."""

from pathlib import Path

import pytest

from moescope.platform import run_log
from moescope.platform.run_log import RunLog, cleaned, end_of


def test_each_line_has_its_time(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.txt")
    log.write("one\ntwo", 0.0)
    log.write("three \udcff", 86_400.0)  # of an undecodable file name
    assert (tmp_path / "log.txt").read_text() == (
        "1970-01-01 00:00:00 one\n1970-01-01 00:00:00 two\n1970-01-02 00:00:00 three ?\n"
    )


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    RunLog(tmp_path / "not" / "there").write("lost", 0.0)
    RunLog(None).write("nowhere", 0.0)
    assert end_of(tmp_path / "not" / "there", 10) is None
    assert end_of(tmp_path, 10) is None


def test_the_end_is_the_last_lines(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text("".join(f"step {i}\n" for i in range(1000)))
    found = end_of(file, 3)
    assert found is not None
    assert found.lines == ("step 997", "step 998", "step 999")
    assert found.is_whole


def test_words_are_looked_for_in_the_whole_file_whatever_their_case(tmp_path: Path) -> None:
    file = tmp_path / "log.txt"
    file.write_text("an ALERT\n" + "step\n" * 5000 + "another alert\n")
    found = end_of(file, 500, "Alert")
    assert found is not None
    assert found.lines == ("an ALERT", "another alert")
    assert found.num_found == 2


def test_a_long_file_is_looked_through_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "MOST_SEARCHED_BYTES", 100)
    file = tmp_path / "log.txt"
    file.write_text("alert\n" + "step\n" * 50 + "alert\n")
    found = end_of(file, 500, "alert")
    assert found is not None
    assert (found.num_found, found.is_whole, found.num_bytes) == (1, False, 262)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("10%\r50%\r100%", "100%"),
        ("done\r", "done"),
        ("a\x00b\tc", "a\ufffdb\tc"),
        ("<b>stays</b>", "<b>stays</b>"),
    ],
)
def test_a_line_is_what_was_seen_of_it(line: str, seen: str) -> None:
    assert cleaned(line) == seen


def test_a_line_without_an_end_is_cut() -> None:
    assert len(cleaned("x" * 10_000)) == 2000
