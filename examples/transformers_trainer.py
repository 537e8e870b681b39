"""Qwen3-MoE in a tiny configuration, trained from scratch by the Trainer of transformers, watched
by a callback.

    python examples/transformers_trainer.py [STEPS]
"""

import sys
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, Trainer, TrainingArguments

import moescope

WORDS, LENGTH = 64, 32


class Counting(Dataset):
    """Texts that count on from a random word, by a random stride."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        chance = torch.Generator().manual_seed(index)
        start, stride = torch.randint(1, WORDS, (2,), generator=chance).tolist()
        words = (start + stride * torch.arange(LENGTH)) % WORDS
        return {"input_ids": words, "labels": words}


def train(
    steps: int, name: str = "", store: str = "", resume: bool = False
) -> moescope.TransformersCallback:
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=WORDS,
            hidden_size=32,
            moe_intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            num_experts_per_tok=2,
            decoder_sparse_step=1,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    callback = moescope.TransformersCallback(name=name, store=store, state=[], resume=resume)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
        )
        Trainer(model, arguments, train_dataset=Counting(), callbacks=[callback]).train()
    return callback


if __name__ == "__main__":
    train(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
