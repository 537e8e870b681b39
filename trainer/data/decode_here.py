"""Decoding in the trainer's own process, when a sample is asked for: no process, no thread."""

from collections.abc import Sequence

from ..config import DataConfig
from .decode import DecodedSample
from .decode_worker import Failure, Task, outcome_of


class DecodeHere:
    """What `DecodePool` is with data.workers of 0. Nothing runs ahead, and nothing holds up a clip
    that crashes or hangs its decoder: for small runs of clips that are known."""

    def __init__(self, data: DataConfig, seed: int) -> None:
        self._data, self._seed = data, seed

    def want(self, tasks: Sequence[Task]) -> None:
        """Does nothing: there is nobody to do it ahead."""

    def take(self, task: Task) -> DecodedSample | Failure:
        """Returns the sample or why there is none."""
        return outcome_of(task, self._data, self._seed)

    def process_ids(self) -> list[int]:
        return []

    def close(self) -> None:
        """Does nothing."""
