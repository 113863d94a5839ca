"""Where published figures come from, and the protocol that each source states. Imports no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

REPORTED, HELD_OUT, UNSTATED = (
    "reported",
    "held-out",
    "unstated",
)  # what selected a figure's settings
ANEW = "random crops and flips, new in each epoch"


@dataclass(frozen=True)
class Protocol:
    """How one kind of probe was trained and selected by one source.

    Attributes:
        selected: ``"reported"``: on the split that is reported; ``"held-out"``: on a part of train; ``"unstated"``.
        selected_on: the same in words.
        training: facts as `Result.training` names them; what isn't stated is left out.
        training_images: the view of the training images; empty where it isn't stated.
        search: which training images a test image's neighbours are searched in; empty: all, or no k-NN.
    """

    selected: str = UNSTATED
    selected_on: str = "not stated"
    training: Mapping[str, str | int] = field(default_factory=dict)
    training_images: str = ""
    search: str = ""


@dataclass(frozen=True)
class Source:
    """A publication or a repository that states figures.

    Attributes:
        title: of the publication.
        where: in it, and how to find it.
        knn, trained: protocols of k-NN and of trained probes.
        remarks: what else its code does otherwise than iceprobe: the encoders it is true of, as a regular expression
            of their names, and a sentence.
    """

    title: str
    where: str
    knn: Protocol = Protocol()
    trained: Protocol = Protocol()
    remarks: tuple[tuple[str, str], ...] = ()

    def remarks_on(self, encoder: str) -> list[str]:
        """Those that are true of an encoder."""
        return [sentence for of, sentence in self.remarks if re.match(of, encoder)]


_BEST_EPOCH = Protocol(
    REPORTED,
    "the reported split (best epoch)",
    {"optimizer": "lars", "epochs": 90, "images_per_step": 4096},
    ANEW,
)
_EP_REMARKS = (
    (
        "",
        "Batch norms took their statistics from the 256 images of a GPU in most logs; here from all images of a step.",
    ),
    (
        "SimMIM|BEiTv2|CAPI",
        "Stochastic depth stayed on in this frozen backbone (0.1; of CAPI 0.2); here it is in evaluation mode.",
    ),
    (
        "EVA02 |AIMv2|DiT",
        "The backbone was given ImageNet's mean and deviation of pixels; here it is given its own.",
    ),
    ("DiT", "The latents of images were sampled; here their mode is taken."),
    (
        "CLIP|SigLIP|EVA02-CLIP|PE-|MetaCLIP",
        "Training crops had a scale of 0.9 to 1 and no flip, and test images were resized to the square or its shorter "
        "side without a margin.",
    ),
)

SOURCES = {
    "ep-benchmark": Source(
        "Psomas et al., Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency, ICLR 2026",
        "results.csv of the authors' repository github.com/billpsomas/efficient-probing",
        knn=Protocol(
            REPORTED,
            "the reported split (best k and temperature)",
            training_images="evaluation view",
            search="each process's own share of train, which reads 2 to 5 points lower",
        ),
        trained=_BEST_EPOCH,
        remarks=_EP_REMARKS,
    ),
    "ep-paper": Source(
        "Psomas et al., Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency, ICLR 2026",
        "tables of arXiv:2506.10178",
        knn=Protocol(
            REPORTED, "the reported split (best k and temperature)", training_images="evaluation view"
        ),
        trained=_BEST_EPOCH,
        remarks=_EP_REMARKS,
    ),
    "dinov2": Source(
        "Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024; Darcet et al., Vision "
        "Transformers Need Registers, ICLR 2024",
        "README of github.com/facebookresearch/dinov2",
        trained=Protocol(
            REPORTED,
            "the reported split (best learning rate, layers and pooling)",
            {"optimizer": "sgd"},
            ANEW,
        ),
    ),
    "capi": Source(
        "Darcet et al., Cluster and Predict Latents Patches for Improved Masked Image Modeling, 2025",
        "README and eval_classification.py of github.com/facebookresearch/capi",
        trained=Protocol(
            HELD_OUT,
            "held-out 10% of train, without a refit on all of it",
            {},
            ANEW,
        ),
    ),
    "vjepa": Source(
        "Bardes et al., Revisiting Feature Prediction for Learning Visual Representations from Video, 2024",
        "README of github.com/facebookresearch/jepa",
    ),
    "aim": Source(
        "El-Nouby et al., Scalable Pre-training of Large Autoregressive Image Models, ICML 2024",
        "README of aim-v1 in github.com/apple/ml-aim",
    ),
    "aimv2": Source(
        "Fini et al., Multimodal Autoregressive Pre-training of Large Vision Encoders, 2024",
        "README of github.com/apple/ml-aim",
    ),
}  # fmt: skip
