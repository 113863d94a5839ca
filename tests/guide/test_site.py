"""The built guide: no warnings, nothing from elsewhere, every public name in its reference."""

import html
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import iceprobe

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r"^::: (\S+)\n    options:\n      heading: (\S+)$", re.MULTILINE)
#: Public spelling → where the object is defined, as the reference says.
REFERENCE = {
    public: home
    for page in sorted((ROOT / "docs").glob("reference*.md"))
    for home, public in ENTRY.findall(page.read_text())
}


def find(path: str):
    """The object at ``package.module.Name``."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def build(folder: Path, docs: Path) -> subprocess.CompletedProcess[str]:
    """Build the guide of ``docs`` into ``folder/build/guide``, as ``make guide`` does."""
    shutil.copytree(docs, folder / "docs")  # pages must lie within the project
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("src", "tools"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    done = build(folder, ROOT / "docs")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build" / "guide"


@pytest.mark.slow
def test_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    for page in pages:
        assert (site / f"{page.stem}.html").exists()
    for file in site.rglob("*.html"):
        text = file.read_text()
        assert not re.findall(r'<(?:script|img|iframe|source)\b[^>]*\ssrc="?(?:https?:)?//', text)
        assert not re.findall(r'<link\b[^>]*\shref="?(?:https?:)?//', text), file.name
    for file in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", file.read_text()), file


@pytest.mark.slow
def test_functions_show_their_settings_and_settings_their_options(site):
    page = re.sub(r"<[^>]+>", "", (site / "reference.html").read_text())
    text = html.unescape(" ".join(page.split()))
    assert "settings: Fitting | None = None, **options: Any, ) -> list[FittedResult]" in text
    assert "budget (Count | None) – Add the EPs with at most this many parameters" in text
    assert "call:" not in text
    assert "Annotated[" not in text


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "files.md#nowhere"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, link):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.md").write_text(f"[a link]({link})\n")
    (tmp_path / "pages" / "files.md").write_text("# Files\n")
    done = build(tmp_path, tmp_path / "pages")
    assert done.returncode != 0
    assert "does not exist" in done.stdout + done.stderr


def nav_pages(entries: list) -> list[str]:
    """The pages of a navigation, those of its sections too."""
    found = [next(iter(entry.values())) for entry in entries]
    return [page for one in found for page in (nav_pages(one) if isinstance(one, list) else [one])]


# Zensical says neither what the navigation lacks nor which picture isn't there.
def test_every_page_stands_once_in_the_navigation():
    named = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_and_pictures_lie_within_docs(page):
    prose = re.sub(
        r"^ *```.*?^ *```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("https://", "#")):
            assert (ROOT / "docs" / target.partition("#")[0]).is_file(), target
            assert "/" not in target


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_search_works_from_disk(site):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{site}/index.html")
        page.click(".md-search__button")
        page.keyboard.type("checkpoint_key", delay=20)  # each key asks anew
        page.wait_for_selector("a[href*='registry.load_backbone']", timeout=60_000)
        browser.close()
    assert all(url.startswith(f"file://{site}/") for url in asked), asked


@pytest.mark.parametrize(("public", "home"), REFERENCE.items(), ids=REFERENCE)
def test_the_reference_names_the_object_that_is_imported(public, home):
    assert find(public) is find(home)


def test_every_public_name_is_in_the_reference():
    assert {f"iceprobe.{name}" for name in iceprobe.__all__} - {
        "iceprobe.probes",
        "iceprobe.published",
        "iceprobe.settings",
    } <= set(REFERENCE)
    probes = {f"iceprobe.probes.{name}" for name in iceprobe.probes.__all__}
    assert probes <= set(REFERENCE)
