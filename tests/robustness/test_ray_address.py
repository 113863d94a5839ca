"""A Ray cluster that RAY_ADDRESS names and that isn't there, or doesn't let us in: two errors."""

import socket
import sys
from types import SimpleNamespace

import pytest

from iceprobe.core.errors import IceprobeError
from iceprobe.store.ray_shards import connect


@pytest.fixture
def refusing(monkeypatch):
    """Ray as it is where the token is another's: it asks for a while, then gives up."""

    def init(address: str, **_):
        raise ConnectionError(f"Failed to connect to Ray cluster at {address}")

    ray = SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)


def test_nobody_listens(refusing, monkeypatch):
    with socket.socket() as one:  # bound and not listening: nobody else can listen there
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(IceprobeError) as seen:
            connect()
    assert str(seen.value) == (
        f"no Ray cluster at RAY_ADDRESS={address}: start one with ray start --head"
    )


def test_a_cluster_that_asks_for_a_token(refusing, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(IceprobeError) as seen:
            connect()
    assert str(seen.value).startswith(
        f"the Ray cluster at RAY_ADDRESS={address} doesn't let this process in"
    )
    assert "set RAY_AUTH_MODE=token" in str(seen.value)
