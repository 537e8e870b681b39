"""Logs in JSON Lines become runs; what moescope exported comes back bit for bit."""

import gzip
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from moescope.platform import catalogue
from moescope.platform.history.imported_runs import run_id_of
from moescope.platform.history.intake import bring_in
from moescope.platform.history.jsonl_source import jsonl_sources
from moescope.platform.history.points import Point, Told
from moescope.platform.records import Run
from moescope.platform.series import is_living, known_signals, read_series
from moescope.platform.settings import Settings
from moescope.platform.store import Store, open_store

Invoke = Callable[..., Result]


def log(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def brought(result: Result) -> dict[str, Any]:
    (found,) = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def curve(store: Store, run_id: str, signal: str) -> tuple[list[int], list[float]]:
    series = read_series(store, run_id, signal)
    return series.steps.tolist(), series.values.tolist()


def everything(store: Store, run_id: str) -> Mapping[str, tuple[bytes, ...]]:
    """Every series of a run as bytes; segment by segment, since vectors that are longer in one
    would be filled up in another."""
    found = {}
    for signal in known_signals(store, run_id):
        parts: list[bytes] = []
        for segment in store.segments(run_id):
            series = read_series(store, run_id, signal, segments=[segment.index])
            for array in (series.segments, series.steps, series.times_s, series.values):
                parts += [array.tobytes(), repr(array.shape).encode()]
        found[signal] = tuple(parts)
    return found


def test_an_export_comes_back_bit_for_bit_in_another_store(
    moescope: Invoke, odd_run: Run, own_store: Store, tmp_path: Path
) -> None:
    file, other = str(tmp_path / "run.jsonl"), tmp_path / "other"
    moescope("export", odd_run.id, "--format", "jsonl", "--out", file)
    first = brought(moescope("import", "jsonl", file, "--home", str(other), "--json"))
    with open_store(Settings(home=other).store_url) as store:
        back = store.find_run(odd_run.id)
        assert everything(store, back.id) == everything(own_store, odd_run.id)
        assert store.segments(back.id) == own_store.segments(odd_run.id)
        kept = ("id", "name", "project", "config", "status", "created_s", "finished_s", "tags")
        assert {k: getattr(back, k) for k in kept} == {k: getattr(odd_run, k) for k in kept}
        assert back.note == odd_run.note
        assert back.mode == "off"
        events = own_store.events(odd_run.id)
        assert [e for e in store.events(back.id) if e.kind == "rollback"] == events
        # and once more changes nothing
        before = everything(store, back.id), store.events(back.id), store.segments(back.id)
        again = brought(moescope("import", "jsonl", file, "--home", str(other), "--json"))
        assert (first["num_new"], again["num_new"]) == (first["num_points"], 0)
        assert (
            everything(store, back.id),
            store.events(back.id),
            store.segments(back.id),
        ) == before
        assert store.find_run(odd_run.id) == back


@pytest.mark.parametrize("at", ["a line's end", "within a line"])
def test_an_export_that_was_cut_off_is_told_and_a_whole_one_adds_the_rest(
    moescope: Invoke,
    refused: Callable[..., str],
    odd_run: Run,
    own_store: Store,
    tmp_path: Path,
    at: str,
) -> None:
    file, other = tmp_path / "run.jsonl", tmp_path / "other"
    moescope("export", odd_run.id, "--format", "jsonl", "--out", str(file))
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:100]) + ("" if at == "a line's end" else lines[100][:20]))
    line = refused("import", "jsonl", str(file), "--home", str(other))
    assert "adds the rest" in line
    with open_store(Settings(home=other).store_url) as store:
        assert len(known_signals(store, odd_run.id)) > 0
        file.write_text(whole)
        found = brought(moescope("import", "jsonl", str(file), "--home", str(other), "--json"))
        assert found["num_points"] - found["num_new"] == 99
        assert everything(store, odd_run.id) == everything(own_store, odd_run.id)


