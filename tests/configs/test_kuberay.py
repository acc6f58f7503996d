"""configs/kuberay: what the operator, Serve and a kubelet would refuse or silently get wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray._common.utils import import_attr
from ray.serve._private.build_app import build_app
from ray.serve.schema import DeploymentSchema, ServeDeploySchema
from rayservice_schema import Container, Group, RayService

from serve_app.app import front
from serve_app.config_check import check_document
from serve_app.settings import FrontArgs

KUBERAY = Path(__file__).parents[2] / "configs" / "kuberay"
BASE = KUBERAY / "base"
SERVICE_LABEL = {"synchuman.io/service": "synchuman"}


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def merged(old: Any, patch: Any) -> Any:
    """RFC 7386, which is what kustomize does to a resource without a known schema."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def manifest(name: str) -> dict[str, Any]:
    (base,) = documents(BASE / "rayservice.yaml")
    if name == "base":
        return dict(base)
    (patch,) = documents(KUBERAY / name / "rayservice.yaml")
    return dict(merged(base, patch))


@pytest.fixture(params=["base", "laptop"])
def service(request: pytest.FixtureRequest) -> RayService:
    return RayService.model_validate(manifest(request.param))


@pytest.fixture
def base() -> RayService:
    return RayService.model_validate(manifest("base"))


def serve_config(service: RayService) -> ServeDeploySchema:
    return ServeDeploySchema.model_validate(yaml.safe_load(service.spec.serve_config_v2))


def placed(service: RayService) -> list[tuple[DeploymentSchema, Group]]:
    """Every deployment with the one worker group that its label selector picks."""
    pairs = []
    for application in serve_config(service).applications:
        for deployment in application.deployments:
            selector = deployment.ray_actor_options.label_selector
            assert selector, f"{deployment.name} could land on any group"
            groups = [
                group
                for group in service.spec.ray_cluster_config.worker_group_specs
                if selector.items() <= group.labels.items()
            ]
            assert len(groups) == 1, f"{selector} of {deployment.name} picks {len(groups)} groups"
            pairs.append((deployment, groups[0]))
    return pairs


def replicas(deployment: DeploymentSchema) -> tuple[int, int]:
    scaling = deployment.autoscaling_config
    if isinstance(scaling, dict):
        return scaling["min_replicas"], scaling["max_replicas"]
    return int(deployment.num_replicas), int(deployment.num_replicas)


def ray_container(group: Group) -> Container:
    return group.template.spec.containers[0]


