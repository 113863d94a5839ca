"""Runs beside their tests on other data sets, as a table."""

from iceprobe.results import Score, other_tables
from iceprobe.results.schema import FittedOn
from tests.results.test_files import result


def scores(**means: float) -> dict[str, Score]:
    return {name: Score.of([mean]) for name, mean in means.items()}


def test_a_row_is_in_the_metric_that_leads_in_its_run():
    """Of Aircraft the mean per class leads; of a set that doesn't say so, top-1 does."""
    own = {"primary": "mean_per_class", "seeds": [0], "test_images": 40}
    run = result("ep2", metrics=scores(top1=0.9, mean_per_class=0.812), **own)
    on = FittedOn(name="other", dataset=run.dataset, split="test", store=run.store)
    other = run.replaced(
        metrics=scores(top1=0.5, mean_per_class=0.406), primary="top1", test_of=on, dataset="x"
    )
    lacking = other.replaced(
        metrics=scores(top1=0.5), test_of=on.model_copy(update={"name": "lacking"})
    )
    headings, rows = other_tables.tests_table([run], [other, lacking])
    assert [one.title for one in headings] == ["probe", "test", "other", "lacking"]
    assert rows == [["ep2", "81.2", "40.6", "–"]]
    text = other_tables.to_markdown_tests([run], [other, lacking])
    assert text.startswith("## Other test sets, mean per class %")
    assert "top-1" not in text
