"""Every fenced block of the README, of CONTRIBUTING and of the guide does what its page says."""

import re
from pathlib import Path

import pytest

from tests.guide import substitutions
from tests.guide.blocks import Block, blocks
from tests.guide.running import ROOT, Broken, run_block, substituted

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def marked(page: Path):
    slow = [pytest.mark.slow] if page.name in substitutions.SLOW else []
    return pytest.param(page, id=page.name, marks=slow)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_blocks_of(page, reader, data):
    reader(page.read_text())
    names: dict = {"__name__": "page"}
    exec(substitutions.BEFOREHAND.get(page.name, ""), names)
    for block in blocks(page):
        run_block(block, names, data)


def of(language: str, text: str, output: str | None = None) -> Block:
    return Block("page.md", 7, language, text, output)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (of("", "iceprobe ls"), "language ''"),
        (of("sh", "iceprobe ls nonsense"), "nonsense"),
        (of("sh", "iceprobe run --bakcbone bundled:mae-tiny"), "--bakcbone"),
        (of("sh", "iceprobe run --engine ray --bakcbone A"), "--bakcbone"),
        (of("sh", "sbatch examples/slurm.sh --bakcbone A"), "--bakcbone"),
        (of("sh", "sbatch examples/nothing.sh"), "nothing.sh"),
        (of("sh", "iceprobe report runs/nowhere"), "nowhere"),
        (of("sh", "icprobe ls"), "icprobe"),
        (of("sh", "iceprobe ls datasets && rm x"), "quote it"),
        (of("sh", "iceprobe run --backbone timm:a?b=c&d=e"), "quote it"),
        (of("sh", "make nonsense"), "nonsense"),
        (of("sh", "pip install '.[nonsense]'"), "nonsense"),
        (of("sh", "python benchmarks/run.py --nonsense"), "--nonsense"),
        (of("sh", "python -m benchmarks.claims.run --nonsense"), "--nonsense"),
        (of("sh", ".venv/bin/pytest -m nonsense"), "nonsense"),
        (of("console", "$ iceprobe ls protocols\nheldout\n"), "make docs"),
        (of("python", "print(1)", "2\n"), "make docs"),
        (of("python", "1 / 0"), "division"),
        (of("yaml", "bakcbone: bundled:mae-tiny"), "bakcbone"),
    ],
    ids=lambda value: value.text.split("\n")[0] if isinstance(value, Block) else "",
)
def test_a_wrong_block_fails(block, message, reader, data):
    reader("")
    with pytest.raises(Broken, match=re.escape(message)) as caught:
        run_block(block, {}, data)
    assert "page.md:7" in str(caught.value)


def test_what_is_said_to_run_elsewhere_does():
    for _, test in substitutions.ELSEWHERE:
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / file).read_text()


def test_every_stand_in_is_needed(data):
    """What no page says any more leaves the table."""
    pages = [page.read_text() for page in PAGES]
    for number, (pattern, _) in enumerate(substitutions.STAND_INS):
        before = substitutions.STAND_INS[:number]
        text = "\n".join(pages)
        for earlier, replacement in before:
            text = re.sub(earlier, replacement, text)
        assert re.search(pattern, text), pattern
    assert "{data}" not in substituted("folder:/data/birds", data)


def test_links_of_pages_outside_the_site_lead_somewhere():
    for page in PAGES[:2]:
        for target, anchor in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(), re.MULTILINE)
                slugs = [
                    re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings
                ]
                assert anchor in slugs, f"{page.name}: {target}#{anchor}"
