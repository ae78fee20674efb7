"""The RayJob manifest against the fields of KubeRay's API (ray.io/v1), and against ourselves."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rubric_rl.config.compose import compose
from rubric_rl.runtime.placement import check_plan, plan_placement

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "launch" / "kuberay.yaml").read_text(encoding="utf-8")


class _Strict(BaseModel):
    """Kubernetes drops fields that it doesn't know, so that a typo would go unseen."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Key(_Strict):
    name: str
    value: str


class _SecretRef(_Strict):
    name: str


class _EnvFrom(_Strict):
    secretRef: _SecretRef


class _Resources(_Strict):
    requests: dict[str, str]
    limits: dict[str, str]


class _Capabilities(_Strict):
    drop: list[str]


class _ContainerSecurity(_Strict):
    allowPrivilegeEscalation: bool
    capabilities: _Capabilities


class _Mount(_Strict):
    name: str
    mountPath: str


class _Container(_Strict):
    name: str
    image: str
    env: list[_Key]
    envFrom: list[_EnvFrom]
    resources: _Resources
    securityContext: _ContainerSecurity
    volumeMounts: list[_Mount]


class _Claim(_Strict):
    claimName: str


class _EmptyDir(_Strict):
    medium: Literal["Memory"]
    sizeLimit: str


class _Volume(_Strict):
    name: str
    persistentVolumeClaim: _Claim | None = None
    emptyDir: _EmptyDir | None = None


class _PodSecurity(_Strict):
    runAsNonRoot: bool
    runAsUser: int
    runAsGroup: int
    fsGroup: int


class _Pod(_Strict):
    securityContext: _PodSecurity
    containers: list[_Container]
    volumes: list[_Volume]


class _Template(_Strict):
    spec: _Pod


class _Head(_Strict):
    rayStartParams: dict[str, str]
    template: _Template


class _Worker(_Strict):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int
    rayStartParams: dict[str, str]
    template: _Template


class _Cluster(_Strict):
    rayVersion: str
    headGroupSpec: _Head
    workerGroupSpecs: list[_Worker]


class _JobSpec(_Strict):
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode"]
    entrypoint: str
    runtimeEnvYAML: str
    backoffLimit: int
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: int
    rayClusterSpec: _Cluster


class _Metadata(_Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=47)


class _RayJob(_Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: _Metadata
    spec: _JobSpec


def _manifest() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


@pytest.fixture
def job() -> _RayJob:
    return _RayJob.model_validate(_manifest())


def _pods(job: _RayJob) -> list[_Pod]:
    cluster = job.spec.rayClusterSpec
    return [group.template.spec for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs)]


def test_a_field_that_kuberay_does_not_know_would_be_found():
    manifest = _manifest()
    manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParam"] = {}
    with pytest.raises(ValidationError, match="rayStartParam"):
        _RayJob.model_validate(manifest)


@pytest.mark.parametrize("version", ["1.30", "1.33", "1.37"])
@pytest.mark.parametrize("group", [0, 1], ids=["head", "worker"])
def test_the_pods_are_valid_under_the_schemas_of_kubernetes(group: int, version: str):
    cluster = _manifest()["spec"]["rayClusterSpec"]
    template = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]][group]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
    kubernetes_validate.validate(pod, version, strict=True)
    pod["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_job_runs_our_command_and_resumes(job: _RayJob):
    command, sub, *overrides = shlex.split(job.spec.entrypoint)
    config = compose(overrides)
    assert (command, sub) == ("rubric-rl", "train")
    assert config.run.resume == "auto" and job.spec.backoffLimit > 0
    containers = [container for pod in _pods(job) for container in pod.containers]
    mounts = {mount.mountPath for container in containers for mount in container.volumeMounts}
    for path in (config.run.dir, config.data.path):
        assert any(path.startswith(f"{mount}/") for mount in mounts)


def test_the_workers_hold_what_the_job_asks_for(job: _RayJob):
    plan = plan_placement(compose(shlex.split(job.spec.entrypoint)[2:]))
    nodes = [
        {
            "CPU": float(group.template.spec.containers[0].resources.limits["cpu"]),
            "GPU": float(group.template.spec.containers[0].resources.limits["nvidia.com/gpu"]),
        }
        for group in job.spec.rayClusterSpec.workerGroupSpecs
        for _ in range(group.replicas)
    ]
    totals = {key: sum(node[key] for node in nodes) for key in ("CPU", "GPU")}
    check_plan(plan, totals, nodes)


def test_ray_is_the_version_that_we_install(job: _RayJob):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"ray[default]=={job.spec.rayClusterSpec.rayVersion}" in project["dependencies"]


def test_pods_are_not_root_and_have_shared_memory_and_no_keys(job: _RayJob):
    for pod in _pods(job):
        assert pod.securityContext.runAsNonRoot and pod.securityContext.runAsUser == 1000
        names = {volume.name for volume in pod.volumes}
        assert {volume.name for volume in pod.volumes if volume.emptyDir} == {"shm"}
        for container in pod.containers:
            assert {mount.name for mount in container.volumeMounts} == names
            assert container.resources.requests == container.resources.limits
            assert [source.secretRef.name for source in container.envFrom] == ["rubric-rl-keys"]
            assert not [
                key.name for key in container.env if "KEY" in key.name or "TOKEN" in key.name
            ]
