"""Runs of MLflow, from a server, a database or a folder: their metrics page by page, side by side.

A history is read metric by metric; the pages of all of a run's metrics are merged by time here,
since what a step is part of, before or after a resume, shows in their common order. MLflow keeps an
infinity as the largest float64, which is turned back. Its system metrics count samples, not steps,
and are left out, as are the runs that moescope itself mirrored there.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ..engines import masked
from ..errors import MoescopeError, did_you_mean
from ..mlflow_door import be_impatient
from ..records import RunStatus
from ..terminal import one_line
from .points import Point, Source, Told, plain_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.entities import Run as MlflowRun

_POINTS_AT_ONCE = 5000
_RUNS_AT_ONCE = 500
_LARGEST = 1.7976931348623157e308
"""What MLflow's databases hold in place of an infinity."""
_SYSTEM = "system/"
_MIRROR = "moescope."
_STATES: dict[str, RunStatus] = {
    "FINISHED": "finished",
    "FAILED": "crashed",
    "KILLED": "stopped",
    "RUNNING": "stopped",
    "SCHEDULED": "stopped",
}


def mlflow_sources(
    address: str, project: str, experiments: Sequence[str] = (), wanted: Sequence[str] = ()
) -> list[Source]:
    """The runs at an address, oldest first. experiments, wanted: only these, names or patterns; a
    run also by its id. project: else each run is of its experiment's. Raises MoescopeError, one
    line without a password, where the address is wrong or refused, or nothing is what was wanted.
    """
    be_patient_enough()
    client = _client(address)
    try:
        chosen = _experiments(client, experiments)
        runs = [(experiment, run) for experiment in chosen for run in _runs(client, experiment)]
    except Exception as error:  # of requests, SQLAlchemy, MLflow: whatever answers
        raise _refused(address, error) from None
    for pattern in wanted:
        if not any(_is_wanted(run, [pattern]) for _, run in runs):
            names = [run.info.run_name for _, run in runs]
            raise MoescopeError(
                f"there is no run {pattern} at {masked(address)}{did_you_mean(pattern, names)}"
            )
    kept = [
        (e, run) for e, run in runs if (_is_wanted(run, wanted) if wanted else not _is_ours(run))
    ]
    if not kept:
        whose = " but those that moescope mirrored there" if runs else ""
        raise MoescopeError(f"there is no run at {masked(address)}{whose}")
    return [_source(client, address, project or e.name, run) for e, run in kept]


