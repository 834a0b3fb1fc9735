"""Write the secrets that docker-compose.yml and the Kubernetes manifests mount as files.

    python deploy/make_secrets.py [FOLDER] [--alert-webhook URL]

Standard library only. What is there already is kept, so that running it again changes nothing;
delete a file to have it made anew (of a password that Redis and a process share, both).
Containers run as various users, so the files may be read by all, and the folder by its owner only.
"""

import argparse
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USERS = ROOT / "deploy" / "redis" / "users.acl"
HEALTH_USER = "user health on nopass resetkeys resetchannels -@all +ping\n"
"""For health checks: whoever knows no password learns that Redis answers, and no more."""
NO_KEY = "none"
"""As good as no key, while the API asks for none."""
NOWHERE = "http://127.0.0.1:9/"


def make(redis: str, cache: str, alert_webhook: str) -> dict[str, str]:
    """Return each file's text by its name; the servers are `host:port`."""
    users = USERS.read_text(encoding="utf-8")
    roles = re.findall(r">change-me-(\w+)", users)
    passwords = {role: secrets.token_urlsafe(24) for role in roles}
    for role, password in passwords.items():
        users = users.replace(f">change-me-{role} ", f">{password} ")
    cached = secrets.token_urlsafe(24)
    cache_users = f"user default off\nuser cache on >{cached} ~* &* +@all -@dangerous +info\n"
    urls = {f"redis_url_{role}": f"redis://{role}:{passwords[role]}@{redis}/0" for role in roles}
    return {
        "redis_users": users + HEALTH_USER,
        "cache_users": cache_users + HEALTH_USER,
        **urls,
        "cache_redis_url": f"redis://cache:{cached}@{cache}/0",
        "flower_auth": f"flower:{secrets.token_urlsafe(18)}",
        "grafana_password": secrets.token_urlsafe(18),
        "metrics_key": NO_KEY,
        "alert_webhook_url": alert_webhook,
    }


def write(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Write what is not there yet; return the names of the written files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for name, text in texts.items():
        path = folder / name
        if not path.exists():
            path.write_text(text, encoding="utf-8")
            path.chmod(0o444)
            written.append(name)
    return written


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Write the secrets of a deployment as files.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "secrets")
    parser.add_argument("--redis", default="redis:6379", help="host:port of the queue's Redis")
    parser.add_argument("--cache", default="cache-redis:6380", help="host:port of the cache's")
    parser.add_argument(
        "--alert-webhook", default=NOWHERE, help="where Alertmanager posts alerts to"
    )
    options = parser.parse_args()
    texts = make(options.redis, options.cache, options.alert_webhook)
    paired = [name for name in texts if name.endswith("_users") or "redis_url" in name]
    there = [name for name in paired if (options.folder / name).exists()]
    if there and len(there) < len(paired):
        parser.error(
            f"{options.folder} has some of the files that share passwords and lacks others; "
            f"delete {', '.join(there)} there and start over"
        )
    written = write(options.folder, texts)
    print(f"{options.folder}: {len(written)} written, {len(texts) - len(written)} kept")
    if "alert_webhook_url" in written and options.alert_webhook == NOWHERE:
        print("Alerts go nowhere yet: write a URL into alert_webhook_url (docs/deployment.md).")


if __name__ == "__main__":
    main()
