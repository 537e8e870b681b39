"""The MLflow runs of one run of ours: one for the whole, one for each segment nested in it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..mlflow_door import experiment_of
from ..records import Run, Segment, Trial
from .one_run import find_or_create
from .study_run import study_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

# of parameters or tags
_PER_REQUEST = 100
_PARAM_LENGTH = 6000
TAG_LENGTH = 5000


class MirroredRuns:
    """Finds the runs by their tags and makes what is missing; asked by one thread. Its methods
    raise what MLflow raises."""

    def __init__(
        self,
        client: "MlflowClient",
        tracking_url: str,
        run: Run,
        dashboard_url: str,
        trial: Trial | None,
        *,
        is_living: bool,
    ) -> None:
        """Finds or makes the run of the whole and says in it what is known. is_living: the training
        goes on, so its run is shown as running again."""
        self._client = client
        self._url = tracking_url
        self._run = run
        self._segment_ids: dict[int, str] = {}
        self._began_s: dict[int, float] = {}
        self.newest_segment = -1
        self._experiment_id = experiment_of(client, run.project, tracking_url)
        self.whole_id = find_or_create(
            client,
            self._experiment_id,
            {"moescope.run_id": run.id, "moescope.segment": "all"},
            run.name,
            start_s=run.created_s,
            tracking_url=tracking_url,
        )
        self._say_what_it_is(dashboard_url, trial)
        self._say_parameters()
        if is_living:
            client.update_run(self.whole_id, status="RUNNING")

    def segment_id(self, index: int) -> str:
        """The run of a segment. When one begins, those before it have ended."""
        if index not in self._segment_ids:
            self._segment_ids[index] = find_or_create(
                self._client,
                self._experiment_id,
                {"moescope.run_id": self._run.id, "moescope.segment": str(index)},
                f"{self._run.name} segment {index}",
                more_tags={"mlflow.parentRunId": self.whole_id},
                start_s=self._began_s.get(index),
                tracking_url=self._url,
            )
            if index > self.newest_segment:
                self._end_before(index)
                self.newest_segment = index
        return self._segment_ids[index]

    def say_segment(self, segment: Segment) -> None:
        self._began_s[segment.index] = segment.created_s
        tags = {"moescope.reason": segment.reason, "moescope.start_step": str(segment.start_step)}
        if segment.parent_segment is not None:
            tags["moescope.parent"] = (
                f"segment {segment.parent_segment}, step {segment.parent_step}"
            )
        for key, (old, new) in segment.changes.items():
            tags[f"moescope.changed.{key}"] = f"{old} -> {new}"
        self.tag(self.segment_id(segment.index), tags)

    def tags_of(self, index: int) -> Mapping[str, str]:
        """The tags of a segment's run, as MLflow has them."""
        tags: dict[str, str] = self._client.get_run(self.segment_id(index)).data.tags
        return tags

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        all_tags = [RunTag(key, value[:TAG_LENGTH]) for key, value in tags.items()]
        for i in range(0, len(all_tags), _PER_REQUEST):
            self._client.log_batch(run_id, tags=all_tags[i : i + _PER_REQUEST])

    def end(self, status: str, ended_s: float | None) -> None:
        """Marks the newest segment's run and the whole as ended; ended_s: now, where not known."""
        for run_id in (self._segment_ids.get(self.newest_segment), self.whole_id):
            if run_id:
                self._client.set_terminated(run_id, status, _ms(ended_s))

    def _end_before(self, index: int) -> None:
        """Marks as ended what an earlier process, or this one before an outage, has left."""
        wanted = f"tags.`moescope.run_id` = '{self._run.id}' and attributes.status = 'RUNNING'"
        for known in self._client.search_runs([self._experiment_id], wanted):
            segment = known.data.tags.get("moescope.segment", "")
            if segment.isdecimal() and int(segment) < index:
                end_ms = _ms(self._began_s.get(int(segment) + 1))
                self._client.set_terminated(known.info.run_id, end_time=end_ms)

    def _say_what_it_is(self, dashboard_url: str, trial: Trial | None) -> None:
        run = self._run
        tags = {
            "moescope.device": run.device,
            "moescope.code_version": run.code_version,
            "moescope.folder": run.folder,
            "moescope.tags": ", ".join(run.tags),
        }
        if dashboard_url:
            tags["moescope.dashboard"] = dashboard_url
            tags["mlflow.note.content"] = f"Live, with every expert: {dashboard_url}"
        if trial is not None:
            above = study_run(self._client, self._experiment_id, trial.study, self._url)
            tags["mlflow.parentRunId"] = above
            tags["moescope.study"] = trial.study
            tags["moescope.trial"] = trial.label
        self.tag(self.whole_id, {key: value for key, value in tags.items() if value})

    def _say_parameters(self) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self.whole_id).data.params
        # a resume may have changed some: MLflow's parameters never change, the segment's tags tell
        new = [
            Param(key, value[:_PARAM_LENGTH])
            for key, value in _flat(self._run.config)
            if key not in known
        ]
        for i in range(0, len(new), _PER_REQUEST):
            self._client.log_batch(self.whole_id, params=new[i : i + _PER_REQUEST])


def _ms(time_s: float | None) -> int | None:
    return None if time_s is None else int(time_s * 1000)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", str(value)))
    return flat
