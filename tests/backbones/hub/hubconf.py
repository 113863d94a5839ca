"""A repository of torch.hub, as its users write them."""

dependencies = ["torch"]

from tests.backbones.hub_models import (  # noqa: E402, F401
    broken,
    dino_tiny,
    dinov2_tiny_reg,
    ibot_tiny,
    mocov3_resnet,
    nothing,
    sequence,
    timm_tiny,
)
