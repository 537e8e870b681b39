"""The only writer: commands to a run, its note and tags, states of alerts and studies, trials to be
tried again or skipped, rules, saved views.

Nothing here touches training: the trainer obeys or refuses.
"""

import time
from collections.abc import Sequence
from typing import Literal

from ..platform import saved_views, silences, skipped_trials, trials
from ..platform.commands import ask
from ..platform.records import Alert, AlertState, Command, Mode, SavedView, StudyState
from ..platform.store import Store
from .command_line import Answer, asked

WHO = "dashboard"
RuleDeed = Literal["on", "off", "remove"]


def roll_back(store: Store, run_id: str, to_step: int | None) -> Command:
    """Asks a run to go back to a checkpoint's step; None lets it take its newest certified one."""
    return ask(store, run_id, "rollback", {"to_step": to_step}, WHO, time.time())


def save_checkpoint(store: Store, run_id: str) -> Command:
    return ask(store, run_id, "checkpoint", {}, WHO, time.time())


def damp(store: Store, run_id: str, scale: float, steps: int) -> Command:
    """Asks a run to train so many steps with its learning rate times a scale between 0 and 1."""
    return ask(store, run_id, "damp", {"scale": scale, "steps": steps}, WHO, time.time())


def pause(store: Store, run_id: str) -> Command:
    return ask(store, run_id, "pause", {}, WHO, time.time())


def go_on(store: Store, run_id: str) -> Command:
    """Asks a paused run to continue."""
    return ask(store, run_id, "continue", {}, WHO, time.time())


def stop(store: Store, run_id: str) -> Command:
    """Asks a run to end, with a checkpoint."""
    return ask(store, run_id, "stop", {}, WHO, time.time())


def set_mode(store: Store, run_id: str, mode: Mode) -> Command:
    """Asks a run to carry out, only show, or not even judge automatic action."""
    return ask(store, run_id, "set_mode", {"mode": mode}, WHO, time.time())


def set_alert_state(store: Store, alert: Alert, state: AlertState) -> bool:
    """Returns False, and changes nothing, where the alert has healed meanwhile."""
    return store.set_alert_state(alert.id, state, WHO, time.time())


def silence_alert(store: Store, alert: Alert, for_s: float | None) -> bool:
    """Sends nothing of the alert, and of others of its rule and run, for so long; None: until a
    person ends it. Returns False, and changes nothing, where the alert has healed meanwhile."""
    now_s = time.time()
    until_s = None if for_s is None else now_s + for_s
    return store.set_alert_state(alert.id, "silenced", WHO, now_s, until_s)


def end_silence(store: Store, run_id: str, rule: str) -> None:
    silences.end_silence(store, run_id, rule, WHO, time.time())


def set_rules(store: Store, yaml: str, run_id: str) -> Answer:
    """Adds or changes rules of all runs, or of one; the command line checks them first."""
    return _of_rules(store, ["set", "-"], run_id, yaml)


def change_rule(store: Store, what: RuleDeed, name: str, run_id: str) -> Answer:
    """Switches a rule on or off, or takes it away."""
    return _of_rules(store, [what, name], run_id)


def _of_rules(store: Store, words: list[str], run_id: str, text: str = "") -> Answer:
    of_run = ["--run", run_id] if run_id else []
    return asked(store, ["rules", *words, *of_run, "--by", WHO], text)


def set_study_state(store: Store, name: str, state: StudyState) -> None:
    trials.set_state(store, name, state)


def retry_trials(store: Store, name: str) -> None:
    """Lets a study's failed trials be tried anew."""
    trials.retry(store, name)


def retry_trial(store: Store, name: str, key: str) -> int:
    """Lets one trial, failed or done, be tried anew; returns 0 where it waits or runs already."""
    return trials.retry(store, name, key)


def skip_trial(store: Store, name: str, key: str) -> int:
    """Takes a trial out of its study, with those that branch off it; returns how many, 0 where it
    runs or is done meanwhile."""
    return skipped_trials.skip(store, name, key, WHO)


def unskip_trial(store: Store, name: str, key: str) -> int:
    return skipped_trials.unskip(store, name, key)


def note_run(store: Store, run_id: str, note: str, tags: Sequence[str]) -> None:
    """Writes a person's note on a run, and its tags, each once."""
    words = dict.fromkeys(" ".join(tag.split()) for tag in tags)
    store.update_run(run_id, note=note.strip(), tags=[word for word in words if word])


def save_view(store: Store, page: str, name: str, query: str) -> None:
    """Keeps what the address holds by a name; raises MoescopeError where the name will not do."""
    view = SavedView(page, " ".join(name.split()), query, WHO, time.time())
    saved_views.save_view(store, view)


def remove_view(store: Store, page: str, name: str) -> None:
    saved_views.remove_view(store, page, name)
