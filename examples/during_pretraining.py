"""Look at an encoder every few epochs of its pre-training: in memory, nothing is written.

python examples/during_pretraining.py
"""

import timm

import iceprobe

model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=0)
dataset = iceprobe.load_dataset("bundled:fashion")

for epoch in (0,):  # your training loop; the model is left as it was, gradients and mode included
    scores = iceprobe.probe(
        model,
        dataset,
        ["knn", "linear?input=mean", "ep8"],
        limit=600,
        epochs=5,
        image_size=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    for score in scores:
        print(f"epoch {epoch}  {score.probe:20}  {100 * score.top1.mean:.1f}%")
