"""The part of a RayService (ray.io/v1, KubeRay 1.7) that configs/kuberay uses.

Kubernetes drops fields that it does not know, and the operator refuses some combinations only when
it is asked to build a cluster. Every model here forbids other fields, so a misspelt one fails.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z0-9._-]*$")]
Labels = dict[str, LabelValue]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(m|Ki|Mi|Gi)?$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Metadata(Strict):
    name: str | None = None
    labels: Labels = {}
    annotations: dict[str, str] = {}


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Port(Strict):
    name: Annotated[str, StringConstraints(max_length=15, pattern=r"^[a-z0-9-]+$")]
    container_port: int


class Mount(Strict):
    name: str
    mount_path: str
    read_only: bool = False


class HttpGet(Strict):
    path: str
    port: str


class Probe(Strict):
    http_get: HttpGet
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


class Exec(Strict):
    command: list[str]


class Hook(Strict):
    exec: Exec


class Lifecycle(Strict):
    pre_stop: Hook


class Variable(Strict):
    name: str
    value: str | None = None
    value_from: dict[Literal["secretKeyRef"], dict[str, str]] | None = None


class ContainerSecurity(Strict):
    allow_privilege_escalation: Literal[False]
    capabilities: dict[Literal["drop"], list[Literal["ALL"]]]


class Container(Strict):
    name: str
    image: str
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    env_from: list[dict[Literal["secretRef"], dict[Literal["name"], str]]] = []
    ports: list[Port] = []
    readiness_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    volume_mounts: list[Mount] = []
    resources: Resources
    security_context: ContainerSecurity


class PodSecurity(Strict):
    run_as_non_root: Literal[True]
    run_as_user: int
    run_as_group: int
    fs_group: int
    fs_group_change_policy: Literal["OnRootMismatch", "Always"] = "Always"
    seccomp_profile: dict[Literal["type"], Literal["RuntimeDefault"]]


class Volume(Strict):
    name: str
    persistent_volume_claim: dict[Literal["claimName"], str] | None = None
    secret: dict[Literal["secretName"], str] | None = None
    empty_dir: dict[str, str] | None = None


class PodSpec(Strict):
    termination_grace_period_seconds: int = 30
    security_context: PodSecurity
    node_selector: dict[str, LabelValue] = {}
    tolerations: list[dict[Literal["key", "operator", "value", "effect"], str]] = []
    topology_spread_constraints: list[dict[str, Any]] = []
    init_containers: list[Container] = []
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []

    @model_validator(mode="after")
    def _mounts_have_volumes(self) -> PodSpec:
        there = {volume.name for volume in self.volumes}
        for container in self.init_containers + self.containers:
            missing = {mount.name for mount in container.volume_mounts} - there
            assert not missing, f"{container.name} mounts {missing}, which are no volumes"
        return self


class Pod(Strict):
    metadata: Metadata
    spec: PodSpec


class Head(Strict):
    ray_start_params: dict[str, str]
    template: Pod


class Group(Strict):
    group_name: str
    min_replicas: Annotated[int, Field(ge=0)]
    replicas: int
    max_replicas: int
    labels: Labels
    ray_start_params: dict[str, str]
    template: Pod

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Group:
        assert self.min_replicas <= self.replicas <= self.max_replicas, self.group_name
        return self


class FaultTolerance(Strict):
    """No ``externalStorageNamespace``: two clusters share one Redis during an upgrade."""

    redis_address: str
    redis_password: dict[Literal["valueFrom"], dict[Literal["secretKeyRef"], dict[str, str]]]


class Autoscaler(Strict):
    version: Literal["v1", "v2"]
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"]
    idle_timeout_seconds: int
    resources: Resources


class Cluster(Strict):
    ray_version: str
    auth_options: dict[Literal["mode"], Literal["token", "disabled"]]
    gcs_fault_tolerance_options: FaultTolerance | None = None
    enable_in_tree_autoscaling: bool
    autoscaler_options: Autoscaler | None = None
    head_group_spec: Head
    worker_group_specs: list[Group]


class ServicePort(Strict):
    name: str
    port: int
    target_port: int


class ServeServiceSpec(Strict):
    type: Literal["ClusterIP", "LoadBalancer", "NodePort"]
    ports: list[ServicePort]


class ServeService(Strict):
    metadata: Metadata
    spec: ServeServiceSpec


class Spec(Strict):
    ray_cluster_deletion_delay_seconds: Annotated[int, Field(ge=0)]
    upgrade_strategy: dict[Literal["type"], Literal["NewCluster", "None"]]
    exclude_head_pod_from_serve_svc: bool
    serve_service: ServeService
    serve_config_v2: str
    ray_cluster_config: Cluster


class RayService(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayService"]
    metadata: Metadata
    spec: Spec
