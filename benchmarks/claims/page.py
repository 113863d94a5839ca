"""``results.json`` → docs/claims.md: a table of verdicts, then each claim's numbers.

    python -m benchmarks.claims.page

The page's own words stand around ``<!-- claims -->`` … ``<!-- end -->``; numbers are never typed. Why
a claim doesn't hold, as far as that is known, is taken from its file.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.claim import Claim, read_claims

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "claims.md"
PLACE = re.compile(r"<!-- claims -->\n.*?<!-- end -->", re.DOTALL)

Json = dict[str, Any]
WORDS = {"holds": "holds", "fails": "**fails**", "undecided": "undecided", "not run": "not run"}


def refreshed(text: str, entries: list[Json], claims: Sequence[Claim]) -> str:
    """The page with its place filled: from the results, and from the files caveats, why and what lacks."""
    found = {entry["number"]: entry for entry in entries}
    each = [
        details(found[one.number], one)
        if one.number in found
        else f"## Claim {one.number}\n\n{one.claim} **Not run yet.**"
        for one in claims
    ]
    body = "\n\n".join([*([summary(entries, claims)] if entries else []), *each])
    return PLACE.sub(lambda _: f"<!-- claims -->\n\n{body}\n\n<!-- end -->", text)


def summary(entries: list[Json], claims: Sequence[Claim]) -> str:
    """The table of all claims."""
    caveats = {claim.number: claim.caveat for claim in claims}
    rows = [
        [
            f"[{e['number']}](#claim-{e['number']})",
            f"{e['claim']} *{caveats[e['number']]}*" if caveats[e["number"]] else e["claim"],
            WORDS[e["verdict"]],
            headline(e),
            seconds(e),
        ]
        for e in entries
    ]
    head = ["", "claim", "here", "effect, 95% interval", "took"]
    loads = [e["load"] for e in entries]
    text = (
        f"{'; '.join(where(entries))}. Load average {min(loads)} to {max(loads)}. Fits that several "
        "claims share are counted for each."
    )
    return f"{markdown(head, rows)}\n\n{text}"


def where(entries: list[Json]) -> list[str]:
    """Machine, libraries and commit of each claim, those of one kind together."""
    alike: dict[str, list[str]] = {}
    for entry in entries:
        about = entry["environment"]
        machine = f"{about['processor']}, {about['platform']}, torch {about['torch']}"
        text = f"{machine}, iceprobe at {entry['commit']}"
        alike.setdefault(text, []).append(str(entry["number"]))
    if len(alike) == 1:
        return list(alike)
    return [f"{', '.join(numbers)}: {text}" for text, numbers in alike.items()]


def details(entry: Json, claim: Claim) -> str:
    """One claim: where from, every number with its rule, and the reason where it is known."""
    backbones = ", ".join(f"`{name}`" for name in entry["backbone"])
    lines = [
        f"## Claim {entry['number']}",
        f"{entry['claim']} **Here: {entry['verdict']}.**",
        *([claim.caveat] if claim.caveat else []),
        f"Source: {entry['source']}. {backbones} on `{entry['data']}`; `{entry['command']}`.",
    ]
    head = ["", "measured", "95% interval", "rule", ""]
    rows = [
        [f["what"], value(f), interval(f), f["rule"], _with_note(WORDS.get(f["verdict"], ""), f)]
        for f in entry["findings"]
    ]
    lines.append(markdown(head, rows))
    if claim.reason and entry["verdict"] != "holds":
        lines.append(f"Why: {' '.join(claim.reason.split())}")
    return "\n\n".join(lines)


def headline(entry: Json) -> str:
    """The first number that decided the verdict."""
    voting = [f for f in entry["findings"] if f["verdict"] and f["value"] is not None]
    deciding = [f for f in voting if f["verdict"] == entry["verdict"]] or voting
    if not deciding:
        return ""
    first = deciding[0]
    return f"{first['what']}: {value(first)} {interval(first)}".rstrip()


def in_words(entry: Json) -> str:
    """A claim on a terminal."""
    look = " (a look, no result)" if entry.get("look") else ""
    lines = [f"  {entry['verdict']}{look}, {seconds(entry)}"]
    for f in entry["findings"]:
        parts = [f["what"], value(f), interval(f), f["rule"] and f"({f['rule']})", f["verdict"]]
        lines.append("  · " + " ".join(filter(None, [*parts, f["note"] and f"[{f['note']}]"])))
    return "\n".join(lines)


def value(finding: Json) -> str:
    if finding["value"] is None:
        return ""
    return f"{_number(finding['value'], finding['unit'])} {finding['unit']}".rstrip()


def interval(finding: Json) -> str:
    if finding["interval"] is None:
        return ""
    low, high = (_number(end, finding["unit"]) for end in finding["interval"])
    return f"{low} to {high}"


def seconds(entry: Json) -> str:
    """Of the fits it reads, shared ones counted for each claim, and of its statistics."""
    total = sum(entry["seconds"].values())
    return f"{total:.0f} s" if total < 100 else f"{total / 60:.0f} min"


def _number(number: float, unit: str) -> str:
    if unit == "points":
        return f"{round(number, 1) or 0:+.1f}".replace("-", "−")
    if unit in ("ρ", "Kendall τ", "1 − cos", "×", "of 1"):
        return f"{number:.2f}".replace("-", "−")
    return f"{number:.3g}"


def _with_note(verdict: str, finding: Json) -> str:
    return "; ".join(filter(None, [verdict, finding["note"]]))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(entries: list[Json]) -> None:
    """Put the results into the page."""
    PAGE.write_text(refreshed(PAGE.read_text(), entries, read_claims()))


if __name__ == "__main__":
    write(json.loads((HERE / "results.json").read_text()))
