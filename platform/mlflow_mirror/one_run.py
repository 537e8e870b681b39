"""One MLflow run for each thing that is mirrored, whoever looks for it at the same moment.

MLflow makes a run whenever it is asked, and whoever gave up waiting for the answer may have made
one, too. So a run is found by its tags, in a lock that the processes of this machine share; those
of other machines agree among themselves:

    make   a run with the tags; give way to one that is settled already
    settle it, by a tag
    look   again: wait for whoever has made one and not settled it, then the lowest id stays

Whoever gives way deletes what it made, in which nothing is yet. Of two that settle, the later one
sees the other, and both judge by the id.
"""

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTLED = "moescope.settled"
"""Tag of the run that all agree on."""
_LOOK_EVERY_S = 0.1
_PATIENCE_S = 3.0
"""How long a run that somebody made is waited for to be settled."""
_LOCK_PATIENCE_S = 20.0


def find_or_create(
    client: "MlflowClient",
    experiment_id: str,
    tags: Mapping[str, str],
    name: str,
    *,
    more_tags: Mapping[str, str] | None = None,
    start_s: float | None = None,
    tracking_url: str = "",
) -> str:
    """Returns the id of the run that has these tags, and makes it where there is none.

    more_tags: given to one that is made, and not looked for. start_s: when it says that it began.
    tracking_url: what the lock is for. Raises what MLflow raises.
    """
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = _Found(client, experiment_id, wanted)
    if (known := found.settled()) is not None:
        return known
    with _lock(tracking_url, experiment_id, wanted):
        if (known := found.settled() or found.made_elsewhere()) is not None:
            return known
        start_ms = None if start_s is None else int(start_s * 1000)
        made = client.create_run(
            experiment_id, start_time=start_ms, tags={**tags, **(more_tags or {})}, run_name=name
        )
        return found.agree(str(made.info.run_id))


class _Found:
    """The runs that have the tags."""

    def __init__(self, client: "MlflowClient", experiment_id: str, wanted: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._wanted = wanted

    def settled(self) -> str | None:
        """The settled one; those beside it, which nobody knows, are deleted."""
        settled, others = self._look()
        if not settled:
            return None
        for run_id in others:
            self._delete(run_id)
        return min(settled)

    def made_elsewhere(self) -> str | None:
        """One that somebody has made and does not settle: as an earlier version of this program."""
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            settled, others = self._look()
            if settled or not others:
                return min(settled, default=None)
            if time.monotonic() > until_s:
                self._client.set_tag(min(others), SETTLED, "yes")
                return self.settled()
            time.sleep(_LOOK_EVERY_S)

    def agree(self, own: str) -> str:
        """The run that all agree on, which may be our own."""
        settled, _ = self._look()
        if settled and own not in settled:
            self._delete(own)
            return min(settled)
        self._client.set_tag(own, SETTLED, "yes")
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            settled, others = self._look()
            if not others:
                break
            if time.monotonic() > until_s:
                for run_id in others:
                    self._delete(run_id)
                break
            time.sleep(_LOOK_EVERY_S)
        chosen = min(settled)
        if chosen != own:
            self._delete(own)
        return chosen

    def _look(self) -> tuple[list[str], list[str]]:
        """(ids that are settled, ids that are not)"""
        runs: list[Any] = self._client.search_runs([self._experiment_id], self._wanted)
        settled = [str(run.info.run_id) for run in runs if SETTLED in run.data.tags]
        others = [str(run.info.run_id) for run in runs if SETTLED not in run.data.tags]
        return settled, others

    def _delete(self, run_id: str) -> None:
        # somebody else did so already, or this user may not: it stays, and nobody writes to it
        with suppress(Exception):
            self._client.delete_run(run_id)


@contextmanager
def _lock(tracking_url: str, experiment_id: str, wanted: str) -> Iterator[None]:
    """Held by one process of this user on this machine; where it cannot be had, the agreement alone
    must do."""
    key = hashlib.sha256(f"{tracking_url} {experiment_id} {wanted}".encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"moescope-mlflow-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        file = (folder / key).open("w")
    except OSError:
        yield
        return
    with file:
        until_s = time.monotonic() + _LOCK_PATIENCE_S
        while time.monotonic() < until_s:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.02)
        yield
