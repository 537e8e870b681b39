"""What the policy must not forget: actions taken, batches skipped, limits that were hardened and
alarms that nothing has healed, in an append-only file that no rollback touches."""

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..platform.last_bytes import sync
from ..platform.records import ActionKind

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """An action that was carried out."""

    kind: ActionKind
    step: int
    """The step at which it was taken."""
    batch: int
    alert_id: str | None
    to_step: int | None
    segment: int
    """The segment that it was decided in."""
    is_automatic: bool
    rule: str = ""
    """The rule whose alert it answered."""
    hardened_to: float = 1.0
    """rollback: factor on that rule's threshold, from then on, for asking for the next one."""


@dataclass(frozen=True, slots=True)
class ExplainedAway:
    """An alarm that ended only because its detector learnt a new baseline."""

    onset_step: int
    until_step: int
    """No state saved from the onset to here is trusted."""
    segment: int


@dataclass(frozen=True, slots=True)
class Hardened:
    factor: float
    num_healthy: int
    """Healthy steps that the run had come by then, as the memory counts them."""


class PolicyMemory:
    """Actions, skipped batches and healthy stretches in the order in which they happened, one JSON
    object a line.

    Every line is flushed to the disk before the call returns, so that a crash does not reset the
    brake. A last line that a crash cut short is dropped on reading, and cut off; a damaged line in
    the middle is passed over and said in the log. One process writes (the run's lease holder).
    """

    def __init__(self, path: Path, *, is_ours: bool = True) -> None:
        """is_ours: False: another process writes it, and here it is only read."""
        self._path = path
        self.actions: list[Taken] = []
        self.skipped: set[int] = set()
        self.num_skipped_in_incident = 0
        """Batches skipped since the last rollback, skip_data or halt: who resumes a halted run
        means to try again."""
        self.hardened: dict[str, Hardened] = {}
        """{rule: what its last automatic rollback made of its limit}"""
        self.num_healthy = 0
        """Healthy steps since anything was hardened, as far as they were noted."""
        self.explained_away: list[ExplainedAway] = []
        self.fault = ""
        """Why the last line could not be written, in words for a person: it is known in this
        process, and a crash would forget it."""
        if path.exists():
            self._read(is_ours)
        elif is_ours:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            sync(path.parent)

    def add_action(self, taken: Taken) -> None:
        self._append(
            {
                "what": "action",
                "kind": taken.kind,
                "step": taken.step,
                "batch": taken.batch,
                "alert_id": taken.alert_id,
                "to_step": taken.to_step,
                "segment": taken.segment,
                "is_automatic": taken.is_automatic,
                "rule": taken.rule,
                "hardened_to": taken.hardened_to,
            }
        )
        self._take_action(taken)

    def add_skipped(self, batch: int) -> None:
        if batch in self.skipped:
            return
        self._append({"what": "skip", "batch": batch})
        self._take_skipped(batch)

    def add_healthy(self, num_steps: int) -> None:
        """Remembers a stretch of healthy steps, which relax what was hardened."""
        self._append({"what": "healthy", "steps": num_steps})
        self.num_healthy += num_steps

    def add_explained_away(self, explained: ExplainedAway) -> None:
        if explained in self.explained_away:
            return
        self._append({"what": "explained_away", **asdict(explained)})
        self.explained_away.append(explained)

    def is_left_behind(self, step: int, segment: int) -> bool:
        """Whether a rollback left the state of this step and segment behind on the branch that it
        went back from; also where a crash came before that state was dropped."""
        return any(
            taken.kind == "rollback"
            and taken.to_step is not None
            and segment <= taken.segment
            and step > taken.to_step
            for taken in self.actions
        )

    def _append(self, line: Mapping[str, Any]) -> None:
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.fault = ""
        except OSError as error:
            # a full disk must not end a training; half a line would spoil the one after it
            self.fault = (
                f"{self._path.name} cannot be written ({error.strerror}): a crash would forget "
                "what the policy did last"
            )
            log.error("%s", self.fault)
            with suppress(OSError):
                os.truncate(self._path, size)

    def _read(self, is_ours: bool) -> None:
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if is_ours and whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                log.warning("%s: line %d cannot be read and is passed over", self._path, number)

    def _take(self, line: Mapping[str, Any]) -> None:
        if line["what"] == "skip":
            self._take_skipped(int(line["batch"]))
        elif line["what"] == "healthy":
            self.num_healthy += int(line["steps"])
        elif line["what"] == "explained_away":
            steps = (int(line[name]) for name in ("onset_step", "until_step", "segment"))
            self.explained_away.append(ExplainedAway(*steps))
        else:
            # lines of before there was hardening have neither rule nor factor
            fields = {name: line[name] for name in Taken.__slots__ if name in line}
            self._take_action(Taken(**fields))

    def _take_action(self, taken: Taken) -> None:
        self.actions.append(taken)
        if taken.kind in ("rollback", "skip_data", "halt"):
            self.num_skipped_in_incident = 0
        if taken.kind == "rollback" and taken.is_automatic and taken.hardened_to > 1:
            self.hardened[taken.rule] = Hardened(taken.hardened_to, self.num_healthy)

    def _take_skipped(self, batch: int) -> None:
        self.skipped.add(batch)
        self.num_skipped_in_incident += 1
