"""Log-probabilities beside lm-evaluation-harness' own runner of transformers models, item by item, on real MMLU rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lianlu.client.base import ScoreRequest
from lianlu.core.config import validate
from lianlu.core.store import Output
from lianlu.eval import compare, runner
from lianlu.eval.sources import Sources
from lianlu.eval.task import Task, replies_to
from lianlu.eval.tasks import mmlu
from lianlu.formats.eval_log import read_log

pytest.importorskip("lm_eval")
SUBJECTS = ["astronomy", "high_school_us_history", "moral_disputes"]
PER_SUBJECT = 4


@pytest.fixture(scope="module")
def checkpoint(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama with a byte-level tokenizer trained on questions, as a Hugging Face folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [item.input for item in mmlu_task(shared_data).items]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.3,
        eos_token_id=0,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def mmlu_task(shared_data: Path) -> Task:
    return mmlu.build(mmlu.MmluTask(limit=PER_SUBJECT, subjects=SUBJECTS), Sources(benchmarks=shared_data / "eval"))


def theirs(folder: Path, requests: list[ScoreRequest]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4, max_length=8192)
    instances = [
        Instance("loglikelihood", {}, (request.context, request.continuation), index) for index, request in enumerate(requests)
    ]
    found: list[tuple[float, bool]] = model.loglikelihood(instances, disable_tqdm=True)
    return found


def test_mmlu_log_probabilities_and_choices_are_the_same(checkpoint: Path, shared_data: Path):
    from lianlu.engine.connect import connect

    task = mmlu_task(shared_data)
    requests: list[Any] = [request for item in task.items for request in task.requests(item)]
    expected = theirs(checkpoint, requests)
    client = connect(str(checkpoint))
    try:
        found = [scored for replies in replies_to(client, task, task.items) for scored in replies]
    finally:
        client.close()
    assert len(found) == len(expected) == 4 * PER_SUBJECT * len(SUBJECTS)
    worst = max(abs(ours.logprob - logprob) for ours, (logprob, _) in zip(found, expected, strict=True))
    assert worst < 1e-3
    assert [ours.is_greedy for ours in found] == [is_greedy for _, is_greedy in expected]
    chosen = set()
    for index, item in enumerate(task.items):
        row = [logprob for logprob, _ in expected[4 * index : 4 * index + 4]]
        score = task.score(item, found[4 * index : 4 * index + 4])
        assert score.extracted[0].text == "ABCD"[row.index(max(row))]
        chosen.add(score.extracted[0].text)
    assert len(chosen) > 1


def test_the_stages_with_a_real_engine(checkpoint: Path, shared_data: Path, tmp_path: Path):
    tasks = [
        {"kind": "mmlu", "subjects": ["astronomy"], "limit": 5, "shots": 1},
        {"kind": "gsm8k", "limit": 3, "shots": 1, "max_tokens": 6},
    ]
    for name, together in (("one", 5), ("two", 2)):
        table = {"model": str(checkpoint), "benchmarks": str(shared_data / "eval"), "tasks": tasks, "max_concurrency": together}
        (tmp_path / name).mkdir()
        runner.run(validate(runner.EvalConfig, table), Output(tmp_path / name))
    logs = [read_log(tmp_path / name / "mmlu.jsonl") for name in ("one", "two")]
    for one, two in zip(logs[0].samples, logs[1].samples, strict=True):
        assert one.logprobs == pytest.approx(two.logprobs, abs=1e-5)
    out = Output(tmp_path / "board")
    compare.run(compare.CompareConfig(logs=[str(tmp_path / "one"), str(tmp_path / "two")], names=["one", "two"]), out)
    assert out.figures["mmlu.acc.one"] == out.figures["mmlu.acc.two"]
    assert (tmp_path / "board" / "leaderboard.json").is_file()
