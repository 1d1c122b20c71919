"""What deployments are configured with:

    RequestRouterConfig(request_router_class="kvatlas.cluster.serve.routers:KvatlasReplicaRouter")

Serve copies the module that is named there, with its globals, into every process. This one holds nothing
but names, so what they stand for is imported.
"""

from kvatlas.cluster.serve.replica_router import KvatlasReplicaRouter
from kvatlas.cluster.serve.replicas.advertising import Advertisement, KvatlasReplica

__all__ = ["Advertisement", "KvatlasReplica", "KvatlasReplicaRouter"]