@pytest.mark.parametrize("name", ["base", "laptop"])
def test_a_misspelt_field_would_be_found(name: str) -> None:
    right = manifest(name)
    RayService.model_validate(right)
    wrong = copy.deepcopy(right)
    group = wrong["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    group["minReplica"] = group.pop("minReplicas")
    with pytest.raises(ValidationError, match="minReplica\n"):
        RayService.model_validate(wrong)


def test_the_embedded_configuration_is_the_file_beside_it(base: RayService) -> None:
    assert base.spec.serve_config_v2 == (BASE / "serve_config.yaml").read_text(encoding="utf-8")


def test_serve_accepts_the_configuration_and_ignores_nothing(service: RayService) -> None:
    assert check_document(yaml.safe_load(service.spec.serve_config_v2)) == []


def test_every_import_path_leads_to_a_builder(service: RayService) -> None:
    applications = serve_config(service).applications
    assert [application.name for application in applications] == ["front", "stage1", "stage2"]
    for application in applications:
        assert callable(import_attr(application.import_path))
    assert import_attr(applications[0].import_path) is front


def test_every_deployment_of_the_front_is_placed(service: RayService) -> None:
    """One that the YAML leaves out has no selector and may take a GPU node's CPUs."""
    arguments = serve_config(service).applications[0].args
    built = build_app(front(FrontArgs.model_validate(arguments)), name="front").deployments
    placements = {deployment.name: group.group_name for deployment, group in placed(service)}
    assert len({placements[deployment.name] for deployment in built}) == 1


def test_kinds_of_work_have_machines_of_their_own(base: RayService) -> None:
    placements = {deployment.name: group.group_name for deployment, group in placed(base)}
    assert placements["Gateway"] == "cpu"
    assert placements["Stage1"] == "stage1-gpu"
    assert placements["Stage2"] == "stage2-gpu"


def test_no_replica_lives_on_the_head(service: RayService) -> None:
    assert service.spec.ray_cluster_config.head_group_spec.ray_start_params["num-cpus"] == "0"
    assert service.spec.exclude_head_pod_from_serve_svc


def test_groups_hold_what_serve_may_start(service: RayService) -> None:
    """At the lower and at the upper bounds: CPUs, cards, and one replica a node where asked."""
    for group in service.spec.ray_cluster_config.worker_group_specs:
        here = [deployment for deployment, place in placed(service) if place is group]
        cores = group.ray_start_params.get("num-cpus", ray_container(group).resources.limits["cpu"])
        cards = int(ray_container(group).resources.limits.get("nvidia.com/gpu", "0"))
        for bound, pods in enumerate((group.min_replicas, group.max_replicas)):
            used = [(replicas(d)[bound], d.ray_actor_options) for d in here]
            assert sum(count * options.num_cpus for count, options in used) <= pods * int(cores)
            gpus = [(count, options.num_gpus) for count, options in used]
            assert sum(count * gpu for count, gpu in gpus if isinstance(gpu, int | float)) == (
                pods * cards
            ), "a card without a replica is money, a replica without a card waits for ever"
        for deployment in here:
            if isinstance(deployment.max_replicas_per_node, int):
                assert isinstance(deployment.max_surge_percent, int), (
                    "the code's default may be 100"
                )
                surge = 1 + deployment.max_surge_percent / 100
                room = group.min_replicas * deployment.max_replicas_per_node
                assert replicas(deployment)[1] * surge <= room


def test_pods_live_longer_than_their_replicas_drain(base: RayService) -> None:
    for deployment, group in placed(base):
        lifecycle = ray_container(group).lifecycle
        assert lifecycle is not None
        program, deadline = lifecycle.pre_stop.exec.command
        assert program == "drain-node"
        grace = group.template.spec.termination_grace_period_seconds
        assert deployment.graceful_shutdown_timeout_s < int(deadline) < grace
    delay = base.spec.ray_cluster_deletion_delay_seconds
    assert delay > max(deployment.graceful_shutdown_timeout_s for deployment, _ in placed(base))


def test_running_jobs_end_before_their_room_does(base: RayService) -> None:
    (jobs,) = [deployment for deployment, _ in placed(base) if deployment.name == "Jobs"]
    arguments = FrontArgs.model_validate(serve_config(base).applications[0].args)
    assert arguments.drain_s < jobs.graceful_shutdown_timeout_s


def test_idle_nodes_outlive_serves_own_decision(base: RayService) -> None:
    autoscaler = base.spec.ray_cluster_config.autoscaler_options
    assert autoscaler is not None
    for deployment, _ in placed(base):
        if isinstance(deployment.autoscaling_config, dict):
            delay = deployment.autoscaling_config.get("downscale_delay_s", 600)
            assert autoscaler.idle_timeout_seconds > delay


def test_traffic_reaches_only_pods_whose_proxy_answers(service: RayService) -> None:
    port = serve_config(service).http_options.port
    (entry,) = service.spec.serve_service.spec.ports
    assert (entry.name, entry.target_port) == ("serve", port)
    pods = [service.spec.ray_cluster_config.head_group_spec.template.spec.containers[0]]
    for group in service.spec.ray_cluster_config.worker_group_specs:
        container = ray_container(group)
        assert container.readiness_probe is not None
        assert container.readiness_probe.http_get.path == "/-/healthz"
        assert container.readiness_probe.http_get.port == "serve"
        pods.append(container)
    for container in pods:
        assert port in [p.container_port for p in container.ports if p.name == "serve"]


def test_every_worker_waits_for_the_weights_and_reads_them_offline(base: RayService) -> None:
    (claim,) = documents(BASE / "weights.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in base.spec.ray_cluster_config.worker_group_specs:
        pod = group.template.spec
        (fetch,) = pod.init_containers
        assert "synchuman models pull official" in fetch.args[0]
        (volume,) = [volume for volume in pod.volumes if volume.name == "weights"]
        assert volume.persistent_volume_claim == {"claimName": claim["metadata"]["name"]}
        (mount,) = [m for m in ray_container(group).volume_mounts if m.name == "weights"]
        assert mount.read_only
        assert mount.mount_path == fetch.volume_mounts[0].mount_path == "/weights"
        assert ("HF_HUB_OFFLINE", "1") in [(v.name, v.value) for v in ray_container(group).env]


def test_secrets_stay_where_they_are_needed(base: RayService) -> None:
    """The database's password is on the nodes of the front only, where Serve also builds it."""
    holders = {
        group.group_name
        for group in base.spec.ray_cluster_config.worker_group_specs
        for variable in ray_container(group).env
        if variable.value_from
    }
    assert holders == {"cpu"}
    (mount,) = [
        m
        for m in ray_container(base.spec.ray_cluster_config.worker_group_specs[0]).volume_mounts
        if m.name == "api-keys"
    ]
    keys = FrontArgs.model_validate(serve_config(base).applications[0].args).api_keys_file
    assert keys is not None
    assert str(Path(keys).parent) == mount.mount_path


def test_a_lost_head_finds_its_state_again(base: RayService) -> None:
    options = base.spec.ray_cluster_config.gcs_fault_tolerance_options
    assert options is not None
    assert options.redis_address.startswith("redis://")
    assert base.spec.ray_cluster_config.auth_options == {"mode": "token"}


def test_cluster_and_images_have_the_tested_ray(service: RayService) -> None:
    constraints = (KUBERAY.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    assert f"\nray=={service.spec.ray_cluster_config.ray_version}\n" in constraints


def test_policies_select_the_pods(base: RayService) -> None:
    cluster = base.spec.ray_cluster_config
    pods = {"head": cluster.head_group_spec.template.metadata.labels}
    pods |= {g.group_name: g.template.metadata.labels for g in cluster.worker_group_specs}
    for labels in pods.values():
        assert SERVICE_LABEL.items() <= labels.items()
    everywhere, head = documents(BASE / "network.yaml")
    assert everywhere["spec"]["podSelector"]["matchLabels"] == SERVICE_LABEL
    assert everywhere["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert head["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    open_to_all = [
        port["port"]
        for rule in everywhere["spec"]["ingress"]
        if "from" not in rule
        for port in rule["ports"]
    ]
    assert open_to_all == [serve_config(base).http_options.port]
    (budget,) = documents(BASE / "disruption.yaml")
    selected = budget["spec"]["selector"]["matchLabels"]
    assert selected == {"ray.io/group": "cpu", **SERVICE_LABEL}
    (group,) = [g for g in cluster.worker_group_specs if g.group_name == "cpu"]
    assert 0 < budget["spec"]["minAvailable"] < group.min_replicas, "else no node could be emptied"


def test_a_laptop_needs_no_card_and_no_service_beside_it() -> None:
    laptop = RayService.model_validate(manifest("laptop"))
    cluster = laptop.spec.ray_cluster_config
    assert cluster.gcs_fault_tolerance_options is None
    assert not cluster.enable_in_tree_autoscaling
    (group,) = cluster.worker_group_specs
    container = ray_container(group)
    assert "nvidia.com/gpu" not in container.resources.limits
    assert not container.env
    assert not container.env_from
    for application in serve_config(laptop).applications:
        assert (application.args or {})["checkpoint"] == "embedded"
    arguments = FrontArgs.model_validate(serve_config(laptop).applications[0].args)
    assert arguments.database_url == "sqlite:////data/jobs.db"
    assert arguments.storage_url == "/data/jobs"
    assert [mount.mount_path for mount in container.volume_mounts] == ["/data"]


def test_kustomize_is_given_every_file() -> None:
    (base,) = documents(BASE / "kustomization.yaml")
    assert sorted(base["resources"]) == sorted(
        path.name
        for path in BASE.glob("*.yaml")
        if path.name not in ("kustomization.yaml", "serve_config.yaml")
    )
    (laptop,) = documents(KUBERAY / "laptop" / "kustomization.yaml")
    assert laptop["resources"] == ["../base"]
    there = {
        (document["kind"], document["metadata"]["name"])
        for name in base["resources"]
        for document in documents(BASE / name)
    }
    removed = [yaml.safe_load(entry["patch"]) for entry in laptop["patches"] if "patch" in entry]
    assert {(patch["kind"], patch["metadata"]["name"]) for patch in removed} <= there
