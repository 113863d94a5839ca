"""What is free for a new process."""

from pathlib import Path

import pytest

from iceprobe.machine.free_memory import available_memory, free_in, groups_of

MB = 10**6


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"memory.{name}").write_text(f"{content}\n")
    return folder


def test_files_that_a_group_has_read_give_way(tmp_path, monkeypatch):
    meminfo, read = "MemTotal: 4096 kB\nMemAvailable: 2048 kB\n", Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda self: meminfo if str(self) == "/proc/meminfo" else read(self)
    )
    assert available_memory([tmp_path]) == 2048 * 1024  # no group
    write(
        tmp_path,
        current=900000,
        stat="anon 300000\nactive_file 200000\ninactive_file 400000",
        max="max",
    )
    assert available_memory([tmp_path]) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory([tmp_path]) == 700_000
    (tmp_path / "memory.high").write_text("800000\n")
    assert available_memory([tmp_path]) == 500_000
    (tmp_path / "memory.max").write_text("200000\n")
    assert available_memory([tmp_path]) == 0


def test_a_group_of_version_1(tmp_path):
    no_limit = 9223372036854771712
    write(tmp_path, limit_in_bytes=760 * MB, usage_in_bytes=500 * MB,
          stat=f"cache 1\ninactive_file 5\nhierarchical_memory_limit {no_limit}\n"
               f"total_active_file {100 * MB}\ntotal_inactive_file {200 * MB}")  # fmt: skip
    assert free_in([tmp_path]) == (760 - 200) * MB
    write(tmp_path / "below", limit_in_bytes=no_limit, usage_in_bytes=MB)
    assert free_in([tmp_path / "below", tmp_path]) == (760 - 200) * MB


@pytest.mark.parametrize(
    ("version", "own", "top"),
    [
        ("1", "/job/step", "/"),
        ("2", "/job/step", "/"),
        ("1", "/docker/4f/job/step", "/docker/4f"),  # a container that sees its own part alone
        ("2", "/../elsewhere", "/"),  # a name space that can't name its place
    ],
)
def test_the_groups_of_a_process_and_all_above_them(tmp_path, version, own, top):
    mount = tmp_path / "sys/fs/cgroup" / ("memory" if version == "1" else "")
    write(mount, **{"limit_in_bytes" if version == "1" else "max": 900 * MB},
          **{"usage_in_bytes" if version == "1" else "current": 100 * MB})  # fmt: skip
    write(mount / "job", **{"limit_in_bytes" if version == "1" else "max": 300 * MB},
          **{"usage_in_bytes" if version == "1" else "current": 50 * MB})  # fmt: skip
    write(mount / "job" / "step", max="max", current=50 * MB)
    kind = "cgroup cgroup rw,memory" if version == "1" else "cgroup2 cgroup2 rw"
    process = tmp_path / "proc"
    process.mkdir()
    place = "/" + str(mount.relative_to(tmp_path)).rstrip("/")
    (process / "mountinfo").write_text(
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
        f"35 31 0:32 {top} {place} rw,relatime shared:9 - {kind}\n"
    )
    lines = ["9:cpu:/elsewhere", f"4:memory:{own}", "0::/"] if version == "1" else [f"0::{own}"]
    (process / "cgroup").write_text("\n".join(lines) + "\n")
    found = groups_of(process, tmp_path)
    if own.startswith("/.."):
        assert found == [mount]
        assert free_in(found) == 800 * MB
    else:
        assert found == [mount / "job" / "step", mount / "job", mount]
        assert free_in(found) == 250 * MB


def test_the_groups_of_this_process_are_there():
    assert all(group.is_dir() for group in groups_of())
