"""Lightning: a denoising autoencoder, looked at after every epoch.

python examples/pretraining/with_lightning.py
"""

import lightning.pytorch as pl
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader

import iceprobe
from iceprobe.integrations.lightning import Probe


class Denoise(pl.LightningModule):
    """Tokens of a noisy image predict the pixels of its patches."""

    def __init__(self):
        super().__init__()
        self.backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, num_classes=0, depth=4
        )
        self.decoder = nn.Linear(self.backbone.embed_dim, 64)

    def training_step(self, images, index):
        noisy = images + torch.randn_like(images)
        tokens = self.backbone.forward_features(noisy)[:, 1:]
        patches = nn.functional.unfold(images, 8, stride=8).transpose(1, 2)
        loss = nn.functional.mse_loss(self.decoder(tokens), patches)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


# Pixels in [-1, 1], which mean=0.5 and std=0.5 tell the probe; images of 28 pixels are padded.
train = iceprobe.load_dataset("bundled:fashion").splits["train"].images[:512]
images = nn.functional.pad(
    torch.from_numpy(train)[:, None].float() / 127.5 - 1, (2, 2, 2, 2), value=-1
)

probe = Probe(
    "bundled:fashion",
    ["knn", "ep8"],
    every="1 epoch",
    at_most=None,  # "5%" in a training of hours
    select=lambda module: module.backbone,
    limit=200,
    epochs=3,
    image_size=32,
    mean=[0.5],
    std=[0.5],
)
trainer = pl.Trainer(
    max_epochs=3, accelerator="auto", callbacks=[probe], logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip
trainer.fit(Denoise(), DataLoader(images, batch_size=64, shuffle=True))

for look in probe.history:
    print(f"step {look.step}  k-NN {look.scores['iceprobe/knn/top1']:.1%}  {look.seconds:.1f} s")
