"""A network of networks: each answers for a range of noise levels."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..config import RunConfig
from ..moe.noise_experts import blend_weights, boundaries_of, theta_of
from .inputs import Flow, Inputs

# X experts by noise level  J boundaries between them (X - 1)  B batch  n samples of an expert


class Parted(Protocol):
    """What a network offers so that several can share its beginning."""

    @property
    def TRUNK(self) -> tuple[str, ...]:
        """Its modules and parameters in front of the first block."""

    @property
    def blocks(self) -> nn.ModuleList: ...

    def begin(self, inputs: Inputs) -> Any:
        """Returns tensors, in any nest of tuples, of which a sample has a row each."""

    def work(self, state: Any, blocks: range) -> Any:
        """Sends them through these blocks."""

    def finish(self, state: Any, inputs: Inputs) -> Flow:
        """Returns the answer behind the last block."""


class Residence(Protocol):
    """Decides where the weights of experts are while they wait."""

    device: torch.device
    """Where the model computes."""

    def order(self, experts: Iterable[int]) -> list[int]:
        """Returns the experts in the order in which they are best brought."""

    def bring(self, expert: int) -> None:
        """Has an expert's weights on the model's device when it returns, as far as the device's
        own work goes."""


class Noted(NamedTuple):
    """How a forward was shared out, on its device and without gradients."""

    weight_XB: Tensor
    tau_J: Tensor


def joined(parts: Sequence[Noted]) -> Noted:
    """Returns how the forwards of one step were shared out, taken together."""
    return Noted(torch.cat([part.weight_XB for part in parts], dim=1), parts[-1].tau_J)


class NoiseExperts(nn.Module):
    """flow = sum_x w_x(sigma) f_x, sigma being the video's noise level after its shift; an expert
    runs only on the samples for which its weight is above 0, in one forward.

    The experts are whole networks, alike in all but their weights at the start; sound is blended by
    the video's level, too. With shared blocks the embeddings and the first k blocks are there once,
    as `trunk`, and run on the whole batch; heads are the experts' own. Boundaries are fixed, or
    learned as `theta_J` (see `boundaries_of`). An expert without a sample has no gradients in that
    step, so that AdamW leaves its weights, moments and weight decay alone; so it is with theta_J in
    a step without a blended sample. Layers are numbered through: the trunk's, then those of each
    expert from the least noise on.

    Who runs on what is decided on the host. With fixed boundaries it waits for the device only
    where the inputs do not bring their noise levels along (`host_sigma_MB`); with learned ones it
    reads them from the device once per forward, and so waits there for the update before it.
    Source: facts: model.md 3.5 (Wan2.2) and section 2 (what can be shared).
    """

    fixed_J: Tensor | None

    def __init__(self, config: RunConfig, make: Callable[[], Parted]) -> None:
        """make: returns a new network of the configuration's family, a module, each time with
        other weights."""
        super().__init__()
        n = config.noise_experts
        self.transition, self.blend = n.transition, n.blend
        self.num_shared = n.shared_blocks
        trunk: Any = make() if n.shared_blocks else None
        if trunk is not None:
            _keep_trunk(trunk, n.shared_blocks)
        self.trunk = trunk
        experts = []
        for _ in range(n.num_experts):
            expert: Any = make()
            if trunk is not None:
                _drop_trunk(expert, n.shared_blocks)
            experts.append(expert)
        self.experts = nn.ModuleList(experts)
        self.theta_J = nn.Parameter(theta_of(n.boundaries)) if n.is_learned else None
        fixed_J = torch.tensor(n.boundaries, dtype=torch.float32)
        # follows from the configuration: it moves with the module and is not saved
        self.register_buffer("fixed_J", None if n.is_learned else fixed_J, persistent=False)
        # a copy that stays on the host, also where the module is made on another device
        self._host_J = torch.tensor(n.boundaries, dtype=torch.float32, device="cpu")
        self.noted: Noted | None = None
        self.residence: Residence | None = None

    def boundaries(self) -> Tensor:
        """Returns the boundaries (J,) fp32 on the model's device, ascending."""
        if self.theta_J is not None:
            return boundaries_of(self.theta_J)
        assert self.fixed_J is not None
        return self.fixed_J

    def weights(self, sigma_B: Tensor, tau_J: Tensor) -> Tensor:
        """Returns each expert's weight (X, B) at these noise levels."""
        return blend_weights(sigma_B, tau_J, self.transition, self.blend)

    @torch.no_grad()
    def host_weights(self, sigma_B: Tensor) -> Tensor:
        """Returns the same on the host, for levels that are there; waits for the device where the
        boundaries are learned."""
        return self.weights(sigma_B, self._host_boundaries(self.boundaries()))

    def forward(self, inputs: Inputs) -> Flow:
        """Returns the blended flow of video and audio, and notes in `noted` how it was shared
        out."""
        tau_J, sigma_B = self.boundaries(), inputs.sigma_MB[0]
        weight_XB = self.weights(sigma_B, tau_J)
        self.noted = Noted(weight_XB.detach(), tau_J.detach())
        is_in_XB = self._host_weights_of(inputs, weight_XB, tau_J) > 0
        needed = torch.nonzero(is_in_XB.any(1)).flatten().tolist()
        is_blended = bool((is_in_XB.sum(0) > 1).any())
        state = None
        if self.trunk is not None:
            state = self.trunk.work(self.trunk.begin(inputs), range(self.num_shared))
        answers: dict[int, tuple[Tensor | None, Flow]] = {}
        for expert in self.residence.order(needed) if self.residence else needed:
            if self.residence is not None:
                self.residence.bring(expert)
            rows_n = None if is_in_XB[expert].all() else _on(is_in_XB[expert], sigma_B.device)
            answers[expert] = rows_n, self._answer(expert, inputs, state, rows_n)
        return self._sum(answers, weight_XB if is_blended else None, inputs)

    def _host_boundaries(self, tau_J: Tensor) -> Tensor:
        return self._host_J if self.theta_J is None else tau_J.detach().cpu()

    def _host_weights_of(self, inputs: Inputs, weight_XB: Tensor, tau_J: Tensor) -> Tensor:
        """Returns the weights on the host. There they are computed anew, where that saves waiting
        for the device: the arithmetic is that of the device, operation by operation."""
        if weight_XB.device.type == "cpu" or inputs.host_sigma_MB is None:
            return weight_XB.detach().cpu()
        return self.weights(inputs.host_sigma_MB[0], self._host_boundaries(tau_J))

    def _answer(self, expert: int, inputs: Inputs, state: Any, rows_n: Tensor | None) -> Flow:
        network: Any = self.experts[expert]
        if rows_n is not None:
            inputs, state = inputs.rows(rows_n), _rows(state, rows_n)
        if self.trunk is None:
            flow: Flow = network(inputs)
            return flow
        rest = range(self.num_shared, len(network.blocks))
        flow = network.finish(network.work(state, rest), inputs)
        return flow

    def _sum(
        self,
        answers: dict[int, tuple[Tensor | None, Flow]],
        weight_XB: Tensor | None,
        inputs: Inputs,
    ) -> Flow:
        """Adds the answers up, expert by expert, whatever the order in which they were made.
        weight_XB: None where all weights are 0 or 1."""
        total: Flow | None = None
        for expert in sorted(answers):
            rows_n, flow = answers[expert]
            if weight_XB is not None:
                weight_B = weight_XB[expert]
                flow = _times(
                    flow, weight_B if rows_n is None else weight_B.index_select(0, rows_n)
                )
            if rows_n is not None:
                flow = Flow(
                    _spread(flow.video_BCFHW, rows_n, inputs.video_BCFHW),
                    _spread(flow.mel_BNM, rows_n, inputs.mel_BNM),
                )
            total = flow if total is None else Flow(*map(torch.add, total, flow))
        assert total is not None, "a batch without samples"
        return total


