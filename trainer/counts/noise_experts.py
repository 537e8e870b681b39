"""Parameters of experts by noise level, from those of one network."""

from collections.abc import Callable

from ..config import RunConfig
from .parts import linear

Parts = dict[str, int]


def noise_expert_parts(config: RunConfig, parts_of: Callable[[RunConfig], Parts]) -> Parts:
    """Returns the parameters of all experts by part, shared ones once, and of learned boundaries.

    total = one + (X - 1) * own: `one` is a whole network, `own` what each expert has for itself:
    its blocks behind the shared ones, and its head. parts_of: parameters of one network. Source:
    facts: model.md section 2 (28.58 B of two copies; 26.94 B with 4 of 40 blocks shared).
    """
    n = config.noise_experts
    one = parts_of(config)
    own = _own(config, one, parts_of) if n.shared_blocks else one
    parts = {name: one[name] + (n.num_experts - 1) * own.get(name, 0) for name in one}
    return {**parts, "boundaries": len(n.boundaries) if n.is_learned else 0}


def _own(config: RunConfig, one: Parts, parts_of: Callable[[RunConfig], Parts]) -> Parts:
    shared = config.model.model_copy(update={"layers": config.noise_experts.shared_blocks})
    # not validated: no run of its own, but the network up to the last shared block
    up_to = parts_of(config.model_copy(update={"model": shared}))
    head = _head(config, one)
    return {name: one[name] - up_to[name] + head.get(name, 0) for name in one}


def _head(config: RunConfig, one: Parts) -> Parts:
    m = config.model
    tables = {"stream": linear(m.width, 2 * m.width), "class": linear(m.width, 2 * m.width)}
    return {
        "outputs": one["outputs"],
        "modulation": tables.get(m.family, 2 * m.width),
        "norms": m.width if m.norm == "rms" else 0,
    }
