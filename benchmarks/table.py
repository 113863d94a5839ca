"""``results/MACHINE.json`` → the Markdown tables of docs/speed.md.

    python benchmarks/table.py

The page has places ``<!-- benchmarks: NAME -->`` … ``<!-- end -->``: ``summary`` takes every figure
beside its target, the name of a benchmark what its figures are made of. Numbers are never typed.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "speed.md"
PLACE = re.compile(r"<!-- benchmarks: (\S+) -->\n.*?<!-- end -->", re.DOTALL)

Json = dict[str, Any]


def refreshed(page: str, machines: list[Json]) -> str:
    """The page with every place filled from the results."""

    def filled(place: re.Match[str]) -> str:
        render = summary if place[1] == "summary" else lambda m: details(m, place[1])
        body = "\n\n".join(filter(None, map(render, machines))) or "Not measured yet."
        return f"<!-- benchmarks: {place[1]} -->\n\n{body}\n\n<!-- end -->"

    return PLACE.sub(filled, page)


def summary(machine: Json) -> str:
    """The machine in a sentence, then every figure, its target and what the machine allows."""
    rows = [
        [
            figure["name"],
            figure["what"],
            figure["device"],
            f"**{number(figure['value'])}**",
            f"{number(figure['spread'][0])} to {number(figure['spread'][1])}",
            wanted(figure),
            {True: "yes", False: "**no**", None: ""}[figure["met"]],
            allowed(figure),
        ]
        for benchmark in machine["benchmarks"].values()
        for figure in benchmark["figures"]
    ]
    head = ["figure", "of", "on", "measured", "spread", "wanted", "met", "the machine allows"]
    return f"{sentence(machine)}\n\n{markdown(head, rows)}"


def details(machine: Json, benchmark: str) -> str:
    """What each figure of one benchmark is made of; nothing where it wasn't run."""
    if benchmark not in machine["benchmarks"]:
        return ""
    figures = machine["benchmarks"][benchmark]["figures"]
    keys = list(dict.fromkeys(key for figure in figures for key in figure["details"]))
    rows = [[f["name"], *(number(f["details"].get(key, "")) for key in keys)] for f in figures]
    return f"{machine['machine']['name']}:\n\n{markdown(['figure', *keys], rows)}"


def sentence(machine: Json) -> str:
    """What was measured on, with which versions."""
    about = machine["machine"]
    place = f"{about['gpu']}, " if "gpu" in about else ""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    commits = sorted({b["commit"] for b in machine["benchmarks"].values()})
    loads = [b["load"] for b in machine["benchmarks"].values()]
    return (
        f"{place}{about['processor']}, {about['cores']} cores, {about['threads']} threads, "
        f"{about['memory_gb']} GB, {about['system']}; {versions}; iceprobe at {', '.join(commits)}; "
        f"load average when a benchmark began {min(loads)} to {max(loads)}."
    )


def wanted(figure: Json) -> str:
    if figure["at_least"] is not None:
        aim = f" (aim {number(figure['aim'])})" if figure["aim"] is not None else ""
        return f"≥ {number(figure['at_least'])}{aim}"
    return f"≤ {number(figure['at_most'])}" if figure["at_most"] is not None else ""


def allowed(figure: Json) -> str:
    """The bound, and how much of it is reached."""
    if figure["bound"] is None:
        return ""
    share = f"{100 * figure['share_of_bound']:.0f}% reached"
    return f"{number(figure['bound'])} by {figure['bounded_by']}: {share}"


def number(value: float | str) -> str:
    """Three significant digits, whole numbers in full."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read_results(folder: Path = RESULTS) -> list[Json]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def main() -> None:
    text = PAGE.read_text()
    if (again := refreshed(text, read_results())) != text:
        PAGE.write_text(again)
        print(f"{PAGE.name}: refreshed")


if __name__ == "__main__":
    main()
