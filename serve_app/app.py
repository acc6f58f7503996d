"""The whole graph on one screen.

    front     Gateway -> Jobs -> Preprocess, Preview
              HTTP       the job table and its runner, which calls the stages by name
    stage1    Stage1
    stage2    Stage2

Three applications, so that each can be upgraded, scaled and judged by itself, and ``stage2`` may
be missing; ``build`` puts the same classes into one (serving.md sections 2 and 3). A builder's
``args`` in YAML become its argument model. Size, place and life of each deployment belong into the
YAML.
"""

# No ``from __future__ import annotations`` here: Serve looks at the annotation itself to see which
# model a builder wants, and hands over a plain dict where it finds a text.

from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.serve import Application, Deployment
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from deployments.contracts import Mode
from deployments.preprocess.deployment import Preprocess
from deployments.preview.deployment import Preview
from deployments.replica import Watch, Weights
from deployments.stage1.deployment import Stage1
from deployments.stage2.deployment import Stage2
from deployments.stage_report import OpenSink
from serve_app.ingress.deployment import Gateway
from serve_app.jobs.deployment import Jobs
from serve_app.metrics.stage_sink import open_stage_sink
from serve_app.settings import AllArgs, FrontArgs, Stage1Args, Stage2Args, TraceArgs, WorkerArgs


def front(args: FrontArgs) -> Application:
    """HTTP, jobs, preparation and preview. Stages are called by name, wherever they run."""
    return _front(
        args,
        stage1=DeploymentHandle("Stage1", args.stage1_app),
        stage2=DeploymentHandle("Stage2", args.stage2_app) if args.stage2_app else None,
    )


def stage1(args: Stage1Args) -> Application:
    """Five views, normals and voxels from a prepared picture."""
    return bind_stage1(args, _deployment(Stage1))


def stage2(args: Stage2Args) -> Application:
    """A textured mesh from Stage 1's result."""
    return bind_stage2(args, _deployment(Stage2))


def build(args: AllArgs) -> Application:
    """Everything in one application, for one machine."""
    with_stage2 = args.stage2_app is not None and args.mode is not Mode.STAGE1_ONLY
    place = {"num_cpus": 0.5, "num_gpus": _gpus_a_stage(args, stages=2 if with_stage2 else 1)}
    first_stage = _deployment(Stage1).options(ray_actor_options=place)
    second_stage = _deployment(Stage2).options(ray_actor_options=place)
    return _front(
        args.part(FrontArgs),
        stage1=bind_stage1(args.part(Stage1Args), first_stage),
        stage2=bind_stage2(args.part(Stage2Args), second_stage) if with_stage2 else None,
    )


def _front(
    args: FrontArgs,
    *,
    stage1: Application | DeploymentHandle,
    stage2: Application | DeploymentHandle | None,
) -> Application:
    preprocess = _deployment(Preprocess).bind(
        args.checkpoint,
        matting=args.matting,
        max_megapixels=args.max_megapixels,
        min_side=args.min_side_px,
        open_sink=_sink(args),
    )
    jobs = _deployment(Jobs).bind(
        args,
        preprocess=preprocess,
        preview=_deployment(Preview).bind(open_sink=_sink(args)),
        stage1=stage1,
        stage2=stage2,
    )
    return _deployment(Gateway).bind(args, jobs)


def bind_stage1(args: Stage1Args, deployment: Deployment) -> Application:
    """``Stage1``, or a deployment that takes the same arguments, with these."""
    return _woken(deployment).bind(
        replace(_weights(args), fp8=args.fp8),
        _watch(args),
        compile_model=args.compile,
        open_sink=_sink(args),
    )


def bind_stage2(args: Stage2Args, deployment: Deployment) -> Application:
    """``Stage2``, or a deployment that takes the same arguments, with these."""
    return _woken(deployment).bind(
        _weights(args),
        _watch(args),
        extraction="kaolin" if args.require_kaolin else "native",
        idle=args.on_missing == "idle",
        open_sink=_sink(args),
    )


def _deployment(decorated: Any) -> Deployment:
    """A decorated class as what ``serve.deployment`` made of it; type checkers see the class."""
    deployment: Deployment = decorated
    return deployment


def _woken(deployment: Deployment) -> Deployment:
    """A deployment whose waiting calls are told when a replica becomes free."""
    router = RequestRouterConfig(request_router_class="serve_app.jobs.waking_router:WakingRouter")
    return deployment.options(request_router_config=router)


def _weights(args: WorkerArgs) -> Weights:
    return Weights(args.checkpoint, args.device, args.dtype, args.attn_backend)


def _watch(args: WorkerArgs) -> Watch:
    return Watch(args.jobs_app, args.heartbeat_s, args.alive_check_s, args.step_timeout_s)


def _sink(args: TraceArgs) -> OpenSink:
    return partial(open_stage_sink, args.trace_endpoint, args.trace_ratio)


def _gpus_a_stage(args: AllArgs, *, stages: int) -> float:
    """GPUs that each stage reserves: a whole card where there are enough, else a share of one.

    Only ``build`` shares a card: it is for one machine, whose user sends one picture at a time.
    """
    if args.gpus_per_stage is not None:
        return args.gpus_per_stage
    if args.device == "cpu" or not ray.is_initialized():
        return 0.0
    cards = ray.cluster_resources().get("GPU", 0.0)
    return 1.0 if cards >= stages else cards / stages
