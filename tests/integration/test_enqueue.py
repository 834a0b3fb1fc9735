"""`lanefleet enqueue` against a real fleet: each row once, also after a kill."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import app
from common.redis.embedded_server import RedisServer
from tests.support.stack import ROOT, ApiProcess, Stack, wait_until

SLOW = '{"sleep_ms": 100}'
LANEFLEET = (sys.executable, "-c", "from api.cli import main; main()")


@pytest.fixture(scope="module")
def api(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    environment = {"LANEFLEET_MAX_ATTEMPTS": "1"}
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("enqueue"), environment)
    made.redis.flushall()
    made.worker("echo")
    yield made.api("echo,minilm")
    made.close()


def start(api: ApiProcess, *words: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*LANEFLEET, "enqueue", *words, "--url", api.url, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "NO_COLOR": "1"},
        **more,
    )


def run(api: ApiProcess, *words: str, stdin: bytes | None = None) -> tuple[int, dict[str, Any]]:
    """Status and the last event, in this process."""
    typed = ["enqueue", *words, "--url", api.url, "--json"]
    done = CliRunner().invoke(app, typed, input=stdin)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout.splitlines()[-1])


def wait_until_noted(out: Path) -> None:
    """Until results were written twice: the manifest has the first of them."""
    sizes: set[int] = set()

    def grew() -> bool:
        sizes.add(out.stat().st_size if out.exists() else 0)
        return len(sizes) > 2

    wait_until(grew, 60, "results to be written")


def write_rows(path: Path, count: int, **more: Any) -> None:
    path.write_text("".join(json.dumps({"id": f"r{n}", "text": "x" * (n % 9), **more}) + "\n"
                            for n in range(count)))  # fmt: skip


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_with_their_ids_and_failures_apart(api: ApiProcess, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "results.jsonl"
    lines = [json.dumps({"key": f"k{n}", "text": "a" * n, "how": None}) for n in range(300)]
    lines[7] = json.dumps({"key": "bad", "text": "x", "how": "on purpose"})
    lines[9] = "{not json"
    lines[11] = json.dumps({"key": "short"})
    source.write_text("\n".join(lines))
    words = (str(source), "-m", "echo", "--out", str(out), "--input-column", "text")
    words += ("--id-column", "key", "--param", "how=fail", "--label", "run=apart")
    status, end = run(api, *words)
    assert (status, end["event"], end["done"], end["failed"]) == (1, "end", 300, 3)
    rows = read_rows(out)
    assert sorted(row["index"] for row in rows) == sorted({*range(300)} - {7, 9, 11})
    assert all(row["result"]["length"] == int(row["id"][1:]) for row in rows)
    failed = {row["index"]: row for row in read_rows(Path(end["failures"]))}
    assert failed[7]["reason"] == "attempts_exhausted"
    assert "line 10 is not JSON" in failed[9]["message"]
    assert "no column 'text'; it has 'key'" in failed[11]["message"]
    again, end = run(api, *words)
    assert (again, end["done"], end["done_before"]) == (1, 0, 300)
    assert len(read_rows(out)) == 297


def test_a_run_that_was_killed_goes_on_and_has_each_row_once(
    api: ApiProcess, tmp_path: Path
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "results.jsonl"
    write_rows(source, 3000)
    words = (str(source), "-m", "echo", "--out", str(out), "--input-column", "text")
    words += ("--window", "512", "--chunk", "128", "--params", SLOW)
    process = start(api, *words)
    wait_until_noted(out)
    process.kill()
    process.communicate()
    with out.open("ab") as stream:
        stream.write(b'{"index": 2999, "id": "not not')  # what was written and not noted
    status, end = run(api, *words)
    assert (status, end["done_before"] > 0) == (0, True)
    assert end["done"] + end["done_before"] == 3000
    assert [row["index"] for row in sorted(read_rows(out), key=lambda row: row["index"])] == list(
        range(3000)
    )


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(api: ApiProcess, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "results.csv"
    source.write_text("".join(f"{n}\n" for n in range(2000)))
    words = (str(source), "-m", "echo", "--out", str(out), "--window", "256")
    words += ("--chunk", "64", "--params", SLOW)
    process = start(api, *words)
    wait_until_noted(out)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    if process.returncode != 0:  # else it was done before
        assert process.returncode == 130
        assert json.loads(said.splitlines()[-1])["event"] == "stopped"
    assert run(api, *words)[0] == 0
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(int(row["index"]) for row in rows) == list(range(2000))


def test_parquet_and_a_folder_in_parquet_out_have_the_same_rows(
    api: ApiProcess, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = {f"{n:03d}.txt": "t" * n for n in range(200)}
    folder, found = tmp_path / "texts", {}
    (folder / "deep").mkdir(parents=True)
    for number, (name, text) in enumerate(texts.items()):
        (folder / ("deep" if number % 2 else ".") / name).write_text(text)
    pq.write_table(pa.table({"name": list(texts), "text": list(texts.values())}),
                   tmp_path / "in.parquet")  # fmt: skip
    words = ("-m", "echo", "--out")
    status, _ = run(api, str(folder), *words, str(tmp_path / "a.parquet"))
    columns = ("--input-column", "text", "--id-column", "name")
    status += run(api, str(tmp_path / "in.parquet"), *words, str(tmp_path / "b.parquet"), *columns)[
        0
    ]
    assert status == 0
    for name in ("a", "b"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.column_names == ["index", "id", "result"]
        found[name] = {(Path(row["id"]).name, row["result"]["length"]) for row in table.to_pylist()}
    assert found["a"] == found["b"] == {(name, len(text)) for name, text in texts.items()}
    assert not list(tmp_path.glob("*.parts.jsonl"))
    again, end = run(api, str(folder), *words, str(tmp_path / "a.parquet"))
    assert (again, end["done_before"]) == (0, 200)


def test_standard_input_csv_limits_and_a_folder_out(api: ApiProcess, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    status, end = run(
        api, "-", "-m", "echo", "--format", "csv", "--input-column", "b", "--limit", "2",
        "--out", out, stdin=b"a,b\n1,xx\n2,yyy\n3,z\n",
    )  # fmt: skip
    assert (status, end["done"]) == (0, 2)
    rows = [json.loads(one.read_bytes()) for one in sorted((tmp_path / "out").glob("*.json"))]
    assert [row["result"]["length"] for row in rows] == [2, 3]


def test_a_dry_run_says_what_would_be_refused(api: ApiProcess, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "fine"}\n{"text": 7}\n{"other": 1}\n')
    status, end = run(api, str(source), "-m", "minilm", "--input-column", "text", "--dry-run")
    assert (status, end["rows"], end["refused"]) == (1, 3, 2)
    assert end["first"] == [{"id": "0", "input": "fine"}]
    assert "the model takes text" in end["why"][0]
    assert "no column 'text'" in end["why"][1]


def test_what_cannot_run_is_a_sentence_and_status_two(api: ApiProcess, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("Once upon a time\n")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.parquet").write_text("no parquet")
    (tmp_path / "rows.jsonl").write_text("1\n")
    (tmp_path / "there.jsonl").write_text("mine\n")
    rows, here = str(tmp_path / "rows.jsonl"), str(tmp_path)
    wrong = [
        ((here + "/gone", "-m", "echo"), "there is no file"),
        ((here + "/empty", "-m", "echo"), "has no files"),
        ((here + "/text.jsonl", "-m", "echo"), "is not JSONL: line 1"),
        ((here + "/table.csv", "-m", "echo", "--input-column", "c"), "has 'a', 'b'"),
        ((rows, "-m", "gone"), "gone"),
        ((rows, "-m", "echo", "--out", here + "/x.xlsx"), ".jsonl, .csv, .parquet"),
        ((rows, "-m", "echo", "--out", here + "/there.jsonl"), "is there already"),
        ((rows, "-m", "echo", "--out", rows + "/x.jsonl"), "File exists"),
    ]
    if pytest.importorskip("pyarrow"):
        wrong.append(((here + "/x.parquet", "-m", "echo"), "is no Parquet file"))
    for words, says in wrong:
        status, said = run(api, *words)
        assert (status, said.get("event")) == (2, "error"), (words, said)
        assert says in said["message"]


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_run_goes_on(api: ApiProcess, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "results.jsonl"
    write_rows(source, 2000)
    words = (str(source), "-m", "echo", "--out", str(out), "--input-column", "text")
    most = 150_000

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    process = start(api, *words, preexec_fn=limit)
    said, err = process.communicate(timeout=120)
    assert (process.returncode, b"Traceback" in err) == (2, False), err
    assert "make room" in json.loads(said.splitlines()[-1])["message"]
    assert run(api, *words)[0] == 0
    assert sorted(row["index"] for row in read_rows(out)) == list(range(2000))
