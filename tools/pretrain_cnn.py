"""Train a small ResNet with labels on cluttered Fashion-MNIST, to read it by EP beside its own pooling.

    python tools/pretrain_cnn.py --output build/resnet --steps 1500

ResNet-10-T (Wightman 2019, timm) with strides 1 in its last two stages, so that 56x56 pixels become
7x7 cells of 512 channels; cross-entropy on their mean, as CNNs are trained. It doesn't ship:
docs/measurements.md says what EP reads of it, and :func:`resnet` is the factory for that.
`tools/pretraining.py` says what holds for every pre-training.
"""

import timm
import torch
from pretrain_supervised import shift
from pretraining import parser, start, train
from torch import Tensor, nn
from torch.nn import functional as F


def resnet(num_classes: int = 0) -> nn.Module:
    """``(B, 1, 56, 56) -> (B, 512)``, or logits for ``num_classes``."""
    return timm.create_model("resnet10t", in_chans=1, num_classes=num_classes, output_stride=8)


def main() -> None:
    assert __doc__ is not None
    args = parser(__doc__.splitlines()[0], steps=1500).parse_args()
    start(args)
    model = resnet(10).to(args.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        shifted = shift(images, generator).contiguous(memory_format=torch.channels_last)
        return F.cross_entropy(model(shifted).float(), labels)

    train(args, model, optimizer, loss)


if __name__ == "__main__":
    main()
