"""Watches a training by the Trainer of transformers: `Trainer(..., callbacks=[callback])`."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...platform.errors import MoescopeError
from .said import refuse_no_more_steps, tell_what_is_left
from .together import FollowingRun
from .unwrapped import rank_and_number, refuse_state_of_ranks
from .watch import watch
from .watched_run import WatchedRun

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:
    raise MoescopeError(
        "TransformersCallback needs transformers: pip install 'moescope[transformers]'"
    ) from None


class TransformersCallback(TrainerCallback):
    """Takes what `moescope.watch` takes, except for model and optimizer, which the Trainer brings;
    with `state=`, its schedule is in the state as well.

    The loss is the one that the model answers with. The Trainer tells no callback the norm of the
    gradients before it clips them, so `grad/norm` is what clipping leaves (`max_grad_norm=0` does
    not clip). A rollback puts `state.global_step` back, and the Trainer makes the steps again up to
    `max_steps`, as far as its epochs reach, which it counts beforehand: where they do not, a line
    says so. The data go on from where they are, unless a sampler is in `state=`. With `resume=` the
    Trainer goes on from the run's newest state, or the run from the Trainer's own checkpoint where
    that is what it was told to go on from. After a halt the Trainer is told to stop. With several
    processes the first one is watched, and no state can be given.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.run: WatchedRun | FollowingRun | None = None
        self._losses: list[Tensor] = []
        self._is_sum = False
        self._tokens = 0
        self._first_step = 0
        self._hook: Any = None
        self._is_without_loss = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        options = dict(self._options)
        if options.get("state") is not None:
            refuse_state_of_ranks(args.world_size, has_state=True)
            if lr_scheduler is not None:
                options["state"] = _with(options["state"], lr_scheduler)
        if rank_and_number()[1] == 1 and not state.is_world_process_zero:
            # several processes that do not know of each other by torch.distributed
            return
        options.setdefault("name", args.run_name or "")
        if options.get("resume") and state.global_step:
            # the Trainer has gone on by itself, from a checkpoint of its own
            options["start_step"] = state.global_step
        run = self.run = watch(model, optimizer, **options)
        if options.get("resume") and run.num_steps:
            refuse_no_more_steps(run, state.max_steps)
            state.global_step = run.num_steps
        self._first_step = state.global_step - run.num_steps
        self._hook = model.register_forward_hook(self._hear, with_kwargs=True)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        losses, tokens = self._losses, self._tokens
        self._losses, self._tokens = [], 0
        if self.run is None:
            return
        if not losses:
            self._say_without_loss(self.run)
            return
        # the Trainer lets the model divide by the samples of all parts of a step, or adds up means
        loss = sum(losses[1:], losses[0]) / (1 if self._is_sum else len(losses))
        action = self.run.step(loss, tokens=tokens)
        if action.kind == "rollback" and action.to_step is not None:
            if state.global_step >= state.max_steps:
                # the Trainer told itself to stop here, which is not the end any more
                control.should_training_stop = False
            state.global_step = self._first_step + action.to_step
            tell_what_is_left(
                self.run,
                planned=state.max_steps - state.global_step,
                possible=_steps_left(args, state, train_dataloader),
            )
        elif action.kind == "halt":
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self.run is not None:
            self.run.finish()

    def _say_without_loss(self, run: WatchedRun | FollowingRun) -> None:
        if self._is_without_loss:
            return
        self._is_without_loss = True
        text = (
            "nothing is watched: the model answers without a loss (the Trainer makes it outside, "
            "by compute_loss or label smoothing), and the Trainer tells it to no callback; let the "
            "model's output have one"
        )
        run.tell(text)
        run.say_event("note", text, {})

    def _hear(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        if not module.training:
            return
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach().mean())
            self._is_sum = kwargs.get("num_items_in_batch") is not None
        words = kwargs.get("input_ids")
        if isinstance(words, Tensor):
            self._tokens += words.numel()


def _steps_left(args: TrainingArguments, state: TrainerState, loader: Any) -> int | None:
    """Updates that the Trainer's loop will still make; None where its data do not end."""
    try:
        num_batches = len(loader)
    except TypeError:
        return None
    per_epoch = max(1, math.ceil(num_batches / args.gradient_accumulation_steps))
    return round((state.num_train_epochs - (state.epoch or 0.0)) * per_epoch)


def _with(state: Any, schedule: Any) -> Any:
    if isinstance(state, Mapping):
        return {**state, "schedule": schedule}
    return [*state, schedule]
