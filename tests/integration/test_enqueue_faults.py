"""`lanefleet enqueue` when things go wrong: each row once, and a sentence that says what to do."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import app
from api.cli.enqueue import command, results
from api.client import Manifest
from common.redis.embedded_server import RedisServer
from tests.integration.test_enqueue import read_rows, run, start, write_rows
from tests.support.stack import ApiProcess, Stack, wait_until

MOST_BYTES = 100_000
SLOW = '{"sleep_ms": 50}'


@pytest.fixture(scope="module")
def stack(embedded_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {"LANEFLEET_MAX_BODY_BYTES": str(MOST_BYTES)}
    made = Stack(embedded_redis.url, tmp_path_factory.mktemp("faults"), environment)
    made.redis.flushall()
    made.worker("echo")
    yield made
    made.close()


@pytest.fixture(scope="module")
def api(stack: Stack) -> ApiProcess:
    return stack.api("echo")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_rows(path, 40)
    return path


def words_for(source: Path, out: Path, *more: str) -> tuple[str, ...]:
    return (str(source), "-m", "echo", "--out", str(out), "--input-column", "text", *more)


def test_rows_that_are_too_large_are_refused_and_the_others_run(
    api: ApiProcess, tmp_path: Path
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    large = {40, 41, 150, 299}
    with source.open("w") as stream:
        for n in range(300):
            text = "x" * (20 * MOST_BYTES if n == 150 else 2 * MOST_BYTES if n in large else 5)
            stream.write(json.dumps({"text": text}) + "\n")
    status, end = run(api, *words_for(source, out))
    assert (status, end["done"], end["failed"]) == (1, 300, len(large)), end
    assert {row["index"] for row in read_rows(out)} == {*range(300)} - large
    failed = read_rows(Path(end["failures"]))
    assert {row["index"] for row in failed} == large
    assert all(row["reason"] == "body_too_large" for row in failed), failed
    assert f"longer than {MOST_BYTES} bytes" in failed[0]["message"]


@pytest.mark.slow
def test_an_api_that_restarts_is_waited_for(stack: Stack, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(source, 600)
    api = stack.api("echo")
    more = ("--window", "128", "--chunk", "64", "--params", SLOW)
    process = start(api, *words_for(source, out, *more))
    wait_until(lambda: out.exists() and out.stat().st_size, 60, "the first results")
    api.process.kill()
    stack.api("echo", port=int(api.url.rpartition(":")[2]))
    said, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(said.splitlines()[-1])["done"] == 600
    assert sorted(row["index"] for row in read_rows(out)) == list(range(600))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_who_stops_it_is_told_and_the_rest_comes_with_the_next_run(
    api: ApiProcess, tmp_path: Path, number: signal.Signals
) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(source, 800)
    words = words_for(source, out, "--window", "128", "--chunk", "64", "--params", SLOW)
    process = start(api, *words)
    wait_until(lambda: out.exists() and out.stat().st_size, 60, "the first results")
    process.send_signal(number)
    said, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert json.loads(said.splitlines()[-1])["event"] == "stopped"
    with Manifest(tmp_path / "out.jsonl.manifest") as manifest:
        assert manifest.counts().get("open"), "what was submitted is noted"
    assert run(api, *words)[0] == 0
    assert sorted(row["index"] for row in read_rows(out)) == list(range(800))


@pytest.mark.parametrize("where", ["open_source", "_kind_of"])
def test_ctrl_c_before_the_first_row(
    api: ApiProcess, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(command, where, interrupt)
    assert run(api, *words_for(source, tmp_path / "out.jsonl")) == (
        130,
        {"event": "stopped", "done": 0, "failed": 0},
    )


def test_ctrl_c_while_parquet_is_written(
    api: ApiProcess, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    words = words_for(source, tmp_path / "out.parquet")
    with monkeypatch.context() as patched:
        patched.setattr(results, "to_parquet", interrupt)
        assert run(api, *words)[0] == 130
    status, end = run(api, *words)
    assert (status, end["done"], end["done_before"]) == (0, 0, 40)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 40


def interrupt(*_given: Any) -> None:
    raise KeyboardInterrupt


def test_a_second_run_is_told_to_wait(api: ApiProcess, source: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out.jsonl", str(tmp_path / "other.manifest")
    with Manifest(tmp_path / "out.jsonl.manifest"):
        status, said = run(api, *words_for(source, out))
        assert (status, "in use by another run" in said["message"]) == (2, True)
    with out.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        status, said = run(api, *words_for(source, out, "--manifest", other))
        assert (status, "written by another run" in said["message"]) == (2, True)


def test_a_source_that_changed_is_told(api: ApiProcess, source: Path, tmp_path: Path) -> None:
    words = words_for(source, tmp_path / "out.jsonl")
    assert run(api, *words)[0] == 0
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines, json.dumps({"text": "one more"})]))
    status, end = run(api, *words)
    assert (status, end["done"], end["done_before"]) == (0, 1, 40), "rows may be added"
    source.write_text("\n".join([json.dumps({"text": "new"}), *lines]))
    status, said = run(api, *words)
    assert (status, "input 0 is another than in the run" in said["message"]) == (2, True)
    assert len(read_rows(tmp_path / "out.jsonl")) == 41
    status, said = run(api, *words_for(source, tmp_path / "out.jsonl", "--label", "run=2"))
    assert (status, "has other options" in said["message"]) == (2, True)


def test_results_in_the_folder_that_is_read_are_refused(api: ApiProcess, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    status, said = run(api, str(tmp_path), "-m", "echo", "--out", str(tmp_path / "deep" / "out"))
    assert (status, "lies in the folder that is read" in said["message"]) == (2, True)


def test_nobody_who_reads_what_it_says_ends_it_with_a_sentence(
    api: ApiProcess, tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    write_rows(source, 800)
    words = words_for(source, tmp_path / "out.jsonl", "--params", SLOW, "--window", "64")
    process = start(api, *words, "--chunk", "64")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stream:
        err = stream.read()
    assert (process.wait(60), b"Traceback" in err) == (2, False), err
    assert b"standard output cannot be written" in err
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*process.args], stdout=full, stderr=subprocess.PIPE, check=False)  # type: ignore[misc]
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False), done.stderr


def test_a_closed_standard_input_is_no_traceback(api: ApiProcess) -> None:
    words = (*command_line(api), "-", "-m", "echo")
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", *words], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"standard input is closed" in done.stdout + done.stderr


def command_line(api: ApiProcess) -> tuple[str, ...]:
    from tests.integration.test_enqueue import LANEFLEET

    return (*LANEFLEET, "enqueue", "--url", api.url, "--json")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("--limit", "0"), "greater than or equal to 1"),
        (("--window", "0"), "greater than or equal to 1"),
        (("--params", "[]"), "--params has to be a JSON object"),
        (("--label", "run"), "write it as run=42"),
        (("--param", "=x"), "COLUMN=PARAMETER"),
        (("--priority", "10"), "less than or equal to 9"),
        (("--format", "xml"), "none of jsonl, csv"),
    ],
)
def test_options_that_make_no_sense(
    api: ApiProcess, source: Path, typed: tuple[str, ...], says: str
) -> None:
    done = CliRunner().invoke(app, ["enqueue", str(source), "-m", "echo", "--url", api.url, *typed])
    assert done.exit_code == 2
    assert says in done.output.replace("\n", " ").replace("│", " ").replace("  ", " "), done.output


def test_names_of_rows_may_be_anything(api: ApiProcess, tmp_path: Path) -> None:
    names = ["../../x", "a/b", "", ".", "ü\u2028\x00", "n" * 300, "same", "same", "-rf"]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"id": name, "text": "x"}) + "\n" for name in names))
    status, end = run(api, *words_for(source, out, "--id-column", "id"))
    assert (status, end["done"]) == (0, len(names))
    found = sorted(out.iterdir())
    assert [json.loads(one.read_bytes())["id"] for one in found] == names
    assert {one.parent for one in out.rglob("*")} == {out}
    assert {one.name for one in tmp_path.iterdir()} == {"rows.jsonl", "out", "out.manifest"}


def test_what_is_in_the_folder_for_results_stays(
    api: ApiProcess, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.json").write_text("mine")
    status, said = run(api, *words_for(source, tmp_path / "out"))
    assert (status, "is there already" in said["message"]) == (2, True)
    assert (tmp_path / "out" / "mine.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["out.failed.jsonl", "out.parquet.parts.jsonl"])
def test_files_beside_the_results_that_are_not_its_own_stay(
    api: ApiProcess, source: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    status, said = run(api, *words_for(source, tmp_path / "out.parquet"))
    assert (status, f"{name} is there already" in said["message"]) == (2, True), said
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.slow
def test_a_lane_that_is_full_is_waited_for(stack: Stack, tmp_path: Path) -> None:
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    write_rows(source, 400)
    api = stack.api("echo", LANEFLEET_MAX_BACKLOG="50")
    process = start(api, *words_for(source, out, "--chunk", "100", "--params", SLOW))
    said, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert any(json.loads(line).get("waits_for") for line in said.splitlines()), said
    assert sorted(row["index"] for row in read_rows(out)) == list(range(400))


def test_a_source_without_rows_gives_results_without_rows(api: ApiProcess, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "rows.jsonl").write_text("\n")
    for name in ("out.parquet", "out.csv", "out.jsonl"):
        words = (str(tmp_path / "rows.jsonl"), "-m", "echo", "--out", str(tmp_path / name))
        status, end = run(api, *words)
        assert (status, end["done"]) == (0, 0)
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    assert (tmp_path / "out.csv").read_text() == "index,id,result\n"
