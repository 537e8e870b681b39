"""`moescope incident`: the autopsy of an alert, with a replay of it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..platform.errors import MoescopeError
from ..platform.shell import Home, Json, StoreUrl, asked_settings, opened_store
from ..platform.terminal import say, say_json, say_rows

if TYPE_CHECKING:
    from ..platform.records import Alert, Incident, Run
    from ..platform.store import Store
    from .config import Device

MOST_ROWS = 12


def incident(
    alert: Annotated[str, typer.Argument(metavar="ALERT", help="Id of the alert.")],
    is_anew: Annotated[
        bool, typer.Option("--anew", help="Replay it again, though there is a verdict.")
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Where it is replayed, if not where the run trains: cpu or cuda."
        ),
    ] = "",
    home: Home = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Say how an alert came about: its onset, what moved first, the clips, and whether data, state,
    precision or chance was the cause, for which its steps are replayed from a checkpoint. The run
    may go on training meanwhile. The answer is kept and shown by the dashboard."""
    from ..platform.incident_story import what_followed
    from ..platform.incidents import incident_of
    from ..platform.mlflow_mirror.late_account import send_account

    settings = asked_settings(home, store)
    with opened_store(settings) as open_store:
        found = open_store.alert(alert)
        run = open_store.find_run(found.run_id)
        known = incident_of(open_store, found.id)
        if known is None or not known.is_replayed or is_anew:
            tell = (lambda _: None) if as_json else say
            known = examined(open_store, found, tell, _device(device))
            if told := send_account(settings, run, found, known):
                tell(told)
        followed = what_followed(open_store, found)
    if as_json:
        say_json({"incident": known, "alert": found, "followed": followed})
    else:
        _say(run, found, known, followed)


def _device(name: str) -> "Device | None":
    known: dict[str, Device] = {"cpu": "cpu", "cuda": "cuda"}
    if name and name not in known:
        raise MoescopeError(f"there is no device {name} (there are: cpu, cuda)")
    return known.get(name)


def examined(
    store: "Store", alert: "Alert", tell: Any, device: "Device | None" = None
) -> "Incident":
    """Makes the autopsy of an alert and keeps its account. Where it cannot be replayed the account
    says why, and has no verdict. device: where it is replayed, if not where the run trains."""
    from ..monitors.autopsy.across import across_runs
    from ..monitors.autopsy.examination import examine
    from ..monitors.autopsy.onset import onset_of
    from ..monitors.autopsy.record import read_record
    from ..monitors.autopsy.story import account
    from ..monitors.autopsy.verdict import Verdict
    from ..platform.incidents import put_incident
    from .replay import open_replay

    run = store.find_run(alert.run_id)
    if "record" not in alert.evidence:
        raise MoescopeError(
            f"{alert.id} has no flight record: it was written by a trainer without one, could not "
            "be written, or is no alert of a rule"
        )
    record = read_record(Path(run.folder) / str(alert.evidence["record"]))
    verdict, notes = Verdict(), []
    try:
        with open_replay(run, alert, onset_of(alert, record.branch()), device) as replay:
            verdict = examine(record, replay, lambda line: tell(f"replaying {line}"))
    except MoescopeError as error:
        notes.append(f"It could not be replayed: {error}.")
    across = across_runs(store, run, record, verdict)
    made = account(record, verdict, time.time(), across=across, notes=notes)
    put_incident(store, made)
    return made


def _say(run: "Run", alert: "Alert", incident: "Incident", followed: list[Any]) -> None:
    content = incident.content
    verdict = content["verdict"]
    say(f"{alert.rule} of {run.name}: {alert.message}")
    say("")
    onset, alarm = content["onset"], content["alarm"]
    batch = "" if onset["batch"] is None else f", batch {onset['batch']}"
    say(f"onset    step {onset['step']}{batch}")
    say(f"alarm    step {alarm['step']}")
    for entry in followed:
        say(f"{entry.what:<8} step {entry.step}: {entry.text}")
    say("")
    say("what moved first")
    rows = [
        {"step": m["step"], "what": m["what"], "spreads": f"{m['score']:+.1f}"}
        for m in content["movers"][:MOST_ROWS]
    ]
    say_rows(rows, "  nothing left its range")
    _more(content["num_movers"], len(rows))
    say("")
    say("clips that stand out")
    rows = [
        {
            "clip": c["name"],
            "steps": " ".join(str(step) for step in c["steps"]),
            "worst": f"{c['score']:.1f} spreads in {c['modality']} at noise {c['sigma']:.2f}",
        }
        for c in content["clips"][:MOST_ROWS]
    ]
    say_rows(rows, "  none")
    _more(content["num_clips"], len(rows))
    say("")
    say(f"verdict: {verdict['words']}")
    for evidence in verdict["evidence"]:
        say(f"  {evidence['speaks_for']:<17}{evidence['text']}")
    for text in (*content["across"].get("said", ()), *content["notes"]):
        say(f"  {text}")
    say("")
    say("what to do")
    for text in content["next"]:
        say(f"  {text}")


def _more(num: int, shown: int) -> None:
    if num > shown:
        say(f"  and {num - shown} more (--json lists up to 40)")
