"""Each tag: how often it occurs, and how well it is ranked and called."""

import numpy as np

from iceprobe.core.errors import IceprobeError
from iceprobe.reporting.blocks import Block, Cell, Context, Heading, Table, over_seeds
from iceprobe.reporting.finding import display_name
from iceprobe.reporting.per_output import intervals_of
from iceprobe.results.caveats import listed, tested
from iceprobe.results.fitted import FittedResult
from iceprobe.results.tables import span, tenths
from iceprobe.tasks.targets import known

MOST = 60  # tags of a table; of more the worst and the best
WORST, BEST = 30, 10


def by_tag(context: Context) -> Block | None:
    """Of the best probe, and of the reference EP where it is another; None without predictions."""
    if context.best is None:
        return None
    notes = _left_out(context)
    tables = [_table(one, context.outputs) for one in context.pair]
    return Block(
        "AP: average precision, whose mean over tags is mAP; by chance it is the share of positives. F1 "
        f"is at probability 0.5. The 95% intervals are over {context.independent}; the tags with the lowest AP first.",
        tables=tables,
        notes=notes,
    )


def _left_out(context: Context) -> list[str]:
    from iceprobe.tasks.tag_formulas import without_negative, without_positive

    assert context.best is not None
    labels, split = context.best.needed_predictions().labels, tested(context.best)
    unknown = np.flatnonzero(~known(labels).any(0)).tolist()
    absent = [k for k in without_positive(labels) if k not in unknown]
    return [
        f"Left out of {means}, {len(tags)} of {labels.shape[1]} tags, {why}: "
        f"{listed([context.outputs[k] for k in tags], 12)}."
        for tags, means, why in (
            (
                unknown,
                "the means over tags",
                f"of which nothing is known of any {split} {context.example}",
            ),
            (absent, "the means over tags", f"without any {split} {context.example}"),
            (without_negative(labels), "AUROC", f"that all {split} {context.examples} have"),
        )
        if tags
    ]


def _table(one: FittedResult, names: list[str]) -> Table:
    import torch

    from iceprobe.tasks.tag_formulas import f1_by_tag, tag_table

    predictions = one.needed_predictions()
    logits = predictions.logits()
    if logits is None:
        raise IceprobeError(f"no logits of {one.label!r} were kept: fit it again")
    thresholds = getattr(predictions.record, "thresholds", None)
    found = tag_table(logits.values, predictions.labels)
    best = None if thresholds is None else np.asarray(thresholds).mean(0)
    at_best = None
    if thresholds is not None:
        equal = torch.ones(1, len(predictions.labels), dtype=torch.float64)
        at_best = (
            f1_by_tag(logits.values, predictions.labels, equal, thresholds)[:, 0].numpy().mean(0)
        )
    ap = found["ap"].mean(0)
    there = np.flatnonzero(found["positive"] > 0)
    order = there[np.argsort(ap[there], kind="stable")]
    shown = order if len(order) <= MOST else np.r_[order[:WORST], order[-BEST:]]
    intervals = intervals_of(one, "map", shown.tolist())
    unknown = (found["known"] < len(predictions.labels)).any()
    rows = [
        [
            Cell(names[k], strong=True),
            Cell(
                f"{found['positive'][k]:,}",
                int(found["positive"][k]),
                soft=f"{tenths(found['positive'][k] / found['known'][k])}%",
            ),
            *([Cell(f"{found['known'][k]:,}", int(found["known"][k]))] if unknown else []),
            Cell(tenths(ap[k]), float(ap[k]), soft=span(intervals[k])),
            _share(found["auroc"].mean(0)[k]),
            _share(found["f1"].mean(0)[k]),
            *([] if at_best is None else [_share(at_best[k])]),
            *([] if best is None else [Cell(f"{best[k]:.2f}", float(best[k]))]),
        ]
        for k in shown.tolist()
    ]
    headings = [
        Heading("Tag", numeric=False, first="ascending"),
        Heading("Positives"),
        *([Heading("Known")] if unknown else []),
        *(Heading(title, first="ascending") for title in ("AP %", "AUROC %", "F1 %")),
        *([] if at_best is None else [Heading("F1 % at best", first="ascending")]),
        *([] if best is None else [Heading("Best threshold", first="ascending")]),
    ]
    few = (
        f"the {WORST} lowest and the {BEST} highest of {len(order)} tags"
        if len(shown) < len(order)
        else ""
    )
    note = ", ".join(filter(None, [few, over_seeds(one).removeprefix(", ")]))
    return Table(headings, rows, title=display_name(one.label), note=note)


def _share(value: float) -> Cell:
    return Cell("–", "") if np.isnan(value) else Cell(tenths(float(value)), float(value))
