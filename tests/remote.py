"""An S3-compatible server on loopback, with credentials that are good there only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest

boto3 = pytest.importorskip("boto3", reason="needs pip install 'iceprobe[dev]'")
fsspec = pytest.importorskip("fsspec", reason="needs pip install 'iceprobe[s3]'")
pytest.importorskip("s3fs", reason="needs pip install 'iceprobe[s3]'")
ThreadedMotoServer = pytest.importorskip(
    "moto.server", reason="needs pip install 'iceprobe[dev]'"
).ThreadedMotoServer

BUCKET = "birds-and-tokens"


@contextmanager
def s3_server(setenv) -> Iterator[str]:
    """The server's address; ``setenv(name, value)`` tells fsspec of it, as a user would."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():
        setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        # Servers of one process share what they hold.
        urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
        client().create_bucket(Bucket=BUCKET)
        yield address
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        server.stop()


def client():
    """Of the server, as another program has it."""
    return boto3.client("s3")


def put_folder(folder, prefix: str) -> None:
    """Upload all files below a folder."""
    s3 = client()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = f"{prefix}/{path.relative_to(folder).as_posix()}"
            s3.put_object(Bucket=BUCKET, Key=name, Body=path.read_bytes())


def objects(prefix: str) -> dict[str, bytes]:
    """Key below ``prefix`` → content."""
    s3 = client()
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", [])
    return {
        entry["Key"].removeprefix(f"{prefix}/"): s3.get_object(Bucket=BUCKET, Key=entry["Key"])[
            "Body"
        ].read()
        for entry in listed
    }
