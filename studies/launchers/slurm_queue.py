"""What Slurm says of jobs: its queue, its accounts, and what a person must do."""

import shutil
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...platform.errors import MoescopeError

PATIENCE_S = 25.0
ENDED = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"),
    *("OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)
"""States of sacct that a job does not leave, unless it is put into the queue again."""


@dataclass(frozen=True, slots=True)
class Job:
    id: str
    """With its number in the array: 17_3."""
    state: str
    reason: str
    """Why it waits."""

    @property
    def is_running(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED")


def refuse_where_away() -> None:
    """Raises MoescopeError where Slurm's commands are not there, or its controller does not
    answer."""
    if shutil.which("sbatch") is None:
        raise MoescopeError(
            "Slurm is not here (no sbatch): run this on a machine that submits jobs, or say "
            "launch.launcher local"
        )
    # quicker than asking anything else of a controller that is down
    _said("scontrol", "ping")


def refuse_what_it_has_not(options: Sequence[str]) -> None:
    """Raises MoescopeError where no job with these options of sbatch could ever run."""
    try:
        _said("sbatch", "--test-only", *options, "--wrap", "true")
    except MoescopeError as error:
        said = str(error).partition(": ")[2].removeprefix("allocation failure: ")
        raise MoescopeError(f"Slurm takes no such job ({said}): mend launch in the study") from None


def jobs(name: str) -> list[Job]:
    """Returns our jobs of a name that wait or run. Raises MoescopeError where Slurm is away."""
    text = _said("squeue", "--me", "-h", "-r", "-n", name, "-o", "%i|%T|%r")
    return [Job(*line.split("|", 2)) for line in text.splitlines() if line.count("|") >= 2]


def state_of(job: str) -> str:
    """Returns a job's state; empty where it is in the queue no more, or Slurm is away."""
    try:
        return _said("squeue", "-h", "-j", job, "-o", "%T").strip()
    except MoescopeError:
        return ""


def ends(ids: Collection[str]) -> dict[str, str]:
    """Returns {job: how it ended} of those that have; nothing where accounts are not kept."""
    try:
        text = _said(
            "sacct", "-n", "-P", "-X", "-j", ",".join(sorted(ids)), "-o", "JobID,State,ExitCode"
        )
    except MoescopeError:
        return {}
    found = {}
    for line in text.splitlines():
        job, state, *code = line.split("|")
        word = state.partition(" ")[0]  # CANCELLED by 1000
        if job in ids and word in ENDED:
            is_plain = word in ("COMPLETED", "CANCELLED", "TIMEOUT", "PREEMPTED")
            found[job] = word if is_plain or not code else f"{word} ({code[0]})"
    return found


def complaints(found: Sequence[Job]) -> list[str]:
    """Returns what keeps jobs from running until a person acts, with what to do."""
    told = [
        f"Slurm job {job.id} is held ({job.reason}): `scontrol release {job.id}` lets it run"
        for job in found
        if "held" in job.reason.lower() or job.state == "SPECIAL_EXIT"
    ]
    words = ("DOWN", "DRAINED", "ReqNodeNotAvail")
    if any(word in job.reason for job in found for word in words):
        for line in _said("sinfo", "-h", "-R", "-o", "%n|%T|%E").splitlines():
            node, state, why, *_ = [*line.split("|", 2), "", ""]
            told.append(
                f"Slurm node {node} is {state} ({why}): once it is mended, `scontrol update "
                f"nodename={node} state=resume` lets jobs run there"
            )
    return told


def _said(*command: str) -> str:
    """Returns what a command of Slurm prints. Raises MoescopeError with what it complains of."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise MoescopeError(f"Slurm is not here (no {command[0]})") from None
    except subprocess.TimeoutExpired:
        raise MoescopeError(
            f"Slurm does not answer: {command[0]} took {PATIENCE_S:.0f} s"
        ) from None
    if done.returncode != 0:
        # `scontrol ping` complains where it answers
        told = done.stderr or done.stdout
        lines = [line for line in told.splitlines() if line.strip()] or ["it said nothing"]
        raise MoescopeError(f"Slurm does not answer ({command[0]}): {lines[-1][:200]}")
    return done.stdout
