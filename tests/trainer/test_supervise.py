"""A crashed trainer is restarted a bounded number of times; one that ended for good is not."""

import sys
from pathlib import Path

from moescope.trainer.supervise import supervise


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_crash_is_followed_by_a_resume(tmp_path: Path) -> None:
    said: list[str] = []
    start = program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    resume = program(f"open({str(tmp_path / 'resumed')!r}, 'a').write('x')")
    assert supervise(start, resume, first_wait_s=0.01, say=said.append) == 0
    assert (tmp_path / "resumed").read_text() == "x"
    assert said == ["trainer ended with code -9: restart 1 of 3 in 0 s"]


def test_it_gives_up_after_the_last_restart(tmp_path: Path) -> None:
    said: list[str] = []
    log = tmp_path / "tries"
    crash = program(f"open({str(log)!r}, 'a').write('x'); raise SystemExit(1)")
    code = supervise(crash, crash, most_restarts=2, first_wait_s=0.01, say=said.append)
    assert code == 1
    assert log.read_text() == "xxx"
    assert said[-1].endswith("3 times: given up")


def test_a_users_mistake_and_a_halt_are_not_repeated() -> None:
    for code in (2, 3):
        said: list[str] = []
        ends = program(f"raise SystemExit({code})")
        assert supervise(ends, ends, first_wait_s=0.01, say=said.append) == code
        assert said == []
