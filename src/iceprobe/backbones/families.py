"""Families of backbones: how each was pre-trained, and what is read from it.

The published probes of plain ViTs trained by masking or contrast (MAE, SimMIM, BEiTv2, MaskFeat,
iBOT, MoCo v3) read the last block *without* the final norm. All others are read with it
(``spec/protocols.md``, "What is read from a backbone"). The family is found in the model's name:
timm's tag (``vit_base_patch16_224.mae``), transformers' model type (``vit_mae``) or the entry of a
hub. timm needs no weights for the tag: ``vit_small_patch16_224.mae`` names the family of your own
checkpoint. If the name has no tag, names that the family's training script leaves in the file
(``marks``) may show it.

A paradigm is one of ``PARADIGMS``, ``"unknown"`` or ``"random weights"``. This module doesn't
import torch: ``iceprobe ls backbones`` shows the table.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PARADIGMS = (
    "masked image modelling",
    "joint embedding",
    "hybrid",  # masking and joint embedding together
    "vision-language",
    "generative",
    "supervised",
)
MASKED, JOINT, HYBRID, LANGUAGE, GENERATIVE, SUPERVISED = PARADIGMS


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        pattern: regular expression searched in a model's name, ``ARCHITECTURE.TAG`` for timm's.
        paradigm: how it was pre-trained.
        tokens: what is read, in words.
        licence: of the published weights.
        example: a spec to copy from; empty if the family has none.
        norm: the default of ``norm=``.
        published_norm: whether the published rows were read with the norm, if this differs.
        statistics: mean and std of its images; ``None`` if timm's tag has them.
        marks: regular expressions; each matches an entry or weight name that its training script
            saves.
        key, strip, ignore: where the encoder is in that file, and what else is in it.
        overrides: timm's architecture → arguments in which the published model differs.
    """

    name: str
    pattern: str
    paradigm: str
    tokens: str = ""
    licence: str = ""
    example: str = ""
    norm: bool = True
    published_norm: bool | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    marks: tuple[str, ...] = ()
    key: str | None = None
    strip: str | None = None
    ignore: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_CLASS = "patches; class token"
