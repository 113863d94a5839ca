"""What examples of several lengths cost: an epoch over them against as many tokens at one length.

    python benchmarks/lengths.py [--json FILE]

Bags of 50 to 5,000 tokens (log-uniform) and bags of the same mean length, both of 384 numbers a token in
float16 in memory, are trained on by the members of a fit: batches come in pieces of similar length
(`fitting/pieces.py`). The target: at most 1.3 times the time. How much of the rows is padding stands in the
details, and what the same epoch takes where batches don't stay in memory, and are read twice.
"""

import numpy as np
import torch
from measuring import Figure, interleaved, run_alone

import iceprobe
from iceprobe.fitting.engine import JointTrainer
from iceprobe.fitting.feed import Feed
from iceprobe.fitting.members import make_groups
from iceprobe.fitting.pieces import PIECE_BYTES, Cutting
from iceprobe.fitting.stacked import Member
from iceprobe.store.split import StoredSplit

DIM, BAGS, BATCH, CLASSES = 384, 256, 32, 5
SHORTEST, LONGEST = 50, 5_000
PROBES = {"EP8": ["ep8"], "five probes": ["ep8", "ep32", "abmilp", "mhca8", "linear?input=mean"]}
RATES = (1e-3, 1e-2)


def bags(lengths: np.ndarray) -> StoredSplit:
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randn(n, DIM, generator=generator).half() for n in lengths.tolist()]
    targets = np.arange(len(lengths)) % CLASSES
    return iceprobe.from_tokens({"train": (tokens, targets), "test": (tokens[:10], targets[:10])})[
        "train"
    ]


def measure(device: torch.device, rounds: int | None) -> list[Figure]:
    rng = np.random.default_rng(0)
    spread = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), BAGS)).round().astype(int)
    even = np.full(BAGS, round(spread.mean()))
    even[0] += spread.sum() - even.sum()  # the same number of tokens
    splits = {"spread": bags(spread), "even": bags(even)}
    rows = PIECE_BYTES // (4 * DIM)
    figures = []
    for name, probes in PROBES.items():
        sides = {
            side: epoch_of(splits[split], probes, cutting, device)
            for side, (split, cutting) in {
                "spread": ("spread", Cutting(rows, 2**62)),
                "even": ("even", Cutting(rows, 2**62)),
                "streamed": ("spread", Cutting(rows, 0)),
            }.items()
        }
        times = interleaved(sides, rounds or 5, device)
        batches = np.array_split(rng.permutation(spread), BAGS // BATCH)
        cut = [(batch, Cutting(rows, 0).pieces(batch)[0]) for batch in batches]
        padded = sum(batch[one].max() * len(one) for batch, cuts in cut for one in cuts)
        figures.append(
            Figure(
                f"lengths of 50 to 5,000, {name}",
                "epoch over lengths of 50 to 5,000 / over one length",
                device.type,
                times.ratio("spread", "even"),
                times.spread("spread", "even"),
                at_most=1.3,
                details={
                    "spread_s": times.median("spread"),
                    "even_s": times.median("even"),
                    "streamed_over_held": times.ratio("streamed", "spread"),
                    "rows_per_token": padded / spread.sum(),
                    "pieces_per_batch": sum(len(cuts) for _, cuts in cut) / len(cut),
                    "tokens": float(spread.sum()),
                },
            )
        )
    return figures


def epoch_of(split: StoredSplit, probes: list[str], cutting: Cutting, device: torch.device):  # type: ignore[no-untyped-def]
    members = [Member(probe, rate, 0.0, 0) for probe in probes for rate in RATES]
    groups = make_groups(members, split.shape, CLASSES, device)
    trainer = JointTrainer(groups, "adamw", steps=10**6, warmup=1)
    feed = Feed(split, np.arange(len(split)), {g.input for g in groups}, device, torch.float32)

    def epoch() -> None:
        for batch in feed.in_pieces(cutting).shuffled(BATCH, seed=0, epoch=0):
            trainer.train_step(batch)
            del batch

    return epoch


if __name__ == "__main__":
    run_alone(measure, __doc__)
