"""What is published: files, where they go, and what there is to say before they do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


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
    files: Mapping[str, bytes]
    shown: str
    notes: tuple[str, ...]
    missing: str
    send: Callable[[], str]
