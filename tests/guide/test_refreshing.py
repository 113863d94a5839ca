"""`make docs`: what it puts into a page, and that the pages hold it."""

from refresh_docs import executed, refreshed

from tests.guide.running import ROOT


def test_the_demo_s_table_is_the_readme_s():
    page = (ROOT / "docs" / "index.md").read_text()
    assert "| ep12 |" in page
    assert refreshed(page) == page


def test_outputs_are_replaced_in_order_and_nothing_else_is_touched():
    page = (
        "```python\nx = 2\n```\n\ntext\n\n```python\nprint(x)\nx += 1\n```\n\n```text\nold\n```\n\n"
        "```text\nof no block\n```\n\n```python\nprint(x, 'twice')\n```\n\n```text\n```\n\n"
        "```python\nraise SystemExit('comes after the last output')\n```\n"
    )
    expected = page.replace("old", "2").replace("```text\n```", "```text\n3 twice\n```")
    assert executed(page) == expected
    assert executed(expected) == expected
