"""Deploys the server on a Ray cluster with Ray Serve."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from hiif_deploy.cluster.pool import LOCAL, Share, joined, share_of
from hiif_deploy.errors import ClusterError, OptionError
from hiif_deploy.server.cluster.front import Front
from hiif_deploy.server.cluster.replica import Replica, ReplicaSettings
from hiif_deploy.server.cluster.router import ROUTER
from hiif_deploy.server.options import ServeOptions
from hiif_deploy.support.extras import require_extra

logger = logging.getLogger(__name__)
NAME = "hiif-deploy"
"""The application's name in Ray Serve."""
TIMEOUT = 5.0
"""Seconds within which Ray Serve must respond once it is started."""
ONGOING = 32
"""Requests that a replica has at once: it computes one after the other, and the rest waits in its own queues."""


@dataclass(frozen=True)
class Replicas:
    """How many replicas there are, and how many requests wait for them."""

    least: int = 1
    most: int = 1
    queued: int = 256
    """Requests that each node's front lets wait for a replica; beyond it they are answered with 503."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise OptionError(f"{self.least} to {self.most} replicas: expected 1 or more, and no fewer at most")


def serve_on_cluster(address: str, most: int, settings: ReplicaSettings) -> None:
    """Deploy the server with at most so many replicas (0: as many as the cluster holds).

    On `local` it serves until Ctrl-C or SIGTERM; elsewhere it stays when this function returns (`stop_on_cluster`).
    ClusterError where the cluster cannot be reached, or not started.
    """
    require_extra("serve-ray")
    import ray

    options = settings.options
    with joined(address):
        share = share_of(ray.nodes(), settings.engine, most)
        deploy(settings, share, Replicas(1, share.workers))
        where = f"http://{options.host}:{options.port}/, up to {share.workers} replicas"
        if address != LOCAL:
            logger.info("%s; it ends with: hiif-deploy serve --ray %s --stop", where, address)
            return
        logger.info("%s, until Ctrl-C", where)
        threading.Event().wait()


def stop_on_cluster(address: str) -> None:
    """Remove the server from a cluster. ClusterError where that cannot be reached."""
    require_extra("serve-ray")
    with joined(address):
        from ray import serve

        serve.delete(NAME)


def deploy(settings: ReplicaSettings, share: Share, replicas: Replicas) -> None:
    """Deploy the server, or replace the one that runs: replica by replica, while the others respond.

    Returns when all replicas have their models open. ClusterError where they cannot be started.
    """
    from ray import serve

    options = settings.options
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options={"host": options.host, "port": options.port, "location": "EveryNode"})
    _check_address(options)
    app = serve.deployment(Front).options(
        num_replicas=1, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1024
    ).bind(_replicas(serve, share, replicas).bind(settings), options)  # fmt: skip
    try:
        serve.run(app, name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ClusterError(f"the replicas could not be started: {error}") from error


def _replicas(serve: Any, share: Share, replicas: Replicas) -> Any:
    from ray.serve.config import RequestRouterConfig

    return serve.deployment(Replica).options(
        ray_actor_options={"num_cpus": share.processors, "num_gpus": share.gpus},
        autoscaling_config={
            "min_replicas": replicas.least, "max_replicas": replicas.most, "target_ongoing_requests": ONGOING // 4
        },
        max_ongoing_requests=ONGOING, max_queued_requests=replicas.queued,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    )  # fmt: skip


def _check_address(options: ServeOptions) -> None:
    """ClusterError where Ray Serve was started before, and listens elsewhere: it has one address per cluster."""
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host
    ends = time.monotonic() + TIMEOUT
    while True:
        try:
            with urlopen(f"http://{host}:{options.port}/-/healthz", timeout=TIMEOUT):
                return
        except HTTPError:
            return  # without an application it responds with an error
        except OSError as error:
            if time.monotonic() > ends:
                raise ClusterError(
                    f"nothing responds on {options.host}:{options.port} ({error}): Ray Serve was started in this "
                    "cluster with another address; use that one, or end it with `serve shutdown` first"
                ) from error
        time.sleep(0.1)
