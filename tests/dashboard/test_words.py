"""Numbers, ages, and text from runs that stays text."""

import pytest

from moescope.dashboard.words import (
    age,
    counted,
    gib,
    in_figure,
    number,
    plain,
    plain_with_code,
    short,
)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.421312, "0.4213"),
        (12.345, "12.35"),
        (123456.0, "123,456"),
        (0.0, "0"),
        (1.2e-5, "1.200e-05"),
        (3e12, "3.000e+12"),
        (float("nan"), "not a number"),
        (float("inf"), "infinite"),
        (float("-inf"), "minus infinite"),
    ],
)
def test_numbers_have_four_digits_and_non_finite_ones_a_name(value: float, said: str) -> None:
    assert number(value) == said


def test_speeds_are_said_in_three_digits() -> None:
    assert [short(v) for v in (950, 12_345, 4.56e6, 0)] == ["950", "12.3k", "4.56M", "0"]
    assert [short(v) for v in (5.95e16, 1.2e12, 3e20)] == ["59.5P", "1.2T", "300E"]
    assert [short(v) for v in (999_600, 999.7, 999.4, 999_499)] == ["1M", "1k", "999", "999k"]


def test_ages_have_two_units_and_are_never_negative() -> None:
    said = [age(s) for s in (-3, 4.4, 60, 200, 7500, 7200, 273_600, 86_400)]
    assert said == ["0 s", "4 s", "1 min", "3 min 20 s", "2 h 5 min", "2 h", "3 d 4 h", "1 d"]


def test_sizes_have_a_unit() -> None:
    assert [gib(2**29), gib(3.5 * 2**30)] == ["512 MiB", "3.5 GiB"]


def test_one_thing_has_no_plural() -> None:
    said = [counted(count, "run") for count in (0, 1, 1200)]
    assert said == ["0 runs", "1 run", "1,200 runs"]


def test_text_of_a_run_makes_no_markup() -> None:
    assert plain("![x](http://a)") == r"\!\[x\]\(http\:\/\/" + "\u2060a" + r"\)"
    assert plain(":red[**hot**] $x$ <b>") == r"\:red\[\*\*hot\*\*\] \$x\$ \<b\>"
    assert plain("two\n\n# lines") == r"two \# lines"


def test_a_long_text_is_cut_visibly() -> None:
    assert plain("a" * 500, 10) == "a" * 9 + "…"
    assert in_figure("a" * 500, 10) == "a" * 9 + "…"


def test_a_figure_reads_neither_tags_nor_fields_in_a_text() -> None:
    assert in_figure('<a href="x">%{y}') == "&lt;a href=&quot;x&quot;&gt;% {y}"


def test_what_stands_between_backticks_is_code_and_all_else_is_plain() -> None:
    assert plain_with_code("set `a.b=*c*` to *2*") == r"set `a.b=*c*` to \*2\*"
    # nothing gets out of a code span: an odd one is no code
    assert plain_with_code("a ` <b>") == plain("a ` <b>")
    assert plain_with_code("``<b>``") == r"\<b\>"
