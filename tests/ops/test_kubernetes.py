"""Every object in ops/k8s is one that Kubernetes, Kubeflow or the Prometheus Operator takes, without a field more."""

import importlib
from typing import Any

import pytest
from kustomize import FOLDERS, RUNS, Object, job_spec, render, the, trainer

OLDEST, NEWEST = "1.31", "1.37"
"""Of Kubernetes: podAffinity.matchLabelKeys came with the first; the second is the newest we have schemas of."""

_TEXT = {"type": "string"}
_LABELS = {"type": "object", "additionalProperties": _TEXT}
# Of the fields that we use, after monitoring.coreos.com/v1.
POD_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": _TEXT, "labels": _LABELS},
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "podMetricsEndpoints"],
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"matchLabels": _LABELS},
                },
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": _TEXT,
                            "interval": {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"},
                            "relabelings": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {
                                        "sourceLabels": {
                                            "type": "array",
                                            "items": {"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"},
                                        },
                                        "targetLabel": _TEXT,
                                        "regex": _TEXT,
                                        "replacement": _TEXT,
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def validate(one: Object, version: str = NEWEST) -> None:
    """Whether an object is what its kind's schema allows.

    Raises:
        ValueError: it is not; the message names the field.
    """
    if one["apiVersion"].startswith("trainer.kubeflow.org/"):
        validate_kubeflow(one)
    elif one["kind"] == "PodMonitor":
        checker = pytest.importorskip("jsonschema", reason="PyPI package jsonschema")
        try:
            checker.validate(one, POD_MONITOR)
        except checker.ValidationError as error:
            raise ValueError(str(error)) from None
    else:
        checker = pytest.importorskip("kubernetes_validate", reason="PyPI package kubernetes-validate")
        try:
            checker.validate(one, version, strict=True)
        except checker.ValidationError as error:
            raise ValueError(str(error)) from None


def validate_kubeflow(one: Object) -> None:
    """Kubeflow's models pass over unknown fields; those are what the way through a model and back loses."""
    pytest.importorskip("kubeflow_trainer_api", reason="PyPI package kubeflow-trainer-api")
    models = importlib.import_module("kubeflow_trainer_api.models")
    model = getattr(models, f"TrainerV1alpha1{one['kind']}")
    assert one["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    kept = model.from_dict(one).model_dump(mode="json", by_alias=True, exclude_none=True)
    # Quantities and their like are wrapped there.
    lost = leaves(one) - {path.removesuffix("/actual_instance") for path in leaves(kept)}
    if lost:
        raise ValueError(f"not in the models of Kubeflow Trainer: {sorted(lost)}")


def leaves(value: Any, path: str = "") -> set[str]:
    """Paths to everything in a tree that holds nothing itself."""
    if isinstance(value, dict) and value:
        return {leaf for key, part in value.items() for leaf in leaves(part, f"{path}/{key}")}
    if isinstance(value, list) and value:
        return {leaf for number, part in enumerate(value) for leaf in leaves(part, f"{path}/{number}")}
    return {path}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_object_is_valid_without_a_field_too_many(folder: str, version: str) -> None:
    for one in render(folder):
        validate(one, version)


def test_the_job_in_kubeflows_runtime_is_valid_by_itself() -> None:
    spec = job_spec(render("kubeflow"))
    validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": spec})


@pytest.mark.parametrize("folder", RUNS)
def test_a_misspelt_field_of_a_container_is_refused(folder: str) -> None:
    objects = render(folder)
    container = trainer(objects)
    container["volumeMount"] = container.pop("volumeMounts")
    with pytest.raises(ValueError, match="volumeMount"):
        validate(the("TrainingRuntime" if folder == "kubeflow" else "Job", objects))


def test_a_value_that_kubernetes_does_not_know_is_refused() -> None:
    objects = render("multi_node")
    job_spec(objects)["completions"] = "sixteen"
    with pytest.raises(ValueError, match="sixteen"):
        validate(the("Job", objects))


@pytest.mark.parametrize(("kind", "field"), [("TrainJob", "runtimeRefs"), ("TrainJob", "numNodes")])
def test_a_misspelt_field_of_a_train_job_is_refused(kind: str, field: str) -> None:
    one = the(kind, render("kubeflow"))
    one["spec"][field] = 1
    with pytest.raises(ValueError, match=field):
        validate(one)


def test_a_misspelt_field_of_a_pod_monitor_is_refused() -> None:
    one = the("PodMonitor", render("monitoring"))
    one["spec"]["podMetricsEndpoints"][3]["relabelings"][1]["sourceLabel"] = ["run"]
    with pytest.raises(ValueError, match="sourceLabel"):
        validate(one)
