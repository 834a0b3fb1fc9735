"""The shipped ACL file starts a server, and what KEDA's list trigger runs passes as its user."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from common.redis.keys import LaneKeys
from tests.faults.test_redis_trouble import Server
from tests.support.stack import REDIS_KINDS, ROOT, redis_binary

SHIPPED = ROOT / "deploy" / "redis" / "users.acl"

KEDA_SCRIPT = """
local counts = { list = 'llen', set = 'scard', zset = 'zcard', hash = 'hlen', none = 'llen' }
return redis.call(counts[redis.call('type', KEYS[1]).ok], KEYS[1])
"""
"""What KEDA's list trigger runs at each poll: the commands, and their order."""


class Guarded(Server):
    def user(self, role: str) -> Redis:
        return Redis(port=self.port, username=role, password=f"change-me-{role}")

    def client(self) -> Redis:
        return self.user("admin")


@pytest.mark.parametrize("kind", REDIS_KINDS)
def test_a_server_starts_with_the_file_and_keda_counts_by_its_script(
    kind: str, tmp_path: Path
) -> None:
    binary, options = redis_binary(kind)[0], ["--aclfile", str(SHIPPED)]
    server = Guarded(tmp_path / "redis", options, binary=binary).start()
    try:
        admin, keda = server.user("admin"), server.user("keda")
        keys = LaneKeys.of("text-detect")
        for band in keys.bands:
            admin.lpush(band, "a", "b")
        admin.hset(keys.unacked, "a", "b")
        admin.zadd(keys.delayed, {"a": 1, "b": 2, "c": 3})
        names = [*keys.bands, keys.unacked, keys.delayed, keys.dead]
        assert [keda.eval(KEDA_SCRIPT, 1, name) for name in names] == [2, 2, 2, 2, 1, 3, 0]
        for name in ("lf:keys", "lf:job:a", "another", "text-detect-2"):
            with pytest.raises(NoPermissionError):
                keda.eval(KEDA_SCRIPT, 1, name)
        admin.close()
        keda.close()
    finally:
        server.kill()
