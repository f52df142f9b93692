"""What the objects in ops/k8s say to each other, to the image and to the program holds together."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from kustomize import (
    JOBS,
    ROOT,
    RUNS,
    Object,
    environment,
    expanded,
    job_spec,
    pod_labels,
    pod_spec,
    render,
    the,
    trainer,
)

from ops import health_check
from train.arguments import parse
from train.config import PretrainConfig, TimeoutsConfig

CONFIGS = {
    "single_node": "cifar10",
    "multi_node": "imagenet",
    "torchrun": "imagenet",
    "kubeflow": "imagenet",
    "cpu": "demo",
}
EACH_RUN = pytest.mark.parametrize("folder", RUNS)


def words(objects: list[Object], index: int = 0) -> list[str]:
    """The trainer's command line in a pod."""
    container = trainer(objects)
    variables = environment(container, pod_labels(objects, index))
    return [expanded(word, variables) for word in container["args"]]


def configuration(objects: list[Object], directory: Path) -> PretrainConfig:
    """What the trainer makes of its flags and of the ConfigMap."""
    (text,) = the("ConfigMap", objects)["data"].values()
    (directory / "pretrain.yaml").write_text(text)
    line = words(objects)
    flags = line[line.index("train/pretrain.py") + 1 :]
    assert flags[0] == "--config=/etc/diptych/pretrain.yaml"
    return parse(PretrainConfig, [f"--config={directory}/pretrain.yaml", *flags[1:]])


