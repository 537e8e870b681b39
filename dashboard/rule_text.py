"""Rules as text: a template for a signal, which signals a text is about, where a mistake is; pure.

The rules themselves are judged by the command line; here a text is only written and looked at.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..platform import catalogue
from ..platform.catalogue import signal_spec
from ..platform.errors import MoescopeError
from ..platform.signals.spec import SignalSpec
from ..platform.strict_yaml import read_yaml
from .words import number

_TEMPLATE = """# {help}{measured}
name: {name}
signal: {signal}
detector: {detector}       # {detector_words}
threshold: {threshold}       # the score must exceed this
patience: {patience}       # exceeding scores that it takes ...
of_last: {of_last}       # ... among this many
cooldown_steps: 50       # after an alarm no further one for so long
severity: warning       # info only makes a note; critical wakes people
action: observe       # or skip_data, damp, rollback, halt: the most that it may ask for
delay_p99_steps: {delay}       # from the onset to the alarm, at the longest
message: {message}
is_dry_run: true       # only notes what it would have done; false: it counts
"""
_DETECTORS = {
    "spike": "how many spreads above the own past; also drift, level_shift, rise, multiple, above",
    "rise": "how many spreads above the own past, by entry; also fall, multiple, above",
    "above": "the value itself",
    "dead_experts": "how many experts get nothing; also monopoly, deadlock",
}


def template(signal: str, low: float | None = None, high: float | None = None) -> str:
    """A rule about a signal that only notes what it would do. low, high: what a run measured."""
    spec = signal_spec(signal)
    detector, threshold = _judged_by(spec)
    is_sampled = spec.tier not in ("step", "user")
    patience, of_last, delay = (2, 3, 60) if is_sampled else (3, 5, 10)
    if detector == "dead_experts":
        patience, of_last, delay = 1, 1, 60
    measured = ""
    if low is not None and high is not None:
        measured = f"\n# in the chosen run it was between {number(low)} and {number(high)}"
    text = _TEMPLATE.format(
        help=" ".join((spec.help or f"{signal}, logged by the training").split()),
        measured=measured,
        name=_name(signal),
        signal=signal,
        detector=detector,
        detector_words=_DETECTORS[detector],
        threshold=threshold,
        patience=patience,
        of_last=of_last,
        delay=delay,
        message=_message(signal, detector),
    )
    return _aligned(text)


def _judged_by(spec: SignalSpec) -> tuple[str, str]:
    """The detector that suits a signal's dimensions, and a threshold to begin with."""
    if spec.name == catalogue.EXPERT_TOKENS:
        return "dead_experts", "0"
    if not spec.dimensions or spec.name == catalogue.LOSS_PER_SAMPLE:
        return "spike", "6"
    if "other_expert" in spec.dimensions or "sample" in spec.dimensions:
        return "above", "1"
    return "rise", "8"


def _name(signal: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", signal.lower()).strip("_")
    return f"my_{words}"[:64]


def _message(signal: str, detector: str) -> str:
    what = re.sub(r"[/_]+", " ", signal)
    return f"experts get nothing, by {what}" if detector == "dead_experts" else f"{what} is high"


def _aligned(text: str) -> str:
    """The same with the remarks one below the other."""
    rows = [line.split("       # ") for line in text.splitlines()]
    widest = max(len(row[0]) for row in rows if len(row) == 2)
    return "".join(
        f"{row[0]:<{widest}}  # {row[1]}\n" if len(row) == 2 else f"{row[0]}\n" for row in rows
    )


def signals_of(text: str) -> dict[str, str]:
    """{rule: signal} of a text that can be read; else nothing."""
    return {str(row.get("name", "")): str(row.get("signal", "")) for row in _rows(text)}


def thresholds_of_values(text: str) -> dict[str, float]:
    """{rule: threshold} of the rules whose score is the signal's value itself."""
    found = {}
    for row in _rows(text):
        threshold = row.get("threshold")
        if row.get("detector") == "above" and isinstance(threshold, int | float):
            found[str(row.get("name", ""))] = float(threshold)
    return found


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        rows = read_yaml(text, "rule")
    except MoescopeError:
        return []
    rows = rows if isinstance(rows, list) else [rows]
    return [row for row in rows if isinstance(row, dict)]


class Fault(NamedTuple):
    line: int | None
    """From 1; None where it cannot be told."""
    text: str


def faults(said: str, text: str) -> list[Fault]:
    """What is wrong with a rule's text, each with its line. said: the command's refusal."""
    told = re.sub(r"^(rule [^:]*|- is no YAML): ", "", said)
    is_yaml = "is no YAML" in said
    parts = [told] if is_yaml else re.split(r"; (?=[a-z_.]+(?: is |: )|unknown )", told)
    return [Fault(_line_of(part, text), part) for part in parts]


def _line_of(fault: str, text: str) -> int | None:
    if found := re.search(r"line (\d+), column", fault):
        return int(found[1])
    for candidate in _named(fault):
        for line, row in enumerate(text.splitlines(), 1):
            content = row.split(" # ")[0]
            if re.search(rf"(^|[\s{{,\"']){re.escape(candidate)}($|[\s:}},\"'])", content):
                return line
    return None


def _named(fault: str) -> Iterator[str]:
    """What a fault names of the text: a key, or a value that is not known."""
    for pattern in (
        r"^unknown (?:key|[a-z_ ]+?) ([^\s;,]+?)(?:[;,]|$)",
        r"has no (?:parameter|dimension) (\w+)",
        r"^(?:parameters|scope)\.(\w+)",
        r"^([a-z_]+)(?: is |: )",
        r"^detector (\w+)",
    ):
        if found := re.search(pattern, fault):
            yield found[1]


def marked(text: str, told: list[Fault], around: int = 1) -> str:
    """The lines of a text that are at fault and their neighbours, numbered and pointed at."""
    lines = text.splitlines()
    wrong = {fault.line for fault in told if fault.line is not None and fault.line <= len(lines)}
    shown = sorted(
        {n for line in wrong for n in range(line - around, line + around + 1)}
        & set(range(1, len(lines) + 1))
    )
    return "\n".join(f"{'→' if n in wrong else ' '} {n:>3}  {lines[n - 1]}" for n in shown)
