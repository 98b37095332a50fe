"""The eval stage with a model of its own: logs, scores, continuation, and what is said when something is wrong."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lianlu.client.base import ChatScoreRequest, Reply, Scored
from lianlu.core.config import validate
from lianlu.core.errors import ConfigError, DataError, EngineError, MissingExtraError, RequestError
from lianlu.core.files import files_below
from lianlu.core.store import Output
from lianlu.eval import runner
from lianlu.eval.runner import EvalConfig
from lianlu.eval.task import Item, Score, Task, replies_to
from lianlu.formats.eval_log import MetricSpec, read_log
from lianlu.formats.messages import Conversation, Message, ToolCall, write_conversations
from lianlu.formats.problems import arithmetic_problem


class Knowing:
    """Right on arithmetic with an even index, finds every needle, and scores text by a hash. Counts batches."""

    name = "knowing"

    def __init__(self, die_after: int = -1) -> None:
        self.batches: list[list[str]] = []
        self.closed = False
        self.die_after = die_after
        self.answers = {arithmetic_problem(0, n, training=False).question: n for n in range(50)}

    def chat(self, requests):
        self._count([request.messages[-1].content for request in requests])
        return [self._reply(request.messages[-1].content) for request in requests]

    def complete(self, requests):
        raise NotImplementedError

    def stream(self, request):
        raise NotImplementedError

    def score(self, requests):
        self._count([request.messages[-1].content for request in requests])
        return [Scored(-int(hashlib.sha256(repr(r.messages).encode()).hexdigest()[:4], 16) / 1e3, 7, False) for r in requests]

    def close(self) -> None:
        self.closed = True

    def _count(self, texts: list[str]) -> None:
        if self.die_after == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(texts)

    def _reply(self, question: str) -> Reply:
        if question in self.answers:
            index = self.answers[question]
            text = str(arithmetic_problem(0, index, training=False).answer + index % 2)
        else:
            text = question
        return Reply(Message(role="assistant", content=text), "stop", prompt_tokens=len(question), completion_tokens=3)


@pytest.fixture
def setting(tmp_path: Path) -> dict:
    conversations = [
        Conversation(id=f"c{n}", messages=[Message(role="user", content=f"q{n}"), Message(role="assistant", content=f"a{n}")])
        for n in range(7)
    ]
    (tmp_path / "data").mkdir()
    write_conversations(tmp_path / "data" / "held_out.jsonl", conversations)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return {
        "model": str(tmp_path / "model"),
        "data": str(tmp_path / "data"),
        "tasks": [
            {"kind": "docstrings", "generate": 2},
            {"kind": "arithmetic", "limit": 10},
            {"kind": "needle", "lengths": [64], "depths": [0, 100]},
        ],
        "max_concurrency": 4,
    }


def evaluate(monkeypatch: pytest.MonkeyPatch, table: dict, folder: Path, client: Knowing) -> Output:
    engine = types.ModuleType("lianlu.engine.connect")
    engine.connect = lambda *args, **kwargs: client
    monkeypatch.setitem(sys.modules, "lianlu.engine.connect", engine)
    out = Output(folder)
    folder.mkdir(exist_ok=True)
    runner.run(validate(EvalConfig, table), out)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in files_below(folder) if "logs" not in p.relative_to(folder).parts}


def test_logs_scores_and_figures(monkeypatch, setting, tmp_path: Path):
    client = Knowing()
    out = evaluate(monkeypatch, setting, tmp_path / "out", client)
    assert sorted(contents(out.path)) == ["arithmetic.jsonl", "docstrings.jsonl", "needle.jsonl", "scores.json"]
    scores = json.loads((out.path / "scores.json").read_text())
    assert scores["arithmetic"]["exact_match"]["value"] == 0.5
    assert scores["arithmetic"]["exact_match"]["interval"] == "wilson"
    assert scores["needle"]["found"]["value"] == 1.0
    assert scores["docstrings"]["answer_loss"]["n"] == 7
    assert scores["docstrings"]["word_f1"]["n"] == 2
    assert out.figures == {
        "docstrings.answer_loss": scores["docstrings"]["answer_loss"]["value"],
        "arithmetic.exact_match": 0.5,
        "needle.found": 1.0,
    }
    log = read_log(out.path / "arithmetic.jsonl")
    assert [len(batch) for batch in client.batches] == [4, 2, 3, 4, 4, 2, 2]
    assert log.samples[1].scores == {"exact_match": 0.0}
    assert log.samples[1].extracted[0].rule == "last number"
    assert log.samples[1].tokens.completion == 3
    assert client.closed


def test_equal_runs_have_equal_bytes_without_paths(monkeypatch, setting, tmp_path: Path):
    one = evaluate(monkeypatch, setting, tmp_path / "one", Knowing())
    two = evaluate(monkeypatch, setting, tmp_path / "two", Knowing())
    assert contents(one.path) == contents(two.path)
    assert not any(str(tmp_path).encode() in data for data in contents(one.path).values())


@pytest.mark.parametrize("die_after", range(7))
def test_a_killed_run_continues_at_its_group_and_ends_in_the_same_bytes(monkeypatch, setting, tmp_path: Path, die_after: int):
    whole = Knowing()
    expected = contents(evaluate(monkeypatch, setting, tmp_path / "whole", whole).path)
    first, second = Knowing(die_after), Knowing()
    with pytest.raises(KeyboardInterrupt):
        evaluate(monkeypatch, setting, tmp_path / "killed", first)
    assert first.closed
    out = evaluate(monkeypatch, setting, tmp_path / "killed", second)
    assert contents(out.path) == expected
    again = [batch for batch in second.batches if batch in first.batches]
    assert len(again) <= 1
    assert first.batches + [batch for batch in second.batches if batch not in first.batches] == whole.batches


def test_a_run_killed_at_its_end_asks_nothing_again(monkeypatch, setting, tmp_path: Path):
    expected = contents(evaluate(monkeypatch, setting, tmp_path / "whole", Knowing()).path)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "finish", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(patch, setting, tmp_path / "killed", Knowing())
    silent = Knowing(die_after=0)
    assert contents(evaluate(monkeypatch, setting, tmp_path / "killed", silent).path) == expected
    assert not silent.closed


def test_the_header_names_model_and_hashes_but_no_place(monkeypatch, setting, tmp_path: Path):
    one = read_log(evaluate(monkeypatch, setting, tmp_path / "one", Knowing()).path / "needle.jsonl").header
    Path(setting["model"], "config.json").write_text('{"a": 1}')
    two = read_log(evaluate(monkeypatch, setting, tmp_path / "two", Knowing()).path / "needle.jsonl").header
    assert one.model.digest != two.model.digest
    assert (one.dataset_hash, one.protocol_hash) == (two.dataset_hash, two.protocol_hash)
    assert one.settings == {"precision": "float32", "max_concurrency": 4, "seed": 0}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least 1"),
        ([{"kind": "magic"}], "magic"),
        ([{"kind": "arithmetic", "limits": 3}], "did you mean limit"),
        ([{"kind": "arithmetic", "limit": 0}], "greater than 0"),
        ([{}], "tasks"),
    ],
)
def test_wrong_task_tables_are_named(setting, tasks, message):
    with pytest.raises(ConfigError, match=message):
        validate(EvalConfig, {**setting, "tasks": tasks})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"kind": "arithmetic"}, {"kind": "arithmetic", "limit": 3}], "two tasks are called arithmetic"),
        ([{"kind": "arithmetic", "name": "../x"}], "cannot be called"),
        ([{"kind": "gsm8k"}], "folder of benchmarks"),
    ],
)
def test_impossible_tasks_are_refused_before_a_model_is_loaded(monkeypatch, setting, tmp_path, tasks, message):
    client = Knowing(die_after=0)
    with pytest.raises(ConfigError, match=message):
        evaluate(monkeypatch, {**setting, "tasks": tasks}, tmp_path / "out", client)
    assert not client.closed


def test_missing_conversations(monkeypatch, setting, tmp_path: Path):
    with pytest.raises(ConfigError, match="held-out conversations"):
        evaluate(monkeypatch, {**setting, "data": None}, tmp_path / "out", Knowing())
    with pytest.raises(DataError, match="no file"):
        evaluate(monkeypatch, {**setting, "data": str(tmp_path / "nothing")}, tmp_path / "out", Knowing())


def test_two_tasks_of_a_kind_with_names(monkeypatch, setting, tmp_path: Path):
    tasks = [{"kind": "arithmetic"}, {"kind": "arithmetic", "name": "short", "limit": 3}]
    out = evaluate(monkeypatch, {**setting, "tasks": tasks}, tmp_path / "out", Knowing())
    assert sorted(out.figures) == ["arithmetic.exact_match", "short.exact_match"]


def test_a_refused_request_says_which_task(monkeypatch, setting, tmp_path: Path):
    client = Knowing()
    client.chat = lambda requests: (_ for _ in ()).throw(RequestError("the prompt has 9000 tokens", hint="shorten it"))
    with pytest.raises(RequestError, match=r"task docstrings, items c0 to c3: the prompt has 9000 tokens") as caught:
        evaluate(monkeypatch, setting, tmp_path / "out", client)
    assert caught.value.hint == "shorten it"


def test_estimate_needs_nothing_on_disk():
    def requests(*tables: dict) -> str:
        return runner.estimate(validate(EvalConfig, {"model": "@nothing", "tasks": list(tables)})).basis.split()[0]

    assert requests({"kind": "mmlu"}) == str(4 * 14_042)
    assert requests({"kind": "mmlu", "limit": 2, "subjects": ["law"]}) == "8"
    assert requests({"kind": "needle"}, {"kind": "arithmetic", "limit": 7}) == "22"
    assert requests({"kind": "docstrings", "limit": 5, "generate": 2}) == "7"
    assert requests({"kind": "humaneval"}, {"kind": "gsm8k", "limit": 1}) == "165"


def test_requests_of_all_kinds_come_back_in_their_places():
    class Numbered(Knowing):
        def complete(self, requests):
            return [Reply(Message(role="assistant", content=request.prompt.upper()), "stop") for request in requests]

    from lianlu.client.base import ChatRequest, CompletionRequest

    def requests(item):
        message = Message(role="user", content=item.id)
        return [CompletionRequest(item.id), ChatScoreRequest([message]), ChatRequest([message]), CompletionRequest(item.id * 2)]

    items = [Item("a", "", ""), Item("b", "", "")]
    task = Task("t", "d", items, {}, [MetricSpec(name="x")], requests, lambda item, replies: Score({"x": 1.0}))
    found = replies_to(Numbered(), task, items)
    texts = [[reply.text if isinstance(reply, Reply) else reply.num_tokens for reply in replies] for replies in found]
    assert texts == [["A", 7, "a", "AA"], ["B", 7, "b", "BB"]]


def test_a_task_without_replies_is_our_mistake(monkeypatch, setting, tmp_path: Path):
    from lianlu.core.files import sha256_json
    from lianlu.eval.runner import _ask

    task = Task("t", "d", [Item("a", "", "")], {}, [MetricSpec(name="x")], lambda item: [], lambda item, replies: Score({}))
    with pytest.raises(EngineError, match="no reply to item a"):
        _ask(Knowing(), task, task.items)
    assert task.dataset_hash() == sha256_json(["d", [["a", "", "", "", {}]]])


def test_a_missing_sandbox_is_found_before_a_model_is_loaded(monkeypatch, setting, tmp_path: Path):
    monkeypatch.setattr("lianlu.sandbox.run.check", lambda: "bubblewrap is not installed; apt-get install bubblewrap")
    with pytest.raises(MissingExtraError, match="arithmetic-tool: code cannot be run") as caught:
        evaluate(
            monkeypatch, {**setting, "tasks": [{"kind": "arithmetic", "tool": True}]}, tmp_path / "out", Knowing(die_after=0)
        )
    assert "apt-get" in caught.value.hint


def test_messages_are_shown_with_calls_and_speakers():
    call = ToolCall(name="python", arguments={"code": "1 + 1"})
    shown = runner._shown
    assert shown(Message(role="assistant", content="so", tool_calls=[call])) == 'so\n[call] python({"code": "1 + 1"})'
    assert shown(Message(role="assistant", tool_calls=[call])) == '[call] python({"code": "1 + 1"})'
    assert shown(Message(role="tool", content="2")) == "[tool] 2"
    assert shown(Message(role="assistant", content="\ud800")) == "?"


def test_the_stages_are_read_without_torch():
    code = "import sys, lianlu.eval.runner, lianlu.eval.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
