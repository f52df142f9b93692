import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from remote_servers import http_directory

from ops.doctor.config import DoctorConfig
from ops.doctor.finding import Finding, doubtful, fine, wrong
from ops.doctor.preflight import check_batch, check_run, merge, preflight
from ops.doctor.preflight_data import open_or_say
from ops.doctor.preflight_disks import check_disks, checkpoint_bytes
from ops.doctor.preflight_machine import check_compiler, check_device, check_ports, check_versions
from pipelines.manifest import open_split
from train.arguments import parse


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> DoctorConfig:
    flags = ["--encoder.name=resnet18", "--encoder.width=0.0625", "--views.size=32", "--global_batch=8"]
    places = [
        f"--data.dir={shards}",
        f"--run_dir={tmp_path / 'runs' / 'one'}",
        f"--data.cache_dir={tmp_path / 'cache'}",
    ]
    return parse(DoctorConfig, [*flags, *places, "--metrics.port=0", "--device=cpu"])


def with_data(config: DoctorConfig, **changes: object) -> DoctorConfig:
    return replace(config, data=replace(config.data, **changes))  # type: ignore[arg-type]  # fields of several types


def with_port(config: DoctorConfig, port: int, address: str = "127.0.0.1") -> DoctorConfig:
    return replace(config, metrics=replace(config.metrics, port=port, address=address))


