"""After an incident batches are judged before they are trained on, and the bad ones passed over."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..monitors.judge import Vetting as Verdict
from ..platform.records import Action
from .compute.gradients import step_losses
from .data.batches import Batch
from .data.latents import seen
from .objective.timesteps import draw

if TYPE_CHECKING:
    from .loop import Trainer

HEALTHY_IN_A_ROW = 8
NUM_KNOWN = 3
"""Batches from before the suspected ones that a state is tried on. One in a few hundred good
batches is called bad: never three."""


@dataclass
class Vetting:
    """From batch `first` on, a batch is judged before it is trained on.

    It ends at batch `until`, but not before `HEALTHY_IN_A_ROW` good batches came in a row: a bad
    stretch is passed over wherever it lies and however long it is.
    """

    first: int
    until: int
    num_healthy: int = 0
    passed_over: int = 0
    tried_step: int = -1
    """The newest step whose state is known to be no reason for bad batches."""

    def note(self, is_bad: bool) -> None:
        self.num_healthy = 0 if is_bad else self.num_healthy + 1
        self.passed_over += is_bad

    def is_over(self, next_batch: int) -> bool:
        return next_batch >= self.until and self.num_healthy >= HEALTHY_IN_A_ROW


def start_vetting(trainer: "Trainer", action: Action) -> None:
    if action.vet_from_batch is not None:
        until = action.vet_until_batch or action.vet_from_batch
        trainer.vetting = Vetting(action.vet_from_batch, until)


def vetting_after_resume(trainer: "Trainer") -> Vetting | None:
    """Returns the vetting that a killed process was in the middle of, or None."""
    until = trainer.policy.vet_until
    batch = trainer.state.batch
    return Vetting(batch, until) if until is not None and batch < until else None


def is_bad(trainer: "Trainer", batch: Batch) -> bool:
    """Judges a batch before it is trained on, where vetting is on.

    A state that is spoiled itself finds every batch bad. So before batches are blamed the state is
    tried on some from before the suspected ones: where it finds all of those bad, too, vetting
    ends, training goes on, and the rules see it. To be called with no step pending.
    """
    vetting = trainer.vetting
    if vetting is None or batch.index < vetting.first:
        return False
    if trainer.mode != "on":
        # somebody took the automatic action away in the middle of it
        end_vetting(trainer)
        return False
    if vetting.is_over(batch.index):
        end_vetting(trainer)
        return False
    verdict = _judged(trainer, batch)
    if verdict.is_bad and vetting.tried_step != trainer.state.step:
        reason = _fault_of_the_state(trainer, vetting, verdict)
        if reason:
            text = f"the state is at fault and not the data: {reason}"
            trainer.say_event("note", text, {})
            trainer.progress.say(f"step {trainer.state.step}: {text}")
            end_vetting(trainer, "none are judged any more from")
            return False
        vetting.tried_step = trainer.state.step
    vetting.note(verdict.is_bad)
    return verdict.is_bad


def end_vetting(trainer: "Trainer", because: str = "data is good again at") -> None:
    """Says what the vetting passed over, and stops it."""
    vetting = trainer.vetting
    assert vetting is not None
    trainer.vetting = None
    if vetting.passed_over:
        num, batch = vetting.passed_over, trainer.state.batch
        text = f"{num} bad batches passed over, {because} batch {batch}"
        trainer.say_event(
            "skip_data",
            text,
            {
                "num_batches": vetting.passed_over,
                "from_batch": vetting.first,
                "to_batch": trainer.state.batch,
            },
        )
        trainer.progress.say(f"step {trainer.state.step}: {text}")


def _judged(trainer: "Trainer", batch: Batch) -> Verdict:
    config = trainer.config
    drawn = draw(config, config.seed, batch)
    losses = step_losses(trainer.state.model, batch, drawn, config)
    return trainer.state.judge.vet(trainer.measure.vetted(losses, drawn))


def _fault_of_the_state(trainer: "Trainer", vetting: Vetting, verdict: Verdict) -> str:
    """Says in words what is wrong with the state; empty where nothing is, or where there are no
    batches to try it on."""
    if math.isinf(verdict.score) and not _weights_are_finite(trainer):
        return "the weights are not finite"
    skipped = trainer.policy.skipped
    known = [n for n in reversed(range(vetting.first)) if n not in skipped][:NUM_KNOWN]
    if len(known) < NUM_KNOWN:
        return ""
    for number in known:
        batch = seen(trainer.batches.get(number), trainer.config, trainer.device)
        if not _judged(trainer, batch).is_bad:
            return ""
    return f"it finds batches {known[-1]} to {known[0]} as bad, which were good"


def _weights_are_finite(trainer: "Trainer") -> bool:
    return all(bool(torch.isfinite(p).all()) for p in trainer.state.model.parameters())
