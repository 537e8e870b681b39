"""The only writer: commands to a run, its note and tags, states of alerts and studies, trials to be
tried again or skipped, rules, saved views.

Each function is told who asks, and refuses by itself whoever is no operator: no widget, address or
message of another session can bring anything about, whatever it holds. What is done is written down
before (`platform/deeds.py`), by whom, when and to what. Nothing here touches training: the trainer
obeys or refuses.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from ..platform import saved_views, silences, skipped_trials, trials
from ..platform.commands import ask
from ..platform.deeds import add_deed, end_deed
from ..platform.errors import MoescopeError
from ..platform.records import (
    Alert,
    AlertState,
    Command,
    CommandKind,
    Deed,
    DeedAbout,
    Mode,
    SavedView,
    StudyState,
)
from ..platform.store import Store
from .asker import Asker, refuse_who_may_not
from .command_line import Answer, asked

RuleDeed = Literal["on", "off", "remove"]
HEALED = "nothing: it had healed or was resolved meanwhile"
_MOST_OF_A_TEXT = 20_000
"""Characters of a rule that are written down with the deed."""


def roll_back(store: Store, who: Asker, run_id: str, to_step: int | None) -> Command:
    """Asks a run to go back to a checkpoint's step; None lets it take its newest certified one."""
    return _command(store, who, run_id, "rollback", to_step=to_step)


def save_checkpoint(store: Store, who: Asker, run_id: str) -> Command:
    return _command(store, who, run_id, "checkpoint")


def damp(store: Store, who: Asker, run_id: str, scale: float, steps: int) -> Command:
    """Asks a run to train so many steps with its learning rate times a scale between 0 and 1."""
    return _command(store, who, run_id, "damp", scale=scale, steps=steps)


def pause(store: Store, who: Asker, run_id: str) -> Command:
    return _command(store, who, run_id, "pause")


def go_on(store: Store, who: Asker, run_id: str) -> Command:
    """Asks a paused run to continue."""
    return _command(store, who, run_id, "continue")


def stop(store: Store, who: Asker, run_id: str) -> Command:
    """Asks a run to end, with a checkpoint."""
    return _command(store, who, run_id, "stop")


def set_mode(store: Store, who: Asker, run_id: str, mode: Mode) -> Command:
    """Asks a run to carry out, only show, or not even judge automatic action."""
    return _command(store, who, run_id, "set_mode", mode=mode)


def set_alert_state(store: Store, who: Asker, alert: Alert, state: AlertState) -> bool:
    """Returns False, and changes nothing, where the alert has healed meanwhile."""
    with _deed(store, who, state, "alert", alert.id, **_of_alert(alert)) as deed:
        is_set = store.set_alert_state(alert.id, state, str(who), time.time())
        deed.outcome = "done" if is_set else HEALED
    return is_set


def silence_alert(store: Store, who: Asker, alert: Alert, for_s: float | None) -> bool:
    """Sends nothing of the alert, and of others of its rule and run, for so long; None: until a
    person ends it. Returns False, and changes nothing, where the alert has healed meanwhile."""
    about = {**_of_alert(alert), "for_s": for_s}
    with _deed(store, who, "silenced", "alert", alert.id, **about) as deed:
        now_s = time.time()
        until_s = None if for_s is None else now_s + for_s
        is_set = store.set_alert_state(alert.id, "silenced", str(who), now_s, until_s)
        deed.outcome = "done" if is_set else HEALED
    return is_set


def end_silence(store: Store, who: Asker, run_id: str, rule: str) -> None:
    with _deed(store, who, "end silence", "run", run_id, rule=rule) as deed:
        if not silences.end_silence(store, run_id, rule, str(who), time.time()):
            deed.outcome = "nothing: there was none"


def set_rules(store: Store, who: Asker, yaml: str, run_id: str) -> Answer:
    """Adds or changes rules of all runs, or of one; the command line checks them first."""
    return _of_rules(store, who, "set", "", run_id, yaml)


def change_rule(store: Store, who: Asker, what: RuleDeed, name: str, run_id: str) -> Answer:
    """Switches a rule on or off, or takes it away."""
    return _of_rules(store, who, what, name, run_id)


