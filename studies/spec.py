"""What a study can say: `study.yaml`, read and checked before anything is planned."""

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from ..platform.errors import MoescopeError, did_you_mean
from ..platform.frozen import Frozen, parsed
from ..platform.strict_yaml import read_yaml

LIBRARY = Path(__file__).parent / "library"
"""Named studies, each a file of its own."""

MOST_TRIALS = 20_000
OWN = {
    "data.folder": "data",
    "seed": "seeds",
    "steps": "budget",
    "project": "name, which is the runs' project",
}
"""{key of a recipe: what a study says in its place}"""
Kind = Literal["ladder", "isoflop", "grid", "ablation", "sensitivity", "seeds"]


class Sizes(Frozen):
    """How large the models are: by name or by what works on a token."""

    recipes: tuple[str, ...] = ()
    """Recipes, each a size; each is asked the same of."""
    active_params: tuple[PositiveFloat, ...] = ()
    """Parameters that work on a token, each met within 1% by a model of the study's recipe."""
    grow: Literal["width", "hidden"] = "width"
    """active_params: what grows. width: the model's width by whole heads, all else in proportion,
    and the hidden width of its experts (without any, of its MLPs) for what is left. hidden: that
    alone, so that axes may set the width."""

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if bool(self.recipes) == bool(self.active_params):
            raise ValueError("sizes has recipes or active_params: give one of them, not empty")
        return self


class Budget(Frozen):
    """What each trial may use: one of the four, with a trial for each value."""

    tokens: tuple[PositiveFloat, ...] = ()
    """Tokens of the sequences that the blocks work on: samples times tokens of a sample."""
    tokens_per_param: tuple[PositiveFloat, ...] = ()
    """Tokens for each active parameter."""
    flops: tuple[PositiveFloat, ...] = ()
    """Of training, attention included; of experts those that a token is sent to."""
    hours: tuple[PositiveFloat, ...] = ()
    """On this machine, as calibrated."""

    @property
    def unit(self) -> str:
        """The field that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name))

    @property
    def values(self) -> tuple[float, ...]:
        values: tuple[float, ...] = getattr(self, self.unit)
        return values

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "budget takes one of tokens, tokens_per_param, flops and hours, with one value or "
                f"more (given: {', '.join(given) or 'none'})"
            )
        return self


class PowerRule(Frozen):
    """value * (N / params)^params_exponent * (T / tokens)^tokens_exponent, with the recipe's value,
    N active parameters and T tokens of the trial.

    Of video DiTs: learning rate -0.1619 and -0.0453, batch 0.1906 and 0.8080 (arXiv 2411.17470;
    facts: scaling.md section 4, second-hand).
    """

    params: PositiveFloat
    """Active parameters at which the recipe's value is right."""
    tokens: PositiveFloat
    """Tokens at which it is."""
    params_exponent: float = Field(default=0.0, ge=-2, le=2)
    """0: whatever the size."""
    tokens_exponent: float = Field(default=0.0, ge=-2, le=2)
    """0: however long."""

    def scale(self, params: float, tokens: float) -> float:
        of_params = (params / self.params) ** self.params_exponent
        return float(of_params * (tokens / self.tokens) ** self.tokens_exponent)


class Follow(Frozen):
    """A key that goes along with another one."""

    of: str
    """The key that it follows."""
    times: PositiveFloat = 1.0
    """It is so many times that one's value; whole numbers stay whole."""


class Limit(Frozen):
    """What the whole study may use; a plan above it is refused. 0: no limit."""

    flops: NonNegativeFloat = 0.0
    """Of training, of all trials."""
    hours: NonNegativeFloat = 0.0
    """On this machine, as calibrated, one trial after the other."""
    disk_gib: NonNegativeFloat = 0.0
    """Of checkpoints."""


class Parallel(Frozen):
    """Ranks that the experts are spread over, for the bytes that a plan foretells."""

    experts: PositiveInt = 1
    """Expert parallel."""
    heads: PositiveInt = 1
    """Head parallel, of latent experts."""


class Halving(Frozen):
    """Successive halving without waiting: a trial that comes to a rung goes on where its loss is
    among the best of those that came to it before; the first ones always do.

    Trials are compared where they differ in axes or ablation alone. Source: arXiv 1810.05934, in
    the form that stops and never resumes.
    """

    rungs: tuple[float, ...] = (0.25, 0.5)
    """Shares of a trial's steps."""
    keep: float = Field(default=0.5, gt=0, lt=1)
    """Share that goes on."""

    @model_validator(mode="after")
    def _rungs_rise(self) -> Self:
        rungs = self.rungs
        if not rungs or list(rungs) != sorted(set(rungs)) or not 0 < rungs[0] <= rungs[-1] < 1:
            raise ValueError(f"rungs are {list(rungs)}: give rising shares between 0 and 1")
        return self


