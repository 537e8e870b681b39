"""What a training step measures: the step tier of every step and, on sampled steps, the taps; one
packed copy each.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..monitors.collect import Packed
from ..monitors.expert_signals import avg_violation, max_violation, min_violation
from ..monitors.since_sample import SinceSample
from ..monitors.step_record import Values, scalar
from ..monitors.taps import Taps
from ..monitors.weight_taps import WeightTaps
from ..platform import catalogue
from .config import RunConfig
from .model.make import attentions, bounded_mlps, modality_tokens, watched_blocks
from .model.noise_experts import NoiseExperts
from .moe.experts import MoeLayer
from .moe.latent import LatentMoe
from .moe.noise_experts import lower_edges, shares
from .moe.steps import moe_layers
from .objective.flow import Losses
from .objective.timesteps import Draw

_OF_NOISE_EXPERT = (
    catalogue.NOISE_EXPERT_SHARE,
    catalogue.NOISE_EXPERT_LOSS,
    catalogue.NOISE_EXPERT_BOUNDARY,
)


class Measure:
    """Writes device tensors into one buffer; nothing here waits for the device but `read` and
    `vetted`."""

    def __init__(self, model: nn.Module, config: RunConfig, device: torch.device) -> None:
        self._layers = moe_layers(model)
        num_experts = config.moe.num_experts
        # a layer of several routers (heads) has a row for each
        num_rows = sum(len(layer.tally.counts_RE) for layer in self._layers)
        samples = (len(catalogue.MODALITIES), config.data.batch)
        layout: dict[str, tuple[int, ...]] = {
            catalogue.LOSS_TOTAL: (),
            catalogue.LOSS_PER_SAMPLE: samples,
            catalogue.LOSS_SIGMA: samples,
            catalogue.GRAD_NORM: (),
            catalogue.GUARD_HELD: (),
        }
        if config.moe.has_loss and num_rows:
            layout[catalogue.LOSS_EXPERTS] = ()
        if num_rows:
            layout[catalogue.EXPERT_TOKENS] = (num_rows, num_experts)
        self._noise_experts = model if isinstance(model, NoiseExperts) else None
        num_noise_experts = config.noise_experts.num_experts
        if self._noise_experts is not None:
            layout[catalogue.NOISE_EXPERT_BLENDED] = ()
            for signal in _OF_NOISE_EXPERT:
                layout[signal] = (num_noise_experts,)
        self.layer_norm_L = np.zeros(0, np.float32)
        """Gradient norm of each block in the step that was read last; of every step, for the flight
        recorder."""
        # what is shown of an expert without a sample in the step; NaN before its first one
        self._last_loss_X = np.full(num_noise_experts, np.nan, np.float32)
        self._step = Packed(layout, device)
        blocks = watched_blocks(model)
        self._taps = Taps(
            blocks,
            [layer.router for layer in self._layers],
            num_experts=num_experts,
            num_rows=[len(layer.tally.counts_RE) for layer in self._layers],
            bounded=[bounded_mlps(block) for block in blocks],
            attentions=[attentions(block) for block in blocks],
            mixtures=[[layer] if _has_shared(layer) else [] for layer in self._layers],
            modality_tokens=modality_tokens(config),
            is_one_network=self._noise_experts is None,
            device=device,
        )
        in_blocks = [list(block.parameters()) for block in blocks]
        known = {id(p) for block in in_blocks for p in block}
        rest = [p for p in model.parameters() if id(p) not in known]
        experts = [layer.w_in_EDG for layer in self._layers]
        self._weight_taps = WeightTaps(in_blocks, rest, device, experts, max(1, num_experts))
        self._since_sample = SinceSample(has_bias=config.moe.bias_update_speed > 0)
        self._row_of = {id(p): row for row, block in enumerate(in_blocks) for p in block}
        self._rows: dict[int, Tensor] = {}
        self._norms = Packed({"norm_L": (len(blocks) + 1,)}, device)

    def watching(self, is_sampled: bool) -> AbstractContextManager[None]:
        """The context of a forward pass; hooks are attached only on a sampled step."""
        return self._taps.watching() if is_sampled else nullcontext()

    @contextmanager
    def updating(self, is_sampled: bool, held: Tensor) -> Iterator[None]:
        """The context of an update, with its gradients there. held: 0/1, whether it changes
        nothing."""
        if not is_sampled:
            yield
            return
        self._weight_taps.before()
        yield
        self._weight_taps.after(1.0 - held)

    @torch.no_grad()
    def take_norms(self, parameters: Sequence[nn.Parameter], norm_P: Tensor) -> None:
        """Takes the gradient norms of the parameters that have a gradient, for the norm of each
        layer, which is read with the step."""
        key = hash(tuple(map(id, parameters)))
        if key not in self._rows:
            # behind the blocks a row for all else
            last = self._norms["norm_L"].numel() - 1
            rows = [self._row_of.get(id(p), last) for p in parameters]
            self._rows[key] = torch.tensor(rows, device=norm_P.device)
        into_L = self._norms["norm_L"].zero_()
        into_L.index_add_(0, self._rows[key], norm_P.float().square()).sqrt_()

    @torch.no_grad()
    def take(
        self,
        losses: Losses,
        extra: Tensor | None,
        drawn: Draw,
        grad_norm: Tensor,
        held: Tensor,
        is_sampled: bool,
    ) -> None:
        """Packs a step's measurements and starts their copy to the host. extra: the loss of the
        layers of experts, where they have one."""
        packed = self._step
        packed[catalogue.LOSS_TOTAL].copy_(losses.total)
        packed[catalogue.LOSS_PER_SAMPLE].copy_(losses.per_sample_MB)
        packed[catalogue.LOSS_SIGMA].copy_(drawn.sigma_MB)
        packed[catalogue.GRAD_NORM].copy_(grad_norm)
        packed[catalogue.GUARD_HELD].copy_(held)
        if self._layers:
            tokens_RE = [layer.tally.counts_RE for layer in self._layers]
            packed[catalogue.EXPERT_TOKENS].copy_(torch.cat(tokens_RE))
        if extra is not None:
            packed[catalogue.LOSS_EXPERTS].copy_(extra)
        if self._noise_experts is not None:
            self._take_shares(self._noise_experts, losses.per_sample_MB[0])
        packed.send()
        self._norms.send()
        if is_sampled:
            self._taps.send()
            self._weight_taps.send()

    def read(self, is_sampled: bool) -> Values:
        """Returns the oldest step that was taken and not yet read, under catalogue names."""
        values = self._step.read()
        layer_norm = self._norms.read()["norm_L"][:-1]
        per_sample = values[catalogue.LOSS_PER_SAMPLE]
        values[catalogue.LOSS_VIDEO] = scalar(per_sample[0].mean())
        # a clip without sound has an audio loss of exactly 0 and is not in the mean
        with_sound = per_sample[1][per_sample[1] != 0]
        values[catalogue.LOSS_AUDIO] = scalar(with_sound.mean() if with_sound.size else 0.0)
        if self._noise_experts is not None:
            values[catalogue.NOISE_EXPERT_LOSS] = self._held_losses(values)
        self._since_sample.take(values)
        self.layer_norm_L = layer_norm
        if is_sampled:
            values |= self._taps.read() | self._weight_taps.read() | self._since_sample.read()
            if catalogue.EXPERT_TOKENS in values:
                tokens = values[catalogue.EXPERT_TOKENS]
                values[catalogue.GLOBAL_MAX_VIOLATION] = max_violation(tokens)
                values[catalogue.GLOBAL_MIN_VIOLATION] = min_violation(tokens)
                values[catalogue.GLOBAL_AVG_VIOLATION] = avg_violation(tokens)
        return values

    def _take_shares(self, model: NoiseExperts, video_B: Tensor) -> None:
        """Packs how the forward was shared out: `model.noted` is of the same step still."""
        noted, packed = model.noted, self._step
        assert noted is not None, "no forward yet"
        found = shares(noted.weight_XB, video_B)
        packed[catalogue.NOISE_EXPERT_SHARE].copy_(found.share_X)
        packed[catalogue.NOISE_EXPERT_LOSS].copy_(found.loss_X)
        packed[catalogue.NOISE_EXPERT_BOUNDARY].copy_(lower_edges(noted.tau_J))
        packed[catalogue.NOISE_EXPERT_BLENDED].copy_(found.blended)

    def _held_losses(self, values: Values) -> NDArray[np.float32]:
        """Returns each expert's loss; without a sample the newest finite one, and before that the
        mean of all samples. It is for the eye: nothing that computes reads it, and a rollback
        leaves it alone."""
        loss_X = values[catalogue.NOISE_EXPERT_LOSS]
        last_X = np.where(
            np.isnan(self._last_loss_X), values[catalogue.LOSS_VIDEO], self._last_loss_X
        )
        shown_X = np.where(values[catalogue.NOISE_EXPERT_SHARE] > 0, loss_X, last_X)
        self._last_loss_X = np.where(np.isfinite(loss_X), loss_X, self._last_loss_X)
        return shown_X.astype(np.float32)

    def forget(self) -> None:
        """Drops what was taken and not read: it belongs to a branch that is being abandoned."""
        self._step.drop()
        self._norms.drop()
        self._taps.drop()
        self._weight_taps.drop()

    @staticmethod
    def vetted(losses: Losses, drawn: Draw) -> Mapping[str, NDArray[np.float32]]:
        """Returns what the judge needs to vet a batch; waits for the device."""
        return {
            catalogue.LOSS_PER_SAMPLE: losses.per_sample_MB.float().cpu().numpy(),
            catalogue.LOSS_SIGMA: drawn.sigma_MB.float().cpu().numpy(),
        }


def _has_shared(layer: MoeLayer | LatentMoe) -> bool:
    return isinstance(layer, MoeLayer) and layer.shared is not None
