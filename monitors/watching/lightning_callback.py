"""Watches a training by the Trainer of Lightning: `Trainer(callbacks=[callback])`."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...platform.errors import MoescopeError
from .said import refuse_no_more_steps, tell_what_is_left
from .together import FollowingRun
from .unwrapped import rank_and_number, refuse_state_of_ranks
from .watch import watch
from .watched_run import WatchedRun

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise MoescopeError(
        "LightningCallback needs lightning: pip install 'moescope[lightning]'"
    ) from None


class LightningCallback(Callback):
    """Takes what `moescope.watch` takes, except for model and optimizers, which the Trainer brings;
    with `state=`, its schedules are in the state as well.

    The loss is the one that `training_step` answers with; in manual optimization nothing is known
    of it, and nothing is watched. Gradients are measured before they are clipped. A rollback puts
    `trainer.global_step` back, so that `max_steps` are made in the new history, as far as
    `max_epochs` lets it: where it does not, a line says so. The data and the steps of loggers go on
    from where they are. With `resume=` the Trainer goes on from the run's newest state, or the run
    from Lightning's own checkpoint where that is what it was told to go on from. After a halt the
    Trainer is told to stop. With several processes the first one is watched, and no state can be
    given.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.run: WatchedRun | FollowingRun | None = None
        self._losses: list[Tensor] = []
        self._steps_seen = self._first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise MoescopeError(
                "LightningCallback sees no loss in manual optimization: call moescope.watch and "
                "run.step in the module"
            )
        options = dict(self._options)
        given = options.get("state")
        if given is not None:
            refuse_state_of_ranks(trainer.world_size, has_state=True)
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            options["state"] = (
                {**given, **{f"schedule{i}": one for i, one in enumerate(schedules)}}
                if isinstance(given, Mapping)
                else [*given, *schedules]
            )
        if rank_and_number()[1] == 1 and not trainer.is_global_zero:
            # several processes that do not know of each other by torch.distributed
            return
        if options.get("resume") and trainer.global_step:
            # Lightning has gone on by itself, from a checkpoint of its own
            options["start_step"] = trainer.global_step
        run = self.run = watch(pl_module, trainer.optimizers, **options)
        if options.get("resume") and run.num_steps:
            if trainer.max_steps != -1:
                refuse_no_more_steps(run, trainer.max_steps)
            _set_step(trainer, run.num_steps)
        self._steps_seen = trainer.global_step
        self._first_step = trainer.global_step - run.num_steps

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.run is not None:
            self.run.measure_gradients()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach().mean())
        if self.run is None or trainer.global_step == self._steps_seen:
            return
        self._steps_seen = trainer.global_step
        losses, self._losses = self._losses, []
        if not losses:
            return
        # each part of a step has been divided by their number already
        action = self.run.step(sum(losses[1:], losses[0]), batch=trainer.fit_loop.total_batch_idx)
        if action.kind == "rollback" and action.to_step is not None:
            self._go_back(trainer, self._first_step + action.to_step)
        elif action.kind == "halt":
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.run is not None:
            self.run.finish()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self.run is not None:
            self.run.finish("stopped" if isinstance(exception, KeyboardInterrupt) else "crashed")

    def _go_back(self, trainer: Trainer, step: int) -> None:
        assert self.run is not None
        _set_step(trainer, step)
        self._steps_seen = trainer.global_step
        if trainer.global_step != step:
            self.run.tell(f"Lightning counts on: its step is {trainer.global_step}, not {step}")
            return
        planned = trainer.estimated_stepping_batches
        if math.isfinite(planned):
            tell_what_is_left(self.run, int(planned) - step, _steps_left(trainer))


def _set_step(trainer: Trainer, step: int) -> None:
    """Lightning's `global_step` is how many steps its loop has seen the optimizer make."""
    with suppress(AttributeError):
        made = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
        made.total.ready = made.total.completed = step


def _steps_left(trainer: Trainer) -> int | None:
    """Updates until the last of the epochs ends; None where there is no last one."""
    if trainer.max_epochs in (None, -1) or not math.isfinite(trainer.num_training_batches):
        return None
    every, num = trainer.accumulate_grad_batches, int(trainer.num_training_batches)
    per_epoch = math.ceil(num / every)
    done = math.ceil((trainer.fit_loop.batch_idx + 1) / every)
    return (trainer.max_epochs - trainer.current_epoch) * per_epoch - done
