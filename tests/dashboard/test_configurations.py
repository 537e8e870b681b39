"""Only what differs is worth a look."""

from moescope.dashboard.configurations import ABSENT, differing, flattened


def test_keys_have_their_whole_path() -> None:
    config = {"optim": {"name": "muon", "betas": [0.9, 0.95]}, "steps": 5, "note": None}
    assert flattened(config) == {
        "optim.name": "muon",
        "optim.betas": "[0.9, 0.95]",
        "steps": "5",
        "note": "none",
    }


def test_only_keys_that_differ_are_told_and_a_missing_one_is_a_difference() -> None:
    a = {"optim": {"learning_rate": 1e-3, "name": "muon"}, "steps": 5}
    b = {"optim": {"learning_rate": 3e-3, "name": "muon"}, "steps": 5, "seed": 1}
    assert differing({"a": a, "b": b}) == {
        "optim.learning_rate": {"a": "0.001", "b": "0.003"},
        "seed": {"a": ABSENT, "b": "1"},
    }


def test_the_same_configuration_has_no_differences() -> None:
    assert differing({"a": {"x": {"y": 1}}, "b": {"x": {"y": 1}}}) == {}
