"""FLOPs of training: of a probe on an image, of a phase, of the search for a linear probe's optimum."""

from collections.abc import Sequence

from iceprobe.cost.phases import PhaseCost
from iceprobe.fitting.linear import DECAYS, given_decays
from iceprobe.probes.pooling import QueryPooling
from iceprobe.probes.probe import Probe, build_for
from iceprobe.protocols.protocol import Protocol
from iceprobe.tokens import TokenShape

PASSES = 40  # over all rows, of a search for an optimum: on the bundled sets 12 to 110 iterations


def solving_flops(
    protocol: Protocol, shape: TokenShape, num_classes: int, label: str, images: int
) -> float:
    """Of a linear probe's path of decays on every part, and of its refit: three products a look."""
    width = shape.vectors.get(build_for(shape, label, num_classes).input, shape.dim)
    parts = protocol.folds * protocol.repeats if images < protocol.folds_below else 1
    decays = len(given_decays(protocol) or DECAYS)
    return (parts * decays + 1) * PASSES * 6.0 * images * width * num_classes


def phase_flops(phase: PhaseCost, probes: Sequence[Probe], shape: TokenShape) -> float:
    return phase.all_epochs * sum(
        members * phase.trained_on * training_flops(probe, shape)
        + members * phase.evaluated_on * forward_flops(probe, shape)
        for members, probe in zip(phase.each, probes, strict=True)
    )


def forward_flops(probe: Probe, shape: TokenShape) -> int:
    return probe.flops(shape.num_tokens, shape.num_prefix)


def training_flops(probe: Probe, shape: TokenShape) -> int:
    """Of one image: forward, by weight and by input backward.

    Tokens are frozen: where queries meet them directly, no product by input is made.
    """
    forward = forward_flops(probe, shape)
    meeting = forward - probe.flops(0) if isinstance(probe.pooling, QueryPooling) else 0
    return 3 * forward - meeting
