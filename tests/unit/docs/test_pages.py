"""What a page names exists: a link, a file, a setting, a command, a metric, a test.

Pages rot quietly: nobody notices a renamed file until a newcomer looks for it.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMES = json.loads((ROOT / "tests" / "data" / "public_names.json").read_text(encoding="utf-8"))
FOLDERS = ("api", "common", "worker", "tests", "deploy", "docs", r"\.github")

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)")
SETTING = re.compile(r"LANEFLEET_[A-Z0-9_]*[A-Z0-9]\b(?!_?\*)")
COMMAND = re.compile(r"(?:`|^ {4}|^)lanefleet ([a-z]+)(?: ([a-z][a-z|]*))?", re.MULTILINE)
METRIC = re.compile(r"\blanefleet_(?:api|cache|lane|worker)_[a-z_]+")
TEST = re.compile(r"`(test_\w+)`")


@cache
def _pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def _anchors(page: Path) -> set[str]:
    """The anchors a forge makes of headings."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@cache
def _test_names() -> frozenset[str]:
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(name for text in texts for name in re.findall(r"def (test_\w+)", text))


@cache
def _variables() -> frozenset[str]:
    """Settings, and what the command line and the client read besides, as the sources spell it."""
    names = {name for names in NAMES["settings"].values() for name in names.split()}
    for package in ("api", "common", "worker"):
        for path in (ROOT / package).rglob("*.py"):
            names.update(re.findall(r"\"(LANEFLEET_\w+)\"", path.read_text(encoding="utf-8")))
    return frozenset(names)


def _missing_link(page: Path, target: str) -> bool:
    if target.startswith(("http://", "https://", "mailto:")):
        return False
    name, _, anchor = target.partition("#")
    found = (page.parent / name).resolve() if name else page
    if not found.exists():
        return True
    return bool(anchor) and found.suffix == ".md" and anchor not in _anchors(found)


def _missing_command(group: str, names: str) -> list[str]:
    """The commands, of `models load|unload` each, that the command line does not have."""
    known = set(NAMES["commands"])
    if f"lanefleet {group}" in known:
        return []
    wanted = [f"lanefleet {group} {name}" for name in names.split("|") if name]
    if not wanted:  # a group by itself
        wanted = [] if any(each.startswith(f"lanefleet {group} ") for each in known) else [group]
    return [each for each in wanted if each not in known]


def _missing(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    wrong = [f"link {each}" for each in LINK.findall(text) if _missing_link(page, each)]
    wrong += [f"file {each}" for each in FILE.findall(text) if not (ROOT / each).exists()]
    wrong += [f"setting {each}" for each in SETTING.findall(text) if each not in _variables()]
    for group, names in COMMAND.findall(text):
        wrong += [f"command {each}" for each in _missing_command(group, names)]
    for metric in METRIC.findall(text):
        stem = re.sub(r"_(total|bucket|count|sum)$", "", metric)
        if not {metric, stem} & set(NAMES["metrics"]):
            wrong.append(f"metric {metric}")
    known = _test_names()
    wrong += [f"test {each}" for each in TEST.findall(text) if each not in known]
    return wrong


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_whatever_a_page_names_exists(page: Path) -> None:
    assert _missing(page) == []


def test_every_page_of_docs_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_a_name_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "[gone](gone.md) `api/gone.py` LANEFLEET_GONE `lanefleet gone` `lanefleet dead gone`"
        " lanefleet_worker_gone_total `test_gone`"
    )
    kinds = [each.split()[0] for each in _missing(page)]
    assert kinds == ["link", "file", "setting", "command", "command", "metric", "test"]
