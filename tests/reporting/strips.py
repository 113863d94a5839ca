"""What reports of clips and of recordings are looked at for alike."""

from pathlib import Path

import iceprobe
from iceprobe.analysis.maps import patch_maps
from iceprobe.reporting.attention import Album, draw_gallery
from iceprobe.results.fitted import FittedResult
from iceprobe.store import Store


def fitted(store: Store, folder: Path) -> list[FittedResult]:
    """A linear probe and EP on them, in a run."""
    return iceprobe.fit(
        store, ["linear", "ep2"], epochs=2, seeds=1, protocol="paper", output=folder
    )


def checked(store: Store, results: list[FittedResult], folder: Path) -> tuple[Album, str]:
    """An album of two whose strips on the page of EP are the overlays of its maps, and the page."""
    page = iceprobe.report(results, folder / "report.html").read_text()
    assert page.count('<table class="gallery strips">') == 1
    (ep,) = [one for one in results if one.probe == "ep2"]
    album = Album.spread(store, "test", 2)
    gallery = draw_gallery(ep, album)
    assert gallery is not None
    assert gallery.strips
    own = patch_maps(album.probe(ep), album.tokens)[0]
    over = album.overlays(own, strips=True)
    assert [row.maps[gallery.evidence :] for row in gallery.rows] == over
    return album, page