class EarlyStop(Frozen):
    """When a trial ends before its last step."""

    unstable_steps: NonNegativeInt = 0
    """A critical alert that stands for so many steps ends the trial, with the verdict unstable;
    0: its own policy alone decides."""
    halving: Halving | None = None
    """Left out: none is stopped for its loss."""


class Slurm(Frozen):
    """What a job asks of the cluster."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    hours: PositiveFloat = 24.0
    """A job's time; what is left of a trial then goes on in the next."""
    save_s: PositiveInt = Field(default=60, le=3600)
    """Before its time is over a job has so long to save."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the job's program, such as `module load cuda`."""
    others: dict[str, str | int] = Field(default={})
    """{option of sbatch: value}, such as constraint."""


class Launch(Frozen):
    """Where trials run, and what each may take. It changes nothing of what they compute."""

    launcher: Literal["local", "slurm"] = "local"
    """local: slots of this machine. slurm: jobs of a cluster; the store must be PostgreSQL."""
    slots: PositiveInt = Field(default=1, le=1024)
    """Trials at once."""
    cores: NonNegativeInt = 0
    """Of each; 0: local shares all of this machine's out, slurm gives one."""
    gpus: NonNegativeInt = 0
    """Of each; local gives each slot its own."""
    memory_gib: NonNegativeFloat = 0.0
    """Host memory of each; a trial that takes more is given up. 0: local does not look."""
    slurm: Slurm = Slurm()
    """launcher slurm."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.launcher != "slurm" and self.slurm != Slurm():
            raise ValueError(
                f"launch.slurm has no effect with launcher {self.launcher}: leave it out, or say "
                "launcher: slurm"
            )
        return self


class StudySpec(Frozen):
    """One question, and the runs that answer it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    """Small letters, digits, - and _."""
    question: str = ""
    """What one wants to know, for the report."""
    kind: Kind
    """ladder: sizes, each with tokens that go with it. isoflop: sizes at equal FLOPs. grid: every
    combination of the axes. ablation: one change at a time from the base. sensitivity: learning
    rates at each size. seeds: one configuration many times."""
    recipe: str = "tiny"
    """Base of every trial; sizes.recipes take its place."""
    data: str = ""
    """Folder of clips, or of what `moescope data encode` wrote; the same as data.folder."""
    changes: dict[str, Any] = Field(default={})
    """{dotted key: value} of every trial."""
    axes: dict[str, tuple[Any, ...]] = Field(default={})
    """{dotted key: values}: every combination."""
    ablations: dict[str, dict[str, Any]] = Field(default={})
    """{name: {dotted key: value}}: each by itself, beside the base."""
    follow: dict[str, Follow] = Field(default={})
    """{dotted key: what it follows}."""
    sizes: Sizes | None = None
    """Sizes of the models; left out: of the recipe."""
    budget: Budget
    """What a trial may use."""
    learning_rate: Literal["fixed"] | PowerRule | None = None
    """How optim.learning_rate goes with size and tokens. Where those differ between trials it must
    be said: fixed settings recommend far too large models (facts: scaling.md section 4)."""
    batch: Literal["fixed"] | PowerRule | None = None
    """How data.batch does; likewise."""
    warmup_share: float | None = Field(default=None, gt=0, lt=1)
    """Of a trial's steps; left out: optim.warmup_steps as it is."""
    decay_share: float = Field(default=0.2, gt=0, lt=1)
    """Schedule wsd: the decay's share of a trial's steps."""
    has_branches: bool = False
    """Schedule wsd: whether the smaller budgets branch off the run of the largest before their
    decay, instead of starting anew."""
    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Each point is run with each: their spread is the noise that a law is judged by."""
    early_stop: EarlyStop = EarlyStop()
    """When a trial ends before its last step."""
    limit: Limit = Limit()
    """Of the whole study."""
    launch: Launch = Launch()
    """Where trials run."""
    parallel: Parallel = Parallel()
    """Of each trial."""

    @property
    def needs_hours(self) -> bool:
        """Whether it speaks of hours, which only a calibrated machine knows."""
        return self.budget.unit == "hours" or self.limit.hours > 0

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for fault in _misfits(self):
            raise ValueError(fault)
        return self


class _Need(NamedTuple):
    of: tuple[Kind, ...]
    is_met: bool
    advice: str


def _misfits(s: StudySpec) -> list[str]:
    empty = [key for key, values in s.axes.items() if not values]
    doubled = [key for key, values in s.axes.items() if len(set(map(repr, values))) < len(values)]
    needs = [
        _Need(("ladder", "isoflop", "sensitivity"), s.sizes is not None, "give sizes"),
        _Need(
            ("ladder",),
            s.budget.unit in ("tokens", "tokens_per_param"),
            "give budget.tokens or budget.tokens_per_param",
        ),
        _Need(("isoflop",), s.budget.unit == "flops", "give budget.flops"),
        _Need(("grid",), bool(s.axes), "give axes"),
        _Need(("ablation",), bool(s.ablations), "give ablations"),
        _Need(
            ("sensitivity",),
            "optim.learning_rate" in s.axes,
            "give an axis optim.learning_rate",
        ),
        _Need(("seeds",), len(s.seeds) > 1, "give several seeds"),
        _Need(("seeds",), not s.axes and not s.ablations, "leave axes and ablations out"),
    ]
    faults = [f"axes.{key} is empty: give values, or leave it out" for key in empty]
    faults += [f"axes.{key} has a value twice: give each once" for key in doubled]
    faults += [f"kind is {s.kind}: {n.advice}" for n in needs if s.kind in n.of and not n.is_met]
    if not s.seeds or len(set(s.seeds)) < len(s.seeds):
        faults.append(f"seeds are {list(s.seeds)}: give each once, one at least")
    if s.ablations and s.kind != "ablation":
        faults.append(f"ablations do not go with kind {s.kind}: make it ablation")
    for place in (s.changes, s.axes, *s.ablations.values()):
        faults += [f"{key} is not set there: say {say}" for key, say in OWN.items() if key in place]
    num = num_trials(s)
    if num > MOST_TRIALS:
        faults.append(f"it asks for {num:,} trials, more than {MOST_TRIALS:,}: take values away")
    clash = sorted(set(s.follow) & (set(s.axes) | set(s.changes)))
    faults += [f"{key} follows {s.follow[key].of} and is set: keep one" for key in clash]
    faults += _circles(s.follow)
    for name in ("learning_rate", "batch"):
        varies = s.sizes is not None or len(s.budget.values) > 1
        if varies and getattr(s, name) is None:
            faults.append(
                f"{name} is not said, but size or tokens differ between trials: say {name}: fixed, "
                "or give a rule"
            )
        rule = getattr(s, name)
        if s.has_branches and isinstance(rule, PowerRule) and rule.tokens_exponent:
            faults.append(
                f"{name} follows tokens, but branches share their run: leave tokens_exponent 0, or "
                "has_branches false"
            )
    if s.early_stop.halving and s.kind not in ("grid", "ablation", "sensitivity"):
        faults.append(
            f"early_stop.halving does not go with kind {s.kind}, whose answer needs all of its "
            "trials: leave it out"
        )
    if s.early_stop.halving and s.has_branches:
        faults.append(
            "early_stop.halving does not go with has_branches, whose runs serve others: keep one"
        )
    if s.has_branches and len(s.budget.values) < 2:
        faults.append("has_branches needs several budgets: give more, or leave it out")
    return faults


def num_trials(s: StudySpec) -> int:
    """How many trials a study asks for, without planning one."""
    sizes = len(s.sizes.recipes or s.sizes.active_params) if s.sizes else 1
    ablations = len(s.ablations) + 1 if s.ablations else 1
    axes = math.prod(len(values) for values in s.axes.values())
    return sizes * ablations * axes * len(s.budget.values) * len(s.seeds)


def _circles(follow: dict[str, Follow]) -> list[str]:
    for start in follow:
        path = [start]
        while path[-1] in follow:
            path.append(follow[path[-1]].of)
            if path[-1] == start:
                return [f"follow goes in a circle ({' -> '.join(path)}): let one of them stand"]
            if len(path) > len(follow) + 1:
                break  # into a circle further on, which its own start tells
    return []


def read_spec(place: str) -> StudySpec:
    """Reads a study from a file, or from the library by its name.

    Raises MoescopeError: one line with each fault, and near names.
    """
    path = Path(place).expanduser()
    if not path.is_file() and not path.suffix:
        path = LIBRARY / f"{place.replace('-', '_')}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in LIBRARY.glob("*.yaml"))
            hint = (
                did_you_mean(place.replace("-", "_"), known) or f" (there are: {', '.join(known)})"
            )
            raise MoescopeError(f"unknown study {place}{hint}; or give a file.yaml")
    try:
        text = path.read_text()
    except OSError as error:
        raise MoescopeError(f"study {place} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MoescopeError(f"study {place} is no YAML: {error}") from None
    values = read_yaml(text, f"study {place}")
    if not isinstance(values, dict):
        raise MoescopeError(f"study {place} is no YAML of keys and values: start with `name: ...`")
    spec: StudySpec = parsed(StudySpec, values, f"study {place}")
    return spec