def containers(objects: list[Object]) -> list[Object]:
    """All of a pod, in the order in which they start."""
    spec = pod_spec(objects)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector means a pod with such labels."""
    wanted = selector.get("matchLabels", {})
    return bool(wanted) and wanted.items() <= labels.items()


@EACH_RUN
def test_the_configuration_trains_what_the_file_of_that_name_trains(folder: str, tmp_path: Path) -> None:
    here = configuration(render(folder), tmp_path)
    there = parse(PretrainConfig, ["--config", str(ROOT / "train" / "configs" / f"{CONFIGS[folder]}.yaml")])
    assert here.numeric() == there.numeric()


@EACH_RUN
def test_what_the_trainer_reads_and_writes_is_mounted_so(folder: str, tmp_path: Path) -> None:
    objects = render(folder)
    config = configuration(objects, tmp_path)
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in trainer(objects)["volumeMounts"]}
    workdir = re.findall(r"^WORKDIR (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1]
    assert mounts[f"{workdir}/{config.data.dir.split('/')[0]}"] is True
    assert mounts["/etc/diptych"] is True
    for written in (f"{workdir}/{config.run_dir.split('/')[0]}", config.data.cache_dir, "/tmp", "/dev/shm"):  # noqa: S108
        assert mounts[written] is False, written
    assert "HOME=/tmp" in (ROOT / "Dockerfile").read_text()
    assert config.metrics.targets_dir.startswith("/tmp/")  # noqa: S108
    assert config.run_dir == f"runs/{pod_labels(objects)['app.kubernetes.io/instance']}"


@EACH_RUN
def test_volumes_are_those_that_are_mounted_and_claims_are_made(folder: str) -> None:
    objects = render(folder)
    volumes = {volume["name"]: volume for volume in pod_spec(objects)["volumes"]}
    mounted = {mount["name"] for container in containers(objects) for mount in container.get("volumeMounts", ())}
    assert mounted == set(volumes)
    made = objects if folder == "cpu" else render("storage")
    claims = {one["metadata"]["name"]: one["spec"] for one in made if one["kind"] == "PersistentVolumeClaim"}
    assert {volumes[name]["persistentVolumeClaim"]["claimName"] for name in ("data", "runs")} == set(claims)
    for claim in claims.values():
        assert claim["accessModes"] == ["ReadWriteOnce" if folder == "cpu" else "ReadWriteMany"]
        assert "selector" not in claim
    assert volumes["data"]["persistentVolumeClaim"]["readOnly"] is (folder != "cpu")
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert volumes["config"]["configMap"]["name"] == the("ConfigMap", objects)["metadata"]["name"]


@EACH_RUN
def test_pods_fulfil_the_restricted_standard_as_the_images_user(folder: str) -> None:
    objects = render(folder)
    spec = pod_spec(objects)
    user = int(re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[-1])
    context = spec["securityContext"]
    assert {context["runAsUser"], context["runAsGroup"], context["fsGroup"]} == {user}
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert re.search(r":\d+\.\d+\.\d+$", container["image"])
        assert "command" not in container  # tini, the image's, stays the first process
        assert "memory" in container["resources"]["limits"]


@EACH_RUN
def test_probes_let_a_rank_end_itself_first(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container = trainer(render(folder))
    limits = TimeoutsConfig()
    asked = {}
    for name in ("startupProbe", "livenessProbe"):
        command = container[name]["exec"]["command"]
        assert command[:3] == ["python", "-m", "ops.health_check"]
        monkeypatch.setattr(sys, "argv", ["health_check", *command[3:]])
        asked[name] = health_check.parse_arguments()
        assert container[name]["timeoutSeconds"] > 2 * health_check.ANSWER_SECONDS
        assert asked[name].port in [port["containerPort"] for port in container["ports"]]
    assert "readinessProbe" not in container
    # Started means that a step was made: until then the first probe fails, however young the pod.
    assert asked["startupProbe"].startup_seconds == 0
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > 2 * limits.startup_seconds + limits.stack_seconds
    assert asked["livenessProbe"].max_age_seconds > limits.step_seconds + limits.stack_seconds


@EACH_RUN
def test_the_grace_period_holds_what_running_md_asks_for(folder: str) -> None:
    asked = re.search(r"`terminationGracePeriodSeconds`: (\d+) is enough", (ROOT / "docs" / "running.md").read_text())
    assert asked is not None
    assert pod_spec(render(folder))["terminationGracePeriodSeconds"] >= int(asked[1])


def decision(spec: Object, container: str, status: int, conditions: tuple[str, ...] = ()) -> str:
    """What a Job does about a pod that has failed: the first rule that fits, or the failure counts."""
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and codes["operator"] == "In" and codes["containerName"] == container and status in codes["values"]:
            return str(rule["action"])
        if any(condition["type"] in conditions for condition in rule.get("onPodConditions", ())):
            return str(rule["action"])
    return "Count"


@EACH_RUN
def test_a_failed_pod_is_started_again_unless_the_run_was_refused(folder: str) -> None:
    objects = render(folder)
    spec, name = job_spec(objects), trainer(objects)["name"]
    assert decision(spec, name, 2) == "FailJob"
    assert decision(spec, name, 75) == "Ignore"
    assert decision(spec, name, 137, ("DisruptionTarget",)) == "Ignore"
    assert decision(spec, "wait-for-pods", 143, ("DisruptionTarget",)) == "Ignore"
    for status in (1, 70, 137, 139, 143):
        assert decision(spec, name, status) == "Count"
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["backoffLimitPerIndex"] >= 10
    assert spec["maxFailedIndexes"] == 0
    assert spec["podReplacementPolicy"] == "Failed"


@pytest.mark.parametrize("folder", ["multi_node", "kubeflow"])
def test_pods_are_ranks_that_meet_at_the_first_pod(folder: str) -> None:
    objects = render(folder)
    spec = job_spec(objects)
    pods = spec["completions"]
    assert spec["parallelism"] == pods
    ranks = set()
    for index in range(pods):
        variables = environment(trainer(objects), pod_labels(objects, index))
        ranks.add(int(variables["RANK"]))
        assert variables["WORLD_SIZE"] == str(pods)
        assert (variables["LOCAL_RANK"], variables["LOCAL_WORLD_SIZE"]) == ("0", "1")
        assert variables["MASTER_ADDR"] == first_pod(objects)
    assert ranks == set(range(pods))
    assert trainer(objects)["resources"]["limits"]["nvidia.com/gpu"] == 1


def first_pod(objects: list[Object]) -> str:
    """Its name: of a Job's pod JOB-0.SUBDOMAIN; JobSet's service bears the set's name."""
    labels = pod_labels(objects)
    subdomain = labels.get("jobset.sigs.k8s.io/jobset-name") or pod_spec(objects)["subdomain"]
    return f"{labels['batch.kubernetes.io/job-name']}-0.{subdomain}"


