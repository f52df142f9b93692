"""The compose files agree with the schema, with what they mount, and with the programs that they start."""

import posixpath
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from train.arguments import parse
from train.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
FILES = ("compose.yaml", "compose.gpu.yaml", "compose.admin.yaml")


def services(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((OPS / name).read_text())["services"]
    return found


ALL = [(file, name, service) for file in FILES for name, service in services(file).items()]
SERVICES = pytest.mark.parametrize(
    ("file", "name", "service"), ALL, ids=lambda value: value if isinstance(value, str) else ""
)


@pytest.mark.parametrize("name", FILES)
def test_the_compose_specification_accepts_it(name: str) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    if not checker.exists():
        pytest.skip("check-jsonschema is not installed (PyPI package check-jsonschema)")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", OPS / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@SERVICES
def test_ports_are_open_to_this_machine_alone(file: str, name: str, service: dict[str, Any]) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in service.get("ports", ()))
    assert service.get("network_mode") in (None, "none")


@SERVICES
def test_images_are_pinned_and_no_container_has_more_rights_than_it_says(
    file: str, name: str, service: dict[str, Any]
) -> None:
    if "image" in service:
        assert re.search(r":v?\d+\.\d+\.\d+(-\S+)?$", service["image"])
    assert "privileged" not in service
    if file == "compose.yaml" and name != "dcgm-exporter":
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]


@SERVICES
def test_what_is_mounted_exists_and_cannot_be_written(file: str, name: str, service: dict[str, Any]) -> None:
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert mode == ["ro"], volume
            if source.split("/")[1] in ("prometheus", "grafana") and not (OPS / source).exists():
                pytest.skip(f"ops/{source} is not there yet")
            assert (OPS / source).exists(), volume
        else:
            assert source in yaml.safe_load((OPS / "compose.yaml").read_text())["volumes"]


def test_whoever_has_no_gpu_needs_none() -> None:
    for name, service in services("compose.yaml").items():
        assert ("nvidia" in str(service)) == (service.get("profiles") == ["gpu"]), name


def test_the_image_is_of_the_projects_version_and_built_from_its_root() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in ("data", "trainer"):
        service = services("compose.yaml")[name]
        assert service["image"] == f"diptych:{version}"
        assert (OPS / service["build"]["context"]).resolve() == ROOT
        assert re.search(
            rf"^FROM \S+ AS {service['build']['target']}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
        )


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_the_trainer_is_started_with_flags_that_it_knows_and_listens_to_prometheus(file: str) -> None:
    command = services(file)["trainer"]["command"]
    script = command.index("train/pretrain.py")
    assert (ROOT / command[script]).exists()
    config = parse(PretrainConfig, command[script + 1 :])
    assert config.metrics.address == "0.0.0.0"  # noqa: S104  # inside the container
    assert config.metrics.advertised_host == "trainer"
    assert services("compose.yaml")["trainer"]["ports"] == [f"127.0.0.1:{config.metrics.port}:{config.metrics.port}"]
    assert config.data.dir == "data/textures"
    assert "data/textures" in services("compose.yaml")["data"]["command"][-1]


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where in the container what is mounted, by its place there."""
    return {target: source for source, target, *_ in (volume.split(":") for volume in service["volumes"])}


def test_prometheus_finds_ranks_rules_and_gpus_where_they_are_mounted() -> None:
    if not (OPS / "prometheus" / "prometheus.yml").exists():
        pytest.skip("ops/prometheus is not there yet")
    prometheus = services("compose.yaml")["prometheus"]
    mounted = mounts(prometheus) | mounts(services("compose.gpu.yaml")["prometheus"])
    path = next(word.partition("=")[2] for word in prometheus["command"] if word.startswith("--config.file="))
    config = yaml.safe_load((OPS / mounted[path]).read_text())

    def mounted_as(pattern: str) -> tuple[str, str]:
        """The source that is mounted above a pattern of prometheus.yml, and the rest of the pattern."""
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), pattern))
        above = next(target for target in mounted if place.startswith(f"{target}/"))
        return mounted[above], place.removeprefix(f"{above}/")

    targets = {job["job_name"]: job["file_sd_configs"][0]["files"][0] for job in config["scrape_configs"]}
    run_dir = parse(PretrainConfig, services("compose.yaml")["trainer"]["command"][2:]).run_dir
    assert mounted_as(targets["diptych"]) == (run_dir.split("/")[0], "prometheus-targets/*.json")
    for pattern in (*config["rule_files"], targets["dcgm"]):
        source, rest = mounted_as(pattern)
        assert list((OPS / source).glob(rest)), pattern


def test_grafana_finds_dashboards_and_prometheus_where_they_are() -> None:
    provisioning = OPS / "grafana" / "provisioning"
    if not provisioning.exists():
        pytest.skip("ops/grafana is not there yet")
    grafana = mounts(services("compose.yaml")["grafana"])
    assert (OPS / grafana["/etc/grafana/provisioning"]).resolve() == provisioning
    (boards,) = (yaml.safe_load(path.read_text()) for path in (provisioning / "dashboards").iterdir())
    (sources,) = (yaml.safe_load(path.read_text()) for path in (provisioning / "datasources").iterdir())
    for provider in boards["providers"]:
        assert list((OPS / grafana[provider["options"]["path"]]).glob("*.json"))
    assert [source["url"] for source in sources["datasources"]] == ["http://prometheus:9090"]


def test_dcgm_reads_every_number_that_dashboards_and_rules_ask_for() -> None:
    lines = (OPS / "dcgm" / "counters.csv").read_text().splitlines()
    rows = [line.split(", ", 2) for line in lines if not line.startswith("#")]
    assert all(len(row) == 3 and row[1] in ("gauge", "counter") and "," not in row[2] for row in rows)
    read = {row[0] for row in rows}
    asked = set[str]()
    for folder, kind in (("grafana/dashboards", "*.json"), ("prometheus/rules", "*.yml")):
        for path in (OPS / folder).glob(kind):
            asked |= set(re.findall(r"\bDCGM_[A-Z0-9_]+", path.read_text()))
    assert asked <= read


def test_grafana_gets_an_administrator_only_with_a_password_that_someone_chose() -> None:
    plain = services("compose.yaml")["grafana"]["environment"]
    assert plain["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert plain["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in plain if "PASSWORD" in name]
    text = (OPS / "compose.admin.yaml").read_text()
    override = yaml.safe_load(text)
    assert override["secrets"]["grafana-password"]["file"].startswith("${GRAFANA_PASSWORD_FILE:?")
    assert set(override["services"]["grafana"]["environment"]) == {
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION",
        "GF_SECURITY_ADMIN_PASSWORD__FILE",
    }
