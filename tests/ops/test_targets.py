import json
import logging
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from ops.targets import remove_target, target_file, write_target
from train.config import MetricsConfig, PretrainConfig
from train.ranks import Ranks


def config_of(run_dir: Path, **fields: str) -> PretrainConfig:
    return PretrainConfig(run_dir=str(run_dir), metrics=MetricsConfig(**fields))  # type: ignore[arg-type]  # strings


def written(config: PretrainConfig, rank: int = 0, world_size: int = 1) -> dict[str, object]:
    write_target(config, Ranks(rank=rank, world_size=world_size), 9400 + rank)
    (group,) = json.loads(target_file(config, rank).read_text())
    assert isinstance(group, dict)
    return group


def test_each_rank_is_told_of_in_a_file_of_its_own_beside_the_run(tmp_path: Path) -> None:
    config = config_of(tmp_path / "runs" / "mine")
    for rank in range(2):
        assert written(config, rank, 2) == {
            "targets": [f"127.0.0.1:{9400 + rank}"],
            "labels": {"run": "mine", "rank": str(rank), "node": platform.node()},
        }
    names = sorted(path.name for path in (tmp_path / "runs" / "prometheus-targets").iterdir())
    assert names == ["mine-rank-0.json", "mine-rank-1.json"]
    remove_target(config, 1)
    remove_target(config, 1)  # which is no fault
    assert not target_file(config, 1).exists()
    assert target_file(config, 0).exists()


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ({"address": "10.0.0.7"}, "10.0.0.7"),
        ({"address": "0.0.0.0"}, platform.node()),  # noqa: S104  # a text
        ({"address": "::"}, platform.node()),
        ({"address": "fd00::7"}, "[fd00::7]"),
        ({"address": "0.0.0.0", "advertised_host": "trainer"}, "trainer"),  # noqa: S104
    ],
)
def test_the_host_is_one_that_reaches_this_node(tmp_path: Path, fields: dict[str, str], host: str) -> None:
    assert written(config_of(tmp_path / "run", **fields))["targets"] == [f"{host}:9400"]


def test_a_page_served_by_tls_is_asked_for_by_https(tmp_path: Path) -> None:
    group = written(config_of(tmp_path / "run", tls_certificate="a.crt", tls_key="a.key"))
    assert group["labels"] == {"run": "run", "rank": "0", "node": platform.node(), "__scheme__": "https"}


def test_ranks_that_a_run_no_longer_has_are_forgotten_and_other_runs_are_not(tmp_path: Path) -> None:
    config, other = config_of(tmp_path / "mine"), config_of(tmp_path / "other")
    for rank in range(4):
        written(config, rank, 4)
        written(other, rank, 4)
    written(config, 1, 2)
    written(config, 0, 2)
    assert [target_file(config, rank).exists() for rank in range(4)] == [True, True, False, False]
    assert all(target_file(other, rank).exists() for rank in range(4))


def test_a_directory_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    config = config_of(tmp_path / "run", targets_dir=str(tmp_path / "file" / "targets"))
    with caplog.at_level(logging.WARNING):
        write_target(config, Ranks(), 9400)
    assert "cannot be written (Not a directory)" in caplog.text


def test_prometheus_itself_accepts_the_file(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    config = config_of(tmp_path / "run")
    written(config)
    sd = target_file(config, 0)
    server = tmp_path / "prometheus.yml"
    server.write_text(f"scrape_configs:\n- job_name: diptych\n  file_sd_configs:\n  - files: ['{sd.parent}/*.json']\n")
    checked = subprocess.run([promtool, "check", "config", str(server)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = subprocess.run(
        [promtool, "check", "service-discovery", "--timeout=1s", str(server), "diptych"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"rank": "0"' in found.stdout
