"""Hugging Face's Trainer: masked image modelling with a ViT, looked at every few steps.

python examples/pretraining/with_trainer.py
"""

import tempfile

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForMaskedImageModeling

import iceprobe
from iceprobe.integrations.transformers import Probe


class Encoder(nn.Module):
    """Tokens of the ViT, as iceprobe reads them."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def tokens(self, images):
        states = self.vit(images).last_hidden_state  # (B, 1 + N, D), class token first
        return iceprobe.Tokens(states[:, 1:], states[:, :1], (4, 4), True)


# Pixels in [-1, 1], which mean=0.5 and std=0.5 tell the probe; images of 28 pixels are padded.
train = iceprobe.load_dataset("bundled:fashion").splits["train"].images[:512]
images = torch.from_numpy(train)[:, None].float() / 127.5 - 1
images = nn.functional.pad(images, (2, 2, 2, 2), value=-1)


def masked(batch):
    return {"pixel_values": torch.stack(batch), "bool_masked_pos": torch.rand(len(batch), 16) < 0.6}


model = ViTForMaskedImageModeling(
    ViTConfig(
        hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768,
        image_size=32, patch_size=8, encoder_stride=8, num_channels=1,
    )
)  # fmt: skip
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, num_train_epochs=3, per_device_train_batch_size=64, save_strategy="no", report_to=[],
        disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=masked, train_dataset=list(images))
    probe = Probe(
        trainer,
        "bundled:fashion",
        ["knn", "ep8"],
        every="8 steps",
        at_most=None,  # "5%" in a training of hours
        select=lambda model: Encoder(model.vit),
        limit=200,
        epochs=3,
        image_size=32,
        mean=[0.5],
        std=[0.5],
    )
    trainer.add_callback(probe)
    trainer.train()

for look in probe.history:
    print(f"step {look.step}  k-NN {look.scores['iceprobe/knn/top1']:.1%}  {look.seconds:.1f} s")
