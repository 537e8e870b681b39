"""Layers of experts on ranks that share a batch, and on micro-batches of one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from moescope.kernels.compare import relative_error
from moescope.trainer.moe.balance import balance_loss, z_loss
from moescope.trainer.moe.steps import ExpertSteps

# B batch  S stream tokens  D width  E experts  L layers

SCRIPT = Path(__file__).with_name("experts_of_a_rank.py")
NUM_RANKS = 2
BOUNDS = (1e-6, 5e-6, 2e-5)
"""Of each step, four times what was found: 2e-7, 9e-7 and 4e-6. A mean of two means rounds
otherwise than one mean, and each step starts from what those before it rounded."""

Found = dict[str, Tensor]


@pytest.fixture(scope="module")
def part() -> ModuleType:
    """The script that every rank runs."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What each of two processes finds that share a batch."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks: list[subprocess.Popen[str]] = []
    try:
        for rank in range(NUM_RANKS):
            command = [sys.executable, "-W", "error", str(SCRIPT)]
            command += [str(rank), str(NUM_RANKS), str(folder)]
            ranks.append(
                subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            )
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert [rank.returncode for rank in ranks] == [0] * NUM_RANKS, errors
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(NUM_RANKS)]


@pytest.fixture(scope="module")
def joined(part: ModuleType) -> Found:
    """What one process finds that has the whole batch."""
    found: Found = part.two_steps(part.joined_batch(), part.make_config())
    return found


@pytest.mark.parametrize("name", ["extra", "objective"])
def test_the_losses_of_ranks_average_to_that_of_the_joined_batch(
    of_ranks: list[Found], joined: Found, name: str
) -> None:
    for step, bound in enumerate(BOUNDS):
        key = f"{step} {name}"
        mean = torch.stack([found[key] for found in of_ranks]).mean()
        assert mean.item() == pytest.approx(joined[key].item(), rel=bound)
        # of each rank it is another
        assert abs(of_ranks[0][key] - joined[key]) > 1e-3


def test_a_loss_of_the_ranks_own_counts_would_be_another(part: ModuleType, joined: Found) -> None:
    config = part.make_config("micro_batch")
    alone = [part.two_steps(x_BSD, config) for x_BSD in part.joined_batch().chunk(NUM_RANKS)]
    mean = torch.stack([found["0 extra"] for found in alone]).mean()
    assert abs(mean - joined["0 extra"]) > 0.01


def test_averaged_gradients_of_all_weights_are_those_of_the_joined_batch(
    of_ranks: list[Found], joined: Found
) -> None:
    names = [name for name in joined if " d_" in name]
    # router, two matrices of the routed experts and two of the shared one
    assert len(names) == 3 * 2 * 5
    for name in names:
        assert joined[name].abs().max() > 1e-4, name
        assert relative_error(name, joined[name], of_ranks[0][name]) < BOUNDS[int(name[0])]
        assert torch.equal(of_ranks[0][name], of_ranks[1][name]), name


def test_biases_of_ranks_are_those_of_the_joined_batch_to_the_bit(
    of_ranks: list[Found], joined: Found
) -> None:
    for step in range(3):
        key = f"{step} bias_LE"
        for found in of_ranks:
            assert torch.equal(found[key], joined[key])
    assert not torch.equal(joined["0 bias_LE"], joined["1 bias_LE"])
    # the third step was held back
    assert torch.equal(joined["1 bias_LE"], joined["2 bias_LE"])


def test_the_counts_of_one_rank_would_have_moved_biases_elsewhere(
    of_ranks: list[Found], joined: Found
) -> None:
    for step in range(3):
        key = f"{step} counts_LE"
        total_LE = torch.stack([found[key] for found in of_ranks]).sum(0)
        assert torch.equal(total_LE, joined[key])
        directions = [_direction(found[key]) for found in of_ranks]
        assert any(not torch.equal(one, _direction(total_LE)) for one in directions)


def test_micro_batches_take_their_loss_and_go_backward_one_after_another(part: ModuleType) -> None:
    config = part.make_config()
    layer = part.make_layers(config)[0]
    router, bias_E = part.router_of(layer), part.bias_of(layer)
    steps = ExpertSteps(layer, config.moe)
    micro = part.joined_batch().chunk(2)

    # the same from the formulas: each micro-batch against the counts up to its own
    want, counts_E = [], torch.zeros(part.EXPERTS, dtype=torch.int64)
    for x_BSD in micro:
        routing = router(x_BSD)
        counts_E = counts_E + routing.counts_E
        balance = balance_loss(routing.score_TE, routing.counts_E, part.CHOSEN, counts_E)
        want.append(0.5 * balance + 0.1 * z_loss(routing.logit_TE))
    (want_gradient_ED,) = torch.autograd.grad(torch.stack(want).sum(), router.weight_ED)

    steps.start()
    got = []
    for x_BSD in micro:
        layer(x_BSD)
        extra = steps.loss()
        assert extra is not None
        extra.backward()
        got.append(extra.item())
    assert got == pytest.approx([loss.item() for loss in want], rel=1e-6)
    assert got[0] != pytest.approx(got[1], rel=0.01)
    assert relative_error("d_weight_ED", want_gradient_ED, router.weight_ED.grad) < 1e-6

    # eight samples of twelve tokens on two experts each
    assert layer.tally.counts_RE.sum() == 8 * 12 * 2
    assert torch.equal(layer.tally.counts_RE, counts_E[None])
    # 192 places among eight experts
    want_bias_E = bias_E + 0.01 * torch.sign(24 - counts_E)
    steps.end(torch.ones(()))
    assert torch.equal(bias_E, want_bias_E)


def test_a_loss_taken_once_after_two_forwards_is_that_of_both(part: ModuleType) -> None:
    config = part.make_config()
    model = nn.Sequential(*part.make_layers(config))
    steps = ExpertSteps(model, config.moe)
    first_BSD, second_BSD = part.joined_batch().chunk(2)
    steps.start()
    model(first_BSD)
    first = steps.loss()
    model(second_BSD)
    second = steps.loss()
    steps.start()
    model(first_BSD)
    model(second_BSD)
    both = steps.loss()
    assert first is not None
    assert second is not None
    assert both is not None
    assert both.item() == pytest.approx((first + second).item(), rel=1e-6)


def test_a_step_starts_without_what_the_last_one_counted(part: ModuleType) -> None:
    config = part.make_config()
    model = nn.Sequential(*part.make_layers(config))
    steps = ExpertSteps(model, config.moe)
    losses, counts = [], []
    for _ in range(2):
        steps.start()
        model(part.joined_batch())
        losses.append(steps.loss())
        counts.append(torch.cat([layer.tally.counts_RE for layer in steps.layers]))
    assert losses[0] is not None
    assert losses[0] == losses[1]
    assert torch.equal(*counts)


def _direction(counts_LE: Tensor) -> Tensor:
    """Returns where biases go: +1 for experts below the mean, -1 above."""
    counts_LE = counts_LE.float()
    return torch.sign(counts_LE.mean(-1, keepdim=True) - counts_LE)
