"""A program of ours in a process of its own: its lines, its failure, its end with its caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.programs import ProgramFailed, lines_of, outcome_of

SAYS = """
import sys
print('{"done": 1}', flush=True)
print("a library's word", file=sys.stderr)
"""


def environment(folder: Path, code: str) -> dict[str, str]:
    (folder / "said.py").write_text(SAYS + code)
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_its_lines_come_as_it_says_them(tmp_path: Path) -> None:
    told = environment(tmp_path, "print('{\"report\": %r}' % len(sys.argv))")
    assert [*lines_of("said", ("a", "b"), told)] == [{"done": 1}, {"report": 3}]
    assert outcome_of("said", (), told) == {"report": 1}


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ('print(\'{"error": "no such file"}\'); sys.exit(2)', "^no such file$"),
        ('print(\'{"error": "half of it"}\')', "^half of it$"),
        ("raise ValueError('planted')", "a library's word(.|\n)*ValueError: planted$"),
        ("import os; os.kill(os.getpid(), 9)", "a library's word$"),
        ("sys.stderr.write('x' * 200_000); sys.exit(3)", "^x{500}$"),
    ],
)
def test_its_failure_is_told(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(ProgramFailed, match=says):
        outcome_of("said", (), environment(tmp_path, code))


def test_it_ends_when_nobody_reads_on(tmp_path: Path) -> None:
    said = lines_of("said", (), environment(tmp_path, "import time; time.sleep(600)"))
    assert next(said) == {"done": 1}
    said.close()
