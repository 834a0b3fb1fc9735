"""Write the secrets that docker-compose.yml and the Kubernetes manifests mount as files.

    python deploy/make_secrets.py [FOLDER] [--alert-webhook URL]

Standard library only. Run it again after an upgrade: passwords are kept, what users of Redis may do
follows deploy/redis/users.acl. Delete a file to have its secret made anew; of a login to Redis that
is its `*_url`. Containers run as various users, so the files may be read by all, and the folder by
its owner only.
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


def password_in(url: str) -> str:
    """Return the password of a URL that this wrote before, or a fresh one."""
    found = re.match(r"redis://\w+:([^@]+)@", url)
    return found[1] if found else secrets.token_urlsafe(24)


def make(redis: str, cache: str, webhook: str, there: Mapping[str, str]) -> dict[str, str]:
    """Return each file's text by its name.

    The servers are `host:port`; `there` is what an earlier run wrote.
    """
    users = USERS.read_text(encoding="utf-8")
    made = {}
    for role in re.findall(r">change-me-(\w+)", users):
        password = password_in(there.get(f"redis_url_{role}", ""))
        users = users.replace(f">change-me-{role} ", f">{password} ")
        made[f"redis_url_{role}"] = f"redis://{role}:{password}@{redis}/0"
    cached = password_in(there.get("cache_redis_url", ""))
    cache_users = f"user default off\nuser cache on >{cached} ~* &* +@all -@dangerous +info\n"
    kept = {
        "flower_auth": f"flower:{secrets.token_urlsafe(18)}",
        "grafana_password": secrets.token_urlsafe(18),
        "metrics_key": NO_KEY,
        "alert_webhook_url": webhook,
    }
    return {
        **made,
        "redis_users": users + HEALTH_USER,
        "cache_users": cache_users + HEALTH_USER,
        "cache_redis_url": f"redis://cache:{cached}@{cache}/0",
        **{name: there.get(name, text) for name, text in kept.items()},
    }


def write(folder: Path, texts: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Write what is not there as it should be; return the names of the written files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = [name for name, text in texts.items() if there.get(name) != text]
    for name in changed:
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_text(texts[name], encoding="utf-8")
        path.chmod(0o444)
    return changed


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
    files = options.folder.glob("*") if options.folder.is_dir() else ()
    there = {path.name: path.read_text(encoding="utf-8") for path in files if path.is_file()}
    texts = make(options.redis, options.cache, options.alert_webhook, there)
    written = write(options.folder, texts, there)
    print(f"{options.folder}: {len(written)} written, {len(texts) - len(written)} kept")
    if "alert_webhook_url" in written and options.alert_webhook == NOWHERE:
        print("Alerts go nowhere yet: write a URL into alert_webhook_url (docs/deployment.md).")


if __name__ == "__main__":
    main()
