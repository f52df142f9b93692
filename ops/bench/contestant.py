"""One job in a process of its own, which may be another Python's: `python -m ops.bench.contestant JOB`.

JOB is JSON: call (MODULE:FUNCTION), options (of the function), distributions (whose versions are wanted), and for a job
that is timed cores, seconds, warm_up_seconds and batch_bytes. The answer is one line of JSON on the standard output.
Only the standard library is used here, because a peer's Python need not have what ours has.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ops.bench.memory import memory_bytes


def main() -> None:
    """Do the job and leave at once: a loader's threads may never end."""
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # libraries may print
        json.dump(do_job(json.loads(sys.argv[1])), answer)
    sys.stderr.flush()
    os._exit(0)


def do_job(job: dict[str, Any]) -> dict[str, Any]:
    """Call the function; time it if the job says so.

    Returns:
        `versions` and what `timed` returns; or `missing`, what could not be imported; or `error`, one line.
    """
    try:
        if "seconds" in job:
            os.sched_setaffinity(0, job["cores"])  # before any library counts them
        module, _, name = job["call"].partition(":")
        function = getattr(importlib.import_module(module), name)
        report = timed(function(**job["options"]), job) if "seconds" in job else {"made": function(**job["options"])}
        return {**report, "versions": {name: metadata.version(name) for name in job["distributions"]}}
    except (ImportError, metadata.PackageNotFoundError) as error:
        return {"missing": str(error)}
    except Exception as error:  # noqa: BLE001  # told by the parent, beside what others measured
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


def timed(batches: Iterator[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Take batches for warm_up_seconds, at least one, then time them for at least `seconds`.

    Args:
        batches: arrays or tensors of batch_bytes each, or numbers of images that were worked on.
        job: see above.

    Returns:
        images, wall_seconds, cpu_seconds and memory_bytes (of this process and those below it) and peak_rss_bytes (of
        this process).
    """
    end = None
    for batch in batches:
        count_images(batch, job["batch_bytes"])
        end = end or time.perf_counter() + job["warm_up_seconds"]
        if time.perf_counter() >= end:
            break
    images, cpu, start = 0, cpu_seconds(), time.perf_counter()
    for batch in batches:
        images += count_images(batch, job["batch_bytes"])
        if time.perf_counter() - start >= job["seconds"]:
            break
    else:
        raise RuntimeError(f"ended after {images} images, before the time was up")
    wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    return {
        "images": images,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "peak_rss_bytes": peak_rss_bytes(),
        "memory_bytes": memory_bytes(os.getpid()),
    }


def count_images(batch: Any, batch_bytes: int) -> int:
    """Images of a batch, which must be whole, so that every contestant delivers the same."""
    if isinstance(batch, int):
        return batch
    if batch.nbytes != batch_bytes:
        raise ValueError(f"a batch of {batch.nbytes} bytes, not {batch_bytes}")
    return len(batch)


def cpu_seconds() -> float:
    """User and system time of this process, of its children that ended and of its descendants that run."""
    ended = os.times()
    running = sum(_running_seconds(child) for child in _children(os.getpid()))
    return time.process_time() + ended.children_user + ended.children_system + running


def peak_rss_bytes() -> int:
    """Most memory that this process held; `ru_maxrss` would begin with that of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _running_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return 0.0
    ticks = sum(int(field) for field in fields[11:15])  # utime, stime and those of its ended children
    return ticks / os.sysconf("SC_CLK_TCK") + sum(_running_seconds(child) for child in _children(pid))


def _children(pid: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for children in lists for child in children.split()]


if __name__ == "__main__":
    main()
