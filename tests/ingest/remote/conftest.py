"""Real servers for atlases whose index is in one."""

from tests.servers.fixtures import any_cluster as any_cluster
from tests.servers.fixtures import any_server as any_server
from tests.servers.fixtures import redis_cluster as redis_cluster
from tests.servers.fixtures import redis_server as redis_server
from tests.servers.fixtures import shared_servers as shared_servers
from tests.servers.fixtures import start_server as start_server
from tests.servers.fixtures import valkey_server as valkey_server
