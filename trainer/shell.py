"""The commands about what is trained: counts, upcycling, samples, data.

Each loads what it needs when it is called, so that `--help` is quick and knows no torch.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..platform.shell import Home, Json, RunName, StoreUrl, asked_settings, command_group
from ..platform.terminal import console_for, say, say_json, say_rows

data_app = command_group("Write clips to try things with, or check a folder of clips.")


def params(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Name of a recipe, such as dsmoe-s-e16.")
    ],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how many parameters a recipe has, how many work on a token, and what a sample costs."""
    from .asked import asked_changes
    from .counts.flops import count_flops
    from .counts.parameters import count_parameters
    from .recipes.by_name import recipe as named

    config = named(recipe, asked_changes(assignments or ()))
    count, flops = count_parameters(config), count_flops(config)
    if as_json:
        say_json({**count._asdict(), "flops": flops._asdict()})
        return
    rows = {"active": count.active, "total": count.total} | count.parts
    say_rows(
        [
            {
                "part": part.replace("_", " "),
                "parameters": f"{number:,}",
                "Mi": f"{number / 2**20:.2f}",
            }
            for part, number in rows.items()
        ],
        "",
    )
    say(
        f"a sample of {config.tokens_per_sample:,} tokens takes {flops.forward / 1e9:,.3g} GFLOPs "
        f"forward, {flops.training / 1e9:,.3g} in training"
    )


