"""The recipes of pretraining: InternLM2's as the report has it, and run from text to model with everything made small."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from lianlu.core.store import Store
from lianlu.model.config import DynamicScaling, preset
from lianlu.model.load import load_model, read_config
from lianlu.recipe.plan import plan_recipe
from lianlu.recipe.recipe import load_recipe
from lianlu.recipe.run import run_recipe
from lianlu.train.curve import read_curve
from lianlu.train.pretrain import PretrainConfig

pytestmark = pytest.mark.e2e
RECIPES = Path(__file__).resolve().parents[3] / "recipes"
RECIPE = RECIPES / "internlm2_1_8b.toml"
PHASES = (
    "[{share = 0.6, rope_theta = 5e4}, "
    "{share = 0.3, sequence_length = 256, rope_theta = 1e6, short_share = 0.5, short_length = 64}, "
    "{share = 0.1, rope_theta = 1e6, weights = [0.0, 0.0, 1.0], lr_scale = 0.3, batch_tokens = 256}]"
)
SMALL = [
    "steps.tokenizer.vocab_size=700",
    *(f"steps.shard-{name}.held_out=0.2" for name in ("text", "code", "enhance")),
    "steps.pretrain.model.preset=internlm2-nano",
    "steps.pretrain.tokens=15_360",
    "steps.pretrain.batch_tokens=512",
    "steps.pretrain.sequence_length=64",
    "steps.pretrain.held_out_tokens=3000",
    "steps.pretrain.eval_every=10",
    "steps.pretrain.checkpoint.every=7",
    "steps.pretrain.ngram_bytes=100_000",
    "steps.pretrain.sample_tokens=4",
    f"steps.pretrain.phases={PHASES}",
]


def pretrain_config(*overrides: str) -> PretrainConfig:
    config = load_recipe(RECIPE, overrides).steps[-1].config
    assert isinstance(config, PretrainConfig)
    return config


@pytest.mark.parametrize("name", ["internlm2-1.8b", "internlm2-7b", "internlm2-20b"])
def test_the_recipe_ends_in_the_published_configuration(name: str) -> None:
    config = pretrain_config(f"steps.pretrain.model.preset={name}")
    timeline, published = config.timeline, preset(name)
    shape = config.model.as_model(92544, timeline.longest)
    saved = timeline.phases[-1].rotated(shape)
    ids = {"bos_token_id", "eos_token_ids", "pad_token_id"}
    assert saved.model_dump(exclude=ids) == published.model_dump(exclude=ids)
    assert (saved.rope_theta, saved.max_position_embeddings) == (1e6, 32768)
    assert saved.rope_scaling == DynamicScaling(factor=2.0)
    assert timeline.phases[0].rotated(shape).rope_theta == 5e4
    assert [round(phase.num_tokens / timeline.num_tokens, 3) for phase in timeline.phases] == [0.9, 0.09, 0.01]
    assert config.optim.betas == (0.9, 0.95)
    assert timeline.rate(timeline.num_steps - 1) == pytest.approx(0.1 * 0.3, rel=1e-3)


def test_plans_need_nothing_but_the_recipe(tmp_path: Path) -> None:
    for file in (RECIPE, RECIPES / "pretrain_small.toml"):
        rows = plan_recipe(load_recipe(file), Store(tmp_path))
        assert {row.state for row in rows} == {"run"}
        assert all(row.estimate is not None for row in rows)


def test_from_three_folders_of_text_to_a_model_in_three_phases(tmp_path: Path) -> None:
    library = Path(sys.modules["os"].__file__ or "").parent
    sources = {"text": ("email", "json"), "code": ("logging", "asyncio"), "enhance": ("unittest", "http")}
    for name, packages in sources.items():
        for package in packages:
            skipped = shutil.ignore_patterns("__pycache__", "test*")
            shutil.copytree(library / package, tmp_path / name / package, ignore=skipped)
    overrides = [f"steps.clean-{name}.source={tmp_path / name}" for name in sources]
    results = {
        ran.step.name: ran.artifact for ran in run_recipe(load_recipe(RECIPE, [*overrides, *SMALL]), Store(tmp_path / "s"))
    }
    made = results["pretrain"]
    figures, saved = made.manifest.figures, read_config(made.path)
    assert [phase["steps"] for phase in figures["phases"]] == [18, 9, 6]
    assert [phase["epochs"]["enhance"] > 0 for phase in figures["phases"]] == [False, False, True]
    assert (saved.rope_theta, saved.max_position_embeddings, saved.vocab_size) == (1e6, 256, 700)
    assert load_model(made.path).config == saved
    curve = read_curve(made.path / "losses.jsonl")
    for name in sources:
        assert figures[f"bits_per_byte_{name}"] == curve.last(f"held_out_bpb_{name}") < curve.first(f"held_out_bpb_{name}")
        assert 0 < figures[f"gzip_bits_per_byte_{name}"] < 8
