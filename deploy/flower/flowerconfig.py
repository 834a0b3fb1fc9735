"""Flower's own options: a login from a file, and nothing that changes the fleet.

celery -A common.broker:app flower --conf=deploy/flower/flowerconfig.py
"""

import os
from pathlib import Path

port = 5555
read_only = True
login = Path(os.environ.get("FLOWER_LOGIN_FILE", "/run/secrets/flower_auth"))
basic_auth = [login.read_text(encoding="utf-8").strip()]
