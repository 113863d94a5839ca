"""How much memory this process may still use: that of the machine and of its control groups.

Control groups of versions 1 and 2 and their ancestors may have limits (a container, a scheduler's
job, a systemd unit); the tightest counts. ``memory.high`` is a limit too: beyond it a process isn't
killed, but becomes very slow.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from iceprobe.machine.processes import world

_LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")
_USED = ("memory.current", "memory.usage_in_bytes")
# Cached files, which can be evicted. Version 1 includes those of descendant groups in "total_".
_EVICTABLE = ("active_file", "inactive_file")


def available_memory(groups: Sequence[Path] | None = None) -> int | None:
    """Bytes of memory that this process may use, in ``groups`` (its own); ``None`` if unknown.

    Processes that work together on this machine get equal shares.
    """
    try:
        fields = Path("/proc/meminfo").read_text().split("\n")
        free = next(int(line.split()[1]) * 1024 for line in fields if "MemAvailable" in line)
    except (OSError, StopIteration):
        return None
    limited = free_in(groups_of() if groups is None else groups)
    return (free if limited is None else min(free, limited)) // world().local_size


def groups_of(process: Path = Path("/proc/self"), root: Path = Path("/")) -> list[Path]:
    """Folders of a process's memory groups, the innermost first; ``root`` is that of its mounts."""
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
            innermost = mount  # another namespace, of which this process sees only the mount
        found += [p for p in (innermost, *innermost.parents) if p.is_relative_to(mount)]
    return found


def free_in(groups: Sequence[Path]) -> int | None:
    """Bytes that a process in all of ``groups`` may still use; ``None`` without a limit."""
    return min((free for group in groups for free in _free(group)), default=None)


def _free(group: Path) -> Iterator[int]:
    limits = [limit for limit in map(_number, (group / name for name in _LIMITS)) if limit]
    used = next((n for name in _USED if (n := _number(group / name)) is not None), None)
    if limits and used is not None:
        yield max(0, min(limits) - max(0, used - _evictable(group)))


def _evictable(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
        stat = {name: int(count) for name, count in map(str.split, lines)}
    except (OSError, ValueError):
        return 0
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in _EVICTABLE)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
