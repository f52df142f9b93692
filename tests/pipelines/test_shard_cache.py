"""Remote shards through a local cache, against servers that misbehave."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from remote_servers import Fault, Faults, HttpDirectory, http_directory, s3_directory

from pipelines.errors import DataError
from pipelines.hashing import hash64
from pipelines.remote import locations, shard_cache, shard_download
from pipelines.remote.shard_cache import FetchError, RemoteShard, ShardCache

BYTES = 40_000
PIECE = 16_384

# Opens shards in the order in which they are named, and says how many it had to fetch.
OPEN_ALL = """
import json, os, sys
from pathlib import Path
from pipelines.remote.shard_cache import RemoteShard, ShardCache
directory, shards = sys.argv[1], [RemoteShard(**shard) for shard in json.loads(sys.argv[2])]
cache = ShardCache(Path(directory), 10**9, threads=2)
cache.read_ahead(shards)
for shard in shards:
    descriptor = cache.open(shard)
    assert len(os.pread(descriptor, 10**9, 0)) == shard.bytes
    os.close(descriptor)
print(cache.fetches)
cache.close()
"""


@pytest.fixture(autouse=True)
def _small_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_download, "_PIECE_BYTES", PIECE)
    monkeypatch.setattr(shard_cache, "_FULL_SECONDS", 0.02)
    monkeypatch.setattr(locations, "_FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A directory of eight files of BYTES bytes."""
    directory = tmp_path / "origin"
    directory.mkdir()
    for number in range(8):
        (directory / f"{number}.tar").write_bytes(content(number))
    return directory


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ShardCache]]:
    """Makes caches in one directory that are closed after the test."""
    caches = []

    def cache(max_bytes: int = 100 * BYTES, threads: int = 2, stop: threading.Event | None = None) -> ShardCache:
        caches.append(ShardCache(tmp_path / "cache", max_bytes, threads, stop))
        return caches[-1]

    yield cache
    for made in caches:
        made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shard-cache")]


