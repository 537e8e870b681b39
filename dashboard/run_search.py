"""What a person types to find runs: words, and comparisons with what a run is and is configured as.

finch baseline                  both words occur in name, project, tags, health, status, note, id
"two words" -crashed            together; not
optim.learning_rate=0.001       a value of the configuration, by its whole key or the end of it
num_chosen>1 seed=1,2,3         larger; any of these
loss<0.5 tag=baseline           what the list itself shows
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..platform.errors import did_you_mean
from ..platform.records import Run

Facts = Mapping[str, Any]
"""What the list shows of a run, by name: texts, numbers, None where there is nothing yet."""

_OPERATOR = re.compile(r"\s*(!=|>=|<=|=|>|<)\s*")
_TERM = re.compile(r'(?P<word>(?:[^\s"]|"[^"]*"?)+)')
_TRUE, _FALSE = ("true", "yes"), ("false", "no")


@dataclass(frozen=True, slots=True)
class Term:
    words: str
    """What must occur; empty where something is compared."""
    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()
    is_negated: bool = False


@dataclass(frozen=True, slots=True)
class Searched:
    """A run as it is searched."""

    run: Run
    facts: Facts = field(default_factory=dict)

    @property
    def text(self) -> str:
        run = self.run
        said = (run.name, run.project, *run.tags, run.status, run.note, run.id)
        return " ".join((*said, str(self.facts.get("health") or ""))).lower()


def parsed(query: str) -> tuple[Term, ...]:
    """Parts a query; whatever is typed means something, so that a half typed one raises nothing."""
    # blanks around an operator belong to it, outside of quotes
    parts = re.split(r'("[^"]*"?)', query)
    joined = "".join(p if p.startswith('"') else _OPERATOR.sub(r"\1", p) for p in parts)
    return tuple(_term(match["word"]) for match in _TERM.finditer(joined))


def _term(text: str) -> Term:
    is_negated = text.startswith("-") and len(text) > 1
    text = text[1:] if is_negated else text
    found = _OPERATOR.search(text)
    if found is None or not found.start() or text.startswith('"'):
        return Term(text.replace('"', "").lower(), is_negated=is_negated)
    key, value = text[: found.start()], text[found.end() :].replace('"', "")
    # one comma alone parts values: a list of a configuration is written in brackets
    values = (value,) if value.startswith("[") else tuple(v for v in value.split(",") if v)
    return Term("", key.lower(), found[1], values, is_negated)


def found(query: str, runs: Sequence[Searched]) -> list[str]:
    """The ids of the runs that every term fits, in their order."""
    terms = [term for term in parsed(query) if term.words or term.values]
    return [one.run.id for one in runs if all(_fits(term, one) for term in terms)]


def problem(query: str, runs: Sequence[Searched]) -> str:
    """Says which key of a query no run has, with near ones; empty where all are known."""
    for term in parsed(query):
        if term.key and not any(_has(one, term.key) for one in runs):
            keys = {key for one in runs for key, _ in leaves(one.run.config)}
            keys |= {fact for one in runs for fact in one.facts}
            ends = {key.rsplit(".", 1)[-1] for key in keys}
            return f"no run has {term.key}{did_you_mean(term.key, keys | ends)}"
    return ""


def _fits(term: Term, one: Searched) -> bool:
    if term.words:
        return (term.words in one.text) != term.is_negated
    there = list(_values(term.key, one))
    if term.operator == "!=":
        # a run without tags has none of that name; one without the key is not asked about
        is_asked = _has(one, term.key)
        is_so = is_asked and not any(_is_so(v, "=", w) for v in there for w in term.values)
    else:
        is_so = any(_is_so(v, term.operator, w) for v in there for w in term.values)
    return is_so != term.is_negated


def _values(key: str, one: Searched) -> Iterator[Any]:
    """What a run has under a key: in the list, else in its configuration, by the whole key or its
    end."""
    if key in one.facts:
        there = one.facts[key]
        yield from there if isinstance(there, tuple) else (there,)
        return
    whole = _at(one.run.config, key)
    if whole is not _NOTHING:
        yield whole
        return
    yield from (v for name, v in leaves(one.run.config) if name.lower().endswith(f".{key}"))


def _has(one: Searched, key: str) -> bool:
    return key in one.facts or any(True for _ in _values(key, one))


_NOTHING = object()


def _at(config: Mapping[str, Any], key: str) -> Any:
    here: Any = config
    for name in key.split("."):
        if not isinstance(here, Mapping) or name not in here:
            return _NOTHING
        here = here[name]
    return _NOTHING if isinstance(here, Mapping) else here


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a configuration that is no section."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _is_so(there: Any, operator: str, wanted: str) -> bool:
    """Compares as numbers where both are, else as words; an order of words is none."""
    left, right = _number(there), _number(wanted)
    if left is not None and right is not None:
        is_same = math.isclose(left, right, rel_tol=1e-6)
        answers = {
            "=": is_same,
            ">=": is_same or left > right,
            "<=": is_same or left < right,
            ">": left > right and not is_same,
            "<": left < right and not is_same,
        }
        return answers[operator]
    return operator == "=" and _said(there) == _said(wanted)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def _said(value: Any) -> str:
    said = str(value).strip().lower().replace(" ", "").replace("'", "").replace('"', "")
    if said in _TRUE:
        return "true"
    return "false" if said in _FALSE else said
