"""How much memory this process may still take: the machine's, and that of its control groups.

Groups of versions 1 and 2 count, and their ancestors. A container, a job of a scheduler or a systemd unit is a group with a limit, and so may be any group
above it; the tightest counts. Beyond ``memory.high`` a process isn't killed but slowed to a crawl,
so it is a limit as well.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from iceprobe.machine.processes import world

_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USED = ("memory.current", "memory.usage_in_bytes")
# Files that the group has read give way. Version 1 counts those of groups below under "total_".
_GIVE_WAY = ("active_file", "inactive_file")


def available_memory(groups: Sequence[Path] | None = None) -> int | None:
    """Bytes of memory free for this process, within its control groups; None: unknown.

    Processes that work together on this machine get equal shares.

    Args:
        groups: folders of control groups, by default of those that this process is in.
    """
    try:
        fields = Path("/proc/meminfo").read_text().split("\n")
        free = next(int(line.split()[1]) * 1024 for line in fields if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None
    limited = free_in(groups_of() if groups is None else groups)
    return (free if limited is None else min(free, limited)) // world().local_size


def groups_of(process: Path = Path("/proc/self"), root: Path = Path("/")) -> list[Path]:
    """The folders of the memory groups that ``process`` is in, the innermost first.

    Args:
        process: its folder in ``/proc``.
        root: of the file system that it names mounts in.
    """
    try:
        mounts = (process / "mountinfo").read_text().splitlines()
        entries = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    own = {"cgroup2" if number == "0" else "cgroup": path for number, controllers, path in entries
           if number == "0" or "memory" in controllers.split(",")}  # fmt: skip
    found: list[Path] = []
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = [*right.split(), "", "", ""][:3]
        if kind not in own or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        top, place = (_unescaped(text) for text in left.split()[3:5])
        mount = root / place.lstrip("/")
        inside = own[kind].removeprefix(top) if top != "/" else own[kind]
        innermost = mount / inside.lstrip("/")
        if ".." in innermost.parts or not innermost.is_dir():
            innermost = mount  # another name space: the mount is what this process sees of it
        while True:
            found.append(innermost)
            if innermost == mount:
                break
            innermost = innermost.parent
    return found


def free_in(groups: Sequence[Path]) -> int | None:
    """Bytes that a process in all of ``groups`` can still take; ``None`` without a limit."""
    return min((free for group in groups for free in _free(group)), default=None)


def _free(group: Path) -> Iterator[int]:
    limits = [limit for limit in map(_number, (group / name for name in _LIMITS)) if limit]
    used = next((n for name in _USED if (n := _number(group / name)) is not None), None)
    if limits and used is not None:
        yield max(0, min(limits) - max(0, used - _giving_way(group)))


def _giving_way(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        stat = {name: int(count) for name, count in map(str.split, lines)}
    except (OSError, ValueError):
        return 0
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in _GIVE_WAY)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
