"""Is going back worth it? One training with a fault that passes, told three ways: never planted,
planted and only advised about, planted and rolled back.

A fault of the machine belongs to the clock and not to the steps of the run, as a slip of a hand or
of a memory cell does: it lies in certain turns of the loop, so that a run that goes back later does
not meet it again. A fault of the data lies in certain batches, wherever the run is. Then there are
cases that are no fault, where going back would be wrong. What is compared is the loss on held-out
clips when equally many batches were consumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...platform.errors import MoescopeError, did_you_mean
from ...platform.frozen import changed
from ...platform.settings import Settings
from ...platform.store import open_store
from ..config import RunConfig
from ..data.batches import Batches
from ..data.busy_clips import busy_clips
from ..data.clips import find_clips
from ..data.deliveries import Rewrite, make_deliveries
from ..data.make_clips import make_clips
from ..data.spoil_clips import spoil_clips
from ..evaluation.evaluate import probe, probe_passes
from ..loop import Trainer
from ..recipes.stream import tiny
from ..run import train
from .autopsies import SMALL
from .causes import SHORT_STEPS, ForSomeSteps, spoil_answers

ARMS: Mapping[str, str] = {"clean": "off", "advisory": "advisory", "rollback": "on"}
"""The mode of the policy in each."""
NUM_JUDGED = 16
SIZE, DURATION_S = 32, 1.0
STRETCH = 40
"""Batches from the onset on that a lasting change of the data takes."""
FAULTY_TURNS = 20
SLIP_FACTOR, RATE_FACTOR = 100.0, 50.0
MOMENT_FACTOR = 256.0
ARM: dict[str, Any] = {
    **SMALL,
    "watch.sample_every": 10,
    "watch.num_scenes": 0,
    "data.order": "by_folder",
    "data.windows_per_clip": 4,
}
"""What `tiny` is changed into: states are certified from step 68 on, the first one of step 40."""

Plant = Callable[[Trainer, int], None]
"""Called at each step boundary with the number of turns since the onset."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something that happens to a training at the onset: a plant, or other clips."""

    about: str
    is_fault: bool
    """Whether going back is right."""
    make_plant: Callable[[], Plant] | None = None
    rewritten: Mapping[str, Rewrite] = field(default_factory=dict)
    """What becomes of the clips of a delivery: "batch" is one batch at the onset, "stretch" the
    rest of STRETCH batches."""


@dataclass
class Arm:
    losses: dict[int, float] = field(default_factory=dict)
    """On the held-out clips, by the number of batches consumed."""
    went_back: list[tuple[int, int]] = field(default_factory=list)
    """Steps from which and to which."""
    done: list[str] = field(default_factory=list)
    """What the policy had carried out, in words, in the order of time."""
    alerts: list[str] = field(default_factory=list)
    """Rules that raised one."""
    status: str = ""


def _scale(trainer: Trainer, since: int) -> None:
    if since == 0:
        trainer.state.damp_scale = SLIP_FACTOR
        trainer.state.damp_until = trainer.state.step + FAULTY_TURNS


def _rate(trainer: Trainer, since: int) -> None:
    if since < FAULTY_TURNS:
        trainer.state.damp_scale, trainer.state.damp_until = RATE_FACTOR, trainer.state.step + 1


@torch.no_grad()
def _moments(trainer: Trainer, since: int) -> None:
    if since == 0:
        for entry in trainer.state.optimizer.state.values():
            entry["exp_avg"].mul_(MOMENT_FACTOR)


def _noise() -> Plant:
    spoil = ForSomeSteps(spoil_answers)
    return lambda trainer, _: spoil(trainer)


