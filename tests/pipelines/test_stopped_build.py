"""A build that is killed, terminated or interrupted, and one whose worker is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.build_shards import main

ROOT = Path(__file__).resolve().parents[2]
TEXTURES = ("textures", "--train-count", 1500, "--test-count", 100, "--max-count", 100)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def begun(output: Path, shards: int) -> subprocess.Popen[str]:
    """A build in a process group of its own that has finished some shards but not all."""
    command = [sys.executable, "-m", "pipelines.build_shards", *map(str, TEXTURES), "--output", str(output)]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    notes = output.with_name(f".{output.name}.partial") / "notes"
    while not notes.is_dir() or len(list(notes.iterdir())) < shards:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def processes_of_group(group: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def assert_ends(group: int) -> None:
    """Every process of a group ends within seconds of its leader."""
    end = time.monotonic() + 10
    while processes_of_group(group):
        assert time.monotonic() < end, "processes outlive the build"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("textures") / "out"
    assert run(*TEXTURES, "--output", output, "--workers", 1) == 0
    return files(output)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_build_leaves_no_process_and_goes_on_to_the_same_bytes(
    tmp_path: Path, textures: dict[str, bytes], capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    output = tmp_path / "out"
    with begun(output, shards=3) as process:
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)  # as a terminal and a scheduler do
        _, said = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    if number == signal.SIGINT:
        assert said.splitlines()[-1] == "build_shards: interrupted; a build that is run again goes on from here"
    assert "Traceback" not in said
    assert_ends(process.pid)
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    assert run(*TEXTURES, "--output", output, "--workers", 1) == 0
    assert "going on with an earlier build; of 16 shards" in capsys.readouterr().err
    assert files(output) == textures
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_worker_that_is_killed_ends_the_build_with_one_line(tmp_path: Path) -> None:
    with begun(tmp_path / "out", shards=1) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(int(workers[0]), signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == 2
    assert said.splitlines()[-1].startswith("build_shards: error: a worker process died (SIGKILL), perhaps for lack of")
    assert "Traceback" not in said
    assert_ends(process.pid)
