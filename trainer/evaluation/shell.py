"""The command that evaluates a run. Loads torch only when it is called."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ...platform.shell import Home, Json, RunName, StoreUrl, asked_settings
from ...platform.terminal import console_for, say, say_json, say_rows

if TYPE_CHECKING:
    from .evaluate_run import Evaluation


def evaluate(
    run: RunName,
    num_clips: Annotated[
        int,
        typer.Option("--num-clips", min=1, help="Held-out clips, and made ones beside them."),
    ] = 64,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps from noise to clip.")] = 32,
    sampler: Annotated[
        Literal["euler", "heun"],
        typer.Option("--sampler", help="Heun: twice the work of Euler, smaller errors."),
    ] = "euler",
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            min=0.0,
            help="1 follows the caption or class as learned, more exaggerates it. "
            "Else what the recipe has, or 2.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    image_features: Annotated[
        Path | None,
        typer.Option(
            "--image-features",
            metavar="FILE",
            help="TorchScript network of pictures, as inception-2015-12-05.pt: gives FID and IS.",
        ),
    ] = None,
    video_features: Annotated[
        Path | None,
        typer.Option(
            "--video-features",
            metavar="FILE",
            help="TorchScript network of videos, as i3d_torchscript.pt: gives FVD.",
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            "--clip",
            metavar="DIR",
            help="Folder of a CLIP of transformers: gives CLIPSIM, and how alike frames are.",
        ),
    ] = None,
    vae: Annotated[
        str, typer.Option("--vae", metavar="DIR", help="The VAE, where it was moved since.")
    ] = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say how good a run's model is: losses by noise level on held-out clips, and figures of clips
    that it makes of their captions or classes. Networks that look at them are files of yours."""
    from rich.progress import Progress

    from ..sampling.generate import Sampling
    from .evaluate_run import Looks, evaluate_run

    console = console_for(sys.stderr)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("making clips", total=None)

    def show(done: int, of: int) -> None:
        if console.is_interactive:
            bar.start()
            bar.update(task, completed=done, total=of)

    try:
        found = evaluate_run(
            asked_settings(home, store),
            run,
            num_clips,
            Sampling(steps, sampler, guidance),
            seed,
            Looks(image_features, video_features, clip),
            vae=vae,
            progress=show,
        )
    finally:
        if console.is_interactive:
            bar.stop()
    if as_json:
        say_json(_as_json(found))
    else:
        _say(found)


def _say(found: "Evaluation") -> None:
    clips = "1 clip" if found.num_clips == 1 else f"{found.num_clips} clips"
    kind = "held out" if found.are_held_out else "that it was TRAINED ON, since none is held out"
    say(f"run {found.run}, {found.weights}: {clips} {kind}, and as many made")
    say("")
    *rows, of_all = _losses(found)
    levels = [f"{row.pop('noise_from'):.3f} to {row.pop('noise_to'):.3f}" for row in rows]
    say_rows(
        [
            {"noise levels": level, **{f"loss, {key}": _shown(loss) for key, loss in row.items()}}
            for level, row in zip([*levels, "all"], [*rows, of_all], strict=True)
        ],
        "",
    )
    say("")
    for text, share in _effects(found).items():
        say(f"{share:7.2%} {text}")
    say("")
    say_rows(
        [
            {
                "figure": figure.name,
                "made": _shown(figure.made),
                "held out": _shown(figure.held_out),
                "better": figure.better,
                "clips": figure.num_clips,
                "frames": figure.num_frames,
                "note": figure.note,
            }
            for figure in found.compared.figures
        ],
        "no figures of made clips",
    )
    for name, reason in found.compared.missing.items():
        say(f"{name}: not computed, {reason}")


def _shown(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value or "")


def _effects(found: "Evaluation") -> dict[str, float]:
    """What the loss is compared with, in words, and by how much they differ."""
    learned = found.learned
    effects = {"below the loss of answering zero": learned.below_zero_output}
    if found.num_clips == 1:
        # there is no other clip to take an input from
        return effects
    if found.is_told:
        effects["more loss with another clip's caption or class"] = learned.caption_effect
    if found.has_audio:
        effects["more loss of the video with another clip's sound"] = learned.sound_effect
        effects["more loss of the sound with another clip's video"] = learned.video_effect
    return effects


def _as_json(found: "Evaluation") -> dict[str, Any]:
    *by_noise_level, of_all = _losses(found)
    learned = found.learned
    return {
        "run": found.run,
        "weights": found.weights,
        "num_clips": found.num_clips,
        "are_held_out": found.are_held_out,
        "seed": found.seed,
        "sampling": found.sampling,
        "loss": of_all,
        "loss_by_noise_level": by_noise_level,
        "below_zero_output": learned.below_zero_output,
        "caption_effect": learned.caption_effect,
        "sound_effect": learned.sound_effect,
        "video_effect": learned.video_effect,
        "figures": found.compared.figures,
        "not_computed": found.compared.missing,
    }


def _losses(found: "Evaluation") -> list[dict[str, float]]:
    """A row for each bin of noise levels, and at the end one for all."""
    losses = found.learned.losses
    rows: list[dict[str, float]] = [
        {"noise_from": low, "noise_to": high, "total": float(total), "video": float(video)}
        for low, high, total, video in zip(
            found.noise_from_Q,
            [*found.noise_from_Q[1:], found.noise_to],
            losses.total_Q,
            losses.by_bin_MQ[0],
            strict=True,
        )
    ]
    rows.append({"total": losses.total, "video": losses.video})
    if found.has_audio:
        for row, audio in zip(rows, [*losses.by_bin_MQ[1], losses.audio], strict=True):
            row["audio"] = float(audio)
    return rows
