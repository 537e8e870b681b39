"""One MLflow run for each thing that is mirrored, whoever looks for it at the same moment.

MLflow makes a run whenever it is asked, and whoever gave up waiting for the answer may have made
one, too. So a run is found by its tags, in a lock that the processes of this machine share; those
of other machines agree among themselves:

    make    a run with the tags
    settle  it, by a tag; give way where one is settled already
    agree   once nobody is about to settle another: of the settled ones the lowest id stays

Whoever gives way deletes what it made, in which nothing is yet. Whoever settles after somebody has
agreed had made its run after the other was settled, and so has seen that and given way.
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

from ..errors import MoescopeError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SETTLED = "moescope.settled"
"""Tag of the run that all agree on."""
_LOOK_EVERY_S = 0.1
_PATIENCE_S = 3.0
"""How long a run that somebody made is waited for to be settled."""
_TRIES = 5
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
    tracking_url: what the lock is for. Raises what MLflow raises, or MoescopeError.
    """
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = _Found(client, experiment_id, wanted)
    start_ms = None if start_s is None else int(start_s * 1000)
    with _lock(tracking_url):
        for _ in range(_TRIES):
            if (known := found.agreed()) is not None:
                return known
            made = client.create_run(
                experiment_id,
                start_time=start_ms,
                tags={**tags, **(more_tags or {})},
                run_name=name,
            )
            found.settle(str(made.info.run_id))
    raise MoescopeError(f"MLflow's run {name} is deleted whenever it is made")


class _Found:
    """The runs that have the tags: settled ones, and ones that somebody has made just now."""

    def __init__(self, client: "MlflowClient", experiment_id: str, wanted: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._wanted = wanted
        self._own = ""

    def agreed(self) -> str | None:
        """The run that stays, once nobody is about to settle another; None where there is none."""
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            settled, others = self._look()
            if not others:
                break
            if time.monotonic() < until_s:
                time.sleep(_LOOK_EVERY_S)
            elif settled:
                # whoever made them did not hear of it, and nothing is in them
                for run_id in others:
                    self._delete(run_id)
                break
            else:
                self._client.set_tag(min(others), SETTLED, "yes")
        chosen = min(settled, default=None)
        if self._own and self._own != chosen:
            self._delete(self._own)
        return chosen

    def settle(self, own: str) -> None:
        """Settles what we have made, unless another one is settled already."""
        self._own = own
        settled, _ = self._look()
        if settled and own not in settled:
            self._delete(own)
        else:
            self._client.set_tag(own, SETTLED, "yes")

    def _look(self) -> tuple[list[str], list[str]]:
        """(ids that are settled, ids that are not). What has numbers in it is in use."""
        runs: list[Any] = self._client.search_runs([self._experiment_id], self._wanted)
        settled: list[str] = []
        others: list[str] = []
        for run in runs:
            data = run.data
            is_settled = SETTLED in data.tags or data.metrics or data.params
            (settled if is_settled else others).append(str(run.info.run_id))
        return settled, others

    def _delete(self, run_id: str) -> None:
        # somebody else did so already, or this user may not: it stays, and nobody writes to it
        with suppress(Exception):
            self._client.delete_run(run_id)


@contextmanager
def _lock(tracking_url: str) -> Iterator[None]:
    """Held by one process of this user on this machine; where it cannot be had, the agreement alone
    must do."""
    key = hashlib.sha256(tracking_url.encode()).hexdigest()[:24]
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
