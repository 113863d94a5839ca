"""The raw measures of one probe on bags: examples whose tokens lie on no grid, in any number.

What needs no places is measured, over the tokens that a bag has: how concentrated each map is, how different
maps are, importance, retrieval. Bags of similar length are read together as far as they have `AT_ONCE` rows,
and a longer one alone.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from iceprobe.analysis.complementarity import complementarity
from iceprobe.analysis.concentration import effective_tokens, entropy, top_share
from iceprobe.analysis.maps import patch_maps
from iceprobe.analysis.measurements import Measurements
from iceprobe.analysis.scoring import Values
from iceprobe.backbones.base import Backbone
from iceprobe.core.errors import IceprobeError
from iceprobe.fitting.pieces import PIECE_BYTES, Cutting
from iceprobe.results.fitted import FittedResult
from iceprobe.store import Store
from iceprobe.store.examples import example_noun
from iceprobe.store.split import StoredSplit
from iceprobe.tasks.records import Record, joined

if TYPE_CHECKING:
    from iceprobe.probes.probe import Probe

AT_ONCE = 2**17  # rows at most, however narrow tokens are: maps are of all predictors
TOP = 10


def lengths_of(part: StoredSplit) -> NDArray[np.int64]:
    """Tokens of each bag of a split, ``(n,)``."""
    if part.lengths is not None:
        return part.lengths
    return np.full(len(part), part.shape.num_tokens, np.int64)


def names_of(result: FittedResult, store: Store) -> list[str]:
    """Names of the bags of the reported split; where nothing names them, their numbers from 0."""
    part, predictions = store[result.split], result.predictions()
    if predictions is not None and predictions.names is not None:
        return list(predictions.names)
    try:
        return store.names(result.split, np.arange(len(part)))
    except IceprobeError:  # tokens that were given, and whose names weren't kept
        return [f"{result.split}_{row}" for row in range(len(part))]


def percent_of(lengths: torch.Tensor) -> torch.Tensor:
    """How many tokens 1% of a bag are, at least one: ``(b,)`` → ``(b,)``."""
    return lengths.div(100).ceil().long()


class BagMeasurements(Measurements):
    """Measures of one probe on the bags of a split, ``(M, n)`` each."""

    def over(self, source: "Probe | Backbone", progress: Callable[[int, int], None] | None) -> None:
        """Add a fit: one pass over the bags."""
        assert not isinstance(source, Backbone)  # its heads are of images
        home = next(source.parameters()).device
        source.to(self.device)
        lengths, shape = lengths_of(self.part), self.part.shape
        at_once = min(AT_ONCE, max(1, PIECE_BYTES // (4 * shape.dim)))
        pieces, _ = Cutting(at_once, at_once).pieces(lengths)
        columns: dict[str, list[Values]] = defaultdict(list)
        answers: list[Record] = []
        descriptors: list[torch.Tensor] = []
        done = 0
        for rows in pieces:
            tokens = self._tokens(rows)
            maps, share = patch_maps(source, tokens)
            answers.append(self._answered(source, tokens, rows))
            with torch.no_grad():
                descriptors.append(source.descriptors(tokens).float())
            own = torch.from_numpy(lengths[rows]).to(maps.device)
            found = {"prefix_share": share} | concentration(maps, own)
            found |= {name: values[:, None] for name, values in complementarity(maps).items()}
            for name, values in found.items():
                columns[name].append(values.double().cpu().numpy().T)
            del tokens, maps, found  # not beside those of the next one
            done += len(rows)
            if progress is not None:
                progress(done, len(self.part))
        order = np.argsort(np.concatenate(pieces))
        fit = {name: np.concatenate(parts, 1)[:, order] for name, parts in columns.items()}
        if np.isnan(fit["entropy"]).all():
            example = example_noun(self.store.manifest)
            raise IceprobeError(
                f"every {example} of {self.result.split!r} has one token, so attention has no choice and nothing "
                f"is measured of {self.result.label!r}: take {example}s of several tokens"
            )
        places = torch.from_numpy(order)
        record = {name: fields[:, places] for name, fields in joined(answers).items()}
        fit |= self._recalled(torch.cat(descriptors)[places.to(self.device)])
        fit |= self._scored([record])
        self.uniform = _uniform(lengths)
        self.fits.append(fit)
        source.to(home)


def concentration(maps: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """``(b, M)`` a measure, of maps ``(b, M, N)`` over the tokens ``(b,)`` that each bag has."""
    return {
        "entropy": entropy(maps, lengths),
        "effective_tokens": effective_tokens(maps),
        "top_percent": top_share(maps, percent_of(lengths)),
        "top_10": top_share(maps, torch.full_like(lengths, TOP)),
    }


def _uniform(lengths: NDArray[np.int64]) -> dict[str, Values]:
    """What uniform attention scores on each bag, ``(1, n)``."""
    tokens = torch.from_numpy(lengths)
    scores = {
        "effective_tokens": tokens,
        "top_percent": percent_of(tokens) / tokens,
        "top_10": tokens.clamp(max=TOP) / tokens,
    }
    return {name: one.double().numpy()[None] for name, one in scores.items()}
