"""The objects that a folder of ops/k8s stands for, as Kustomize itself makes them."""

import copy
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "ops" / "k8s"
JOBS = ("single_node", "multi_node", "torchrun", "cpu")
"""Folders that start a Job; `kubeflow` starts a TrainJob."""
RUNS = (*JOBS, "kubeflow")
FOLDERS = (*RUNS, "study", "storage", "monitoring")

Object = dict[str, Any]


def render(folder: str) -> list[Object]:
    """All objects of a folder; the caller may change them. Skips the test where there is no Kustomize 5."""
    return copy.deepcopy(_rendered(FOLDER / folder))


@functools.cache
def _rendered(folder: Path) -> list[Object]:
    done = subprocess.run([*_builder(), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def _builder() -> tuple[str, ...]:
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if shutil.which("kubectl") is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    asked = subprocess.run(
        ["kubectl", "version", "--client", "--output=json"], capture_output=True, text=True, check=True
    )
    version = json.loads(asked.stdout).get("kustomizeVersion", "v0")
    if int(re.findall(r"\d+", version)[0]) < 5:
        pytest.skip(f"kubectl brings Kustomize {version}; 5 is needed")
    return ("kubectl", "kustomize")


def the(kind: str, objects: list[Object]) -> Object:
    """The only object of a kind."""
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def job_spec(objects: list[Object]) -> Object:
    """Of the Job, or of the one that a TrainJob's runtime makes."""
    if not any(one["kind"] == "TrainingRuntime" for one in objects):
        spec: Object = the("Job", objects)["spec"]
        return spec
    (replicated,) = the("TrainingRuntime", objects)["spec"]["template"]["spec"]["replicatedJobs"]
    made: Object = replicated["template"]["spec"]
    return made


def pod_spec(objects: list[Object]) -> Object:
    """Of the run's pods."""
    spec: Object = job_spec(objects)["template"]["spec"]
    return spec


def pod_labels(objects: list[Object], index: int = 0) -> dict[str, str]:
    """Those in the template, and those that Kubernetes adds."""
    labels: dict[str, str] = job_spec(objects)["template"]["metadata"]["labels"]
    jobs = [one["metadata"]["name"] for one in objects if one["kind"] in ("Job", "TrainJob")]
    added = {"batch.kubernetes.io/job-name": jobs[0], "batch.kubernetes.io/job-completion-index": str(index)}
    if any(one["kind"] == "TrainJob" for one in objects):
        added["jobset.sigs.k8s.io/jobset-name"] = jobs[0]
        added["batch.kubernetes.io/job-name"] = f"{jobs[0]}-node-0"
    return {**labels, **added}


def trainer(objects: list[Object]) -> Object:
    """The container that trains."""
    (container,) = pod_spec(objects)["containers"]
    found: Object = container
    return found


def environment(container: Object, labels: dict[str, str]) -> dict[str, str]:
    """What a container finds in its environment, in a pod with such labels."""
    found: dict[str, str] = {}
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = expanded(variable["value"], found)
        else:
            path = re.fullmatch(
                r"metadata\.(labels|annotations)\['(.+)'\]", variable["valueFrom"]["fieldRef"]["fieldPath"]
            )
            assert path is not None
            found[variable["name"]] = labels[path[2]]
    return found


def expanded(text: str, variables: dict[str, str]) -> str:
    """`$(NAME)` replaced as Kubernetes does; unlike there, an unknown name is an error."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], text)