def be_patient_enough() -> None:
    """A page of a history may take longer than a heartbeat's mirror is worth."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    be_impatient()


def _client(address: str) -> "MlflowClient":
    """Raises MoescopeError where MLflow would make what is not there, or try for minutes."""
    scheme = urlsplit(address).scheme.partition("+")[0]
    if scheme in ("", "file"):
        folder = Path(unquote(urlsplit(address).path) if scheme else address)
        if not folder.is_dir():
            raise MoescopeError(f"there is no folder {folder}: name one with MLflow's experiments")
        address = folder.absolute().as_uri()
        # MLflow 3.13 and later ask for it
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    elif scheme in ("sqlite", "postgresql", "mysql", "mssql"):
        _look_at_database(address)
    elif scheme not in ("http", "https", "databricks"):
        raise MoescopeError(
            f"{masked(address)} is no address of MLflow: expected http://..., sqlite:///FILE, "
            "postgresql://... or a folder"
        )
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri=address)
    except MlflowException as error:
        raise _refused(address, error) from None


def _look_at_database(address: str) -> None:
    from sqlalchemy import create_engine, exc, inspect, make_url
    from sqlalchemy.pool import NullPool

    try:
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
            raise MoescopeError(f"there is no file {url.database}: name MLflow's database")
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        engine = create_engine(url, poolclass=NullPool)
        try:
            is_there = inspect(engine).has_table("experiments")
        finally:
            engine.dispose()
    except (exc.SQLAlchemyError, ValueError, ImportError) as error:
        raise _refused(address, getattr(error, "orig", None) or error) from None
    if not is_there:
        raise MoescopeError(f"{masked(address)} is no database of MLflow: it has no experiments")


def _refused(address: str, error: BaseException) -> MoescopeError:
    why = masked(one_line(error))[:300] or type(error).__name__
    return MoescopeError(
        f"{masked(address)} cannot be read ({why}): is the address right, and may you read it?"
    )


def _experiments(client: "MlflowClient", patterns: Sequence[str]) -> list["Experiment"]:
    found: list[Experiment] = []
    token = None
    while True:
        page = client.search_experiments(max_results=_RUNS_AT_ONCE, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    for pattern in patterns:
        if not any(fnmatchcase(e.name, pattern) for e in found):
            names = [experiment.name for experiment in found]
            raise MoescopeError(
                f"there is no experiment {pattern}{did_you_mean(pattern, names)} (there are "
                f"{', '.join(names[:8])})"
            )
    return [e for e in found if not patterns or any(fnmatchcase(e.name, p) for p in patterns)]


def _runs(client: "MlflowClient", experiment: "Experiment") -> Iterator["MlflowRun"]:
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            max_results=_RUNS_AT_ONCE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _is_wanted(run: "MlflowRun", wanted: Sequence[str]) -> bool:
    name = run.info.run_name or ""
    return any(run.info.run_id == one or fnmatchcase(name, one) for one in wanted)


def _is_ours(run: "MlflowRun") -> bool:
    return any(tag.startswith(_MIRROR) for tag in run.data.tags)


def _source(client: "MlflowClient", address: str, project: str, run: "MlflowRun") -> Source:
    names = sorted(name for name in run.data.metrics if not name.startswith(_SYSTEM))
    return Source(
        "mlflow",
        run.info.run_id,
        run.info.run_name or run.info.run_id,
        project,
        f"{masked(address)} run {run.info.run_id}",
        partial(_points, client, address, run, names),
        names=names,
        is_of_one_place=False,
    )


def _points(
    client: "MlflowClient", address: str, run: "MlflowRun", names: Sequence[str], told: Told
) -> Iterator[Point]:
    _tell(told, run)
    histories = [_history(client, run.info.run_id, name) for name in names]
    try:
        # by time; of one millisecond by step
        for time_ms, step, _, name, value in heapq.merge(*histories):
            yield Point(name, step, time_ms / 1e3, value)
    except MoescopeError:
        raise
    except Exception as error:  # of requests, SQLAlchemy, MLflow: whatever answers
        raise _refused(address, error) from None


def _history(
    client: "MlflowClient", run_id: str, name: str
) -> Iterator[tuple[int, int, int, str, float]]:
    """Yields (time in ms, step, place in the history, name, value) of a metric, in that order.

    The client's own call would bring the whole history at once, a million objects of a long one.
    """
    store: Any = client._tracking_client.store
    token, place = None, 0
    while True:
        page = store.get_metric_history(
            run_id=run_id, metric_key=name, max_results=_POINTS_AT_ONCE, page_token=token
        )
        # a folder's history is as it was written, whole, and by nobody put into order
        found = sorted((m.timestamp, m.step, at, m.value) for at, m in enumerate(page, place))
        place += len(found)
        for time_ms, step, at, value in found:
            yield time_ms, step, at, name, _infinite_again(value)
        token = page.token
        if not token:
            return


def _infinite_again(value: float) -> float:
    return value * 2.0 if abs(value) == _LARGEST else value


def _tell(told: Told, run: "MlflowRun") -> None:
    told.status = _STATES.get(run.info.status, "stopped")
    if run.info.status in ("RUNNING", "SCHEDULED"):
        told.notes.append("it was still running: import it again to bring in more")
    told.created_s = run.info.start_time / 1e3 if run.info.start_time else None
    told.finished_s = run.info.end_time / 1e3 if run.info.end_time else None
    told.params = {name: plain_of(text) for name, text in run.data.params.items()}
    tags = run.data.tags
    told.note = tags.get("mlflow.note.content", "")
    told.code_version = tags.get("mlflow.source.git.commit", "")
    told.tags = tuple(
        f"{name}={value}" if value and value.lower() != "true" else name
        for name, value in sorted(tags.items())
        if not name.startswith("mlflow.")
    )
    num_system = sum(name.startswith(_SYSTEM) for name in run.data.metrics)
    if num_system:
        told.left[f"{_SYSTEM}* ({num_system})"] = "counts samples of the machine, not steps"