def failures(findings: list[Finding]) -> list[str]:
    return [finding.what for finding in findings if finding.level == "FAIL"]


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_run_that_can_begin_passes_and_nothing_is_written(
    config: DoctorConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preflight(config)
    told = capsys.readouterr().out.splitlines()
    assert all(line.startswith("OK ") for line in told), told
    assert [line.split()[1] for line in told] == [
        *("data", "data", "run", "disk", "port", "version", "compiler", "device", "world")
    ]
    assert not list(tmp_path.iterdir())


def test_missing_data_fails_with_what_to_do(config: DoctorConfig, tmp_path: Path) -> None:
    split, findings = open_or_say(with_data(config, dir=str(tmp_path / "none")))
    assert split is None
    (what,) = failures(findings)
    assert "no such file" in what
    assert "build the data set" in what


def test_a_shard_that_is_gone_fails(config: DoctorConfig, shards: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(shards, tmp_path / "broken")
    (broken / "train-000001.tar").unlink()
    (what,) = failures(open_or_say(with_data(config, dir=str(broken)))[1])
    assert "train-000001.tar: No such file" in what


def test_damaged_bytes_fail_by_the_sampled_checksums(config: DoctorConfig, shards: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(shards, tmp_path / "broken")
    record = open_split(broken, "train").samples[40]
    shard = broken / f"train-{int(record['shard']):06d}.tar"
    with shard.open("r+b") as file:
        file.seek(int(record["offset"]))
        file.write(b"damaged")
    split, findings = open_or_say(with_data(config, dir=str(broken)))
    assert split is not None
    (what,) = failures(findings)
    assert "1 of 64 sampled are bad" in what
    assert f"{shard} at byte {record['offset']}): checksum" in what


def test_remote_data_is_sampled_without_being_copied(config: DoctorConfig, shards: Path, tmp_path: Path) -> None:
    with http_directory(shards) as served:
        split, findings = open_or_say(with_data(config, dir=served.url))
        assert split is not None
        assert not failures(findings)
        assert any(request.ranged for request in served.requests)
    assert not (tmp_path / "cache").exists()


def test_another_run_in_the_directory_fails(config: DoctorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from train.errors import RunError

    def refuse(_: DoctorConfig) -> None:
        raise RunError("holds a run with global_batch = 16, but 8 was asked for")

    monkeypatch.setattr("ops.doctor.preflight.check_run_directory", refuse)
    assert failures(check_run(config)) == ["holds a run with global_batch = 16, but 8 was asked for"]


def test_a_disk_without_room_for_the_checkpoints_fails(config: DoctorConfig, shards: Path) -> None:
    split = open_split(shards, "train")
    one = checkpoint_bytes(config, split)
    keeping = replace(config, checkpoint=replace(config.checkpoint, keep_last=10**9))
    (what,) = failures(check_disks(keeping, split))
    assert "wanted for 1000000001 checkpoints" in what
    assert "keep fewer" in what
    assert 100_000 < one < 10_000_000


@pytest.mark.slow
def test_a_checkpoint_takes_as_much_as_is_reckoned(config: DoctorConfig, shards: Path, tmp_path: Path) -> None:
    flags = [f"--data.dir={shards}", f"--run_dir={tmp_path / 'run'}", "--global_batch=8", "--views.size=32"]
    small = ["--encoder.name=resnet18", "--encoder.width=0.0625", "--stop_after_steps=1", "--metrics.port=0"]
    command = [sys.executable, "train/pretrain.py", *flags, *small, "--device=cpu", "--cpu_threads=1"]
    subprocess.run(command, check=True, capture_output=True)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    written = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert checkpoint_bytes(config, open_split(shards, "train")) == pytest.approx(written, rel=0.05)


@pytest.mark.parametrize("field", ["canvases", "shards"])
def test_a_disk_without_room_for_a_cache_fails(config: DoctorConfig, shards: Path, field: str) -> None:
    split = open_split(shards, "train")
    if field == "shards":
        split = replace(split, location="https://example.org/data")
        split = replace(split, shards=tuple(replace(shard, bytes=10**13) for shard in split.shards))
        asked = with_data(config, shard_cache_bytes=10**14)
    else:
        asked = with_data(config, cache="disk", canvas=10**6)
    (what,) = failures(check_disks(asked, split))
    assert ("decoded canvases" if field == "canvases" else "copies of shards") in what
    assert "data.cache_dir" in what


@pytest.mark.parametrize("with_split", [True, False])
def test_a_run_directory_that_cannot_be_written_fails(config: DoctorConfig, shards: Path, with_split: bool) -> None:
    asked = replace(config, run_dir="/proc/runs/one")
    (what,) = failures(check_disks(asked, open_split(shards, "train") if with_split else None))
    assert what.startswith("/proc/runs/one: cannot be written to")


def test_a_file_in_the_place_of_the_run_directory_fails(config: DoctorConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (what,) = failures(check_disks(replace(config, run_dir=str(tmp_path / "file" / "run")), None))
    assert what.endswith("cannot be written to (Not a directory); name another directory")


def test_a_busy_port_fails(config: DoctorConfig, busy_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (what,) = failures(check_ports(with_port(config, busy_port)))
    assert what.startswith(f"127.0.0.1:{busy_port}: Address already in use")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert failures(check_ports(with_port(config, busy_port - 1))) == [what]


def test_an_address_of_another_machine_fails(config: DoctorConfig) -> None:
    (what,) = failures(check_ports(with_port(config, 9400, address="192.0.2.1")))
    assert "Cannot assign requested address" in what


def test_a_missing_compiler_fails_only_where_something_is_compiled(
    config: DoctorConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not failures(check_compiler(config))
    (what,) = failures(check_compiler(replace(config, compile=True)))
    assert what.startswith("no-such-compiler is missing, for compile = true")


def test_a_version_out_of_its_range_fails(config: DoctorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failures(check_versions(config))
    monkeypatch.setattr(
        "ops.doctor.preflight_machine.requires",
        lambda _: ["torch>=99", "no-such-package>=1", "numpy>=1", "nothing==1; extra == 'bench'"],
    )
    (what,) = failures(check_versions(config))
    assert "torch 2." in what
    assert ">=99 is wanted" in what
    assert "no-such-package is not installed" in what
    assert "numpy" not in what
    assert "nothing" not in what


def test_an_old_driver_and_a_missing_device_fail(config: DoctorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failures(check_device(config))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (what,) = failures(check_device(replace(config, device="cuda")))
    assert what.startswith("device = cuda")
    assert failures(check_device(replace(config, precision="fp16")))
    monkeypatch.setattr("ops.doctor.preflight_machine.driver_version", lambda: "570.12.3")
    (what,) = failures(check_device(replace(config, device="auto")))
    assert what.startswith("NVIDIA driver 570.12.3: CUDA 13 needs 580")
    assert not failures(check_device(config))


def test_an_indivisible_batch_fails(config: DoctorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert failures(check_batch(config)) == ["global_batch = 8: not divisible by the 3 ranks; use 6 or 9"]
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not failures(check_batch(config))


def test_what_all_ranks_say_is_told_once_and_the_rest_with_its_ranks() -> None:
    both, own = fine("data", "there"), wrong("port", "busy")
    assert merge([[both], [both, own], [both, own]]) == [both, wrong("port", "ranks 1, 2: busy")]
    assert merge([[doubtful("disk", "little")], []]) == [doubtful("disk", "rank 0: little")]


def test_a_failed_preflight_exits_with_3_tells_scripts_and_names_ranks_that_do_not_come(
    shards: Path, busy_port: int
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    flags = [f"--data.dir={shards}", "--global_batch=8", f"--metrics.port={busy_port}", "--encoder.name=resnet18"]
    done = subprocess.run(
        [sys.executable, "-m", "ops.doctor", "--preflight", "--json", *flags, "--timeouts.startup_seconds=1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", **meeting},
    )
    assert (done.returncode, done.stderr) == (3, "")
    told = json.loads(done.stdout)
    assert told["ok"] is False
    port, world = (check for check in told["checks"] if check["level"] == "FAIL")
    assert (port["subject"], world["subject"]) == ("port", "world")
    assert world["what"].startswith("1 of 2 ranks did not join within timeouts.startup_seconds = 1: 1")