def _keep_trunk(network: Any, num_blocks: int) -> None:
    """Leaves of a network what stands in front of the experts' own blocks."""
    for name in [*network._modules, *network._parameters]:
        if name != "blocks" and name not in network.TRUNK:
            setattr(network, name, None)
    for index in range(num_blocks, len(network.blocks)):
        network.blocks[index] = nn.Identity()


def _drop_trunk(network: Any, num_blocks: int) -> None:
    """Leaves of a network what stands behind the shared blocks. The others keep their numbers."""
    for name in network.TRUNK:
        if hasattr(network, name):
            setattr(network, name, None)
    for index in range(num_blocks):
        network.blocks[index] = nn.Identity()


def _on(is_in_B: Tensor, device: torch.device) -> Tensor:
    """Returns the numbers of an expert's samples, ascending, on a device without waiting for it."""
    rows_n = torch.nonzero(is_in_B).flatten()
    return rows_n.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows_n


def _rows(state: Any, rows_n: Tensor) -> Any:
    if isinstance(state, Tensor):
        return state.index_select(0, rows_n)
    if isinstance(state, tuple):
        parts = [_rows(part, rows_n) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return state


def _times(flow: Flow, weight_B: Tensor) -> Flow:
    return Flow(
        flow.video_BCFHW * weight_B.view(-1, 1, 1, 1, 1), flow.mel_BNM * weight_B.view(-1, 1, 1)
    )


def _spread(part: Tensor, rows_n: Tensor, like: Tensor) -> Tensor:
    """Puts an expert's rows where they belong, among zeros: a copy, no sum, so that the order of
    writes does not matter."""
    return torch.zeros_like(like).index_copy(0, rows_n, part)
