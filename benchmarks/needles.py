"""Needles in bags: what probes read where k of N tokens carry the class, from N = 10 to 10,000.

    python -m benchmarks.needles [--replicates 3] [--out benchmarks/needles.json]
    python -m benchmarks.needles --show benchmarks/needles.json --picture docs/needles.svg

A bag has N tokens of 32 independent standard normal numbers. k = 3 of them, at places drawn at random, are the
bag's needles: each gets the direction of the bag's class, one of five orthogonal ones drawn at random, times 5.
1,200 bags learn and 1,000 others test, at one learning rate, in 20 epochs, of which held-out bags choose the last. The truth is known, so that beside the
accuracy stands how often attention finds the needles: of the k tokens of most attention (the mean over a
probe's maps), the share that are needles, over test bags and replicates.

What no probe can beat: a classifier that knows the directions and takes the three tokens that lie farthest
along one of them, ``knowing``; and chance, a fifth.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import iceprobe

DIM, CLASSES, NEEDLES, STRENGTH = 32, 5, 3, 5.0
TRAIN, TEST = 1_200, 1_000
RATES, EPOCHS = [2e-2], 20
SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)
PROBES = ["linear?input=mean", "max", "abmilp", "abmilp?gated=true", "ep8"]


DIRECTIONS = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0][:CLASSES]


def bags(seed: int, size: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens ``(n, N, D)`` float16, classes ``(n,)`` and places of the needles ``(n, k)``."""
    rng = np.random.default_rng((seed, size))
    targets = np.arange(count) % CLASSES
    tokens = np.empty((count, size, DIM), np.float16)
    places = np.stack([rng.permutation(size)[:NEEDLES] for _ in range(count)])
    for row in range(count):
        tokens[row] = rng.standard_normal((size, DIM), np.float32)
        tokens[row, places[row]] += (STRENGTH * DIRECTIONS[targets[row]]).astype(np.float16)
    return tokens, targets, places


def knowing(tokens: np.ndarray) -> np.ndarray:
    """The class in whose direction the k farthest tokens lie, ``(n,)``."""
    found = []
    for bag in tokens:
        along = bag.astype(np.float32) @ DIRECTIONS.T.astype(np.float32)
        found.append(np.partition(along, -NEEDLES, 0)[-NEEDLES:].sum(0).argmax())
    return np.array(found)


def found(probe: torch.nn.Module, tokens: np.ndarray, places: np.ndarray) -> float:
    """Of the k tokens of most attention, the share that are needles, over bags."""
    shares = []
    for start in range(0, len(tokens), 50):
        part = torch.from_numpy(tokens[start : start + 50]).float()
        with torch.no_grad():
            top = probe.attention(part).mean(1).topk(NEEDLES, -1).indices.numpy()
        own = places[start : start + 50]
        shares += [len(np.intersect1d(a, b)) / NEEDLES for a, b in zip(top, own, strict=True)]
    return float(np.mean(shares))


def row(size: int, replicates: int, probes: Sequence[str]) -> dict[str, object]:
    """Figures of one bag size."""
    train, test = bags(0, size, TRAIN), bags(1, size, TEST)
    store = iceprobe.from_tokens({"train": train[:2], "test": test[:2]})
    with tempfile.TemporaryDirectory() as folder:
        results = iceprobe.fit(
            store,
            probes,
            replicates=replicates,
            output=Path(folder) / "run",
            learning_rates=RATES,
            epochs=EPOCHS,
            progress=False,
        )
        figures: dict[str, object] = {
            "tokens": size,
            "knowing": float((knowing(test[0]) == test[1]).mean()),
        }
        for result in results:
            one = {
                "accuracy": result.score.mean,
                "low": result.score.interval[0],
                "high": result.score.interval[1],
            }
            if result.probes and result.probes[0].pooling.num_predictors:
                one["precision"] = float(np.mean([found(p, *test[::2]) for p in result.probes]))
            figures[result.label] = one
    return figures


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy with its interval, and of attention the share of needles found, in Markdown."""
    lines = [
        f"| N | {' | '.join(f'`{probe}`' for probe in PROBES)} | knowing |",
        "|---:|" + "---|" * len(PROBES) + "---:|",
    ]
    for one in rows:
        cells = []
        for probe in PROBES:
            low, mean, high = (100 * one[probe][key] for key in ("low", "accuracy", "high"))
            found = one[probe].get("precision")
            finds = "" if found is None else f", finds {100 * found:.0f}"
            cells.append(f"{mean:.1f} ({low:.0f} to {high:.0f}){finds}")
        lines.append(f"| {one['tokens']:,} | {' | '.join(cells)} | {100 * one['knowing']:.1f} |")
    return "\n".join(lines)


def picture(rows: Sequence[dict[str, Any]]) -> str:
    """Both against N, as SVG."""
    import altair as alt
    import vl_convert

    points = [
        {"N": one["tokens"], "probe": probe, **{k: 100 * v for k, v in one[probe].items()}}
        for one in rows
        for probe in PROBES
    ]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("N:Q", title="tokens of a bag, 3 of them needles")
        .scale(type="log")
        .axis(values=SIZES),
        color=alt.Color("probe:N", title=None, sort=PROBES).legend(
            orient="top", labelLimit=300, columnPadding=40
        ),
    )
    axis = alt.Y("accuracy:Q", title="accuracy, %").scale(domain=[0, 100])
    accuracy = base.mark_line(point=True).encode(y=axis) + base.mark_errorband(opacity=0.12).encode(
        y=alt.Y("low:Q", title="accuracy, %"), y2="high:Q"
    )
    precision = (
        base.mark_line(point=True)
        .encode(y=alt.Y("precision:Q", title="needles among the 3 of most attention, %"))
        .transform_filter("isValid(datum.precision)")
    )
    size = {"width": 330, "height": 260}
    both = alt.hconcat(accuracy.properties(**size), precision.properties(**size))
    return vl_convert.vegalite_to_svg(both.configure(background="white").to_dict())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--out", type=Path, help="write the figures to this file")
    parser.add_argument("--show", type=Path, help="print the table of such a file, measure nothing")
    parser.add_argument("--picture", type=Path, help="with --show: draw it")
    args = parser.parse_args()
    if args.show is not None:
        rows = json.loads(args.show.read_text())["rows"]
        print(table(rows))
        if args.picture is not None:
            args.picture.write_text(picture(rows) + "\n")
        return
    rows = []
    for size in args.sizes:
        rows.append(row(size, args.replicates, PROBES))
        print(json.dumps(rows[-1]), flush=True)
        if args.out is not None:
            content = {
                "replicates": args.replicates,
                "train": TRAIN,
                "test": TEST,
                "needles": NEEDLES,
                "rows": rows,
            }
            args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
