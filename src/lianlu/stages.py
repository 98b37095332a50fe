"""The one table of stages: verb -> where it lives and what it makes. Nothing else is looked up by name."""

from __future__ import annotations

from lianlu.core.stage import Stage

STAGES: dict[str, Stage] = {
    "clean": Stage("lianlu.data.clean", "CleanConfig", "documents", version=2),
    "eval-items": Stage("lianlu.eval.items", "ItemsConfig", "documents"),
    "decontaminate": Stage("lianlu.data.decontaminate", "DecontaminateConfig", "documents"),
    "held-out": Stage("lianlu.data.held_out", "HeldOutConfig", "documents"),
    "enrich": Stage("lianlu.data.enrich", "EnrichConfig", "documents"),
    "repositories": Stage("lianlu.data.repositories", "RepositoriesConfig", "documents"),
    "tokenizer": Stage("lianlu.tokenizer.train", "TokenizerConfig", "tokenizer"),
    "shard": Stage("lianlu.data.shard", "ShardConfig", "shards", version=3),
    "chat-data": Stage("lianlu.data.chat_data", "ChatDataConfig", "conversations"),
    "pretrain": Stage("lianlu.train.pretrain", "PretrainConfig", "checkpoint", distributed=True),
    "sft": Stage("lianlu.train.sft", "SftConfig", "adapter", distributed=True),
    "merge": Stage("lianlu.quantize.merge", "MergeConfig", "checkpoint"),
    "quantize": Stage("lianlu.quantize.int8", "QuantizeConfig", "checkpoint"),
    "eval": Stage("lianlu.eval.runner", "EvalConfig", "eval-log"),
    "compare": Stage("lianlu.eval.compare", "CompareConfig", "leaderboard"),
    "agent": Stage("lianlu.apps.agent_run", "AgentRunConfig", "traces"),
}