@pytest.mark.parametrize("folder", ["multi_node", "torchrun", "kubeflow"])
def test_pods_wait_for_all_others_before_they_start(folder: str) -> None:
    objects = render(folder)
    (first,) = pod_spec(objects)["initContainers"]
    variables = environment(first, pod_labels(objects))
    line = [expanded(word, variables) for word in first["args"]]
    assert line[:3] == ["python", "-m", "ops.k8s.wait_for_pods"]
    assert line[3:] == [f"--first={first_pod(objects)}", f"--pods={job_spec(objects)['completions']}"]


@pytest.mark.parametrize("folder", ["multi_node", "torchrun"])
def test_the_service_names_pods_before_they_are_ready(folder: str) -> None:
    objects = render(folder)
    service = the("Service", objects)
    assert service["metadata"]["name"] == pod_spec(objects)["subdomain"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= pod_labels(objects).items()
    assert "app.kubernetes.io/instance" in service["spec"]["selector"]
    (port,) = service["spec"]["ports"]
    assert environment(trainer(objects), pod_labels(objects))["MASTER_PORT"] == str(port["port"])


def test_kubeflows_jobset_names_its_pods_as_the_service_does() -> None:
    runtime = the("TrainingRuntime", render("kubeflow"))["spec"]
    assert runtime["template"]["spec"]["network"] == {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def test_kubeflows_pods_are_those_of_the_job() -> None:
    job, runtime = render("multi_node"), render("kubeflow")
    train_job, made = the("TrainJob", runtime), the("TrainingRuntime", runtime)
    assert train_job["spec"]["runtimeRef"]["name"] == made["metadata"]["name"]
    assert train_job["spec"]["trainer"]["numNodes"] == made["spec"]["mlPolicy"]["numNodes"]
    assert made["spec"]["mlPolicy"]["numNodes"] == job_spec(job)["completions"]
    assert not [one for one in runtime if one["kind"] in ("Job", "Service")]
    theirs, ours = job_spec(runtime), job_spec(job)
    assert trainer(runtime)["name"] == "node"
    trainer(runtime)["name"] = "trainer"
    for rule in theirs["podFailurePolicy"]["rules"][:2]:
        assert rule["onExitCodes"].pop("containerName") == "node"
    for rule in ours["podFailurePolicy"]["rules"][:2]:
        del rule["onExitCodes"]["containerName"]
    assert ours["template"]["spec"].pop("subdomain")
    for spec in (ours, theirs):  # names of pods are the subject of other tests
        for container in (*spec["template"]["spec"]["initContainers"], *spec["template"]["spec"]["containers"]):
            container["env"] = [one for one in container["env"] if one["name"] not in ("JOBSET", "MASTER_ADDR")]
    assert theirs == ours


def test_torchrun_starts_a_rank_for_each_gpu_and_each_has_a_port() -> None:
    from torch.distributed.run import get_args_parser

    objects = render("torchrun")
    spec = job_spec(objects)
    line = words(objects, index=1)
    assert line[0] == "torchrun"
    asked = get_args_parser().parse_args(line[1:])
    assert asked.training_script == "train/pretrain.py"
    assert int(asked.nnodes) == spec["completions"] == spec["parallelism"]
    assert asked.node_rank == 1
    assert asked.master_addr == first_pod(objects)
    assert asked.master_port == int(environment(trainer(objects), pod_labels(objects))["MASTER_PORT"])
    gpus = trainer(objects)["resources"]["limits"]["nvidia.com/gpu"]
    assert int(asked.nproc_per_node) == gpus
    assert not {"WORLD_SIZE", "LOCAL_RANK"} & {one["name"] for one in trainer(objects)["env"]}
    ports = {port["containerPort"]: port["name"] for port in trainer(objects)["ports"]}
    assert {9400 + local: f"metrics-{local}" for local in range(gpus)}.items() <= ports.items()
    assert gpus * spec["completions"] == job_spec(render("multi_node"))["completions"]


@EACH_RUN
def test_only_prometheus_and_the_runs_own_pods_reach_a_pod(folder: str, tmp_path: Path) -> None:
    objects = render(folder)
    policy = the("NetworkPolicy", objects)["spec"]
    labels = pod_labels(objects)
    stranger = {**labels, "app.kubernetes.io/instance": "another"}
    assert policy["policyTypes"] == ["Ingress"]
    assert selects(policy["podSelector"], labels)
    assert not selects(policy["podSelector"], stranger)
    metrics, rendezvous = policy["ingress"]
    (peer,) = metrics["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["monitoring"]
    assert peer["podSelector"]["matchExpressions"][0]["values"] == ["prometheus"]
    ((port,), config) = metrics["ports"], configuration(objects, tmp_path)
    assert config.metrics.address == "0.0.0.0"  # noqa: S104
    named = [one["containerPort"] for one in trainer(objects)["ports"] if one["name"].startswith("metrics")]
    assert min(named) == config.metrics.port
    assert all(port["port"] <= number <= port["endPort"] for number in named)
    (own,) = rendezvous["from"]
    assert "namespaceSelector" not in own
    assert "ports" not in rendezvous
    assert selects(own["podSelector"], labels)
    assert not selects(own["podSelector"], stranger)


def target_labels(rules: list[Object], found: dict[str, str]) -> dict[str, str]:
    """What relabelling makes of a pod that Prometheus has found; of its actions, `replace`, which is all we use."""
    labels = dict(found)
    for rule in rules:
        value = ";".join(labels.get(name, "") for name in rule.get("sourceLabels", ()))
        match = re.fullmatch(rule.get("regex", "(.*)"), value)
        if match:
            replacement = re.sub(r"\$(\d)", r"\\\1", rule.get("replacement", "$1"))
            labels[rule["targetLabel"]] = match.expand(replacement)
    return {name: value for name, value in labels.items() if not name.startswith("__")}


@EACH_RUN
def test_prometheus_finds_every_rank_with_the_labels_of_the_dashboards(folder: str) -> None:
    objects = render(folder)
    monitor = the("PodMonitor", render("monitoring"))["spec"]
    assert selects(monitor["selector"], pod_labels(objects))
    endpoints: dict[str, Any] = {endpoint["port"]: endpoint for endpoint in monitor["podMetricsEndpoints"]}
    ports = [port["name"] for port in trainer(objects)["ports"] if port["name"].startswith("metrics")]
    assert ports
    for index in range(job_spec(objects)["completions"]):
        found = {f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
                 for name, value in pod_labels(objects, index).items()}  # fmt: skip
        found["__meta_kubernetes_pod_node_name"] = "node-7"
        for port in ports:
            found["__meta_kubernetes_pod_container_port_name"] = port
            assert target_labels(endpoints[port]["relabelings"], found) == {
                "job": "diptych",
                "run": pod_labels(objects)["app.kubernetes.io/instance"],
                "node": "node-7",
                "rank": f"{index}.{port.removeprefix('metrics-')}" if folder == "torchrun" else str(index),
            }


def test_every_port_that_the_pod_monitor_names_is_one_of_a_pod() -> None:
    named = {endpoint["port"] for endpoint in the("PodMonitor", render("monitoring"))["spec"]["podMetricsEndpoints"]}
    assert named == {port["name"] for folder in RUNS for port in trainer(render(folder))["ports"]} - {"rendezvous"}


def test_the_run_without_a_gpu_asks_for_none() -> None:
    objects = render("cpu")
    assert all("nvidia.com/gpu" not in part for one in containers(objects) for part in one["resources"].values())
    assert [one["name"] for one in containers(objects)] == ["data", "trainer"]


@pytest.mark.parametrize("folder", JOBS)
def test_no_name_is_taken_twice_and_all_of_a_run_bears_its_name(folder: str) -> None:
    objects = render(folder)
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    assert {one["metadata"]["labels"]["app.kubernetes.io/name"] for one in objects} == {"diptych"}
    assert len({one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in objects}) == 1
