"""What Slurm prints, as seen with 22.05, and what is made of it. The story is in
`tests/stories/studies/test_slurm.py`."""

from typing import Any

import pytest

from moescope.platform.errors import MoescopeError
from moescope.studies.launchers import slurm_queue
from moescope.studies.launchers.slurm_queue import Job, complaints, ends, jobs

DRAINED = (
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions"
)


@pytest.fixture
def prints(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says what each command of Slurm prints; an exception is raised."""

    def answer(**by_command: str | MoescopeError) -> None:
        def said(*command: str) -> str:
            text = by_command[command[0]]
            if isinstance(text, MoescopeError):
                raise text
            return text

        monkeypatch.setattr(slurm_queue, "_said", said)

    return answer


def test_jobs_are_read_with_reasons_that_have_blanks_and_bars(prints: Any) -> None:
    prints(squeue=f"38_0|RUNNING|None\n38_1|PENDING|{DRAINED}\n39_0|PENDING|a|b\n")
    assert jobs("n") == [
        Job("38_0", "RUNNING", "None"),
        Job("38_1", "PENDING", DRAINED),
        Job("39_0", "PENDING", "a|b"),
    ]
    assert [job.is_running for job in jobs("n")] == [True, False, False]


def test_only_what_is_over_has_an_end(prints: Any) -> None:
    prints(
        sacct="38_0|COMPLETED|0:0\n38_1|FAILED|9:0\n38_2|CANCELLED by 1000|0:0\n"
        "38_3|REQUEUED|0:0\n38_4|PENDING|0:0\n38_5|OUT_OF_MEMORY|0:125\n40_[0-2]|PENDING|0:0\n"
    )
    assert ends({f"38_{i}" for i in range(6)}) == {
        "38_0": "COMPLETED",
        "38_1": "FAILED (9:0)",
        "38_2": "CANCELLED",
        "38_5": "OUT_OF_MEMORY (0:125)",
    }


def test_without_accounts_nothing_is_known_to_be_over(prints: Any) -> None:
    prints(sacct=MoescopeError("Slurm does not answer"))
    assert ends({"38_0"}) == {}


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "JobHeldAdmin", "job requeued in held state", "launch failed held"]
)
def test_a_held_job_is_told_with_what_releases_it(prints: Any, reason: str) -> None:
    (line,) = complaints([Job("38_0", "PENDING", reason)])
    assert line == f"Slurm job 38_0 is held ({reason}): `scontrol release 38_0` lets it run"


def test_a_drained_node_is_told_once_with_its_reason(prints: Any) -> None:
    prints(sinfo="n1|drained|disk is full, check\n")
    waiting = [Job("38_0", "PENDING", DRAINED), Job("38_1", "PENDING", DRAINED)]
    (line,) = complaints(waiting)
    assert line == (
        "Slurm node n1 is drained (disk is full, check): once it is mended, `scontrol update "
        "nodename=n1 state=resume` lets jobs run there"
    )


def test_a_job_that_waits_its_turn_is_no_complaint() -> None:
    assert complaints([Job("38_0", "PENDING", "Priority"), Job("3", "PENDING", "BeginTime")]) == []