def upcycle(
    run: RunName,
    experts: Annotated[
        int, typer.Option("--experts", min=1, help="Routed experts of each MoE block.")
    ],
    chosen: Annotated[
        int, typer.Option("--chosen", min=1, help="Experts that each token is sent to.")
    ] = 2,
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, help="Every how many blocks one is MoE; else as the run."),
    ] = None,
    shared: Annotated[
        int, typer.Option("--shared", min=0, help="Experts that see every token.")
    ] = 1,
    shared_from: Annotated[
        str,
        typer.Option("--shared-from", help="What the shared expert starts from: noise or dense."),
    ] = "noise",
    noise: Annotated[
        float | None,
        typer.Option("--noise", help="Standard deviation of that noise; 1e-4 by default."),
    ] = None,
    drop_share: Annotated[
        float,
        typer.Option("--drop-share", help="Share of each expert's hidden channels to draw anew."),
    ] = 0.0,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change another key; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the new run.")] = "",
    is_trial: Annotated[
        bool, typer.Option("--verify", help="Compare with the dense run and write nothing.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="The same as seed; else as the run.")
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Make a run with experts out of one that was trained dense. Its clones answer as the dense
    layers did; noise, --drop-share and --shared-from move the start away, by what is printed."""
    from .asked import asked_changes
    from .upcycle.plan import UpcyclePlan

    plan = UpcyclePlan(experts, chosen, shared, every, shared_from, noise, drop_share)
    changes = asked_changes(assignments or (), {"seed": seed})
    from .upcycle.run import in_words
    from .upcycle.run import upcycle as upcycle_run

    settings = asked_settings(home, store)
    found = upcycle_run(settings, run, plan, changes, name=name, is_trial=is_trial)
    if as_json:
        say_json(found)
    else:
        verdict = "as the dense run" if found.is_equal else "OTHERWISE than the dense run"
        say(f"{found.origin}, on {found.compared_on}")
        say(f"clones answer {verdict}: {in_words(found.comparison)}")
        say(f"{found.comparison.says}: the flow starts {found.comparison.start:.2g} from the dense")
        say(
            f"{found.total / 1e6:.2f} M parameters, {found.active / 1e6:.2f} M active "
            f"(the dense run: {found.dense_total / 1e6:.2f} M, {found.dense_active / 1e6:.2f} M "
            "active)"
        )
        if found.run_id:
            say(f"run {found.name} ({found.run_id}) is ready: moescope train --resume {found.name}")
    if not found.is_equal:
        raise typer.Exit(1)


def sample(
    run: RunName,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="What the clip shows; repeatable. Else captions of the data."
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME_OR_NUMBER",
            help="What the clip is of; repeatable. Else a few classes of the data.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Picture or clip whose first frame the clip starts from."),
    ] = None,
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
    guidance_interval: Annotated[
        tuple[float, float],
        typer.Option(
            "--guidance-interval",
            metavar="LOW HIGH",
            help="Noise levels, 0 data and 1 noise, between which there is guidance.",
        ),
    ] = (0.0, 1.0),
    shift: Annotated[
        float | None,
        typer.Option("--shift", min=1e-3, help="Of the noise levels. Else the training's."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the noise.")] = 0,
    vae: Annotated[
        str, typer.Option("--vae", metavar="DIR", help="The VAE, where it was moved since.")
    ] = "",
    text_encoder: Annotated[
        str,
        typer.Option(
            "--text-encoder", metavar="DIR", help="The text encoder, where it was moved since."
        ),
    ] = "",
    offload: Annotated[
        bool,
        typer.Option(
            "--offload",
            help="Of experts by noise level, keep only the one at work on the GPU.",
        ),
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to write into; else the run's samples.")
    ] = None,
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Write clips that the run's model generates: mp4, or png where they have one frame."""
    from .sampling.generate import Sampling
    from .sampling.sample_run import sample_run

    paths = sample_run(
        asked_settings(home, store),
        run,
        prompts or [],
        Sampling(steps, sampler, guidance, guidance_interval, shift),
        seed,
        to,
        classes=classes or [],
        reference=reference,
        vae=vae,
        text_encoder=text_encoder,
        offload=offload,
        tell=lambda text: typer.echo(text, err=True),
    )
    if as_json:
        say_json(paths)
        return
    for path in paths:
        say(str(path))


@data_app.command("make-clips")
def make_clips_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")],
    num_clips: Annotated[int, typer.Option("--num-clips", min=1, help="How many clips.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Other seed, other clips.")] = 0,
    is_by_class: Annotated[
        bool, typer.Option("--by-class", help="Into a sub-folder for each sky: its class.")
    ] = False,
    are_pictures: Annotated[
        bool, typer.Option("--pictures", help="One picture of each clip, as png.")
    ] = False,
) -> None:
    """Write encoded clips: moving shapes, a tone tied to their motion, a caption that tells it."""
    from rich.progress import Progress

    from .data.make_clips import make_clips

    # where nobody watches it draws no bar, but would leave an empty line all the same
    console = console_for(sys.stderr)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("writing clips", total=num_clips)

    def show(done: int, _: int) -> None:
        if console.is_interactive:
            bar.start()
            bar.update(task, completed=done)

    try:
        make_clips(
            folder,
            num_clips,
            seed,
            is_by_class=is_by_class,
            are_pictures=are_pictures,
            progress=show,
        )
    finally:
        if console.is_interactive:
            bar.stop()
    say(f"{num_clips} {'pictures' if are_pictures else 'clips'} in {folder}")


@data_app.command("encode")
def encode_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clips.")],
    to: Annotated[Path, typer.Argument(metavar="TO", help="Folder of the shards.")],
    vae: Annotated[
        str, typer.Option("--vae", metavar="DIR", help="Local folder of the VAE, from diffusers.")
    ],
    text_encoder: Annotated[
        str,
        typer.Option(
            "--text-encoder",
            metavar="DIR",
            help="Local folder of a T5 and its tokenizer. Else captions are read as bytes.",
        ),
    ] = "",
    recipe: Annotated[
        str, typer.Option("--recipe", help="The recipe that is to be trained on it.")
    ] = "tiny",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of it; repeatable."),
    ] = None,
    clips_per_shard: Annotated[
        int, typer.Option("--clips-per-shard", min=1, max=1_000_000, help="Clips of a file.")
    ] = 64,
    as_json: Json = False,
) -> None:
    """Make latents of a folder's clips, and vectors of their captions, to be trained on. Goes on
    where it was stopped."""
    from rich.progress import Progress

    from .asked import asked_changes
    from .encoders.encode import encode_clips
    from .recipes.by_name import recipe as named

    given = {"data.folder": str(folder), "data.latents": "vae", "data.vae": vae}
    if text_encoder:
        given |= {"data.captions": "encoder", "data.text_encoder": text_encoder}
    config = named(recipe, asked_changes(assignments or ()) | given)
    console = console_for(sys.stderr)
    bar = Progress(console=console, transient=True)
    task = bar.add_task("encoding shards", total=None)

    def show(done: int, of: int) -> None:
        if console.is_interactive:
            bar.start()
            bar.update(task, completed=done, total=of)

    try:
        found = encode_clips(config, to, clips_per_shard=clips_per_shard, progress=show)
    finally:
        if console.is_interactive:
            bar.stop()
    if as_json:
        say_json(found._asdict())
        return
    kept = f", {found.num_kept} of them written before" if found.num_kept else ""
    say(
        f"{found.num_clips} clips, {found.num_windows} windows, {found.num_shards} shards{kept}, "
        f"{found.num_bytes / 2**20:.1f} MiB in {to}"
    )
    for name, reason in found.passed_over:
        say(f"passed over {name}: {reason}")
    told = ("data.latents=", "data.captions=")
    sets = " ".join(f"--set {text}" for text in assignments or () if not text.startswith(told))
    captions = " --set data.captions=encoder" if text_encoder else ""
    say(
        f"to train on it: moescope train {recipe} --data {to} "
        f"--set data.latents=vae{captions} {sets}".rstrip()
    )


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of clips.")],
    as_json: Json = False,
) -> None:
    """Say which files of a folder can be trained on, of how many classes, and which cannot. Of a
    folder of shards every checksum is compared."""
    from .data.clips import find_clips
    from .data.pictures import is_picture
    from .data.shards import check_shards

    index = find_clips(folder)
    if index.encoding is not None:
        check_shards(folder)
    num_pictures = sum(is_picture(clip.path) for clip in index.clips)
    if as_json:
        say_json(
            {
                "folder": folder,
                "num_usable": len(index.clips),
                "duration_s": sum(clip.duration_s for clip in index.clips),
                "num_with_sound": sum(clip.has_sound for clip in index.clips),
                "num_with_caption": sum(bool(clip.caption) for clip in index.clips),
                "num_pictures": num_pictures,
                "num_classes": len(index.classes),
                "classes": dict(index.classes),
                "passed_over": [{"name": name, "why": why} for name, why in index.passed_over],
            }
        )
        return
    of_pictures = f"{num_pictures} of them pictures, " if num_pictures else ""
    classes = "class" if len(index.classes) == 1 else "classes"
    say(
        f"{len(index.clips)} usable clips, {of_pictures}"
        f"{sum(clip.duration_s for clip in index.clips):.0f} s, "
        f"{sum(clip.has_sound for clip in index.clips)} with sound, "
        f"{sum(bool(clip.caption) for clip in index.clips)} with a caption, "
        f"{len(index.classes)} {classes}"
    )
    say_rows(
        [{"passed over": name, "why": why} for name, why in index.passed_over],
        "all files are usable",
    )
