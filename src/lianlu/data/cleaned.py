"""A finished artifact of the clean stage: its configuration, its rules, and where its scores are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lianlu.core.errors import ArtifactError
from lianlu.core.store import Artifact, Store
from lianlu.data.clean import CleanConfig
from lianlu.data.rules.thresholds import Thresholds
from lianlu.data.scores.cuts import read_cuts
from lianlu.data.scores.decide import Rules
from lianlu.data.scores.scored import SCORED, SETTINGS


@dataclass(frozen=True)
class Cleaned:
    """`scored` is the folder of its scores, its own or those of the artifact it was decided anew from."""

    artifact: Artifact
    config: CleanConfig
    scored: Path

    @property
    def rules(self) -> Rules:
        """The rules as it applied them."""
        table = Thresholds(self.config.thresholds)
        return Rules(self.config.rules, table, self.config.languages, read_cuts(self.artifact.path))


def open_cleaned(store: Store, name: str = "") -> list[Cleaned]:
    """The artifact of this name (`@step`, id or digest); of no name, those that the steps of the store mean now.

    Raises: ArtifactError if there is none, or it is of another stage or made before scores were kept.
    """
    artifacts = [store.get(name)] if name else _current(store)
    if not artifacts:
        raise ArtifactError(f"there is no cleaned data in {store.root}", hint="run a recipe with a clean step first")
    return [_opened(artifact, store) for artifact in artifacts]


def _current(store: Store) -> Sequence[Artifact]:
    found = [store.find(artifact_id) for artifact_id in sorted(set(store.names().values()))]
    return [artifact for artifact in found if artifact and artifact.manifest.stage == "clean"]


def _opened(artifact: Artifact, store: Store) -> Cleaned:
    if artifact.manifest.stage != "clean":
        raise ArtifactError(f"{artifact.id} is not of the clean stage", hint="`lianlu ls --kind documents` lists what is")
    config = CleanConfig.model_validate(artifact.manifest.config)
    return Cleaned(artifact, config, _scored(artifact, store) / SCORED)


def _scored(artifact: Artifact, store: Store) -> Path:
    """The folder of the artifact that has the scores."""
    if (artifact.path / SCORED / SETTINGS).is_file():
        return artifact.path
    before = next((record.artifact for record in artifact.manifest.inputs if record.field == "scores"), "")
    found = store.find(before) if before else None
    if found is None:
        hint = f"run the recipe again, so that {artifact.manifest.step} is made with its scores"
        raise ArtifactError(f"the scores of {artifact.id} are gone", hint=hint)
    return _scored(found, store)
