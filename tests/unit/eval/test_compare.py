"""The leaderboard: values, paired differences, flips, and what may not be compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError
from lianlu.core.store import Output
from lianlu.eval import compare
from lianlu.eval.compare import CompareConfig
from lianlu.formats.eval_log import Header, MetricSpec, ModelRef, Sample, write_log

METRICS = {
    "arithmetic": [MetricSpec(name="exact_match")],
    "docstrings": [
        MetricSpec(name="answer_loss", higher_is_better=False),
        MetricSpec(name="perplexity", score="answer_loss", aggregate="exp-mean", higher_is_better=False),
    ],
}


def log(folder: Path, task: str, values: list[float], dataset: str = "d", protocol: str = "p") -> Path:
    folder.mkdir(exist_ok=True)
    metric = METRICS[task][0].name
    header = Header(
        task=task,
        model=ModelRef(digest=folder.name),
        dataset="numbers",
        dataset_hash=dataset,
        protocol={"name": protocol},
        protocol_hash=protocol,
        metrics=METRICS[task],
        num_samples=len(values),
    )
    samples = [
        Sample(id=str(n), input=f"question {n}", target=f"answer {n}", outputs=[f"{folder.name} {n}"], scores={metric: value})
        for n, value in enumerate(values)
    ]
    write_log(folder / f"{task}.jsonl", header, samples)
    return folder


def run(tmp_path: Path, **table) -> tuple[dict, Output]:
    out = Output(tmp_path / "out")
    compare.run(validate(CompareConfig, {"logs": [str(folder) for folder in table.pop("logs")], **table}), out)
    return json.loads((out.path / "leaderboard.json").read_text()), out


def test_values_pairs_and_flips(tmp_path: Path):
    base = log(tmp_path / "base", "arithmetic", [0, 0, 0, 0, 1, 1, 0, 0])
    tuned = log(tmp_path / "tuned", "arithmetic", [1, 1, 1, 1, 1, 0, 1, 1])
    small = log(tmp_path / "small", "arithmetic", [1, 1, 1, 0, 1, 0, 1, 1])
    board, out = run(tmp_path, logs=[base, tuned, small], names=["base", "tuned", "int8"])
    entry = board["tasks"]["arithmetic"]["metrics"]["exact_match"]
    assert [(row["name"], row["value"], row["n"]) for row in entry["values"]] == [
        ("base", 0.25, 8),
        ("tuned", 0.875, 8),
        ("int8", 0.75, 8),
    ]
    assert [(pair["first"], pair["second"]) for pair in entry["pairs"]] == [
        ("base", "tuned"),
        ("base", "int8"),
        ("tuned", "int8"),
    ]
    pair = entry["pairs"][0]
    assert (pair["difference"], pair["improved"], pair["worsened"], pair["n"]) == (0.625, 6, 1, 8)
    assert pair["test"] == "mcnemar exact"
    assert pair["p"] == pytest.approx(0.125)
    assert not pair["significant"]
    assert [(flip["id"], flip["better"]) for flip in pair["flips"]] == [("0", True), ("1", True), ("2", True), ("5", False)]
    assert pair["flips"][0]["outputs"] == ["base 0", "tuned 0"]
    assert pair["flips"][3]["scores"] == [1, 0]
    assert out.figures == {
        "arithmetic.exact_match.base": 0.25,
        "arithmetic.exact_match.tuned": 0.875,
        "arithmetic.exact_match.int8": 0.75,
    }


def test_lower_is_better_turns_the_flips_round(tmp_path: Path):
    base = log(tmp_path / "base", "docstrings", [2.0, 3.0, 2.5, 4.0, 3.5, 2.2, 2.8, 3.9])
    tuned = log(tmp_path / "tuned", "docstrings", [1.0, 2.0, 1.5, 3.0, 2.5, 1.2, 1.8, 2.9])
    board, _ = run(tmp_path, logs=[base, tuned])
    metrics = board["tasks"]["docstrings"]["metrics"]
    pair = metrics["answer_loss"]["pairs"][0]
    assert (pair["first"], pair["second"]) == ("model 1", "model 2")
    assert (pair["improved"], pair["worsened"]) == (8, 0)
    assert pair["difference"] == pytest.approx(-1)
    assert pair["significant"]
    assert all(flip["better"] for flip in pair["flips"])
    assert metrics["perplexity"]["pairs"][0]["high"] < 0
    assert metrics["perplexity"]["values"][0]["value"] > metrics["perplexity"]["values"][1]["value"]


@pytest.mark.parametrize(
    ("change", "reason"), [({"dataset": "other"}, "different items"), ({"protocol": "other"}, "protocols differ (name)")]
)
def test_unequal_hashes_are_marked_and_not_subtracted(tmp_path: Path, change: dict, reason: str):
    base = log(tmp_path / "base", "arithmetic", [0, 1, 1])
    other = log(tmp_path / "other", "arithmetic", [0, 1, 0], **change)
    board, _ = run(tmp_path, logs=[base, other])
    (pair,) = board["tasks"]["arithmetic"]["metrics"]["exact_match"]["pairs"]
    assert pair["comparable"] is False
    assert reason in pair["reason"]
    assert "difference" not in pair


def test_a_task_that_only_some_have_is_shown_for_them(tmp_path: Path):
    base = log(log(tmp_path / "base", "arithmetic", [0, 1]), "docstrings", [1.0, 2.0])
    other = log(tmp_path / "other", "arithmetic", [1, 1])
    board, _ = run(tmp_path, logs=[base, other])
    assert list(board["tasks"]) == ["arithmetic", "docstrings"]
    assert [row["name"] for row in board["tasks"]["docstrings"]["metrics"]["answer_loss"]["values"]] == ["model 1"]
    assert board["tasks"]["docstrings"]["metrics"]["answer_loss"]["pairs"] == []


def test_one_model_alone_is_a_leaderboard_too(tmp_path: Path):
    board, _ = run(tmp_path, logs=[log(tmp_path / "base", "arithmetic", [0, 1])], names=["only"])
    assert board["tasks"]["arithmetic"]["metrics"]["exact_match"]["pairs"] == []


def test_one_item_has_no_interval_but_a_value(tmp_path: Path):
    logs = [log(tmp_path / name, "arithmetic", [1]) for name in ("a", "b")]
    board, _ = run(tmp_path, logs=logs)
    entry = board["tasks"]["arithmetic"]["metrics"]["exact_match"]
    assert entry["values"][0]["stderr"] is None
    assert entry["pairs"][0]["low"] is None
    assert entry["pairs"][0]["significant"] is False


def test_logs_without_a_common_task_are_refused(tmp_path: Path):
    logs = [log(tmp_path / "a", "arithmetic", [1]), log(tmp_path / "b", "docstrings", [1.0])]
    with pytest.raises(DataError, match="no task in common"):
        run(tmp_path, logs=logs)


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_names_have_to_fit(tmp_path: Path, names):
    logs = [log(tmp_path / name, "arithmetic", [1, 0]) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="name"):
        run(tmp_path, logs=logs, names=names)


def test_a_truncated_log_is_named(tmp_path: Path):
    base = log(tmp_path / "base", "arithmetic", [0, 1])
    file = base / "arithmetic.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"arithmetic\.jsonl, line 3: cut short"):
        run(tmp_path, logs=[base])


def test_a_log_changed_by_hand_is_noticed(tmp_path: Path):
    base, other = (log(tmp_path / name, "arithmetic", [0, 1]) for name in ("a", "b"))
    file = other / "arithmetic.jsonl"
    file.write_text(file.read_text().replace('"id":"1"', '"id":"7"'))
    with pytest.raises(DataError, match="equal hashes but different samples"):
        run(tmp_path, logs=[base, other])


def test_a_folder_without_logs(tmp_path: Path):
    with pytest.raises(DataError, match="no evaluation logs"):
        run(tmp_path, logs=[tmp_path])


def test_equal_inputs_give_equal_bytes(tmp_path: Path):
    logs = [log(tmp_path / name, "docstrings", values) for name, values in (("a", [1.0, 2.0, 2.5]), ("b", [1.5, 1.0, 2.0]))]
    run(tmp_path, logs=logs)
    before = (tmp_path / "out" / "leaderboard.json").read_bytes()
    run(tmp_path, logs=logs)
    assert (tmp_path / "out" / "leaderboard.json").read_bytes() == before
