"""The page of an incident: the story in order, the verdict, the clips; and what is not there."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from moescope.dashboard.charts_of_incidents import incident_figure
from moescope.dashboard.reads_of_incidents import clip_file
from moescope.platform import catalogue
from moescope.platform.errors import MoescopeError
from moescope.platform.incidents import put_incident
from moescope.platform.records import Alert, Incident, Run
from moescope.platform.store import Store


def _incident(store: "Store", wanted: str) -> None:
    import streamlit as st

    from moescope.dashboard.views import incident

    incident.render(
        store,
        wanted,
        lambda label, run_id: st.text(f"link {label} {run_id}"),
        lambda label, alert_id: st.text(f"incident {label} {alert_id}"),
        incident.Ways(
            lambda label, run_id, steps: st.text(f"steps {label} {run_id} {steps}"),
            lambda label, run_id: st.text(f"link {label} {run_id}"),
            lambda label, run_id: st.text(f"link {label} {run_id}"),
        ),
    )


def _alerts(store: "Store") -> None:
    import streamlit as st

    from moescope.dashboard.views import alerts

    alerts.render(
        store,
        lambda label, run_id: st.text(f"link {label} {run_id}"),
        lambda label, alert_id: st.text(f"incident {label} {alert_id}"),
    )


def _seen(script: Callable[..., None], *args: Any) -> AppTest:
    page = AppTest.from_function(script, args=args, default_timeout=20).run()
    assert not page.exception, page.exception
    return page


def _words(page: AppTest) -> str:
    kinds = (
        page.markdown, page.caption, page.text, page.header, page.subheader, page.info,
        page.code, page.expander,
    )  # fmt: skip
    return "\n".join(
        str(getattr(element, "value", "") or getattr(element, "label", ""))
        for kind in kinds
        for element in kind
    )


@pytest.fixture
def recorded(store: Store, spiked_run: Run, make: Any) -> Alert:
    """The alert of the spiked run, with a flight record."""
    evidence = {"signal": catalogue.LOSS_PER_SAMPLE, "record": "incidents/x/record"}
    alert: Alert = make.alert(spiked_run.id, evidence=evidence)
    store.put_alert(alert)
    return alert


def content(**changes: Any) -> dict[str, Any]:
    line = {"steps": [58, 59, 60], "score": [0.2, None, 9.5], "loss": [1.0, 1.0, 5.0]}
    values: dict[str, Any] = {
        "onset": {"step": 60, "batch": 60, "segment": 0, "told_by_the_rule": 61},
        "alarm": {"step": 63, "segment": 0},
        "movers": [
            {"kind": "modality", "what": "audio", "signal": "loss/per_sample", "step": 60,
             "score": 12.4}
        ],
        "num_movers": 3,
        "clips": [
            {"name": "part-2/<b>clip</b>.mp4", "steps": [60], "batches": [60], "score": 6.0,
             "modality": "audio", "sigma": 0.4}
        ],
        "num_clips": 1,
        "course": {"record": line, "again": line, "other_data": line},
        "verdict": {
            "causes": ["data", "state"],
            "words": "the data and the state of the training",
            "is_firm": False,
            "evidence": [
                {"text": "the replay follows the record", "speaks_for": "-"},
                {"text": "it comes back with the batches", "speaks_for": "data"},
            ],
            "arms": [{"name": "again", "words": "the same again", "shows": "yes", "score": 9.5}],
            "fidelity": None,
        },
        "across": {"said": ["Across runs: the same clips are odd in other, too."]},
        "next": ["Look at the clips that stand out."],
        "notes": [],
    }  # fmt: skip
    return values | changes


def test_the_story_is_told_in_order(store: Store, recorded: Alert) -> None:
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "data and state", True,
                                 content()))  # fmt: skip
    page = _seen(_incident, store, recorded.id)
    words = _words(page)
    places = [words.index(f"**{what}**") for what in
              ("Onset", "First to move", "Alarm", "Action", "Recovery")]  # fmt: skip
    assert places == sorted(places)
    assert "audio (+12.4)" in words.replace("\\", "")
    assert "the rule, which looks back, says step 61" in words
    assert "Look at the clips that stand out" in words
    assert "probably" in words
    assert "Across runs" in words
    assert len(page.get("bidi_component")) == 1


def test_a_signal_that_was_measured_too_seldom_has_no_chart(store: Store, recorded: Alert) -> None:
    line = {"steps": [58, 59], "score": [None, None], "loss": [1.0, 1.0]}
    told = content(course={"record": line})
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "precision", True, told))
    page = _seen(_incident, store, recorded.id)
    assert page.get("bidi_component") == []
    assert "measured too seldom before the onset" in _words(page)


def test_an_account_without_a_replay_says_how_to_get_one(store: Store, recorded: Alert) -> None:
    told = content()
    told["verdict"] |= {"causes": [], "evidence": [], "arms": [], "is_firm": True}
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "unexamined", False, told))
    page = _seen(_incident, store, recorded.id)
    assert "not examined yet" in _words(page)
    assert f"moescope incident {recorded.id}" in [code.value for code in page.code]


def test_an_alert_without_an_account_is_shown_with_the_command(
    store: Store, recorded: Alert
) -> None:
    page = _seen(_incident, store, recorded.id)
    assert "no account of this alert yet" in _words(page)


def test_without_an_account_the_story_is_told_as_far_as_it_is_known(
    store: Store, recorded: Alert
) -> None:
    words = _words(_seen(_incident, store, recorded.id))
    places = [words.index(f"**{what}**") for what in ("Onset", "Alarm", "Action", "Recovery")]
    assert places == sorted(places)
    assert "healthy again after" in words
    assert "| loss | 1 | **5** :gray[step 60] | 0.9 |" in words


def test_an_account_of_another_version_is_said_and_not_thrown(
    store: Store, recorded: Alert
) -> None:
    told = {"onset": {"step": 60}, "verdict": {}}
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "data", True, told))
    page = _seen(_incident, store, recorded.id)
    words = _words(page)
    assert "written by another version of moescope" in words
    assert "**Onset**" in words
    assert f"moescope incident {recorded.id}" in [code.value for code in page.code]
    assert f"incident loss_spike {recorded.id}" in _words(_seen(_incident, store, ""))


def test_a_silent_run_is_said_beside_its_story(store: Store, recorded: Alert) -> None:
    store.update_run(recorded.run_id, heartbeat_s=time.time() - 600)
    page = _seen(_incident, store, recorded.id)
    assert "The run is silent since 10 min" in str(page.warning[0].value)


def test_a_store_that_goes_away_is_said_and_not_thrown(
    store: Store, recorded: Alert, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = _seen(_incident, store, recorded.id)

    def away(*_: Any, **__: Any) -> None:
        raise MoescopeError("database is locked")

    monkeypatch.setattr(type(store), "alert", away)
    page.run()
    assert not page.exception
    assert "database is locked" in _words(page)


def test_what_is_decided_of_the_alert_is_decided_and_told_here_too(
    store: Store, recorded: Alert
) -> None:
    page = _seen(_incident, store, recorded.id)
    page.button(key=f"acknowledged_{recorded.id}").click().run()
    assert store.alert(recorded.id).state == "acknowledged"
    assert "acknowledged by operator" in _words(page)


def test_the_ways_on_lead_to_the_steps_the_control_and_the_alerts(
    store: Store, recorded: Alert
) -> None:
    words = _words(_seen(_incident, store, recorded.id))
    # 60 steps before where it went back to, and after the recovery at step 59 of the next segment
    assert "steps The run at steps 0 to 123 id-amber-finch 0-123" in words
    assert "link Control: go back, pause, stop id-amber-finch" in words
    assert "link All alerts of the run id-amber-finch" in words


def test_clips_play_where_their_files_are(
    store: Store, recorded: Alert, tmp_path: Path, make: Any
) -> None:
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "data", True, content()))
    page = _seen(_incident, store, recorded.id)
    assert page.get("video") == []
    assert "None of these files is on this machine" in _words(page)
    (tmp_path / "part-2").mkdir()
    (tmp_path / "part-2" / "<b>clip<").mkdir()
    (tmp_path / "part-2" / "<b>clip<" / "b>.mp4").write_bytes(b"0000ftypmp42")
    store.update_run(recorded.run_id, config={"data": {"folder": str(tmp_path)}})
    assert len(_seen(_incident, store, recorded.id).get("video")) == 1


def test_an_unknown_alert_is_told(store: Store) -> None:
    assert "unknown alert nobody" in _words(_seen(_incident, store, "nobody"))


def test_without_an_id_the_incidents_are_listed(store: Store, recorded: Alert) -> None:
    assert f"incident loss_spike {recorded.id}" in _words(_seen(_incident, store, ""))


def test_without_any_incident_the_page_says_where_they_come_from(store: Store) -> None:
    assert "No incident yet" in _words(_seen(_incident, store, ""))


def test_the_alerts_page_opens_the_incident(store: Store, recorded: Alert) -> None:
    assert f"incident How it came about, and why {recorded.id}" in _words(_seen(_alerts, store))


def test_text_of_a_clip_stays_text(store: Store, recorded: Alert) -> None:
    put_incident(store, Incident(recorded.id, recorded.run_id, 1.0, "data", True, content()))
    page = _seen(_incident, store, recorded.id)
    assert "<b>clip</b>" not in "\n".join(str(m.value) for m in page.markdown)


def test_only_files_of_the_data_folder_are_shown(tmp_path: Path, make: Any) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"x")
    (tmp_path / "secret.mp4").write_bytes(b"x")
    run = make.run(config={"data": {"folder": str(folder)}})
    assert clip_file(run, "a.mp4") == folder / "a.mp4"
    assert clip_file(run, "../secret.mp4") is None
    assert clip_file(run, "gone.mp4") is None
    assert clip_file(make.run(), "a.mp4") is None


def test_the_figure_has_a_line_for_the_record_and_each_replay() -> None:
    figure = incident_figure(content()["course"], 60, 63)
    assert [trace.name for trace in figure.data] == [
        "replay, the same again",
        "replay, other batches",
        "as it was recorded",
    ]
    # what was not measured is left out, and far away is cut
    assert list(figure.data[-1].x) == [58, 60]
