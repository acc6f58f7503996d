"""The process that starts and drives a Ray cluster of logical nodes, told what to do by lines.

A process of its own: it can be killed with everything that it started, as a machine dies, and
whoever measures or tests stays outside and sees only HTTP. One JSON object a line comes in, one
goes out (``{"ok": ...}`` or ``{"error": ...}``); logical.cluster speaks the other side.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema


class Host:
    """A cluster whose head holds ``front`` and whose other nodes come and go."""

    def __init__(self, port: int, head: dict[str, Any]) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"include_dashboard": False, **head},
        )
        ray.init(address=self._cluster.address, log_to_driver=False, namespace="serve")
        self._nodes: dict[str, Any] = {}
        # Several proxies of one host would share the port, a killed node's with them: HeadOnly.
        serve.start(http_options={"host": "127.0.0.1", "port": port, "location": "HeadOnly"})

    def add_node(self, name: str, **node: Any) -> str:
        self._nodes[name] = added = self._cluster.add_node(**node)
        return str(added.node_id)

    def remove_node(self, name: str) -> None:
        """As a machine that loses its power."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def deploy(self, config: dict[str, Any]) -> None:
        """What ``serve deploy`` does with a file: returns at once, Serve works on it."""
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))

    def details(self) -> Any:
        return json.loads(json.dumps(_get_global_client().get_serve_details(), default=str))

    def answer(self, line: str) -> dict[str, Any]:
        command = json.loads(line)
        name = command.pop("do")
        if name not in ("add_node", "remove_node", "deploy", "details"):
            return {"error": f"unknown command {name!r}"}
        try:
            return {"ok": getattr(self, name)(**command)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # Ray prints
    host = Host(**json.loads(sys.stdin.readline()))
    print(json.dumps({"ok": "started"}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(host.answer(line)), file=answers, flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