def test_an_import_that_was_killed_is_gone_on_with(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows = [{"step": s, "loss": float(s)} for s in range(12_000)]
    file = log(tmp_path / "long.jsonl", rows)
    (source,) = jsonl_sources([Path(file)], "imported", "")
    held: list[int] = []

    def cut_off(told: Told) -> Iterator[Point]:
        for point in source.points(told):
            if point.step == 11_000:
                # what came before lies in the store already, and not in memory
                steps = curve(own_store, run_id_of(source), catalogue.LOSS_TOTAL)[0]
                held.append(point.step - len(steps))
                raise KeyboardInterrupt
            yield point

    with pytest.raises(KeyboardInterrupt):
        bring_in(own_store, replace(source, points=cut_off), {}, 1.76e9)
    assert 0 < held[0] <= 4096
    found = brought(moescope("import", "jsonl", file, "--json"))
    assert (found["num_points"], found["num_new"]) == (12_000, 12_000 - 11_000 + held[0])
    assert curve(own_store, found["run_id"], catalogue.LOSS_TOTAL)[0] == list(range(12_000))


def test_an_export_is_not_brought_into_the_store_that_it_is_of(
    moescope: Invoke, refused: Callable[..., str], odd_run: Run, own_store: Store, tmp_path: Path
) -> None:
    file = str(tmp_path / "run.jsonl")
    moescope("export", odd_run.id, "--format", "jsonl", "--out", file)
    assert "is in this store itself" in refused("import", "jsonl", file)
    assert own_store.runs() == [odd_run]


def test_a_log_becomes_a_run_with_what_it_tells(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"config": {"lr": 3e-4, "model": {"width": 64}}}]
    rows += [
        {
            "step": step,
            "train/loss": 4.0 - 0.01 * step,
            "optim": {"grad_norm": 1.0, "lr": 3e-4},
            "acc": step / 100,
            "phase": "warmup",
            "timestamp": 1_760_000_000_000 + 500 * step,
        }
        for step in range(100)
    ]
    found = brought(moescope("import", "jsonl", log(tmp_path / "swift.jsonl", rows), "--json"))
    assert found["signals"] == {
        "train/loss": catalogue.LOSS_TOTAL,
        "optim/grad_norm": "user/optim/grad_norm",
        "optim/lr": catalogue.LEARNING_RATE,
        "acc": "user/acc",
    }
    assert found["left"] == {"phase": "text"}
    run = own_store.find_run("swift")
    assert run.id == found["run_id"]
    assert run.config["imported"]["params"] == {"lr": 3e-4, "model": {"width": 64}}
    assert (run.status, run.mode, run.project) == ("finished", "off", "imported")
    assert (run.created_s, run.finished_s) == (1_760_000_000.0, 1_760_000_049.5)
    steps, values = curve(own_store, run.id, catalogue.LOSS_TOTAL)
    assert steps == list(range(100))
    assert values == [float(np.float32(4.0 - 0.01 * step)) for step in steps]
    times_s = read_series(own_store, run.id, catalogue.LOSS_TOTAL).times_s
    assert times_s[3] == 1_760_000_001.5


@pytest.mark.parametrize(
    ("words", "is_taken_as"),
    [
        pytest.param([], "user/ce", id="a name that nobody knows"),
        pytest.param(["--as", "ce=loss/total"], catalogue.LOSS_TOTAL, id="told"),
        pytest.param(["--as", "ce=user/cross"], "user/cross", id="told as one's own"),
        pytest.param(["--as", "ce=-"], None, id="told to leave it out"),
    ],
)
def test_a_name_is_what_it_is_told_to_be(
    moescope: Invoke, tmp_path: Path, words: list[str], is_taken_as: str | None
) -> None:
    file = log(tmp_path / "a.jsonl", [{"step": 1, "ce": 2.5, "x": 1}])
    found = brought(moescope("import", "jsonl", file, "--json", *words))
    assert found["signals"].get("ce") == is_taken_as


def test_of_several_names_that_mean_the_same_the_surest_is_it(
    moescope: Invoke, tmp_path: Path
) -> None:
    row = {"step": 1, "total_loss": 1.0, "loss": 2.0, "LR": 1e-3, "lr-AdamW": 1e-3, "val loss": 3.0}
    found = brought(moescope("import", "jsonl", log(tmp_path / "a.jsonl", [row]), "--json"))
    assert found["signals"] == {
        "loss": catalogue.LOSS_TOTAL,
        "total_loss": "user/total_loss",
        "LR": catalogue.LEARNING_RATE,
        "lr-AdamW": "user/lr-AdamW",
        "val loss": catalogue.PROBE_LOSS,
    }


