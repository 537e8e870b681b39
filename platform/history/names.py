"""Which signal a name of another tracker is: as told, as guessed, or one of the user's own.

A guess is made where the name means the same everywhere: the loss, the gradient norm, the learning
rate, the loss on held-out data, seconds of a step, tokens per second. What comes in another unit or
may mean several things (`mfu`, `aux_loss`) becomes `user/NAME`, which the dashboard draws and rules
may judge.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from .. import catalogue
from ..catalogue import CATALOGUE, signal_spec
from ..errors import MoescopeError, did_you_mean

MOST_NAMES = 2000
"""Of one run: names of single parameters are no signals, and a row of the store has all of them."""
_LEFT = "-"
_GUESSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        catalogue.LOSS_TOTAL,
        (
            *("loss", "train/loss", "train_loss", "training_loss", "loss/train", "training/loss"),
            *("total_loss", "train/total_loss", "loss/total_loss", "train/loss_step"),
            *("train_loss_step", "loss_step", "lm_loss", "train/lm_loss", "lm_loss/train"),
            *("train/ce_loss", "train/mse_loss", "train/step_loss", "loss_metrics/global_avg_loss"),
        ),
    ),
    (
        catalogue.GRAD_NORM,
        (
            *("grad_norm", "train/grad_norm", "gradient_norm", "train/gradient_norm", "gnorm"),
            *("train/gnorm", "global_grad_norm", "train/global_grad_norm"),
            *("optim/total_grad_norm", "total_grad_norm", "train/total_grad_norm", "grad_2.0_norm"),
            *("grad_norm_total", "grad_2_norm_total", "grad_2.0_norm_total"),
        ),
    ),
    (
        catalogue.LEARNING_RATE,
        (
            *("lr", "learning_rate", "train/lr", "train/learning_rate"),
            *("optim/lr", "lr/train", "optim/learning_rate_group0", "lr/group0", "lr/group_0"),
            *("lr_0", "optimizer/lr", "optimizer/learning_rate"),
        ),
    ),
    (
        catalogue.PROBE_LOSS,
        (
            *("val/loss", "val_loss", "validation_loss", "validation/loss", "valid/loss"),
            *("valid_loss", "eval/loss", "eval_loss", "loss/val", "loss/validation", "loss/eval"),
            *("val/loss_epoch", "val_loss_epoch", "lm_loss_validation", "test/loss", "test_loss"),
        ),
    ),
    (
        catalogue.STEP_TIME_S,
        (
            *("step_time", "train/step_time", "time/step", "step_time_s"),
            *("seconds_per_step", "sec_per_step", "iteration_time", "train/step_time_s"),
            *("time_metrics/end_to_end(s)", "iteration_time_s"),
        ),
    ),
    (
        catalogue.TOKENS_PER_S,
        (
            *("tokens_per_sec", "tokens_per_second", "train/tokens_per_sec", "tokens_per_s"),
            *("train/tokens_per_second", "throughput/tokens_per_sec"),
            *("throughput/tokens_per_second", "train_tokens_per_second", "tokens/sec"),
        ),
    ),
)
"""{signal: names that mean it beside its own, the surest first}, as `_like` writes them."""
_LIGHTNING_RATE = re.compile(r"lr-[A-Z]\w*(/pg1)?")
"""LearningRateMonitor calls it after the optimizer's class: lr-AdamW, lr-AdamW/pg1."""


def read_told(words: Iterable[str]) -> dict[str, str]:
    """Reads `NAME=SIGNAL` of the command line; `NAME=-` leaves it out. Raises MoescopeError where
    one cannot be, or two names are told to be the same signal."""
    told: dict[str, str] = {}
    for word in words:
        name, between, signal = word.rpartition("=")
        if not between or not name or not signal:
            raise MoescopeError(
                f"--as {word}: expected NAME=SIGNAL, as in --as train/ce={catalogue.LOSS_TOTAL}, "
                "or NAME=- to leave it out"
            )
        if signal != _LEFT:
            if not (signal.startswith("user/") or signal in CATALOGUE):
                hint = did_you_mean(signal, CATALOGUE)
                raise MoescopeError(
                    f"--as {word}: unknown signal {signal}{hint} (docs/signals.md lists them; a "
                    "signal of your own is user/NAME)"
                )
            if signal_spec(signal).dimensions:
                raise MoescopeError(f"--as {word}: {signal} is no single number")
            before = next((n for n, s in told.items() if s == signal and n != name), None)
            if before is not None:
                raise MoescopeError(f"--as {word}: {signal} is {before} already")
        told[name] = signal
    return told


class Names:
    """What each name of one run is taken as.

    told: by the user. known: what an earlier import of the run took, which stays. Raises
    MoescopeError where the two differ.
    """

    def __init__(self, told: Mapping[str, str], known: Mapping[str, str], run: str) -> None:
        for name, signal in told.items():
            before = next((n for n, s in known.items() if s == signal), name)
            if known.get(name, signal) != signal or before != name:
                raise MoescopeError(
                    f"--as {name}={signal}: run {run} has {before} as {known[before]} from an "
                    f"earlier import: leave --as out, or first moescope runs delete {run}"
                )
        self._told = dict(told)
        self._known = dict(known)
        self._found: dict[str, str | None] = {}
        self._used: dict[str, None] = {}
        self._owner = {signal: name for name, signal in known.items()}
        self._owner |= {signal: name for name, signal in told.items() if signal != _LEFT}
        self.left: dict[str, str] = {}

    @property
    def signals(self) -> dict[str, str]:
        """{name: signal} of the names that points came with."""
        return {name: self._found[name] or "" for name in self._used}

    @property
    def not_met(self) -> list[str]:
        """Names that were told of and never came."""
        return [name for name in self._told if name not in self._found]

    def meet(self, names: Sequence[str]) -> None:
        """Decides on names that come together: of several that mean the same the surest is it."""
        new = [name for name in names if name not in self._found]
        for signal, others in _GUESSES:
            likes = (signal, *others)
            if signal in self._owner:
                continue
            ranked = [(likes.index(like), name) for name in new if (like := _like(name)) in likes]
            if not ranked and signal == catalogue.LEARNING_RATE:
                ranked = [(0, name) for name in new if _LIGHTNING_RATE.fullmatch(name)]
            free = [(rank, name) for rank, name in ranked if name not in self._told]
            if free:
                self._owner[signal] = min(free)[1]
        for name in new:
            self._found[name] = self._decided(name)

    def signal_of(self, name: str) -> str | None:
        """The signal of a name; None where it is left out."""
        if name not in self._found:
            self.meet([name])
        signal = self._found[name]
        if signal is not None:
            self._used[name] = None
        return signal

    def _decided(self, name: str) -> str | None:
        if name in self._told:
            signal = self._told[name]
            if signal == _LEFT:
                self.left[name] = "told so"
                return None
            return signal
        if name in self._known:
            return self._known[name]
        if len(self._found) >= MOST_NAMES:
            self.left[f"names beyond {MOST_NAMES:,}"] = "too many for one run, say which with --as"
            return None
        for signal, owner in self._owner.items():
            if owner == name:
                return signal
        spec = CATALOGUE.get(name)
        if spec is not None and spec.is_scalar and name not in self._owner:
            self._owner[name] = name
            return name
        own = " ".join(name.replace("\x00", " ").split())
        if not own.removeprefix("user/"):
            self.left[repr(name)] = "it has no name"
            return None
        signal = own if own.startswith("user/") else f"user/{own}"
        # two names may differ in blanks alone
        while signal in self._owner:
            signal += "'"
        self._owner[signal] = name
        return signal


def _like(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", name.strip().lower())
