"""How Ray Serve chooses a replica: `HolderRouter`, which Ray imports by that name, and only then Ray is imported."""

from functools import cache
from typing import Any

from hiif_deploy.server.cluster.keys import holder, tag_of

ROUTER = f"{__name__}.HolderRouter"


def __getattr__(name: str) -> Any:
    if name == "HolderRouter":
        return _holder_router()
    raise AttributeError(name)


@cache
def _holder_router() -> type[Any]:
    from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

    class HolderRouter(ConsistentHashRouter):  # type: ignore[misc]
        """Gives a request to the replica that its route names (`session_id`, see `keys`) while that one lives, however
        many others have come since; all others go by consistent hashing of their routes."""

        async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
            tag = holder((pending_request and pending_request.metadata.session_id) or "")
            held = [replica for replica in candidate_replicas if tag_of(replica.replica_id.unique_id) == tag]
            if held:
                pending_request.routing_context.should_backoff = True
                return [held]
            found: list[list[Any]] = await super().choose_replicas(candidate_replicas, pending_request)
            return found

    return HolderRouter
