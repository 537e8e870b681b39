from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moescope.monitors.scores.curves import SPLIT, curves_of, group_of, read_curve, read_curves
from moescope.platform.errors import MoescopeError

HEAD = "step,train_loss,grad_norm\n"


def test_a_group_is_what_follows_the_date() -> None:
    assert group_of("track_1_short_2024-12-04_ValueEmbed_00008ea0-21dd") == "ValueEmbed"
    assert group_of("track_1_short_2024-10-13_llmc_main") == "llmc"
    assert group_of("my_own_run") == "my_own_run"


def test_a_curve_is_read_with_what_was_not_recorded_as_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text(HEAD + "1,3.5,0.5\n2,nan,\n5,3.25,0.75\n")
    curve = read_curve(path)
    np.testing.assert_array_equal(curve.loss, [3.5, np.nan, 3.25])
    np.testing.assert_array_equal(curve.grad_norm, [0.5, np.nan, 0.75])
    assert (curve.name, curve.group, curve.part) == ("run", "run", "held-out")


def test_a_gradient_norm_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "run.csv"
    path.write_text("step,train_loss\n1,3.5\n2,3.25\n")
    assert np.isnan(read_curve(path).grad_norm).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(HEAD, "no rows", id="header-only"),
        pytest.param("step,gain\n1,2\n", "column train_loss is missing", id="no-loss"),
        pytest.param("train_loss\n1\n", "column step is missing", id="no-step"),
        pytest.param(HEAD + "1,high,\n", "line 2: train_loss is 'high'", id="no-number"),
        pytest.param(HEAD + "1,3.0,\n2,,\n", "line 3: train_loss is ''", id="loss-left-out"),
        pytest.param(HEAD + "1,3.0\n", "line 2: not 3 cells", id="short-row"),
        pytest.param(HEAD + "1,3.0,1,7\n", "line 2: not 3 cells", id="long-row"),
        pytest.param(HEAD + "1,3.0,\n1,3.0,\n", "line 3: steps must rise", id="step-twice"),
        pytest.param(HEAD + "1,nan,\n", "no loss in it is a finite number", id="all-nan"),
        pytest.param('step,train_loss\n1,"3.0\n', "is no CSV file", id="open-quote"),
        pytest.param(b"\x89PNG\r\n\xff\xfe\x00", "is no CSV file", id="a-picture"),
    ],
)
def test_what_is_no_curve_is_told_on_one_line(
    tmp_path: Path, text: str | bytes, expected: str
) -> None:
    path = tmp_path / "run.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(MoescopeError) as caught:
        read_curves([path])
    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_an_empty_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(MoescopeError, match=r"gone.csv cannot be read: No such file"):
        read_curves([tmp_path / "gone.csv"])
    with pytest.raises(MoescopeError, match="no CSV file lies in this folder"):
        read_curves([tmp_path])


def test_a_folder_and_a_file_in_it_give_a_curve_only_once(
    write_curve: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_curve("run.csv", 20)
    assert [curve.name for curve in read_curves([tmp_path])] == ["run"]
    with pytest.raises(MoescopeError, match="was given before"):
        read_curves([tmp_path, path])


def test_a_part_without_curves_says_which_part_has_them(
    write_curve: Callable[..., Path],
) -> None:
    curves = read_curves([write_curve("2024-10-13_llmc_main.csv", 20)])
    assert curves_of(curves, "tuning") == curves_of(curves, "all") == curves
    with pytest.raises(MoescopeError, match="--part tuning"):
        curves_of(curves, "held-out")


def test_no_order_of_data_is_in_both_parts() -> None:
    parts: dict[str, set[str]] = {}
    for order, part in SPLIT.values():
        parts.setdefault(order, set()).add(part)
    assert {order: len(found) for order, found in parts.items()} == dict.fromkeys(parts, 1)
    assert set().union(*parts.values()) == {"tuning", "held-out"}


def test_the_split_names_every_recorded_group_and_no_other(recorded_curves: Path) -> None:
    curves = read_curves([recorded_curves / "healthy"])
    assert {curve.group for curve in curves} == set(SPLIT)


def test_runs_of_an_order_have_their_noise_in_common_and_those_of_two_have_not(
    recorded_curves: Path,
) -> None:
    of_group = {curve.group: curve for curve in read_curves([recorded_curves / "healthy"])}

    def residuals(group: str) -> np.ndarray:
        log_loss = np.log(of_group[group].loss[500:1400])
        return log_loss[10:-10] - np.convolve(log_loss, np.full(21, 1 / 21), "valid")

    def shared(one: str, other: str) -> float:
        # the count of steps begins at 0 or at 1
        a, b = residuals(one)[1:-1], residuals(other)
        return max(float(np.corrcoef(a, b[i : i + a.size])[0, 1]) for i in range(3))

    for group, (order, _) in SPLIT.items():
        assert (shared(group, "SOAP") > 0.95) == (order == "first"), group
    assert shared("llmc", "SOAP") < 0.2
    assert shared("QuantizedFP4", "SOAP") < 0.4
    assert shared("QuantizedFP4", "llmc") < 0.2
