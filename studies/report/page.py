"""A report as one HTML file that needs nothing else: no network, no other file."""

from collections.abc import Mapping
from typing import Any

import yaml

from . import markup, tables
from .content import Content, moment
from .figures import CAPTIONS, TITLES
from .law_answers import Laws
from .method import METHOD
from .table import counted
from .words import loss_text, percent, plural, short

BEFORE_FOLDED = 40
"""Trials up to which their table is open."""


def page(content: Content, figures: Mapping[str, Any]) -> str:
    """Returns the page. figures: {name: figure as plain values}."""
    parts = [
        _head(content),
        _figures(figures),
        _laws(content),
        _comparisons(content),
        _stability(content),
        _trials(content),
        _method(content),
    ]
    title = f"Study {content.study.name}"
    return markup.document(title, "\n".join(parts), markup.script(figures))


def _head(content: Content) -> str:
    spec, frame = content.study.spec, content.frame
    question = str(spec.get("question", ""))
    laws = content.answers.laws
    is_refused = laws is not None and not laws.can_extrapolate
    states = frame["state"].value_counts().to_dict() if len(frame) else {}
    told = ", ".join(f"{number} {state}" for state, number in states.items()) or "none"
    asked = yaml.safe_dump(_plain(spec), sort_keys=False, allow_unicode=True)
    return "\n".join(
        [
            markup.heading(f"Study {content.study.name}", 1),
            markup.paragraph(question, "question") if question else "",
            markup.paragraph(content.headline, "answer refused" if is_refused else "answer"),
            markup.paragraph(
                f"{content.answers.kind.capitalize()} of {plural(len(frame), 'trial')}: {told}; "
                f"{len(counted(frame))} count. {_noise(content)} Made "
                f"{moment(content.made_s)}.",
                "soft",
            ),
            markup.folded("What was asked (study.yaml)", markup.block(asked)),
        ]
    )


def _noise(content: Content) -> str:
    noise = content.answers.noise_of_seeds
    if noise is None:
        return "No point was run with two seeds, so the noise between seeds is not known."
    return f"Runs that differ in their seed alone lie {percent(noise)} apart (standard deviation)."


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return ""
    drawn = [markup.figure(name, TITLES[name], CAPTIONS[name]) for name in figures]
    return markup.heading("Figures") + "\n".join(drawn)


def _laws(content: Content) -> str:
    parts = []
    best = content.answers.best_sizes
    if best is not None:
        low, high = best.exponent_interval
        line = (
            f"No line through the vertices: {best.refused}."
            if best.refused
            else f"Best size = {best.factor:.4g} · FLOPs^{best.exponent:.3f}"
            + (f" (95% of the exponent: {low:.3f} to {high:.3f})." if low == low else ".")
        )
        parts += [
            markup.heading("Best size of each budget"),
            markup.table(tables.budget_rows(best), ["why it does not count"]),
            markup.paragraph(line),
            markup.paragraph(
                "Chinchilla's approach 2, a way to look at the runs: it is off where the two "
                "exponents differ or the vertices drift.",
                "soft",
            ),
        ]
    laws = content.answers.laws
    if laws is not None:
        parts += [markup.heading("Laws"), *_law_parts(laws)]
    return "\n".join(parts)


def _law_parts(laws: Laws) -> list[str]:
    parts = []
    if laws.can_extrapolate:
        parts.append(
            markup.paragraph(f"The {laws.main} law is the one that the study is judged by.")
        )
    else:
        parts += [
            markup.paragraph("DO NOT EXTRAPOLATE", "warn"),
            markup.paragraph(
                "The trials do not carry a law beyond what was run, and no size is recommended:"
            ),
            markup.bullets(laws.reasons),
        ]
    if laws.recommended:
        parts += [
            markup.heading("Recommended size", 3),
            markup.table(tables.recommended_rows(laws.recommended)),
            markup.paragraph(
                f"A trial's FLOPs are {laws.flops_per_6nd:.3g} times 6 · parameters · tokens here, "
                "attention included; budgets are turned into tokens by that."
                + _others(laws.others),
                "soft",
            ),
        ]
    if laws.answers:
        parts += [
            markup.heading("Forms, by held-out error", 3),
            markup.table(tables.form_rows(laws.answers), ["why"]),
            markup.paragraph(
                "Held-out error: what a law of the smaller runs misses the largest tenth by.",
                "soft",
            ),
        ]
    for one in laws.answers:
        if not one.is_fitted:
            continue
        inside = (
            markup.paragraph(f"{one.formula} ({one.source})")
            + markup.table(tables.parameter_rows(one))
            + markup.bullets(tables.diagnostic_lines(one))
        )
        parts.append(markup.folded(f"Parameters and diagnostics of {one.form}", inside))
    return parts


