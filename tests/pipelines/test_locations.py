"""Files by path and by URL, and where the options of URLs come from."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from remote_servers import CREDENTIALS, Fault, http_directory, s3_directory

from pipelines.errors import DataError
from pipelines.manifest import open_split
from pipelines.remote import locations
from pipelines.remote.locations import as_os_error, file_size, is_lasting, is_remote, join, pause_seconds, read_file

READ = "import sys; from pipelines.remote.locations import read_file; sys.stdout.buffer.write(read_file(sys.argv[1]))"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    (tmp_path / "origin").mkdir()
    (tmp_path / "origin" / "file").write_bytes(b"content")
    return tmp_path / "origin"


@pytest.mark.parametrize(
    ("directory", "file", "expected"),
    [
        ("data", "a.tar", "data/a.tar"),
        ("/data/half", "../whole/a.tar", "/data/whole/a.tar"),
        ("/data", "/other/a.tar", "/other/a.tar"),
        ("/data", "s3://bucket/a.tar", "s3://bucket/a.tar"),
        ("s3://bucket/data", "a.tar", "s3://bucket/data/a.tar"),
        ("s3://bucket/data/", "../other/a.tar", "s3://bucket/other/a.tar"),
        ("https://host:8000/data", "a.tar", "https://host:8000/data/a.tar"),
    ],
)
def test_names_are_relative_to_the_directory_unless_they_are_absolute(directory: str, file: str, expected: str) -> None:
    assert join(directory, file) == expected
    assert is_remote(expected) == ("://" in expected)


def test_a_file_is_read_by_path_http_and_s3(origin: Path, s3_server: str) -> None:
    with http_directory(origin) as server, s3_directory(origin) as s3:
        for directory in (str(origin), f"file://{origin}", server.url, s3):
            assert read_file(f"{directory}/file") == b"content"
            assert file_size(f"{directory}/file") == 7
            with pytest.raises(FileNotFoundError):
                read_file(f"{directory}/missing")
            with pytest.raises(FileNotFoundError):
                file_size(f"{directory}/missing")


def test_a_file_of_a_server_that_recovers_is_read(origin: Path) -> None:
    with http_directory(origin, lambda request: Fault(status=503) if request.number < 2 else None) as server:
        assert read_file(f"{server.url}/file") == b"content"
    with http_directory(origin, lambda request: Fault(drop_after=3) if request.number < 2 else None) as server:
        assert read_file(f"{server.url}/file") == b"content"


def test_tries_are_bounded(origin: Path) -> None:
    with http_directory(origin, lambda _: Fault(status=500)) as server:
        with pytest.raises(OSError, match="HTTP status 500"):
            read_file(f"{server.url}/file")
        assert len(server.requests) == locations.TRIES
    with http_directory(origin, lambda _: Fault(status=403)) as server:
        with pytest.raises(PermissionError):
            read_file(f"{server.url}/file")
        assert len(server.requests) == 1


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(DataError, match=r"nosuch://a/b: .*diptych\[remote\]"):
        read_file("nosuch://a/b")


def test_a_split_opens_by_http_and_s3_as_it_does_by_path(shards: Path, s3_server: str) -> None:
    here = open_split(shards, "train")
    with http_directory(shards) as server, s3_directory(shards) as s3:
        for url in (server.url, s3):
            there = open_split(url, "train")
            assert there.shards == here.shards
            assert there.shard_location(1) == f"{url}/train-000001.tar"
            np.testing.assert_array_equal(there.samples, here.samples)


def test_the_environment_names_the_end_point_and_the_lack_of_credentials(origin: Path, s3_server: str) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # botocore would look for credentials in files and in the metadata service of EC2.
    plain |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    plain |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    with s3_directory(origin) as url:
        public, private, neither = (
            subprocess.Popen(
                [sys.executable, "-c", READ, f"{url}/file"],
                env=plain | options,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for options in (
                {"FSSPEC_S3_ENDPOINT_URL": s3_server, "FSSPEC_S3_ANON": "true"},
                {"AWS_ENDPOINT_URL": s3_server, **CREDENTIALS},
                {"FSSPEC_S3_ENDPOINT_URL": s3_server},
            )
        )
        assert public.communicate()[0] == b"content"
        assert private.communicate()[0] == b"content"
        assert b"credentials" in neither.communicate()[1]


def test_a_forked_process_reads_as_its_parent_does(origin: Path) -> None:
    program = """
import os, sys
from pipelines.remote.locations import read_file
assert read_file(sys.argv[1]) == b"content"
child = os.fork()
if child == 0:
    os._exit(read_file(sys.argv[1]) != b"content")
assert os.waitpid(child, 0)[1] == 0
assert read_file(sys.argv[1]) == b"content"
"""
    with http_directory(origin) as server:
        done = subprocess.run(
            [sys.executable, "-c", program, f"{server.url}/file"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == 0, done.stderr


class _StatusError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("two\nlines")
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (_StatusError(404), FileNotFoundError, "no such file on the server"),
        (_StatusError(403), PermissionError, "access refused (two lines)"),
        (OSError("Forbidden: gs://b/o"), PermissionError, "access refused (Forbidden: gs://b/o)"),
        (_StatusError(502), OSError, "HTTP status 502"),
        (TimeoutError(), TimeoutError, "no answer in time"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ConnectionResetError, "reset"),
        (RuntimeError("two\nlines"), OSError, "RuntimeError: two lines"),
        (ConnectionError(), OSError, "ConnectionError"),
    ],
)
def test_errors_of_all_libraries_become_os_errors_of_one_line(error: Exception, kind: type[OSError], text: str) -> None:
    known = as_os_error(error)
    assert type(known) is kind
    assert known.strerror == text


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (_StatusError(404), True),
        (_StatusError(401), True),
        (_StatusError(429), False),
        (_StatusError(500), False),
        (PermissionError(), True),
        (OSError("Forbidden: gs://b/o"), True),
        (OSError(errno.EINVAL, "bad request"), True),
        (type("NoCredentialsError", (Exception,), {})(), True),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (RuntimeError(), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, lasting: bool) -> None:
    assert is_lasting(error) == lasting


def test_pauses_double_and_are_spread() -> None:
    pauses = np.array(
        [[pause_seconds(f"s3://bucket/{number}", tries) for tries in range(1, 6)] for number in range(99)]
    )
    assert (pauses >= 0.005 * 2 ** np.arange(5)).all()
    assert (pauses < 0.015 * 2 ** np.arange(5)).all()
    assert (pauses.std(axis=0) > 0.1 * pauses.mean(axis=0)).all()
    assert pause_seconds("s3://bucket/0", 1) == pauses[0, 0]