CASES: Mapping[str, Case] = {
    "poisoned": Case(
        f"{STRETCH} batches of clips that decode and show something else than their captions say",
        True,
        rewritten={"batch": spoil_clips, "stretch": spoil_clips},
    ),
    "learning_rate": Case(
        f"the state says {SLIP_FACTOR:g} times the learning rate for the next {FAULTY_TURNS} steps",
        True,
        make_plant=lambda: _scale,
    ),
    "learning_rate_turns": Case(
        f"{FAULTY_TURNS} turns at {RATE_FACTOR:g} times the learning rate, also of a run that has "
        "gone back meanwhile",
        True,
        make_plant=lambda: _rate,
    ),
    "optimizer_state": Case(
        f"AdamW's first moments are multiplied by {MOMENT_FACTOR:g}, once, as one bit of their "
        "exponents would do",
        True,
        make_plant=lambda: _moments,
    ),
    "heals_alone": Case(
        f"for {SHORT_STEPS} turns noise is mixed into what the network answers, and then no more",
        False,
        make_plant=_noise,
    ),
    "hard_batch": Case(
        "one batch of busy clips: harder than all others, and honest",
        False,
        rewritten={"batch": busy_clips},
    ),
    "hard_stretch": Case(
        f"{STRETCH} batches of busy clips: harder than all others, and honest",
        False,
        rewritten={"batch": busy_clips, "stretch": busy_clips},
    ),
}

CLEAN = Case("nothing happens", False)
"""What the clean arm trains on."""


def case_of(name: str) -> Case:
    """Returns the case of this name. Raises MoescopeError on an unknown one."""
    if name not in CASES:
        raise MoescopeError(
            f"there is no case {name}{did_you_mean(name, CASES)} (there are: {', '.join(CASES)})"
        )
    return CASES[name]


def arm_config(folder: Path, seed: int, num_batches: int) -> RunConfig:
    """Returns the configuration of a training of `num_batches`; its clips are to lie in
    `folder/clips`."""
    clips = {"data.folder": str(folder / "clips")}
    # an end that no arm comes to: batches count, not steps
    return changed(tiny(), {**ARM, **clips, "seed": seed, "steps": 10 * num_batches})


def make_case_clips(
    case: Case, config: RunConfig, folder: Path, *, onset: int, num_batches: int
) -> None:
    """Writes the clips that the arms of a case train on, and into `folder/judged` those that they
    are judged by. onset: number of the first batch that the case may change."""
    wanted = {
        "1-before": onset,
        "2-batch": 1,
        "3-stretch": STRETCH - 1,
        "4-after": max(1, num_batches - onset - STRETCH),
    }
    rewritten = {part: case.rewritten[part[2:]] for part in wanted if part[2:] in case.rewritten}
    make_deliveries(
        folder / "clips",
        wanted,
        config.data,
        config.seed,
        rewritten,
        size=SIZE,
        duration_s=DURATION_S,
    )
    make_clips(
        folder / "judged", NUM_JUDGED, seed=10_000 + config.seed, size=SIZE, duration_s=DURATION_S
    )


def train_arm(
    arm: str,
    case: Case,
    config: RunConfig,
    folder: Path,
    run: Path,
    *,
    onset: int,
    judged_at: Sequence[int],
) -> Arm:
    """Trains one arm until the last of `judged_at` batches are consumed, with the plant of the case
    from turn `onset` on.

    config: of `arm_config`. folder: of `make_case_clips`. run: a folder for the run; arms of one
    case may share it.
    """
    config = changed(config, {"policy.mode": ARMS[arm]})
    with Batches(find_clips(folder / "judged"), config.data, 0) as judged:
        batch = judged.validation_batch(NUM_JUDGED)
    passes = probe_passes(config, batch)
    plant = None if case.make_plant is None else case.make_plant()
    seen, turn, step, left = Arm(), 0, 0, sorted(judged_at)

    def on_step(trainer: Trainer) -> None:
        nonlocal turn, step
        if trainer.segment.index > len(seen.went_back):
            seen.went_back.append((step + 1, trainer.segment.start_step))
        while left and trainer.state.batch >= left[0]:
            seen.losses[left.pop(0)] = probe(trainer.state.model, batch, passes, config).total
        if not left:
            trainer.stop()
        elif plant is not None and turn >= onset:
            plant(trainer, turn - onset)
        turn, step = turn + 1, trainer.state.step

    settings = Settings(home=run, mlflow="off")
    result = train(config, settings=settings, progress=False, on_step=on_step)
    seen.status = result.status
    with open_store(settings.store_url) as store:
        events = store.events(result.run_id, kinds=["rollback", "skip_data", "damp", "halt"])
        seen.done = [event.text for event in events]
        seen.alerts = sorted({alert.rule for alert in store.alerts(result.run_id)})
    return seen
