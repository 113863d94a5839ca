"""What is published: files, where they go, and what there is to say before they do."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


class Files(Mapping[str, bytes]):
    """Files by their path there → content; of those that lie on the disk it is read when it is asked for.

    Args:
        held: path there → content, or the file on the disk.
    """

    def __init__(self, held: Mapping[str, bytes | Path]):
        self.held = dict(held)

    def __getitem__(self, name: str) -> bytes:
        content = self.held[name]
        return content.read_bytes() if isinstance(content, Path) else content

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    def size(self, name: str) -> int:
        """In bytes."""
        content = self.held[name]
        return content.stat().st_size if isinstance(content, Path) else len(content)


@dataclass(frozen=True)
class Publication:
    """Files that are ready to be published.

    Attributes:
        place: where they go, as a person names it.
        files: path there → content.
        shown: name of the file that is shown before it goes.
        notes: what was assumed, replaced or left out, a line each.
        missing: why it can't be sent, with the remedy; empty if it can.
        send: sends all of it and says where it is then.
    """

    place: str
    files: Files
    shown: str
    notes: tuple[str, ...]
    missing: str
    send: Callable[[], str]
