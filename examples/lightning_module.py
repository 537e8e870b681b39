"""A Lightning module with experts of its own, watched by a callback.

python examples/lightning_module.py [STEPS]
"""

import sys

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import moescope

# T tokens  D width  E experts
WIDTH, NUM_EXPERTS = 16, 4


class SwitchLayer(nn.Module):
    """Top-1 routing over experts that are one weight, (E, D, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, NUM_EXPERTS, bias=False)
        self.experts_EDD = nn.Parameter(torch.randn(NUM_EXPERTS, WIDTH, WIDTH) * WIDTH**-0.5)
        self.top_k = 1

    def forward(self, x_TD: Tensor) -> Tensor:
        score_TE = self.router(x_TD).softmax(-1)
        weight_T, chosen_T = score_TE.max(-1)
        return x_TD + weight_T[:, None] * torch.einsum(
            "td,tdf->tf", x_TD, self.experts_EDD[chosen_T]
        )


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SwitchLayer() for _ in range(2))
        self.head = nn.Linear(WIDTH, 1)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x_TD, y_T = batch
        for layer in self.layers:
            x_TD = layer(x_TD)
        return F.mse_loss(self.head(x_TD)[:, 0], y_T)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(
    steps: int, name: str = "", store: str = "", resume: bool = False
) -> moescope.LightningCallback:
    torch.manual_seed(0)
    x_TD = torch.randn(2048, WIDTH)
    data = DataLoader(TensorDataset(x_TD, x_TD.sin().sum(-1)), batch_size=32, shuffle=True)
    callback = moescope.LightningCallback(name=name, store=store, state=[], resume=resume)
    trainer = Trainer(
        max_steps=steps,
        accelerator="auto",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(Module(), data)
    return callback


if __name__ == "__main__":
    train(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
