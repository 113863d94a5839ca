"""Object storage that takes the connection and says nothing."""

import os
import socket
import threading

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.machine.object_storage import RemotePath

fsspec = pytest.importorskip("fsspec", reason="needs pip install 'iceprobe[s3]'")
s3fs = pytest.importorskip("s3fs", reason="needs pip install 'iceprobe[s3]'")


@pytest.fixture
def mute(monkeypatch):
    """An endpoint on loopback that never answers; a call counts the connections made so far."""
    accepted = []
    listening = socket.create_server(("127.0.0.1", 0))

    def connections() -> int:
        """Connections are accepted in their order: one that is made now comes after the others."""
        with socket.create_connection(listening.getsockname()) as last:
            peer = last.getsockname()
            while all(there != peer for _, there in accepted):
                assert accepting.wait(60)
                accepting.clear()
        return len(accepted) - 1

    accepting = threading.Event()

    def accept() -> None:
        while True:
            try:
                accepted.append(listening.accept())
            except OSError:
                return
            accepting.set()

    threading.Thread(target=accept, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listening.getsockname()[1]}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.3)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    s3fs.S3FileSystem.clear_instance_cache()
    yield connections
    s3fs.S3FileSystem.clear_instance_cache()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for connection, _ in accepted:
        connection.close()


def test_it_is_given_up_after_the_tries_of_s3fs_in_one_line(mute):
    with pytest.raises(IceprobeError) as seen:
        RemotePath("s3://bucket/features/manifest.json").read_bytes()
    text = str(seen.value)
    assert text.startswith("s3://bucket/features/manifest.json: ")
    assert text.endswith("the server doesn't answer: check it, then run the same command again")
    assert "\n" not in text
    assert mute() == 2  # not each of them five times over by botocore
