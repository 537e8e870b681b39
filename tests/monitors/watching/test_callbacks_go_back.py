"""A rollback under the trainers of transformers and of Lightning: exact, and its steps are made
again."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import (
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import moescope
from moescope.monitors.watching.acting import carry_out
from moescope.monitors.watching.limits import WatchKeeping
from moescope.platform.records import Action
from moescope.platform.store import Store

# who warns: Lightning, of srun, of few workers and of its own use of pytrees
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
]

FAULT = range(74, 84)
WORDS, LENGTH = 32, 8
OFTEN = WatchKeeping(memory_every_steps=4)


class History:
    """What a training was after each of its steps, and where it went back."""

    def __init__(self) -> None:
        self.after: dict[int, Any] = {}
        self.num_updates = 0
        self.backs: list[tuple[int, int]] = []
        self._step = 0

    def note(self, step: int, model: nn.Module, optimizer: Any, schedule: Any) -> None:
        now = copy.deepcopy(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
        )
        self.num_updates += 1
        if step <= self._step:
            self.backs.append((self._step + 1, step))
            # as it was when this step was made for the first time, bit for bit
            assert same(now, self.after.get(step)), step
        self._step = step
        self.after[step] = now


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def forced(callback: Any, at_call: int, to_step: int) -> None:
    """Lets the run go back at its n-th step, as if a rule had asked for it."""
    run, num_calls = callback.run, 0
    step = run.step

    def step_or_back(*args: Any, **more: Any) -> Action:
        nonlocal num_calls
        num_calls += 1
        action: Action = step(*args, **more)
        if num_calls == at_call:
            assert action.kind == "carry_on"
            return carry_out(run, Action("rollback", "forced by the test", to_step=to_step))
        return action

    run.step = step_or_back


class Texts(Dataset[dict[str, Tensor]]):
    """Texts that count on from a random word."""

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = (7 * index + torch.arange(LENGTH)) % WORDS
        return {"input_ids": words, "labels": words}


class Beside(TrainerCallback):
    """Plants the fault, and notes what becomes of it."""

    def __init__(self, ours: Any, at_call: int = 0, to_step: int = 0) -> None:
        self.ours, self.at_call, self.to_step = ours, at_call, to_step
        self.history = History()
        self.is_spoiled = not at_call

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.at_call:
            forced(self.ours, self.at_call, self.to_step)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        # a rate that slipped, until somebody goes back; the schedule sets the right one again
        if self.is_spoiled and state.global_step in FAULT:
            for group in optimizer.param_groups:
                group["lr"] *= 300
        self.is_spoiled = self.is_spoiled and not self.history.backs

    def on_step_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **_: Any,
    ) -> None:
        self.history.note(state.global_step, model, optimizer, lr_scheduler)


def train_qwen(
    folder: Path,
    steps: int,
    num_texts: int,
    told: list[str],
    go_on_from: str | None = None,
    save_steps: int = 0,
    smoothing: float = 0.0,
    **beside: int,
) -> tuple[Trainer, Beside]:
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=WORDS,
            hidden_size=16,
            moe_intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    more = {"keeping": OFTEN} if beside else {}
    ours = moescope.TransformersCallback(
        name="back", state=[], tell=told.append, resume=bool(save_steps), **more
    )
    other = Beside(ours, **beside)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4 if beside else 16,
        learning_rate=3e-3,
        use_cpu=True,
        report_to=[],
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        label_smoothing_factor=smoothing,
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = Trainer(model, arguments, train_dataset=Texts(num_texts), callbacks=[ours, other])
    trainer.train(resume_from_checkpoint=go_on_from)
    return trainer, other


def test_transformers_goes_back_exactly_and_makes_its_max_steps_in_the_new_history(
    tmp_path: Path, told: list[str], store: Store
) -> None:
    trainer, beside = train_qwen(tmp_path, steps=100, num_texts=4096, told=told)
    [(from_step, to_step)] = beside.history.backs
    assert from_step in range(FAULT.start, FAULT.stop + 10)
    assert 0 < to_step <= FAULT.start
    assert trainer.state.global_step == trainer.lr_scheduler.last_epoch == 100
    assert beside.history.num_updates == 100 + from_step - to_step
    run = store.find_run("back")
    assert run.status == "finished"
    assert [s.start_step for s in store.segments(run.id)] == [0, to_step]
    assert store.checkpoints(run.id)[-1].step == 100
    assert not [line for line in told if "counts its epochs" in line]


def test_transformers_goes_on_where_its_last_step_is_the_one_that_goes_back(
    tmp_path: Path, told: list[str]
) -> None:
    trainer, beside = train_qwen(
        tmp_path, steps=12, num_texts=4096, told=told, at_call=12, to_step=8
    )
    assert beside.history.backs == [(12, 8)]
    assert trainer.state.global_step == trainer.lr_scheduler.last_epoch == 12
    assert beside.history.num_updates == 12 + 4


def test_transformers_whose_epochs_end_before_its_steps_says_by_how_many(
    tmp_path: Path, told: list[str], store: Store
) -> None:
    # four steps an epoch: the Trainer plans three epochs for its twelve steps, and makes no more
    trainer, beside = train_qwen(tmp_path, steps=12, num_texts=16, told=told, at_call=11, to_step=4)
    assert beside.history.backs == [(11, 4)]
    assert beside.history.num_updates == 12
    assert trainer.state.global_step == trainer.lr_scheduler.last_epoch == 5
    [line] = [line for line in told if "counts its epochs" in line]
    assert "they end after 1 steps more, 7 before those it was to make" in line
    run = store.find_run("back")
    assert line in [event.text for event in store.events(run.id) if event.kind == "note"]


def test_transformers_that_computes_the_loss_outside_of_the_model_is_told_once(
    tmp_path: Path, told: list[str], store: Store
) -> None:
    trainer, _ = train_qwen(tmp_path, steps=4, num_texts=4096, told=told, smoothing=0.1)
    assert trainer.state.global_step == 4
    [line] = [line for line in told if "nothing is watched" in line]
    run = store.find_run("back")
    assert line in [event.text for event in store.events(run.id) if event.kind == "note"]


def test_a_run_goes_on_from_the_checkpoint_that_transformers_goes_on_from(
    tmp_path: Path, told: list[str], store: Store
) -> None:
    trainer, first = train_qwen(tmp_path, steps=12, num_texts=4096, told=told, save_steps=10)
    trainer, again = train_qwen(
        tmp_path,
        steps=14,
        num_texts=4096,
        told=told,
        go_on_from=str(tmp_path / "checkpoint-10"),
        save_steps=10,
    )
    assert (trainer.state.global_step, again.history.num_updates) == (14, 4)
    assert "run back goes on from step 10 (nothing was put back)" in told
    run = store.find_run("back")
    assert [s.start_step for s in store.segments(run.id)] == [0, 10]
    # the state that was kept when the first training ended is of steps that are made again
    steps = [c.step for c in store.checkpoints(run.id) if c.is_on_disk]
    assert steps == [0, 14]
    # as Adam counts them
    moments = again.history.after[14]["optimizer"]["state"]
    assert {int(entry["step"]) for entry in moments.values()} == {14}
    assert first.history.num_updates == 12


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4, bias=False)
        self.experts_EDD = nn.Parameter(torch.randn(4, 8, 8) * 8**-0.5)
        self.top_k = 1

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_T, chosen_T = self.router(x_TD).softmax(-1).max(-1)
        routed = torch.einsum("td,tdf->tf", x_TD, self.experts_EDD[chosen_T])
        return x_TD + weight_T[:, None] * routed


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Experts()])
        self.head = nn.Linear(8, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x_TD, y_T = batch
        for layer in self.layers:
            x_TD = layer(x_TD)
        return F.mse_loss(self.head(x_TD)[:, 0], y_T)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 100)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class BesideLightning(Callback):
    def __init__(self, ours: Any, at_call: int = 0, to_step: int = 0) -> None:
        self.ours, self.at_call, self.to_step = ours, at_call, to_step
        self.history = History()
        self.is_spoiled = not at_call

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.at_call:
            forced(self.ours, self.at_call, self.to_step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self.is_spoiled and trainer.global_step in FAULT:
            for group in optimizer.param_groups:
                group["lr"] *= 300
        self.is_spoiled = self.is_spoiled and not self.history.backs

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        [schedule] = [config.scheduler for config in trainer.lr_scheduler_configs]
        self.history.note(trainer.global_step, pl_module, trainer.optimizers[0], schedule)


def train_module(
    told: list[str], *, num_samples: int, beside: dict[str, int], **options: Any
) -> tuple[LightningTrainer, BesideLightning]:
    torch.manual_seed(0)
    x_TD = torch.randn(num_samples, 8)
    data = DataLoader(
        TensorDataset(x_TD, x_TD.sin().sum(-1)), batch_size=4 if beside else 32, shuffle=True
    )
    more = {"keeping": OFTEN} if beside else {}
    ours = moescope.LightningCallback(name="back", state=[], tell=told.append, **more)
    other = BesideLightning(ours, **beside)
    trainer = LightningTrainer(
        accelerator="cpu",
        callbacks=[ours, other],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Module(), data)
    return trainer, other


def test_lightning_goes_back_exactly_and_makes_its_max_steps_in_the_new_history(
    told: list[str], store: Store
) -> None:
    # twenty batches an epoch: it goes back over the end of one
    trainer, beside = train_module(told, num_samples=640, beside={}, max_steps=100)
    [(from_step, to_step)] = beside.history.backs
    assert from_step in range(FAULT.start, FAULT.stop + 10)
    assert 0 < to_step <= FAULT.start
    [schedule] = [config.scheduler for config in trainer.lr_scheduler_configs]
    assert trainer.global_step == schedule.last_epoch == 100
    assert beside.history.num_updates == 100 + from_step - to_step
    run = store.find_run("back")
    assert run.status == "finished"
    assert [s.start_step for s in store.segments(run.id)] == [0, to_step]
    assert not [line for line in told if "counts its epochs" in line]


def test_lightning_goes_on_where_its_last_step_is_the_one_that_goes_back(told: list[str]) -> None:
    trainer, beside = train_module(
        told, num_samples=80, beside={"at_call": 12, "to_step": 8}, max_steps=12
    )
    assert beside.history.backs == [(12, 8)]
    assert (trainer.global_step, beside.history.num_updates) == (12, 16)


@pytest.mark.parametrize("more", [{}, {"max_steps": 12}], ids=["epochs", "steps-and-epochs"])
def test_lightning_whose_epochs_end_before_its_steps_says_by_how_many(
    told: list[str], more: dict[str, int]
) -> None:
    beside = {"at_call": 11, "to_step": 4}
    trainer, other = train_module(told, num_samples=16, beside=beside, max_epochs=3, **more)
    assert other.history.backs == [(11, 4)]
    assert (trainer.global_step, other.history.num_updates) == (5, 12)
    [line] = [line for line in told if "counts its epochs" in line]
    assert "they end after 1 steps more, 7 before those it was to make" in line