def _others(others: Mapping[str, float]) -> str:
    if not others:
        return ""
    told = ", ".join(f"{name} {short(value)}" for name, value in others.items())
    return f" With {told}, as of the best trial."


def _comparisons(content: Content) -> str:
    a, parts = content.answers, []
    if a.ablations is not None:
        parts += [
            markup.heading("Changes beside the base"),
            markup.table(tables.ablation_rows(a.ablations)),
        ]
    if a.sensitivities:
        parts += [
            markup.heading("Learning-rate sensitivity"),
            markup.table(tables.sensitivity_rows(a.sensitivities), ["remark"]),
        ]
    if a.seeds is not None and a.seeds.spread.num > 1:
        s = a.seeds.spread
        parts += [
            markup.heading("Seeds"),
            markup.paragraph(
                f"Mean {loss_text(s.mean)}, 95% {s.low:.4f} to {s.high:.4f}; standard deviation "
                f"{s.std:.3g}, 95% {a.seeds.std_low:.3g} to {a.seeds.std_high:.3g}, of "
                f"{plural(s.num, 'seed')}."
            ),
        ]
    if a.grid is not None:
        parts += [markup.heading("Grid"), markup.table(tables.grid_rows(a.grid))]
        if a.grid.effects:
            rest = f"{a.grid.rest:.2g}" if a.grid.rest == a.grid.rest else "not known"
            parts += [
                markup.heading("Effects of each level", 3),
                markup.table(tables.effect_rows(a.grid)),
                markup.paragraph(
                    f"What the sum of the effects leaves: a standard deviation of {rest}, of axes "
                    "that work together and of noise.",
                    "soft",
                ),
            ]
        elif a.grid.remark:
            parts.append(markup.paragraph(f"No effects: {a.grid.remark}.", "soft"))
    return "\n".join(parts)


def _stability(content: Content) -> str:
    found = content.answers.frontier
    told = ", ".join(f"{number} {word}" for word, number in found.counts.items()) or "no trials"
    parts = [markup.heading("Stability frontier"), markup.paragraph(f"Trials: {told}.")]
    if found.edges:
        parts.append(markup.table(tables.edge_rows(found)))
    rows = tables.health_rows(found)
    if rows:
        parts += [
            markup.heading("What moved, and what moved before the loss", 3),
            markup.table(rows, ["before it", "all that grew"]),
        ]
    else:
        parts.append(markup.paragraph("No trial's signals grew and stayed there.", "soft"))
    return "\n".join(parts)


def _trials(content: Content) -> str:
    rows = tables.trial_rows(content.frame)
    excluded = tables.excluded_rows(content.frame)
    listed = markup.table(rows)
    if len(rows) > BEFORE_FOLDED:
        listed = markup.folded(f"All {len(rows)} trials", listed)
    parts = [
        markup.heading("Trials"),
        listed,
        markup.heading("What does not count, and why", 3),
        markup.table(excluded, ["why it does not count"])
        or markup.paragraph("Every trial counts."),
    ]
    for one in content.failures:
        if one.log_tail:
            label = content.frame.set_index("key")["label"].get(one.key, one.key)
            title = f"{label}: {one.exit_reason}, the end of its log"
            parts.append(markup.folded(title, markup.block(one.log_tail)))
    return "\n".join(parts)


def _method(content: Content) -> str:
    times = content.times
    told = ", ".join(f"{name} {number}" for name, number in content.versions.items())
    hours = (times["training_s"] or 0.0) / 3600
    return "\n".join(
        [
            markup.heading("Method"),
            markup.bullets(METHOD),
            markup.heading("Times and versions", 3),
            markup.paragraph(
                f"Asked for {moment(times['asked_s'])}; first attempt "
                f"{moment(times['first_attempt_s'])}, last one ended "
                f"{moment(times['last_attempt_s'])}; {hours:.3g} hours of training in all."
            ),
            markup.paragraph(f"Made with {told}."),
        ]
    )


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what the study left empty."""
    return {key: value for key, value in spec.items() if value not in (None, "", {}, [], ())}
