"""Where the logs of a run lie on this machine, and what the store keeps of those on others."""

from collections.abc import Mapping
from pathlib import Path

from ..platform import trials
from ..platform.records import Run
from ..platform.run_log import LOG
from ..platform.store import Store

OWN = "What it said"


def logs_of(store: Store, run: Run) -> Mapping[str, Path | str]:
    """Returns {what it is: a file of this machine, or text that the store keeps}: what the run
    said, all that its process printed where a study started it, and the ends of the attempts that
    have ended.
    """
    found: dict[str, Path | str] = {}
    folder = Path(run.folder) if run.folder else None
    if folder is not None and (folder / LOG).is_file():
        found[OWN] = folder / LOG
    trial = trials.trial_of_run(store, run.id)
    if trial is None:
        return found
    if folder is not None and len(folder.parents) > 1:
        # as studies/worker.py keeps it: home/studies/STUDY/KEY.log beside home/runs/ID
        printed = folder.parents[1] / "studies" / trial.study / f"{trial.key}.log"
        if printed.is_file():
            found["All that its process printed"] = printed
    for attempt in reversed(trials.attempts(store, trial.study, trial.key)):
        if attempt.ended_s is not None and attempt.log_tail:
            found[f"End of attempt {attempt.number} ({attempt.exit_reason})"] = attempt.log_tail
    return found
