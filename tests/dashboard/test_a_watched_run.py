"""The page of a training that is somebody else's: what it measures is drawn, and the rest is not
missed."""

import pytest
import torch
import torch.nn.functional as F
from streamlit.testing.v1 import AppTest
from torch import Tensor, nn

import moescope
from moescope.platform.store import Store


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_T, chosen_T = self.gate(x_TD).softmax(-1).max(-1)
        out_TD = torch.zeros_like(x_TD)
        for e, expert in enumerate(self.experts):
            (token,) = torch.where(chosen_T == e)
            out_TD = out_TD.index_add(0, token, expert(x_TD[token]) * weight_T[token, None])
        return x_TD + out_TD


@pytest.fixture
def run_id(store_url: str, store: Store) -> str:
    """A loop of 90 steps that went back once."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"layers": nn.ModuleList([Layer(), Layer()])})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options = {"name": "theirs", "store": store_url, "state": []}
    with moescope.watch(model, optimizer, **options) as run:
        for step in range(90):
            x_TD = torch.randn(16, 8)
            y_TD = x_TD
            for layer in model["layers"]:
                y_TD = layer(y_TD)
            loss = F.mse_loss(y_TD, x_TD.roll(1, -1) * (100 if step in range(80, 85) else 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss, tokens=16)
    return run.id


def _run(store: "Store", run_id: "str") -> None:
    from moescope.dashboard.views import run

    run.render(store, run_id)


def test_its_page_draws_loss_routers_and_the_branch_that_was_left(
    store: Store, run_id: str
) -> None:
    page = AppTest.from_function(_run, args=(store, run_id), default_timeout=30).run()
    assert not page.exception, page.exception
    text = "\n".join(
        str(element.value)
        for kind in (page.markdown, page.caption, page.header, page.subheader, page.info)
        for element in kind
    )
    charts = "\n".join(part.proto.bytes.decode() for part in page.get("bidi_component"))
    assert "theirs" in text + "".join(str(title.value) for title in page.title)
    assert "went back from step" in text + charts
    for name in ("Loss", "Gradient norm"):
        assert name in text + charts, name
    assert charts.count("heatmap") >= 1
