"""A wrong value in a configuration is told in words, with its key."""

import pytest

from moescope.platform.errors import MoescopeError
from moescope.platform.frozen import Frozen, changed, parse_assignment, parsed
from moescope.platform.records import DamagedConfig


class Inner(Frozen):
    rate: float = 1.0
    mode: str = "on"


class Outer(Frozen):
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("text", "shown"),
    [(".inf", "inf"), ("-.inf", "-inf"), (".nan", "nan"), ("nan", "nan"), ("1e999", "inf")],
)
def test_what_is_no_finite_number_is_refused(text: str, shown: str) -> None:
    with pytest.raises(MoescopeError) as error:
        changed(Outer(), dict([parse_assignment(f"inner.rate={text}")]))
    expected = f"configuration: inner.rate is {shown}: input should be a finite number"
    assert str(error.value) == expected


def test_a_word_in_place_of_a_number_is_quoted() -> None:
    with pytest.raises(
        MoescopeError, match=r"inner\.rate is 'fast': input should be a valid number"
    ):
        changed(Outer(), {"inner.rate": "fast"})


def test_a_damaged_configuration_is_not_taken_for_one_of_defaults() -> None:
    assert parsed(Outer, {}, "stored configuration of r") == Outer()
    with pytest.raises(MoescopeError, match="stored configuration of r cannot be read"):
        parsed(Outer, DamagedConfig(), "stored configuration of r")
