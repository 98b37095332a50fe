"""Evaluation beside lm-evaluation-harness, offline, on the same rows: prompts, extraction, log-probabilities, errors."""

from __future__ import annotations

import csv
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lianlu.client.base import Reply
from lianlu.eval import stats
from lianlu.eval.sources import Sources
from lianlu.eval.tasks import gsm8k, mmlu
from lianlu.formats.jsonl import read_values
from lianlu.formats.messages import Message

lm_eval = pytest.importorskip("lm_eval")
TASKS = Path(lm_eval.__file__).parent / "tasks"
FEWSHOT_SEED = 1234


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


def their_task(path: Path, **changes: Any) -> Any:
    """One of lm-eval's tasks as its file says, but on rows of ours."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(path)
    for name in ("tag", "task_alias", "include", "dataset_name"):
        config.pop(name, None)
    task = ConfigurableTask(config={**config, "dataset_path": "json", **changes})
    task.set_fewshot_seed(FEWSHOT_SEED)
    return task


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def their_gsm8k(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("gsm8k")
    rows = {name: [row for _, row in read_values(shared_data / f"eval/gsm8k/{name}.jsonl.gz")] for name in ("train", "test")}
    files = {
        "train": write_rows(folder / "train.jsonl", rows["train"]),
        "test": write_rows(folder / "test.jsonl", rows["test"][:12]),
    }
    return their_task(TASKS / "gsm8k" / "gsm8k.yaml", dataset_kwargs={"data_files": files})


def test_gsm8k_prompts_are_the_same_to_the_letter(their_gsm8k, shared_data: Path):
    task = gsm8k.build(gsm8k.Gsm8kTask(limit=12), Sources(benchmarks=shared_data / "eval"))
    their_gsm8k.build_all_requests(rank=0, world_size=1)
    theirs = [instance.args for instance in their_gsm8k.instances]
    requests = [task.requests(item)[0] for item in task.items]
    assert [request.prompt for request in requests] == [args[0] for args in theirs]
    assert list(requests[0].sampling.stop) == theirs[0][1]["until"]


def recorded_replies(shared_data: Path) -> list[str]:
    """Texts as models write them: worked answers, and the same mangled in the ways that extraction meets."""
    answers = [row["answer"] for _, row in read_values(shared_data / "eval/gsm8k/train.jsonl.gz")][:400]
    draw = random.Random(7)
    mangled = [
        "",
        "I do not know.",
        "#### ",
        "####5",
        "#### -3.50",
        "#### 1,234.",
        "It costs $1,234.50 in all.",
        "... , . $ -",
        "The answer is $.",
        "#### 7 and later #### 8",
        "-12",
        "a-12-13",
        "x = 3.\n#### 3.\n",
        "##### 9",
    ]
    for answer in answers[:300]:
        number = answer.rpartition("#### ")[2]
        endings = [f"#### {number}.", f"so it is ${number}.", f"= {number}", f"It is {number} dollars. 1 more", "####"]
        mangled.append(answer.rpartition("####")[0] + draw.choice(endings))
    return [*answers, *mangled]


def test_gsm8k_extraction_and_score_are_the_same(their_gsm8k, shared_data: Path):
    replies = recorded_replies(shared_data)
    target = next(read_values(shared_data / "eval/gsm8k/train.jsonl.gz"))[1]["answer"]
    filters = {ensemble.name: ensemble for ensemble in their_gsm8k._filters}
    item = gsm8k.Item("0", "q", target)
    hits = 0
    for reply in replies:
        ours = gsm8k.extract(reply)
        score = gsm8k.score(item, [Reply(Message(role="assistant", content=reply), "stop")])
        for found, name, metric in zip(ours, ("strict-match", "flexible-extract"), gsm8k.METRICS, strict=True):
            theirs: Any = [[reply]]
            for step in filters[name].filters:
                theirs = step().apply(theirs, [{}])
            cut = next(iter(theirs))
            assert (found.text if found.found else "[invalid]") == cut, (name, reply)
            expected = their_gsm8k.process_results({"question": "q", "answer": target}, [cut])["exact_match"]
            assert score.values[metric.name] == expected, (name, reply)
            hits += int(expected)
    assert hits >= 2


def mmlu_rows(shared_data: Path, split: str, subject: str) -> list[dict[str, Any]]:
    with zipfile.ZipFile(shared_data / "eval/mmlu/mmlu.zip") as archive:
        text = archive.read(f"data/{split}/{subject}_{split}.csv").decode()
    return [
        {"question": r[0], "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in csv.reader(io.StringIO(text, newline=""))
    ]


def their_mmlu(shared_data: Path, subject: str, limit: int, folder: Path) -> Any:
    files = {
        "test": write_rows(folder / f"{subject}_test.jsonl", mmlu_rows(shared_data, "test", subject)[:limit]),
        "dev": write_rows(folder / f"{subject}_dev.jsonl", mmlu_rows(shared_data, "dev", subject)),
    }
    path = TASKS / "mmlu" / "default" / f"mmlu_{subject}.yaml"
    return their_task(path, dataset_kwargs={"data_files": files}, num_fewshot=5)


@pytest.mark.parametrize("subject", ["abstract_algebra", "high_school_european_history", "us_foreign_policy"])
def test_mmlu_requests_are_the_same_to_the_letter(shared_data: Path, tmp_path: Path, subject: str):
    theirs = their_mmlu(shared_data, subject, 5, tmp_path)
    theirs.build_all_requests(rank=0, world_size=1)
    task = mmlu.build(mmlu.MmluTask(limit=5, subjects=[subject]), Sources(benchmarks=shared_data / "eval"))
    ours = [(request.context, request.continuation) for item in task.items for request in task.requests(item)]
    assert ours == [instance.args for instance in theirs.instances]


def test_mmlu_subject_lines_are_the_same(shared_data: Path):
    from lm_eval.tasks._yaml_loader import load_yaml

    task = mmlu.build(mmlu.MmluTask(limit=1, shots=0), Sources(benchmarks=shared_data / "eval"))
    assert len(task.items) == 57
    for item in task.items:
        subject = item.fields["subject"]
        config = load_yaml(TASKS / "mmlu" / "default" / f"mmlu_{subject}.yaml")
        assert task.requests(item)[0].context.startswith(config["description"] + item.input)


def test_the_whole_of_mmlu_is_read(shared_data: Path):
    task = mmlu.build(mmlu.MmluTask(), Sources(benchmarks=shared_data / "eval"))
    assert len(task.items) == 14_042


def test_standard_errors_are_the_same():
    from lm_eval.api.metrics import mean_stderr

    draw = random.Random(1)
    for values in ([draw.random() for _ in range(57)], [float(draw.random() < 0.3) for _ in range(200)]):
        assert stats.stderr(stats.make_values(values)) == pytest.approx(mean_stderr(values), rel=1e-12)


def test_the_micro_average_has_the_pooled_error_of_lm_eval():
    """lm-eval pools the errors of subjects; ours is that of all items, and both are near for subjects of one kind."""
    from lm_eval.api.metrics import mean_stderr, pooled_sample_stderr

    draw = random.Random(2)
    groups = [[float(draw.random() < 0.5) for _ in range(draw.randrange(80, 200))] for _ in range(20)]
    theirs = pooled_sample_stderr([mean_stderr(group) for group in groups], [len(group) for group in groups])
    ours = stats.stderr(stats.make_values([value for group in groups for value in group]))
    assert ours == pytest.approx(theirs, rel=0.02)
