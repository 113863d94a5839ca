"""Adaptations that change the backbone: LoRA, BitFit, LayerNorm tuning, full fine-tuning."""

from iceprobe.adaptation.registry import ADAPTATIONS, adaptation_label, parse_adaptation
from iceprobe.core.lazy import lazy

__all__ = ["ADAPTATIONS", "adapt", "adaptation_label", "fuse_qkv", "parse_adaptation", "split_qkv"]
__getattr__ = lazy(__name__, {"adapt": "api", "fuse_qkv": "qkv", "split_qkv": "qkv"})
