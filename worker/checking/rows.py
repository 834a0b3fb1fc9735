"""What makes sense to check of a generator: its text alone and in company, and tokens a second."""

from __future__ import annotations

import time
from typing import Any

from worker.checking.fault import Fault
from worker.checking.verbs import Verbs
from worker.models.generator import Choice, Generated, Generator, Prompt

__all__ = ("check_rows",)

_TOKENS = 16
_MOST_STEPS = 10_000


def check_rows(verbs: Verbs, handler: Generator, value: Any) -> tuple[dict[str, Any], list[Any]]:
    """Figures, and a row of the table for each number of texts written at once."""
    params = {"max_tokens": _TOKENS, "temperature": 0}
    prompt = verbs.run("decode", lambda: handler.decode(value, params))
    if not isinstance(prompt, Prompt):
        raise Fault(
            f"decode returned a {type(prompt).__name__}, no Prompt", "decode", verbs.place("decode")
        )
    verbs.cost(prompt)
    alone, _ = _write(verbs, handler, prompt, 1)
    again, _ = _write(verbs, handler, prompt, 1)
    rows, texts = [], alone
    for count in sorted({1, min(4, handler.slots), handler.slots}):
        texts, seconds = _write(verbs, handler, prompt, count)
        made = sum(len(one.tokens) for one in texts)
        rows.append(
            {
                "rows": count,
                "tokens/s": round(made / max(seconds, 1e-9), 1),
                "first text": texts[0].text[:40],
            }
        )
    same = all(one.tokens == alone[0].tokens for one in texts)
    verbs.encode(Generated(prompt, alone))
    facts = {
        "repeatable": again[0].tokens == alone[0].tokens,
        "same_in_company": same,
        "slots": handler.slots,
        "budget_tokens": handler.budget_tokens,
    }
    return facts, rows


def _write(
    verbs: Verbs, handler: Generator, prompt: Prompt, count: int
) -> tuple[list[Choice], float]:
    """Write it so often at once; the answers and the seconds."""
    began = time.perf_counter()
    rows = [row for _ in range(count) for row in verbs.run("admit", lambda: handler.admit(prompt))]
    choices = {row: Choice() for row in rows}
    texts = {row: handler.text(prompt, 0) for row in rows}
    left = set(rows)
    try:
        for _ in range(_MOST_STEPS):
            for one in verbs.run("step", handler.step):
                if one.row in left:
                    choice = choices[one.row]
                    choice.tokens.append(one.token)
                    choice.text += texts[one.row].feed(one.token, one.finish).text
                    if one.finish:
                        choice.finish = one.finish
                        left.discard(one.row)
            if not left:
                break
        else:
            raise Fault(
                f"{_MOST_STEPS} steps ended no text of {_TOKENS} tokens",
                "step",
                verbs.place("step"),
            )
    finally:
        for row in rows:
            verbs.run("drop", lambda row=row: handler.drop(row))  # type: ignore[misc]
    return [choices[row] for row in rows], time.perf_counter() - began
