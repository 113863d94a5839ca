"""Runs beside their tests on other data sets, as a table."""

from collections.abc import Sequence

from iceprobe.results.examples import examples_of
from iceprobe.results.other_sets import column_of, same_fit
from iceprobe.results.primary import heading_of_all
from iceprobe.results.schema import Result
from iceprobe.results.tables import leaderboard, markdown_table, percent
from iceprobe.results.terminal import Column, TerminalTable
from iceprobe.results.varying import value_of, varying
from iceprobe.tasks.registry import get_task


def tests_table(
    results: Sequence[Result], tests: Sequence[Result]
) -> tuple[list[Column], list[list[str]]]:
    """Runs beside their tests on other data sets: a row a probe, a column the run's own split or a test.

    A row is in one metric, the one that leads in the run.
    """
    ordered, differing = leaderboard(results), varying(results)
    names = list(dict.fromkeys(map(column_of, tests)))
    found = {(same_fit(one), column_of(one)): one for one in tests}
    splits = dict.fromkeys(one.split for one in results)
    headings = [Column("probe", numeric=False), *(Column(n, numeric=False) for n in differing)]
    headings += [Column(" or ".join(splits)), *map(Column, names)]
    rows = []
    for one in ordered:
        row = [
            one.label,
            *(value_of(one, name) for name in differing),
            percent(one.score, one.metric),
        ]
        for name in names:
            test = found.get((same_fit(one), name))
            row.append(percent(test.metrics.get(one.primary) if test else None, one.metric))
        rows.append(row)
    return headings, rows


def to_rich_tests(results: Sequence[Result], tests: Sequence[Result]) -> TerminalTable:
    """The same for the terminal."""
    headings, rows = tests_table(results, tests)
    title = f"Other test sets, {heading_of_all(results)}"
    notes = _tests_notes(tests)
    return TerminalTable(headings, rows, title=title, notes=notes, name="tests", made_of=tests)


def to_markdown_tests(results: Sequence[Result], tests: Sequence[Result]) -> str:
    """The same as a section in Markdown."""
    lines = [f"## Other test sets, {heading_of_all(results)}", ""]
    lines += markdown_table(*tests_table(results, tests))
    return "\n".join([*lines, "", *_tests_notes(tests)]) + "\n"


def _tests_notes(tests: Sequence[Result]) -> list[str]:
    """What each test was read on."""
    notes = [
        f"{column_of(one)}: {one.dataset}, {one.test_images:,} {examples_of(one)} of {one.split}, {one.classes:,} "
        f"{get_task(one.task).outputs}."
        for one in {column_of(one): one for one in tests}.values()
    ]
    if any(one.masked for one in tests):
        notes.append("masked: only the logits of the other set's classes count.")
    return notes
