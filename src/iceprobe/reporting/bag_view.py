"""Where each probe looks in bags: some that it reads wrongly and some that it reads rightly.

Tokens with two coordinates are drawn at their places, coloured by attention and by the evidence for what is read.
Of others there is the curve of how few tokens have the attention. Each bag is read once, for all probes, and
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from iceprobe.analysis.bags import names_of
from iceprobe.analysis.concentration import effective_tokens
from iceprobe.analysis.evidence import has_evidence, patch_evidence
from iceprobe.analysis.maps import patch_maps
from iceprobe.fitting.fitted import load_fitted
from iceprobe.reporting.answers import Namer, in_turn, spread, spread_rule
from iceprobe.reporting.bag_pictures import attention_uri, curve_uri, evidence_uri
from iceprobe.results.fitted import FittedResult
from iceprobe.tasks.registry import get_task
from iceprobe.tokens import Tokens

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe
    from iceprobe.store import Store


@dataclass(frozen=True)
class BagRow:
    """One bag, with pictures as data URIs; empty where there is none.

    Attributes:
        attention, evidence: and what stands below each.
    """

    name: str
    label: str
    predicted: str
    correct: bool | None  # None of numbers
    attention: str
    concentration: str
    evidence: str
    caption: str


@dataclass(frozen=True)
class BagGallery:
    """Bags as one probe reads them.

    Attributes:
        predictors: over which the attention drawn is the mean; 0: all tokens are alike.
        placed: whether tokens are drawn at their places; otherwise there are curves.
        remark: why there is no evidence; empty if there is.
        centred: whether the evidence counts from the average training bag, as a batch norm makes it.
    """

    result: FittedResult
    predictors: int
    placed: bool
    seed: int | None
    remark: str
    centred: bool
    rule: str
    rows: list[BagRow] = field(default_factory=list)


def draw_bags(results: Sequence[FittedResult], store: "Store", count: int) -> list[BagGallery]:
    """Bags of the reported split, the same ``count`` ones for all of ``results``, which are on one store.

    Those that neither have attention nor evidence are left out.

    Raises:
        IceprobeError: if a fitted probe is missing or doesn't fit its description.
    """
    first, part = results[0], store[results[0].split]
    labels = np.asarray(part.labels)
    rows, rule = chosen_bags(first, labels, store.classes, count)
    names, namer = names_of(first, store), Namer(get_task(store.task), store.classes, first.units)
    placed = part.shape.coords == 2
    shown: list[tuple[BagGallery, Probe]] = []
    for result in results:
        probe = load_fitted(result, store.shape)
        if probe.pooling.num_predictors or (placed and has_evidence(probe)):
            gallery = BagGallery(
                result,
                probe.pooling.num_predictors,
                placed,
                result.seeds[0] if result.seeds else None,
                "" if has_evidence(probe) else f"No evidence of tokens: {probe.pooling.entangled}.",
                isinstance(probe.norm, nn.BatchNorm1d),
                rule,
            )
            shown.append((gallery, probe))
    for row in rows.tolist():
        whole = part.tokens([row])  # of all layers, which probes of one read as well
        for gallery, probe in shown:
            tokens = whole.to(next(probe.parameters()).device)
            gallery.rows.append(_row(probe, tokens, names[row], labels[row : row + 1], namer))
        del whole
    return [gallery for gallery, _ in shown]


def chosen_bags(
    result: FittedResult, labels: NDArray, classes: Sequence[str], count: int
) -> tuple[NDArray[np.int64], str]:
    """Rows of bags to show, and how they were chosen, as part of a sentence.

    Of classes up to a half are such as ``result`` reads wrongly, and one of each class comes in turn.
    """
    predictions = result.predictions()
    if labels.ndim > 1 or predictions is None or predictions.predicted is None:
        return spread(labels, count), spread_rule(labels, classes)
    right = np.asarray(predictions.predicted)[0] == labels

    def of_each(there: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
        return in_turn([np.flatnonzero(there & (labels == one)) for one in np.unique(labels)], most)

    wrong = of_each(~right, count // 2)
    rows = np.concatenate([wrong, of_each(right, count - len(wrong))])
    if not len(wrong):
        return rows, "all read rightly by the first probe, one of each class in turn"
    return rows, f"the first {len(wrong)} read wrongly by the first probe, the others rightly"


@torch.no_grad()
def _row(probe: "Probe", tokens: Tokens, name: str, label: NDArray, namer: Namer) -> BagRow:
    (answer,) = namer.answers(probe(tokens).cpu(), label)
    coords = None if tokens.coords is None else tokens.coords[0].cpu().numpy().astype(np.float64)
    placed = coords is not None and coords.shape[1] == 2
    attention, concentration, evidence, caption = "", "", "", ""
    if probe.pooling.num_predictors:
        weights = patch_maps(probe, tokens)[0].mean(1)[0].double().cpu()
        weights = weights / weights.sum()
        effective, count = float(effective_tokens(weights)), len(weights)
        concentration = (
            f"{effective:,.{0 if effective >= 100 else 1}f} of {count:,} tokens effective, largest "
            f"weight {float(weights.max()):.2g}"
        )
        found = weights.numpy()
        attention = attention_uri(coords, found) if placed else curve_uri(found)  # type: ignore[arg-type]
    # Of a class that was read wrongly, the second is what was read.
    asked = [one for one in answer.asked if one is not None]
    one = asked[-1] if label.ndim == 1 else next(iter(asked), None)
    if placed and one is not None and has_evidence(probe):
        (found,) = patch_evidence(probe, tokens, torch.tensor([[one.output]]))[0].cpu().numpy()
        evidence, caption = evidence_uri(coords, found.astype(np.float64)), one.caption  # type: ignore[arg-type]
    return BagRow(
        name,
        answer.label,
        answer.predicted,
        answer.correct,
        attention,
        concentration,
        evidence,
        caption,
    )
