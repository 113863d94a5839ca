"""What is free for a new process."""

from iceprobe.store.memory import available_memory


def test_files_that_a_group_has_read_give_way(tmp_path):
    free = available_memory(tmp_path)  # no group
    if free is None:
        return
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\nactive_file 200000\ninactive_file 400000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert abs(available_memory(tmp_path) - free) < 0.5 * free
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory(tmp_path) == 700_000
    (tmp_path / "memory.max").write_text("200000\n")
    assert available_memory(tmp_path) == 0
