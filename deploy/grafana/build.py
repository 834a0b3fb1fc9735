"""Make Grafana's dashboards; the JSON is committed, so that Grafana needs none of this.

make dashboards                               write deploy/grafana/dashboards anew
python deploy/grafana/build.py FOLDER         write them somewhere else
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import device
import lane
import overview
import tenants
import webhooks
from panels import dashboard_of

PAGES = (overview.PAGE, lane.PAGE, device.PAGE, tenants.PAGE, webhooks.PAGE)


def write(folder: Path) -> None:
    """Write each dashboard's JSON into the folder."""
    names = [page.name for page in PAGES]
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        built = dashboard_of(page, names).build()
        text = json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True)
        (folder / f"{page.name}.json").write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    own = Path(__file__).resolve().parent / "dashboards"
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else own)