def content(number: int) -> bytes:
    import numpy as np

    return bytes(hash64(number, np.arange(BYTES // 8)).tobytes())


def shard(server: HttpDirectory | str, number: int) -> RemoteShard:
    url = server if isinstance(server, str) else server.url
    return RemoteShard(url=f"{url}/{number}.tar", bytes=BYTES, sha256=hashlib.sha256(content(number)).hexdigest())


def read(cache: ShardCache, wanted: RemoteShard) -> bytes:
    descriptor = cache.open(wanted)
    try:
        return os.pread(descriptor, 2 * BYTES, 0)
    finally:
        os.close(descriptor)


def held(directory: Path) -> set[str]:
    """Hashes of the complete copies."""
    return {path.name for path in directory.iterdir() if len(path.name) == 64}


def held_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def first_time(name: str, fault: Fault) -> Faults:
    return lambda request: fault if request.name == name and request.number == 0 else None


def test_a_shard_is_fetched_once_and_found_by_the_next_run(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin) as server:
        cache = make()
        assert read(cache, shard(server, 0)) == content(0)
        assert read(cache, shard(server, 0)) == content(0)
        assert (cache.fetches, cache.hits, cache.bytes_fetched) == (1, 1, BYTES)
        again = make()
        assert read(again, shard(server, 0)) == content(0)
        assert (again.fetches, again.hits, again.bytes_fetched) == (0, 1, 0)
        assert server.bytes_sent == BYTES


def test_equal_shards_at_different_addresses_share_a_copy(origin: Path, make: Callable[..., ShardCache]) -> None:
    (origin / "1.tar").write_bytes(content(0))
    with http_directory(origin) as server:
        cache = make()
        read(cache, shard(server, 0))
        same = shard(server, 0)
        assert read(cache, RemoteShard(url=f"{server.url}/1.tar", bytes=BYTES, sha256=same.sha256)) == content(0)
        assert server.count("1.tar") == 0


def test_the_descriptor_only_reads(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin) as server:
        descriptor = make().open(shard(server, 0))
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
        os.close(descriptor)


def test_reading_ahead_fetches_in_order_and_opening_then_fetches_nothing(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make(threads=1)
        wanted = [shard(server, number) for number in (3, 1, 2)]
        cache.read_ahead(wanted)
        wait_until(lambda: cache.fetches == 3)
        assert list(dict.fromkeys(request.name for request in server.requests)) == ["3.tar", "1.tar", "2.tar"]
        assert [read(cache, one) for one in wanted] == [content(3), content(1), content(2)]
        assert (cache.fetches, cache.hits) == (3, 3)


def test_the_wish_list_is_replaced(origin: Path, make: Callable[..., ShardCache]) -> None:
    slowly = Fault(bytes_per_second=200_000)
    with http_directory(origin, lambda request: slowly if request.name == "0.tar" else None) as server:
        cache = make(threads=1)
        cache.read_ahead([shard(server, number) for number in (0, 1, 2)])
        wait_until(lambda: server.count("0.tar") > 0)
        cache.read_ahead([shard(server, 5)])
        wait_until(lambda: cache.fetches == 2)
        time.sleep(0.05)
        assert {request.name for request in server.requests} == {"0.tar", "5.tar"}


def test_a_dropped_connection_is_resumed_where_it_broke(origin: Path, make: Callable[..., ShardCache]) -> None:
    def drop(request: object) -> Fault | None:
        drops.append(request)
        return Fault(drop_after=1000) if len(drops) == 2 else None

    drops: list[object] = []
    with http_directory(origin, drop) as server:
        assert read(make(), shard(server, 0)) == content(0)
        ranges = [(request.start, request.end) for request in server.requests]
        assert ranges == [(0, PIECE), (PIECE, 2 * PIECE), (PIECE, 2 * PIECE), (2 * PIECE, BYTES)]
        assert all(request.ranged for request in server.requests)


def test_a_shard_damaged_on_the_way_is_fetched_again(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin, first_time("0.tar", Fault(damage=True))) as server:
        cache = make()
        assert read(cache, shard(server, 0)) == content(0)
        assert (cache.fetches, cache.bytes_fetched) == (1, 2 * BYTES)


@pytest.mark.parametrize("fault", [Fault(damage=True), Fault(no_ranges=True, damage=True)])
def test_a_shard_damaged_at_its_origin_is_refused(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path, fault: Fault
) -> None:
    with http_directory(origin, lambda _: fault) as server, pytest.raises(FetchError) as caught:
        make().open(shard(server, 0))
    assert caught.value.reason == "checksum"
    assert caught.value.url == f"{server.url}/0.tar"
    assert "\n" not in str(caught.value)
    assert held_bytes(tmp_path / "cache") == 0


@pytest.mark.parametrize("size", [BYTES - 100, PIECE, 0])
def test_a_shard_cut_short_at_its_origin_is_refused(origin: Path, make: Callable[..., ShardCache], size: int) -> None:
    (origin / "0.tar").write_bytes(content(0)[:size])
    with http_directory(origin) as server, pytest.raises(FetchError) as caught:
        make().open(shard(server, 0))
    assert caught.value.reason == "checksum"


def test_a_server_without_range_requests_serves(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin, lambda _: Fault(no_ranges=True)) as server:
        assert read(make(), shard(server, 0)) == content(0)
        assert server.count("0.tar") == 1


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, 6), (503, 6)])
def test_what_cannot_be_reached_is_refused_after_as_many_tries_as_make_sense(
    origin: Path, make: Callable[..., ShardCache], status: int, requests: int
) -> None:
    with http_directory(origin, lambda _: Fault(status=status)) as server:
        cache = make()
        for _ in range(2):  # the second call knows it already
            with pytest.raises(FetchError) as caught:
                cache.open(shard(server, 0))
            assert caught.value.reason == "unreachable"
            assert "\n" not in str(caught.value)
        assert server.count("0.tar") == requests


def test_a_server_that_recovers_is_asked_again(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin, lambda request: Fault(status=503) if request.number < 3 else None) as server:
        assert read(make(), shard(server, 0)) == content(0)


def test_what_failed_ahead_is_tried_again_when_it_is_opened(
    origin: Path, make: Callable[..., ShardCache], caplog: pytest.LogCaptureFixture
) -> None:
    with http_directory(origin, first_time("0.tar", Fault(status=404))) as server:
        cache = make()
        cache.read_ahead([shard(server, 0)])
        wait_until(lambda: "no such file on the server" in caplog.text)
        assert read(cache, shard(server, 0)) == content(0)


def test_the_cap_holds_at_any_moment(origin: Path, make: Callable[..., ShardCache], tmp_path: Path) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=3 * BYTES + 10, threads=3)
        sizes, done = [0], threading.Event()

        def watch() -> None:
            while not done.is_set():
                with suppress(FileNotFoundError), (tmp_path / "cache" / "lock").open("rb") as lock:  # abandoned
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    found = [path.stat() for path in (tmp_path / "cache").iterdir()]
                    sizes.append(sum({status.st_ino: status.st_size for status in found}.values()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        order = [(7 * step) % 8 for step in range(24)]
        for step, number in enumerate(order):
            cache.read_ahead([shard(server, later) for later in order[step : step + 5]])
            assert read(cache, shard(server, number)) == content(number)
        done.set()
        watcher.join()
        assert 2 * BYTES < max(sizes) <= 3 * BYTES + 10


def test_the_shard_opened_least_recently_gives_way(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=3 * BYTES)
        for number in (0, 1, 2, 0, 3):
            read(cache, shard(server, number))
        assert held(tmp_path / "cache") == {shard(server, number).sha256 for number in (0, 2, 3)}


def test_shards_that_will_be_wanted_and_shards_in_use_give_way_last(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=3 * BYTES, threads=0)
        used = cache.open(shard(server, 0))
        read(cache, shard(server, 1))
        read(cache, shard(server, 2))
        cache.read_ahead([shard(server, 1)])
        read(cache, shard(server, 3))
        assert held(tmp_path / "cache") == {shard(server, number).sha256 for number in (0, 1, 3)}
        cache.read_ahead([shard(server, 1), shard(server, 3)])
        read(cache, shard(server, 4))  # the later wish goes before what is in use
        assert held(tmp_path / "cache") == {shard(server, number).sha256 for number in (0, 1, 4)}
        os.close(used)


def test_a_shard_that_was_evicted_while_open_stays_readable(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=BYTES)
        descriptor = cache.open(shard(server, 0))
        assert read(cache, shard(server, 1)) == content(1)
        assert held(tmp_path / "cache") == {shard(server, 1).sha256}
        assert os.pread(descriptor, BYTES, 0) == content(0)
        os.close(descriptor)


def test_reading_ahead_waits_for_room_and_evicts_nothing_in_use(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=2 * BYTES)
        used = cache.open(shard(server, 0))
        cache.read_ahead([shard(server, number) for number in (1, 2, 3)])
        wait_until(lambda: cache.fetches == 2)
        time.sleep(0.1)
        assert held(tmp_path / "cache") == {shard(server, 0).sha256, shard(server, 1).sha256}
        os.close(used)
        wait_until(lambda: cache.fetches == 3)
        assert held(tmp_path / "cache") == {shard(server, 1).sha256, shard(server, 2).sha256}


def test_a_shard_larger_than_the_cap_is_refused(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin) as server:
        cache = make(max_bytes=BYTES - 1)
        cache.read_ahead([shard(server, 0)])
        with pytest.raises(DataError, match=r"0\.tar: 40000 bytes, more than data\.shard_cache_bytes = 39999"):
            cache.open(shard(server, 0))
        assert not server.requests


def test_a_full_disk_costs_the_oldest_shard(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http_directory(origin) as server:
        cache = make()
        read(cache, shard(server, 0))
        monkeypatch.setattr(os, "pwrite", disk_of(tmp_path / "cache", shards=1))
        assert read(cache, shard(server, 1)) == content(1)
        assert held(tmp_path / "cache") == {shard(server, 1).sha256}
        monkeypatch.setattr(os, "pwrite", disk_of(tmp_path / "cache", shards=0))
        with pytest.raises(DataError, match=r"the disk is full; .*data\.shard_cache_bytes"):
            cache.open(shard(server, 2))


def disk_of(directory: Path, shards: int) -> Callable[[int, bytes, int], int]:
    """Stand-in for os.pwrite on a disk with room for so many shards."""
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, position: int) -> int:
        if len(held(directory)) + 1 > shards:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, position)

    return pwrite


def test_closing_is_prompt_in_mid_download(origin: Path, make: Callable[..., ShardCache], tmp_path: Path) -> None:
    caught: list[FetchError] = []

    def wait_for_it() -> None:
        try:
            cache.open(shard(server, 5))
        except FetchError as error:
            caught.append(error)

    with http_directory(origin, lambda _: Fault(bytes_per_second=4096)) as server:
        cache = make()
        cache.read_ahead([shard(server, number) for number in range(5)])
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        wait_until(lambda: len(server.requests) == 3)
        start = time.monotonic()
        cache.close()
        waiting.join()
        assert time.monotonic() - start < 1.5
        assert [error.reason for error in caught] == ["closed"]
        assert held_bytes(tmp_path / "cache") == 0


def test_a_stop_from_outside_ends_waiting_but_not_reading_ahead(origin: Path, make: Callable[..., ShardCache]) -> None:
    stop = threading.Event()
    slowly = Fault(bytes_per_second=4096)
    with http_directory(origin, lambda request: slowly if request.name == "0.tar" else None) as server:
        cache = make(stop=stop)
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        with pytest.raises(FetchError) as caught:
            cache.open(shard(server, 0))
        assert caught.value.reason == "closed"
        cache.read_ahead([shard(server, 1)])
        wait_until(lambda: cache.fetches == 1)
        timer.join()


def test_the_processes_of_a_node_fetch_each_shard_once(origin: Path, tmp_path: Path) -> None:
    slowly = Fault(bytes_per_second=400_000)
    with http_directory(origin, lambda _: slowly) as server:
        processes = [start(tmp_path / "cache", [shard(server, number) for number in range(8)]) for _ in range(3)]
        fetches = [int(process.communicate(timeout=60)[0]) for process in processes]
        assert sum(fetches) == 8
        assert sorted(request.name for request in server.requests) == [f"{number}.tar" for number in range(8)]


def test_a_process_killed_in_mid_download_leaves_a_cache_that_works(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    speed = 4096.0
    with http_directory(origin, lambda _: Fault(bytes_per_second=speed)) as server:
        process = start(tmp_path / "cache", [shard(server, number) for number in (0, 1)])
        wait_until(lambda: len(server.requests) == 2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert len(list((tmp_path / "cache").glob("*.part"))) == 2
        speed = 1e9
        cache = make(max_bytes=2 * BYTES)
        assert not list((tmp_path / "cache").glob("*.part"))
        assert [read(cache, shard(server, number)) for number in (0, 1, 2)] == [content(number) for number in (0, 1, 2)]


def test_a_process_takes_over_from_one_that_dies_while_it_waits(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    speed = 4096.0
    with http_directory(origin, lambda _: Fault(bytes_per_second=speed)) as server:
        process = start(tmp_path / "cache", [shard(server, 0)])
        wait_until(lambda: len(server.requests) == 1)
        speed = 1e9
        killer = threading.Timer(0.3, process.kill)
        killer.start()
        assert read(make(), shard(server, 0)) == content(0)
        process.communicate()
        killer.join()


def start(directory: Path, shards: Sequence[RemoteShard]) -> "subprocess.Popen[str]":
    """A process that opens shards and prints how many it fetched."""
    as_json = json.dumps([{"url": one.url, "bytes": one.bytes, "sha256": one.sha256} for one in shards])
    return subprocess.Popen(
        [sys.executable, "-c", OPEN_ALL, str(directory), as_json], stdout=subprocess.PIPE, text=True
    )


def test_a_process_ends_without_warnings(origin: Path, tmp_path: Path) -> None:
    with http_directory(origin) as server:
        one = shard(server, 0)
        as_json = json.dumps([{"url": one.url, "bytes": one.bytes, "sha256": one.sha256}])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", OPEN_ALL, str(tmp_path / "cache"), as_json],
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_discarded_copy_is_fetched_again_and_only_once(origin: Path, make: Callable[..., ShardCache]) -> None:
    with http_directory(origin) as server:
        cache = make()
        ours, theirs = cache.open(shard(server, 0)), cache.open(shard(server, 0))
        cache.discard(shard(server, 0), ours)
        assert read(cache, shard(server, 0)) == content(0)
        assert cache.fetches == 2
        cache.discard(shard(server, 0), theirs)  # the new copy is not the one that went bad
        assert read(cache, shard(server, 0)) == content(0)
        assert cache.fetches == 2
        os.close(ours)
        os.close(theirs)


def test_a_copy_of_the_wrong_size_is_fetched_again(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    with http_directory(origin) as server:
        cache = make()
        (tmp_path / "cache" / shard(server, 0).sha256).write_bytes(b"short")
        assert read(cache, shard(server, 0)) == content(0)


def test_files_of_others_in_the_directory_are_left_alone(
    origin: Path, make: Callable[..., ShardCache], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "thesis.part").write_bytes(bytes(BYTES))
    with http_directory(origin) as server:
        cache = make(max_bytes=BYTES)
        for number in range(3):
            read(cache, shard(server, number))
    assert (tmp_path / "cache" / "thesis.part").read_bytes() == bytes(BYTES)


def test_a_name_that_is_no_hash_is_refused() -> None:
    with pytest.raises(DataError, match="no sha256"):
        RemoteShard(url="s3://bucket/0.tar", bytes=1, sha256="../../etc/passwd")


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"data\.cache_dir.*Not a directory"):
        ShardCache(tmp_path / "file" / "cache", BYTES)


@pytest.mark.usefixtures("s3_server")
def test_shards_come_from_s3(origin: Path, make: Callable[..., ShardCache]) -> None:
    with s3_directory(origin) as url:
        cache = make()
        cache.read_ahead([shard(url, number) for number in range(4)])
        assert [read(cache, shard(url, number)) for number in range(4)] == [content(number) for number in range(4)]
        with pytest.raises(FetchError, match="no such file on the server") as caught:
            cache.open(RemoteShard(url=f"{url}/9.tar", bytes=BYTES, sha256="0" * 64))
        assert caught.value.reason == "unreachable"
