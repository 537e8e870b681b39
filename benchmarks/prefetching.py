"""What decoding ahead of the step saves: the share of a step of `tiny` that waits for data, on the
demo's kind of clips, with batches decoded ahead and only when they are asked for.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from moescope.platform.frozen import changed
from moescope.platform.settings import Settings
from moescope.trainer.data.batches import Batches
from moescope.trainer.data.clips import find_clips
from moescope.trainer.data.make_clips import make_clips
from moescope.trainer.loop import Trainer
from moescope.trainer.recipes.stream import tiny
from moescope.trainer.run import open_trainer

STEPS, WARM_UP = 60, 10


def shares(folder: Path, home: Path, ahead: int) -> tuple[float, float]:
    """Returns the share of a step that waits for data, and the median seconds of a step."""
    config = changed(tiny(), {"data.folder": str(folder), "steps": STEPS, "watch.probe_every": 0})
    waits_s: list[float] = []
    steps_s: list[float] = []
    with open_trainer(config, Settings(home=home, mlflow="off")) as trainer:
        if ahead == 0:
            trainer.batches.close()
            clips = find_clips(config.data.folder)
            trainer.batches = Batches(clips, config.data, config.seed, ahead=0)
        get = trainer.batches.get

        def timed(index: int) -> object:
            start_s = time.perf_counter()
            batch = get(index)
            waits_s.append(time.perf_counter() - start_s)
            return batch

        trainer.batches.get = timed  # type: ignore[method-assign,assignment]
        last_s: list[float] = []

        def on_step(trainer: Trainer) -> None:
            now_s = time.perf_counter()
            if last_s:
                steps_s.append(now_s - last_s[-1])
            last_s.append(now_s)

        trainer.train(on_step)
        if ahead == 0:
            trainer.batches.close()
    waited, taken = np.sum(waits_s[WARM_UP : len(steps_s)]), np.sum(steps_s[WARM_UP:])
    return float(waited / taken), float(np.median(steps_s[WARM_UP:]))


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "clips"
        make_clips(folder, 64, seed=1)
        for name, ahead in (("ahead", 3), ("when asked for", 0), ("ahead, again", 3)):
            share, step_s = shares(folder, Path(place) / name.replace(" ", "-"), ahead)
            print(f"{name:16} {100 * share:5.2f} % of {1000 * step_s:.0f} ms a step are waited")


if __name__ == "__main__":
    main()