_REGISTERS = "patches; class token, registers after it"
_PATCHES = "patches; no class token"
_TUBES = "patches of space and time; no class token"
_CELLS = "cells of the last map; no class token"
_POOLED = "patches; vector pooled, no class token"
_PROJECTED = "patches; class token, vector class_projected"
_TIMM_VIT = r"^(vit|deit3?|beit)_\w+\.(.*_)?"  # a plain ViT of timm, up to its tag
_END = r"(?![a-z])"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# The first row that matches counts.
FAMILIES = (
    Family(
        "MAE", rf"{_TIMM_VIT}mae{_END}|^vit_mae$|^mae_vit", MASKED, _CLASS, "CC-BY-NC-4.0",
        "timm:vit_base_patch16_224.mae",
        norm=False, statistics=IMAGENET, key="model",
        marks=(r"\bdecoder_pos_embed$", r"\bdecoder_blocks\.0\.", r"\bmask_token$"),
    ),
    Family(
        "SimMIM", rf"{_TIMM_VIT}simmim{_END}", MASKED, _CLASS, "MIT",
        "timm:beit_base_patch16_224.simmim?checkpoint=ckpt_epoch_799.pth&checkpoint_key=model"
        "&strip=encoder.",
        norm=False, statistics=IMAGENET, key="model", strip="encoder.",
        marks=(r"\bencoder\.mask_token$", r"\bencoder\.blocks\.0\.", r"\bdecoder\.0\.weight$"),
    ),
    Family(
        "MaskFeat", rf"{_TIMM_VIT}maskfeat{_END}", MASKED, _CLASS, "Apache-2.0",
        "timm:vit_base_patch16_224.maskfeat?checkpoint=checkpoint_epoch_01600.pyth"
        "&checkpoint_key=model_state&ignore=pred_head.,hogs.",
        norm=False, statistics=IMAGENET, key="model_state", ignore=("pred_head.", "hogs."),
        marks=(r"\bpred_head\.", r"\bhogs\."),
    ),
    Family(
        "BEiTv2", r"^beitv2_|^beit-?v2", MASKED, _CLASS, "Apache-2.0",
        "timm:beitv2_base_patch16_224.in1k_ft_in22k",
        norm=False, statistics=IMAGENET, key="model", ignore=("cls_pt_layers.", "lm_head."),
        marks=(r"\bcls_pt_layers\.0\.", r"\blm_head\.weight$"),
    ),
    Family(
        "iBOT", rf"{_TIMM_VIT}ibot{_END}|^ibot_", HYBRID, _CLASS, "Apache-2.0",
        "timm:vit_base_patch16_224.ibot?checkpoint=checkpoint.pth&checkpoint_key=teacher"
        "&strip=backbone.",
        norm=False, statistics=IMAGENET, key="teacher", strip="backbone.",
        ignore=("masked_embed",), marks=(r"^ibot_loss$",),
    ),
    Family(
        "MoCo v3", rf"{_TIMM_VIT}moco(_?v3)?{_END}|^mocov3", JOINT, _CLASS, "CC-BY-NC-4.0",
        "timm:vit_base_patch16_224.mocov3?checkpoint=checkpoint_0299.pth.tar"
        "&checkpoint_key=state_dict&strip=module.base_encoder.",
        norm=False, statistics=IMAGENET, key="state_dict", strip="module.base_encoder.",
        marks=(r"\bmomentum_encoder\.blocks\.0\.", r"\bbase_encoder\.", r"\bpredictor\."),
        # 12 heads of 32 where timm's small model has 6 of 64: same weights, different attention.
        overrides={"vit_small_patch16_224": {"num_heads": 12}},
    ),
    Family(
        "SigLIP 2", r"siglip\w*\.v2_|siglip-?2", LANGUAGE, _POOLED, "Apache-2.0",
        "transformers:google/siglip2-base-patch16-224",
    ),
    Family(
        "SigLIP", r"siglip", LANGUAGE, _POOLED, "Apache-2.0",
        "timm:vit_base_patch16_siglip_224.webli",
    ),
    Family(
        "Perception Encoder", r"_pe_(core|spatial|lang)|^pe-", LANGUAGE,
        "patches; class token where it has one, vector pooled", "Apache-2.0",
        "timm:vit_pe_core_base_patch16_224.fb",
    ),
    Family(
        "MetaCLIP", r"meta-?clip", LANGUAGE, _PROJECTED, "CC-BY-NC-4.0",
        "open_clip:ViT-B-16-quickgelu?pretrained=metaclip_400m",
    ),
    Family(
        "EVA-CLIP", r"^eva(02)?_\w*clip|^eva(01|02)-", LANGUAGE, _PROJECTED, "MIT",
        "open_clip:EVA02-B-16?pretrained=merged2b_s8b_b131k",
    ),
    Family(
        "CLIP", r"clip|tips", LANGUAGE, _PROJECTED, "MIT", "open_clip:ViT-B-16?pretrained=openai"
    ),
    Family(
        "VideoMAE", r"^videomae", MASKED, _TUBES, "CC-BY-NC-4.0", "transformers:MCG-NJU/videomae-base"
    ),
    Family(
        "V-JEPA 2", r"^vjepa2", JOINT, _TUBES, "MIT", "transformers:facebook/vjepa2-vitl-fpc64-256"
    ),
    Family(
        "TimeSformer, ViViT", r"^(timesformer|vivit)", SUPERVISED,
        "patches of every frame; class token", "CC-BY-NC-4.0, MIT",
        "transformers:facebook/timesformer-base-finetuned-k400",
    ),
    Family("EVA02", r"^eva(02)?_", MASKED, _CLASS, "MIT", "timm:eva02_base_patch14_224.mim_in22k"),
    Family(
        "BEiT", r"^beit(_|-|$)", MASKED, _CLASS, "Apache-2.0",
        "transformers:microsoft/beit-base-patch16-224-pt22k",
    ),
    Family(
        "data2vec", r"^data2vec-vision", MASKED, _CLASS, "Apache-2.0",
        "transformers:facebook/data2vec-vision-base",
    ),
    Family(
        "Hiera", r"^hiera(?!det)(_\w+\.mae|$)", MASKED, _CELLS, "CC-BY-NC-4.0",
        "timm:hiera_base_224.mae",
    ),
    Family(
        "ConvNeXt V2", rf"\.(.*_)?fcmae{_END}|^convnextv2$", MASKED, _CELLS, "CC-BY-NC-4.0",
        "timm:convnextv2_base.fcmae",
    ),
    Family("MAE, others", rf"\.(.*_)?(mae|mim){_END}", MASKED),
    Family(
        "DINOv3", r"dinov3", HYBRID, f"{_REGISTERS}; cells of the last map (ConvNeXt)",
        "DINOv3 License", "timm:vit_base_patch16_dinov3.lvd1689m",
    ),
    Family(
        "DINOv2", r"dinov2", HYBRID, _REGISTERS, "Apache-2.0",
        "transformers:facebook/dinov2-with-registers-base",
        statistics=IMAGENET, key="teacher", strip="backbone.",
    ),
    Family(
        "Franca", r"franca", HYBRID, _CLASS, "Apache-2.0",
        "torch_hub:valeoai/Franca?entry=franca_vitb14&trust=true"
        "&image_size=224&mean=0.485,0.456,0.406&std=0.229,0.224,0.225",
    ),
    Family(
        "DINO", rf"dino{_END}", JOINT, _CLASS, "Apache-2.0",
        "timm:vit_base_patch16_224.dino",
        published_norm=False, statistics=IMAGENET, key="teacher", strip="backbone.",
        marks=(r"^dino_loss$",),
    ),
    Family(
        "I-JEPA", r"jepa", JOINT, _PATCHES, "CC-BY-NC-4.0",
        "transformers:facebook/ijepa_vith14_1k",
        published_norm=False, statistics=IMAGENET, key="target_encoder", strip="module.",
        marks=(r"^target_encoder$", r"^predictor$"),
    ),
    Family("MSN", r"^vit_msn$", JOINT, _CLASS, "Apache-2.0", "transformers:facebook/vit-msn-base"),
    Family(
        "AIMv2", r"^aimv2", GENERATIVE, _PATCHES, "Apple's own",
        "timm:aimv2_large_patch14_224.apple_pt",
    ),
    Family(
        "DiT", r"^DiT", GENERATIVE, "patches of the latent at the last block; no class token",
        "CC-BY-NC-4.0", "diffusers:facebook/DiT-XL-2-256", norm=False,
    ),
    Family(
        "SAM", r"^sam(vit|2)_", SUPERVISED, _CELLS, "Apache-2.0", "timm:samvit_base_patch16.sa1b"
    ),
    Family(
        "Supervised ViT, CNN, Swin", r"in1k|in12k|in22k|in21k|imagenet", SUPERVISED,
        f"{_CLASS}; cells of the last map (ResNet, ConvNeXt, EfficientNet, Swin)",
        "mostly Apache-2.0", "timm:resnet50.a1_in1k",
    ),
)  # fmt: skip
UNKNOWN = Family("unknown", "", "unknown")


def family_of(*names: str) -> Family:
    """The family of the first name that matches one, else `UNKNOWN` (read with the norm)."""
    for name in names:
        for family in FAMILIES:
            if re.search(family.pattern, name):
                return family
    return UNKNOWN


def family_of_file(names: Iterable[str]) -> Family:
    """The family whose training script left these entries and names of weights in a file."""
    names = list(names)
    for family in FAMILIES:
        if family.marks and all(any(re.search(m, name) for name in names) for m in family.marks):
            return family
    return UNKNOWN