def _of_rules(
    store: Store, who: Asker, what: str, name: str, run_id: str, text: str = ""
) -> Answer:
    args = {"run": run_id, "rules": str(text)[:_MOST_OF_A_TEXT]}
    with _deed(store, who, f"rule {what}", "rule", name, **args) as deed:
        of_run = ["--run", run_id] if run_id else []
        words = ["rules", what, name or "-", *of_run, f"--by={who}"]
        answer = asked(store, words, text)
        deed.outcome = "done" if answer.is_done else f"refused: {answer.text}"
    return answer


def set_study_state(store: Store, who: Asker, name: str, state: StudyState) -> None:
    with _deed(store, who, f"study {state}", "study", name):
        trials.set_state(store, name, state)


def retry_trials(store: Store, who: Asker, name: str) -> None:
    """Lets a study's failed trials be tried anew."""
    with _deed(store, who, "retry", "study", name) as deed:
        deed.outcome = f"done: {trials.retry(store, name)} trials"


def retry_trial(store: Store, who: Asker, name: str, key: str) -> int:
    """Lets one trial, failed or done, be tried anew; returns 0 where it waits or runs already."""
    with _deed(store, who, "retry", "study", name, trial=key) as deed:
        number = trials.retry(store, name, key)
        deed.outcome = f"done: {number} trials"
    return number


def skip_trial(store: Store, who: Asker, name: str, key: str) -> int:
    """Takes a trial out of its study, with those that branch off it; returns how many, 0 where it
    runs or is done meanwhile."""
    with _deed(store, who, "skip", "study", name, trial=key) as deed:
        number = skipped_trials.skip(store, name, key, str(who))
        deed.outcome = f"done: {number} trials"
    return number


def unskip_trial(store: Store, who: Asker, name: str, key: str) -> int:
    with _deed(store, who, "take back in", "study", name, trial=key) as deed:
        number = skipped_trials.unskip(store, name, key)
        deed.outcome = f"done: {number} trials"
    return number


def note_run(store: Store, who: Asker, run_id: str, note: str, tags: Sequence[str]) -> None:
    """Writes a person's note on a run, and its tags, each once."""
    words = [word for word in dict.fromkeys(" ".join(tag.split()) for tag in tags) if word]
    with _deed(store, who, "note", "run", run_id, note=note.strip(), tags=words):
        store.update_run(run_id, note=note.strip(), tags=words)


def save_view(store: Store, who: Asker, page: str, name: str, query: str) -> SavedView:
    """Keeps what the address holds by a name; raises MoescopeError where the name will not do."""
    view = SavedView(page, " ".join(name.split()), query, str(who), time.time())
    with _deed(store, who, "save view", "view", view.name, page=page, query=query):
        saved_views.save_view(store, view)
    return view


def remove_view(store: Store, who: Asker, page: str, name: str) -> None:
    with _deed(store, who, "remove view", "view", name, page=page):
        saved_views.remove_view(store, page, name)


@dataclass(slots=True)
class _Doing:
    outcome: str = "done"


@contextmanager
def _deed(
    store: Store, who: Asker, what: str, about: DeedAbout, about_id: str, **args: Any
) -> Iterator[_Doing]:
    """Every writing function does its work inside of one.

    Raises NotAllowed, before anything, unless an operator asks; then the deed is on the list, and
    what came of it once it is over.
    """
    refuse_who_may_not(who, what)
    deed = Deed(uuid4().hex, time.time(), str(who), who.role, what, about, str(about_id), args)
    add_deed(store, deed)
    doing = _Doing()
    try:
        yield doing
    except Exception as error:
        doing.outcome = f"failed: {error}"
        raise
    finally:
        # where the store went away just now, what came of it is not known; it was done or raised
        with suppress(MoescopeError):
            end_deed(store, deed.id, " ".join(doing.outcome.split())[:400])


def _command(store: Store, who: Asker, run_id: str, kind: CommandKind, /, **args: Any) -> Command:
    with _deed(store, who, kind, "run", run_id, **args) as deed:
        command = ask(store, run_id, kind, args, str(who), time.time())
        deed.outcome = "asked"
    return command


def _of_alert(alert: Alert) -> dict[str, Any]:
    return {"rule": alert.rule, "run": alert.run_id}
