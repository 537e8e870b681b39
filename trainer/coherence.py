"""What of a configuration does not go together: each with the reason and the way out."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import RunConfig

MOST_BATCH_GIB = 64.0
"""Of the videos of one batch, as float32."""
MOST_SPAN_S = 600.0
"""Of a sample, whose sound is held at its full rate while it is read."""


def misfits(config: "RunConfig") -> Iterator[str]:
    """Yields a line for each thing that does not go together: value, what is allowed."""
    yield from _indivisible(config)
    yield from _encoders(config)
    yield from _too_large(config)
    yield from _attention(config)
    yield from _family(config)
    if config.moe.num_experts:
        yield from _moe(config)
    yield from _noise_experts(config)
    o = config.optim
    if o.schedule == "wsd" and o.warmup_steps + o.decay_steps > config.steps:
        yield (
            f"optim.warmup_steps and optim.decay_steps are {o.warmup_steps} and {o.decay_steps}, "
            f"but the run has {config.steps} steps: use fewer of them, or more steps"
        )


def _indivisible(config: "RunConfig") -> Iterator[str]:
    m, d = config.model, config.data
    whole_cells: tuple[tuple[str, int, int], ...] = ()
    if d.latents != "none":
        whole_cells = (
            ("data.height", d.height, d.latent_size),
            ("data.width", d.width, d.latent_size),
        )
    if d.latents == "cosine":
        whole_cells += (("data.num_frames", d.num_frames, d.latent_frames),)
    cells = (d.latent_frames, d.latent_size) if d.latents != "none" else (1, 1)
    # the frames of a VAE's latents are counted by themselves, as its first cell is a single frame
    frames = (
        ("the latents' frames", config.video_shape[1], m.patch_frames)
        if d.latents == "vae"
        else ("data.num_frames", d.num_frames, m.patch_frames * cells[0])
    )
    for what, whole, part in (
        ("model.width", m.width, m.heads),
        ("model.heads", m.heads, m.kv_heads or 1),
        ("data.batch", d.batch, config.compute.num_micro_batches),
        *whole_cells,
        frames,
        ("data.height", d.height, m.patch_size * cells[1]),
        ("data.width", d.width, m.patch_size * cells[1]),
        *(
            (("data.num_text_bytes", d.num_text_bytes, m.patch_text_bytes),)
            if d.captions == "bytes"
            else ()
        ),
        ("data.num_mel_steps", d.num_mel_steps, m.patch_mel_steps),
    ):
        if whole % part:
            near = max(part, whole // part * part)
            yield (
                f"{what} is {whole}, but it must be a multiple of {part}: "
                f"use {near} or {near + part}"
            )


def _encoders(config: "RunConfig") -> Iterator[str]:
    d = config.data
    if d.latents == "vae" and (d.num_frames - 1) % d.latent_frames:
        near = 1 + (d.num_frames - 1) // d.latent_frames * d.latent_frames
        yield (
            f"data.num_frames is {d.num_frames}, but with a VAE it must be 1 more than a multiple "
            f"of data.latent_frames, {d.latent_frames}: use {near} or {near + d.latent_frames}"
        )
    if d.captions == "encoder" and d.latents != "vae":
        yield (
            f"data.captions is encoder, but data.latents is {d.latents}, and a text encoder's "
            "vectors lie beside a VAE's latents: use data.latents vae, or data.captions bytes"
        )


def _too_large(config: "RunConfig") -> Iterator[str]:
    d = config.data
    batch_gib = d.batch * 3 * d.num_frames * d.height * d.width * 4 / 2**30
    if batch_gib > MOST_BATCH_GIB:
        yield (
            f"data.batch is {d.batch}, so that its videos take {batch_gib:.0f} GiB, but at "
            f"most {MOST_BATCH_GIB:.0f} GiB can be: lower it, or data.num_frames, data.height "
            "or data.width"
        )
    span_s = d.num_frames / d.frames_per_s
    if span_s > MOST_SPAN_S:
        yield (
            f"data.num_frames / data.frames_per_s is {span_s:.0f} s, but a sample lasts at "
            f"most {MOST_SPAN_S:.0f} s: raise data.frames_per_s"
        )
    if d.latents == "cosine":
        values = 3 * d.latent_frames * d.latent_size**2
        if d.latent_channels > values:
            yield (
                f"data.latent_channels is {d.latent_channels}, but a cell has {values} values: "
                "use at most as many"
            )


def _attention(config: "RunConfig") -> Iterator[str]:
    m = config.model
    # the parts of the axes, pairs of channels each: d - 4 (d // 6), 2 (d // 6), 2 (d // 6)
    step, least = {"3d": (2, 6), "2d": (4, 4), "1d": (2, 2), "none": (1, 1)}[m.rotary]
    head = m.width // m.heads
    if head % step or head < least:
        yield (
            f"model.width / model.heads is {head}, but {m.rotary[0]}-axis RoPE needs a multiple of "
            f"{step}, and {least} at least"
        )
    if m.has_place_table and m.width % 4:
        yield (
            f"model.width is {m.width}, but model.has_place_table needs a multiple of 4: use "
            f"{m.width + 4 - m.width % 4}"
        )
    if m.rotary == "none" and not m.has_place_table:
        yield (
            "model.rotary is none and model.has_place_table is false, so that no token knows its "
            "place: keep one of them"
        )


def _family(config: "RunConfig") -> Iterator[str]:
    m, d = config.model, config.data
    if m.family == "stream" and config.objective.prediction == "data":
        yield (
            "objective.prediction is data, but the stream family answers for what its linear part "
            "leaves of the flow: use flow"
        )
    if m.family == "class":
        if not m.num_classes:
            yield "model.num_classes is 0, but the class family learns classes: use 1 or more"
        if d.captions == "encoder":
            yield (
                "data.captions is encoder, but the class family reads no caption: use bytes, and "
                "data.num_text_bytes 0"
            )
        elif d.num_text_bytes:
            yield (
                f"data.num_text_bytes is {d.num_text_bytes}, but the class family reads no "
                "caption: use 0"
            )
        if m.num_class_tokens and m.class_tokens_from >= m.layers:
            yield (
                f"model.class_tokens_from is {m.class_tokens_from}, but model.layers is "
                f"{m.layers}: use a block that there is"
            )
    if m.family == "wan" and not config.has_text:
        yield (
            "data.num_text_bytes is 0, but the wan family's cross-attention reads the caption: use "
            f"{m.patch_text_bytes} or more"
        )
    if m.has_reference and config.video_shape[1] == 1:
        yield (
            "model.has_reference is true, but a clip of one frame would be told whole: use more "
            "frames"
        )
    if m.family != "stream" and d.num_mel_steps:
        yield (
            f"data.num_mel_steps is {d.num_mel_steps}, but the {m.family} family has no "
            "sound: use 0"
        )


def _moe(config: "RunConfig") -> Iterator[str]:
    e = config.moe
    if e.num_chosen > e.num_experts:
        yield (
            f"moe.num_chosen is {e.num_chosen}, but moe.num_experts is {e.num_experts}: "
            "choose at most as many"
        )
    if e.every > config.model.layers:
        yield (
            f"moe.every is {e.every}, but model.layers is {config.model.layers}, so that no block "
            "is MoE: lower it, or set moe.num_experts to 0"
        )
    if e.num_experts % e.num_groups:
        yield (
            f"moe.num_groups is {e.num_groups}, but it must divide moe.num_experts, {e.num_experts}"
        )
    elif e.num_chosen_groups > e.num_groups:
        yield (
            f"moe.num_chosen_groups is {e.num_chosen_groups}, but moe.num_groups is "
            f"{e.num_groups}: choose at most as many"
        )
    elif e.num_chosen > e.num_chosen_groups * (e.num_experts // e.num_groups):
        yield (
            f"moe.num_chosen is {e.num_chosen}, but the chosen groups hold "
            f"{e.num_chosen_groups * (e.num_experts // e.num_groups)} experts: choose more groups"
        )
    elif e.num_groups > 1 and e.num_experts // e.num_groups < 2:
        yield (
            f"moe.num_groups is {e.num_groups}, but a group is judged by its best two experts: "
            f"use at most {e.num_experts // 2}"
        )
    if e.router == "cross_attention" and config.model.width % e.router_heads:
        yield (
            f"moe.router_heads is {e.router_heads}, but it must divide model.width, "
            f"{config.model.width}"
        )
    if e.contrast_weight and e.num_experts < 2:
        yield "moe.contrast_weight keeps experts apart, but there is one: use 0"
    yield from _balance(config)
    if e.layer == "latent":
        yield from _latent(config)


def _balance(config: "RunConfig") -> Iterator[str]:
    e = config.moe
    if e.experts_choose:
        for key, value in (
            ("bias_update_speed", e.bias_update_speed),
            ("balance_weight", e.balance_weight),
        ):
            if value:
                yield (
                    f"moe.{key} is {value}, but with moe.router {e.router} all experts take "
                    "equally many tokens, so that there is nothing to balance: use 0"
                )
        if e.num_groups > 1:
            yield (
                f"moe.num_groups is {e.num_groups}, but with moe.router {e.router} a token chooses "
                "no groups: use 1"
            )


def _latent(config: "RunConfig") -> Iterator[str]:
    e = config.moe
    if e.router != "softmax":
        yield f"moe.router is {e.router}, but LatentMoE routes each head by softmax: use softmax"
    if e.num_chosen < 2:
        yield (
            "moe.num_chosen is 1, but LatentMoE's weights are a softmax over the chosen, which is "
            "always 1 for one: use 2 or more"
        )
    if e.num_shared:
        yield f"moe.num_shared is {e.num_shared}, but LatentMoE has no shared expert: use 0"


def _noise_experts(config: "RunConfig") -> Iterator[str]:
    n = config.noise_experts
    if len(n.boundaries) != n.num_experts - 1:
        yield (
            f"noise_experts.boundaries has {len(n.boundaries)} values, but {n.num_experts} experts "
            f"need {n.num_experts - 1}"
        )
    edges = (0.0, *n.boundaries, 1.0)
    gaps = [after - before for before, after in pairwise(edges)]
    if min(gaps) <= 0:
        yield (
            f"noise_experts.boundaries is {list(n.boundaries)}, but they must ascend "
            "between 0 and 1"
        )
    elif n.num_experts > 1 and min(gaps[0], gaps[-1]) < n.transition / 2:
        yield (
            f"noise_experts.transition is {n.transition}, but the zone of an outer boundary would "
            f"reach past 0 or 1: use at most {2 * min(gaps[0], gaps[-1]):.3g}"
        )
    elif n.num_experts > 2 and min(gaps[1:-1]) < n.transition:
        yield (
            f"noise_experts.transition is {n.transition}, but two boundaries are "
            f"{min(gaps[1:-1]):.3g} apart, so that three experts would blend: lower it"
        )
    if n.is_learned and not n.transition:
        yield (
            "noise_experts.is_learned is true, but with a hard switch no gradient reaches a "
            "boundary: set noise_experts.transition, as 0.1"
        )
    if n.guidance and len(n.guidance) != n.num_experts:
        yield (
            f"noise_experts.guidance has {len(n.guidance)} values, but there are {n.num_experts} "
            "experts"
        )
    if n.shared_blocks >= config.model.layers:
        yield (
            f"noise_experts.shared_blocks is {n.shared_blocks}, but model.layers is "
            f"{config.model.layers}: nothing would differ"
        )
