import numpy as np
import pytest
import torch

from moescope.monitors.collect import Packed


def packed() -> Packed:
    return Packed({"loss": (), "counts_LE": (2, 3)}, "cpu")


def test_what_was_written_is_read_a_step_later() -> None:
    p = packed()
    p["loss"].copy_(torch.tensor(1.5))
    p["counts_LE"].copy_(torch.arange(6).view(2, 3))
    p.send()
    p["loss"].fill_(9.0)  # the next step writes while the copy is still unread
    values = p.read()
    assert values["loss"] == np.float32(1.5)
    assert values["loss"].shape == ()
    assert values["counts_LE"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_two_steps_may_be_under_way_and_come_in_order() -> None:
    p = packed()
    for value in (1.0, 2.0):
        p["loss"].fill_(value)
        p.send()
    assert [float(p.read()["loss"]), float(p.read()["loss"])] == [1.0, 2.0]
    assert p.read() == {}


def test_a_third_unread_step_is_refused() -> None:
    p = packed()
    p.send()
    p.send()
    with pytest.raises(AssertionError, match="read"):
        p.send()


def test_values_that_were_read_do_not_change_afterwards() -> None:
    p = packed()
    p["loss"].fill_(1.0)
    p.send()
    first = p.read()
    p["loss"].fill_(2.0)
    p.send()
    p.read()
    assert first["loss"] == 1.0


def test_a_dropped_sending_is_not_read() -> None:
    p = packed()
    p["loss"].fill_(1.0)
    p.send()
    p.drop()
    p["loss"].fill_(2.0)
    p.send()
    assert p.is_pending
    assert p.read()["loss"] == 2.0


def test_an_empty_layout_and_empty_signals_are_fine() -> None:
    p = Packed({"nothing_LE": (0, 4)}, "cpu")
    p.send()
    assert p.read()["nothing_LE"].shape == (0, 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_from_the_gpu_holds_what_was_written_before_it() -> None:
    p = Packed({"x": (1000,)}, "cuda")
    for value in range(5):
        p["x"].fill_(float(value))
        p.send()
        p["x"].fill_(-1.0)
        assert (p.read()["x"] == value).all()
