"""A loop of one's own: student and teacher, of which the teacher is looked at.

python examples/pretraining/in_a_loop.py
"""

import copy

import timm
import torch
from torch import nn

import iceprobe
from iceprobe.integrations.loop import Probe

student = timm.create_model(
    "vit_tiny_patch16_224", img_size=32, patch_size=8, in_chans=1, num_classes=0, depth=4
)
teacher = copy.deepcopy(student).requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), 1e-3)

# Pixels in [-1, 1], which mean=0.5 and std=0.5 tell the probe; images of 28 pixels are padded.
train = iceprobe.load_dataset("bundled:fashion").splits["train"].images[:512]
images = torch.from_numpy(train)[:, None].float() / 127.5 - 1
images = nn.functional.pad(images, (2, 2, 2, 2), value=-1)

look = Probe(
    teacher,
    "bundled:fashion",
    ["knn", "ep8"],
    every="8 steps",
    at_most=None,  # "5%" in a training of hours
    limit=200,
    epochs=3,
    image_size=32,
    mean=[0.5],
    std=[0.5],
)
for step in range(1, 25):
    batch = images[torch.randint(len(images), (64,))]
    noisy = student.forward_features(batch + 0.5 * torch.randn_like(batch))
    loss = nn.functional.mse_loss(noisy, teacher.forward_features(batch))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
            mine.lerp_(its, 0.1)
    if scores := look(step):  # a dictionary for any logger
        print(
            f"step {step}  k-NN {scores['iceprobe/knn/top1']:.1%}  ep8 {scores['iceprobe/ep8/top1']:.1%}"
        )
