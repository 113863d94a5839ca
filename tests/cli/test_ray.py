"""Two Ray nodes on this machine, one of which is killed: the run goes on, the bytes are the same."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch

import iceprobe as library
from iceprobe.core.errors import IceprobeError
from iceprobe.results import read_results
from tests.cli.conftest import BACKBONE
from tests.store.conftest import content

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'iceprobe[ray]'"),
]

ROOT = Path(__file__).parents[2]
SMALL = dict(batch_size=10, shard_images=20, limit=160)


class Node:
    """A node of its own: the processes of one ``ray start``, which go when it goes."""

    def __init__(self, *arguments: str):
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Where this account has a token (an earlier cluster made it), `ray start` asks for it.
            "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"),
        }
        ray = Path(sys.executable).with_name("ray")
        command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000"]
        self._process = psutil.Popen(
            [*map(str, command), "--node-ip-address=127.0.0.1", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def at_work(self) -> bool:
        """Whether one of its workers has a task: Ray names the process by it."""
        named = [one.cmdline() for one in self._process.children(recursive=True)]
        return any(name and name[0].startswith("ray::") and "IDLE" not in name[0] for name in named)

    def kill(self) -> None:
        """As a machine dies: every process at once."""
        if not self._process.is_running():
            return
        mine = [self._process, *self._process.children(recursive=True)]
        for one in mine:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(mine, timeout=20)


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Node]:
    """The second node; the first stays alive. This process is connected to both."""
    import ray

    port = free_port()
    address = f"127.0.0.1:{port}"
    # Not below tmp_path: the names of sockets are bounded.
    place = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
    head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={place.name}"]
    nodes = [Node(*head)]
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    try:
        deadline = time.monotonic() + 90
        while not listening(port):
            assert time.monotonic() < deadline, "no Ray head"
            time.sleep(0.3)
        nodes.append(Node(f"--address={address}"))
        ray.init(address=address, log_to_driver=False)
        while ray.cluster_resources().get("CPU", 0) < 2:
            assert time.monotonic() < deadline, "no second node"
            time.sleep(0.3)
        yield nodes[1]
    finally:
        ray.shutdown()
        for node in reversed(nodes):
            node.kill()
        place.cleanup()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_killed_node_costs_its_shards_and_not_the_run(cluster, tmp_path, iceprobe, images):
    import ray

    backbone = library.load_backbone("bundled:mae-tiny")
    dataset = library.load_dataset("bundled:fashion")
    torch.set_num_threads(1)
    whole = library.extract(backbone, dataset, tmp_path / "whole", **SMALL)
    seen, killed = [], []

    def kill_once(stage, done, total):
        seen.append(done)
        if not killed and cluster.at_work():
            killed.append(done)
            cluster.kill()

    again = library.extract(
        backbone, dataset, tmp_path / "ray", engine="ray", progress=kill_once, **SMALL
    )
    assert len(seen) == 16  # every shard was reported once
    assert killed  # while it wrote a shard
    assert content(again.path) == content(whole.path)
    until = time.monotonic() + 60  # the head hears of it when a heartbeat stays out
    while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < until:
        time.sleep(0.2)
    assert sum(node["Alive"] for node in ray.nodes()) == 1

    # A campaign on the node that is left: two backbones, each cell a task.
    other = BACKBONE.replace("image_size=16", "image_size=32")
    asked = ["--backbone", BACKBONE, "--backbone", other, "--data", f"folder:{images}"]
    asked += ["--probe", "knn", "--probe", "linear", "--epochs", "1", "--seeds", "1"]
    ended = iceprobe("run", *asked, "--engine", "ray", "--output", "r")
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "r" / "report.html").exists()
    assert iceprobe("run", *asked, "--output", "here", "--features", "others").code == 0
    there, here = (read_results(tmp_path / name) for name in ("r", "here"))
    assert [one.top1 for one in there] == [one.top1 for one in here]
    assert "complete already" in iceprobe("run", *asked, "--engine", "ray", "--output", "r").out

    # What a user can put right is one line as without Ray.
    (images / "train" / "dark" / "broken.png").write_bytes(b"no image")
    try:
        ended = iceprobe("extract", "--backbone", BACKBONE, "--data", f"folder:{images}",
                        "--engine", "ray", "--output", "bad")  # fmt: skip
    finally:
        (images / "train" / "dark" / "broken.png").unlink()
    assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
    assert "broken.png" in ended.err


def test_without_a_cluster(tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "1")
    backbone = library.load_backbone("bundled:mae-tiny")
    dataset = library.load_dataset("bundled:fashion")
    with pytest.raises(IceprobeError, match=r"RAY_ADDRESS=127.0.0.1:1"):
        library.extract(backbone, dataset, tmp_path, engine="ray", **SMALL)
    assert not ray.is_initialized()
    with pytest.raises(IceprobeError, match="unknown engine 'spark'"):
        library.extract(backbone, dataset, tmp_path, engine="spark", **SMALL)


LISTENERS = """
import ipaddress, psutil
from iceprobe.store.ray_shards import connect

ray = connect()
assert ray.get(ray.remote(lambda: 1).remote()) == 1
mine = psutil.Process()
for process in [mine, *mine.children(recursive=True)]:
    for socket in process.net_connections("inet"):
        if socket.status == psutil.CONN_LISTEN:
            address = ipaddress.ip_address(socket.laddr.ip)
            print(process.name(), getattr(address, "ipv4_mapped", None) or address)
ray.shutdown()
"""


def test_a_cluster_of_its_own_listens_on_loopback():
    """Whoever reaches the ports of a cluster runs code on it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:
        environment = os.environ | {"RAY_TMPDIR": place, "PYTHONPATH": str(ROOT / "src")}
        environment.pop("RAY_ADDRESS", None)
        ended = subprocess.run(
            [sys.executable, "-c", LISTENERS],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    heard = [line.split() for line in ended.stdout.splitlines()]
    assert {"gcs_server", "raylet"} <= {name for name, *_ in heard}
    assert {address for *_, address in heard} == {"127.0.0.1"}