def test_numbers_that_are_none_stay_what_they_are_and_too_large_ones_are_told(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "odd.jsonl"
    file.write_text(
        '{"step": 0, "loss": NaN}\n{"step": 1, "loss": Infinity}\n{"step": 2, "loss": "-inf"}\n'
        '{"step": 3, "loss": "nan"}\n{"step": 4, "loss": 1e39}\n{"step": 5, "loss": null}\n'
        '{"step": 6, "loss": 1e-45}\nnot json\n[1]\n{"loss": 3}\n{"step": -1, "loss": 1}\n'
    )
    found = brought(moescope("import", "jsonl", str(file), "--json"))
    steps, values = curve(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    assert steps == [0, 1, 2, 3, 4, 6]
    assert math.isnan(values[0])
    assert math.isnan(values[3])
    assert values[1:3] == [math.inf, -math.inf]
    assert values[4:] == [math.inf, float(np.float32(1e-45))]
    notes = " ".join(found["notes"])
    for said in (
        "1 numbers are larger than a float32",
        "2 lines were no JSON objects",
        "1 lines without a step",
        "1 points with a step below 0",
        "6 points have no time",
    ):
        assert said in notes


def test_an_import_of_the_same_changes_nothing_and_of_more_adds_it(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows = [{"step": s, "loss": 1.0 / (s + 1), "time": 1.76e9 + s} for s in range(50)]
    file = log(tmp_path / "grows.jsonl", rows[:30])
    first = brought(moescope("import", "jsonl", file, "--json"))
    run = own_store.find_run("grows")
    before = everything(own_store, run.id), run, own_store.segments(run.id)
    same = brought(moescope("import", "jsonl", file, "--json"))
    assert (first["num_new"], same["num_new"], same["is_new"]) == (30, 0, False)
    after = own_store.find_run("grows")
    assert (everything(own_store, run.id), after, own_store.segments(run.id)) == before
    log(tmp_path / "grows.jsonl", rows)
    more = brought(moescope("import", "jsonl", file, "--json"))
    assert (more["num_points"], more["num_new"]) == (50, 20)
    assert curve(own_store, run.id, catalogue.LOSS_TOTAL)[0] == list(range(50))
    assert own_store.find_run("grows").finished_s == 1.76e9 + 49


def test_a_log_that_went_back_has_segments_and_a_ghost(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    for first, last, level in ((0, 60, 1.0), (40, 90, 2.0), (70, 120, 3.0)):
        for step in range(first, last + 1):
            row = {"step": step, "grad_norm": level}
            if step % 10 == 0:
                row["loss"] = level
            if step % 30 == 0:
                row["val_loss"] = level
            rows.append(row)
    found = brought(moescope("import", "jsonl", log(tmp_path / "zigzag.jsonl", rows), "--json"))
    segments = own_store.segments(found["run_id"])
    assert [(s.start_step, s.parent_segment, s.parent_step, s.reason) for s in segments] == [
        (0, None, None, "start"),
        (40, 0, 39, "resume"),
        (70, 1, 69, "resume"),
    ]
    resumes = own_store.events(found["run_id"], kinds=["resume"])
    assert [(event.segment, event.step) for event in resumes] == [(1, 40), (2, 70)]
    for signal, every in (
        (catalogue.GRAD_NORM, 1),
        (catalogue.LOSS_TOTAL, 10),
        (catalogue.PROBE_LOSS, 30),
    ):
        series = read_series(own_store, found["run_id"], signal)
        living = is_living(series, segments)
        assert series.steps[living].tolist() == list(range(0, 121, every))
        want = [1.0 if s < 40 else 2.0 if s < 70 else 3.0 for s in series.steps[living]]
        assert series.values[living].tolist() == want
    assert found["num_points"] == len(rows) + sum("loss" in r for r in rows) + sum(
        "val_loss" in r for r in rows
    )


def test_the_start_of_a_segment_is_where_the_most_frequent_signal_comes_in(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    # the loss shows the resume first in the line, the gradient norm from the step of the resume on
    rows = [{"step": s, "loss": 1.0, "grad_norm": 1.0} for s in range(0, 101, 10)]
    rows += [{"step": s, "grad_norm": 1.0} for s in range(101, 106)]
    rows.append({"step": 90, "loss": 2.0})
    rows += [{"step": s, "grad_norm": 2.0} for s in range(84, 91)]
    found = brought(moescope("import", "jsonl", log(tmp_path / "a.jsonl", rows), "--json"))
    segments = own_store.segments(found["run_id"])
    assert [(s.start_step, s.parent_step) for s in segments] == [(0, None), (84, 83)]


def test_a_signal_on_another_axis_opens_no_segment(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"step": 1, "epoch_loss": 3.0}, {"step": 2, "epoch_loss": 2.0}]
    rows += [{"step": s, "loss": 1.0} for s in range(500)]
    rows += [{"step": 1, "epoch_loss": 1.5}, {"step": 2, "epoch_loss": 1.0}]
    rows += [{"step": s, "loss": 1.0} for s in range(500, 600)]
    found = brought(moescope("import", "jsonl", log(tmp_path / "a.jsonl", rows), "--json"))
    assert len(own_store.segments(found["run_id"])) == 1
    assert curve(own_store, found["run_id"], "user/epoch_loss") == ([1, 2], [1.5, 1.0])
    assert found["notes"][0].startswith("2 points came at or before the newest step")


def test_an_order_that_no_resume_explains_is_one_segment_and_stays_so(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows = [{"step": s ^ 1, "loss": float(s ^ 1)} for s in range(400)]
    file = log(tmp_path / "shuffled.jsonl", rows)
    found = brought(moescope("import", "jsonl", file, "--json"))
    assert "no resume explains" in " ".join(found["notes"])
    assert len(own_store.segments(found["run_id"])) == 1
    steps, values = curve(own_store, found["run_id"], catalogue.LOSS_TOTAL)
    assert steps == list(range(400))
    assert values == [float(s) for s in steps]
    assert brought(moescope("import", "jsonl", file, "--json"))["num_new"] == 0


def test_files_that_belong_together_are_one_run(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    first = log(tmp_path / "1.jsonl", [{"step": s, "loss": 1.0} for s in range(20)])
    second = tmp_path / "2.jsonl.gz"
    with gzip.open(second, "wt") as lines:
        for step in range(10, 30):
            lines.write(json.dumps({"step": step, "loss": 2.0}) + "\n")
    words = ("import", "jsonl", first, str(second), "--json")
    both = json.loads(moescope(*words).stdout)
    assert [run["run"] for run in both] == ["1", "2.jsonl".removesuffix(".jsonl")]
    one = brought(moescope(*words, "--name", "both", "--project", "clips"))
    run = own_store.find_run("both")
    assert run.project == "clips"
    assert one["num_segments"] == 2
    assert len(curve(own_store, run.id, catalogue.LOSS_TOTAL)[0]) == 40


def test_one_number_per_line_with_its_name(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    rows = [
        {"iteration": s, "tag": tag, "value": s * 0.5, "ts": f"2026-01-01T00:00:{s:02}+00:00"}
        for s in range(10)
        for tag in ("loss", "reward")
    ]
    found = brought(moescope("import", "jsonl", log(tmp_path / "long.jsonl", rows), "--json"))
    assert found["signals"] == {"loss": catalogue.LOSS_TOTAL, "reward": "user/reward"}
    series = read_series(own_store, found["run_id"], "user/reward")
    assert series.values.tolist() == [s * 0.5 for s in range(10)]
    assert series.times_s[9] == 1_767_225_609.0


def test_a_dry_run_tells_the_same_and_writes_nothing(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    file = log(tmp_path / "a.jsonl", [{"step": s, "loss": 1.0} for s in range(10)])
    dry = brought(moescope("import", "jsonl", file, "--dry-run", "--json"))
    assert own_store.runs() == []
    assert brought(moescope("import", "jsonl", file, "--json")) == dry


def test_another_file_of_the_same_name_is_not_mixed_in(
    moescope: Invoke, refused: Callable[..., str], own_store: Store, tmp_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        log(tmp_path / folder / "log.jsonl", [{"step": 1, "loss": 1.0}])
    moescope("import", "jsonl", str(tmp_path / "a" / "log.jsonl"))
    line = refused("import", "jsonl", str(tmp_path / "b" / "log.jsonl"))
    assert "--name" in line
    assert "--moved" in line
    again = moescope("import", "jsonl", str(tmp_path / "b" / "log.jsonl"), "--moved")
    assert "1 points, 0 of them new" in again.stdout
    moescope("import", "jsonl", str(tmp_path / "b" / "log.jsonl"), "--name", "other")
    assert len(own_store.runs()) == 2


def test_rules_find_a_planted_spike_in_an_imported_run(moescope: Invoke, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    loss = 3.0 * np.exp(-np.arange(800) / 300) + 1.0 + 0.02 * chance.normal(size=800)
    loss[600:620] += 3.0
    rows = [{"step": s, "loss": float(loss[s]), "grad_norm": 1.0} for s in range(800)]
    moescope("import", "jsonl", log(tmp_path / "spiky.jsonl", rows))
    replayed = json.loads(moescope("rules", "test", "current", "spiky", "--json").stdout)
    spikes = [alarm for alarm in replayed["alarms"] if alarm["rule"] == "loss_spike"]
    assert replayed["num_steps"] == 800
    assert [600 <= alarm["step"] <= 606 for alarm in spikes] == [True]
    assert [599 <= alarm["onset_step"] <= 601 for alarm in spikes] == [True]
    assert [alarm for alarm in replayed["alarms"] if alarm["step"] < 600] == []


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        pytest.param(None, [], ["cannot be read", "No such file"], id="no file"),
        pytest.param("", [], ["holds no JSON objects"], id="empty"),
        pytest.param("hello\n", [], ["holds no JSON objects"], id="no JSON"),
        pytest.param('{"loss": 1}\n', [], ["has a step", "--step"], id="no step"),
        pytest.param('{"step": 1, "l": 1}\n', ["--as", "l"], ["NAME=SIGNAL"], id="no signal told"),
        pytest.param(
            '{"step": 1, "l": 1}\n', ["--as", "l=loss/totl"], ["loss/totl", "loss/total"], id="near"
        ),
        pytest.param(
            '{"step": 1, "l": 1}\n', ["--as", "l=grad/layer_norm"], ["single number"], id="vector"
        ),
        pytest.param(
            '{"step": 1, "l": 1}\n',
            ["--as", "l=loss/total", "--as", "m=loss/total"],
            ["is l already"],
            id="two for one signal",
        ),
        pytest.param('{"moescope_export": 99}\n', [], ["version 99", "upgrade"], id="newer export"),
        pytest.param('{"moescope_export": 1}\n', [], ["damaged"], id="export without its run"),
        pytest.param(
            '{"step": 1, "l": 1}\n', ["--store", "oracle://x"], ["oracle"], id="wrong store"
        ),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(
    refused: Callable[..., str],
    own_store: Store,
    tmp_path: Path,
    text: str | None,
    words: list[str],
    expected: list[str],
) -> None:
    file = tmp_path / "log.jsonl"
    if text is not None:
        file.write_text(text)
    line = refused("import", "jsonl", str(file), *words)
    assert [part for part in expected if part not in line] == []
    assert own_store.runs() == []


def test_a_file_that_may_not_be_read_is_one_line(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "Is a directory" in refused("import", "jsonl", str(tmp_path))


def test_a_name_is_never_part_of_a_statement(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    evil = "x'); DROP TABLE runs; --"
    file = log(tmp_path / "a.jsonl", [{"step": 1, evil: 1.0}])
    found = brought(moescope("import", "jsonl", file, "--name", evil, "--json"))
    assert own_store.find_run(evil).id == found["run_id"]
    assert curve(own_store, found["run_id"], f"user/{evil}") == ([1], [1.0])


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--resume", "a"],
        ["train", "--init-from", "a"],
        ["train", "--branch-from", "a"],
        ["sample", "a", "--prompt", "x"],
        ["evaluate", "a"],
        ["upcycle", "a", "--experts", "4"],
    ],
    ids=" ".join,
)
def test_what_needs_a_trained_network_says_that_there_is_none(
    moescope: Invoke, refused: Callable[..., str], tmp_path: Path, words: list[str]
) -> None:
    moescope("import", "jsonl", log(tmp_path / "a.jsonl", [{"step": 1, "loss": 1.0}]))
    assert "was imported from jsonl" in refused(*words)


def test_an_imported_run_is_deleted_like_any_other(
    moescope: Invoke, own_store: Store, tmp_path: Path
) -> None:
    file = log(tmp_path / "a.jsonl", [{"step": 1, "loss": 1.0}])
    first = brought(moescope("import", "jsonl", file, "--json"))
    moescope("runs", "tag", "a", "kept")
    moescope("import", "jsonl", file)
    assert own_store.find_run("a").tags == ("kept",)
    moescope("runs", "delete", "a", "--yes")
    assert own_store.runs() == []
    assert brought(moescope("import", "jsonl", file, "--json")) == first


def test_odd_names_and_numbers_are_kept_by_every_kind_of_store(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    lines = [
        json.dumps({"config": {"\x00": "\ud800", "nan": math.nan}}),
        json.dumps({"step": 0, "a\x00b": 1.0, "\ud800": 2.0, "ünï\ncode": 3.0, "loss": math.nan}),
        json.dumps({"step": 2**40, "loss": math.inf, "user/": 4.0, " ": 5.0}),
    ]
    file.write_text("\n".join(lines))
    (source,) = jsonl_sources([file], "p'; --", "na\x00me")
    first = bring_in(store, source, {}, 1.76e9)
    assert first.signals == {
        "a\x00b": "user/a b",
        "?": "user/?",
        "ünï\ncode": "user/ünï code",
        "loss": catalogue.LOSS_TOTAL,
    }
    assert set(first.left) == {"'user/'", "' '"}
    steps, values = curve(store, first.run_id, catalogue.LOSS_TOTAL)
    assert steps == [0, 2**40]
    assert math.isnan(values[0])
    assert values[1] == math.inf
    again = bring_in(store, source, {}, 1.76e9)
    assert (again.num_points, again.num_new, again.signals) == (5, 0, first.signals)
