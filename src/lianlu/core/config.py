"""Configuration: one class, one grammar.

A `Config` is a frozen pydantic model that refuses unknown keys; the docstring under a field is its help text. Files are
TOML. An override such as `optim.lr=3e-4` *is* a TOML line; a bare word on the right (`source=docs/`) is taken as a
string. The order is defaults, file, overrides, and nothing else; validation happens once, after the merge.

A field that names something on disk is annotated with `Input`: its text may be `@step`, an artifact digest, a model
name or a path. The recipe resolves it, so that a stage only ever sees a real path.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lianlu.core.errors import ConfigError

Table = dict[str, Any]


class Config(BaseModel):
    """Base of every configuration: frozen, strict about keys, field docstrings are the help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _start_from_default(cls, table: Any) -> Any:
        """A nested table starts from the field's default: its kind, so that `tune.rank=8` alone is enough, and what it sets.

        So a stage whose default rate is 5e-4 keeps it under `optim.weight_decay=0.1`, and under another kind of optimiser.
        """
        if not isinstance(table, Mapping):
            return table
        filled = dict(table)
        for name, field in cls.model_fields.items():
            default, given = field.default, table.get(name)
            if isinstance(given, Mapping) and isinstance(default, Config):
                kind = {"kind": default.kind} if hasattr(default, "kind") else {}
                filled[name] = {**_settings(field.annotation, default, {**kind, **given}), **kind, **given}
        return filled


@dataclass(frozen=True)
class Input:
    """Marks a field as an input on disk and names the artifact kinds it accepts (empty: any, or raw files)."""

    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Aside:
    """Marks a field that decides how a stage works and not what it makes: the key of the artifact leaves it out.

    So a killed run continues on other hardware, with other parallel sizes or with less memory.
    """


Documents = Annotated[str, Input(("documents",))]
TokenizerDir = Annotated[str, Input(("tokenizer", "checkpoint"))]
Shards = Annotated[str, Input(("shards",))]
Conversations = Annotated[str, Input(("conversations",))]
Checkpoint = Annotated[str, Input(("checkpoint",))]
Adapter = Annotated[str, Input(("adapter",))]
EvalLog = Annotated[str, Input(("eval-log",))]
AnyArtifact = Annotated[str, Input()]

C = TypeVar("C", bound=Config)


def _settings(annotation: Any, default: Config, given: Mapping[str, Any]) -> Table:
    """What `default` sets itself, as far as the member of the union that `given` names has such fields."""
    members = [sub for sub in _configs(annotation) if "kind" not in given or sub.model_fields["kind"].default == given["kind"]]
    known = members[0].model_fields if members else {}
    return {name: getattr(default, name) for name in default.model_fields_set if name in known and name != "kind"}


def read_toml(path: Path) -> Table:
    """Read a TOML file. Raises: ConfigError with the line that is wrong."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", hint="check the path; recipes/ holds the shipped ones") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} is a folder, not a TOML file", hint="name the recipe file itself") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="mend the line named above") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="check the path and its permissions") from error


def parse_override(text: str) -> Table:
    """Turn `a.b=value` into a nested table; a value that is not TOML is taken as a string."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"cannot read the override {text!r}", hint="write key=value, for example optim.lr=3e-4")
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        pass
    quoted = value.strip().replace("\\", "\\\\").replace('"', '\\"')
    try:
        return tomllib.loads(f'{key} = "{quoted}"')
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read the override {text!r}: {error}", hint="write key=value as in TOML") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Lay `over` on `base`; tables are merged key by key, everything else is replaced.

    A table whose `kind` changes is replaced as a whole: the fields of another member of a tagged union do not apply.
    """
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind", old.get("kind")) == old.get("kind"):
            result[key] = merge(old, value)
        else:
            result[key] = value
    return result


def _same(kind: Mapping[str, Any], table: Mapping[str, Any]) -> bool:
    return bool(table.get("kind", kind.get("kind")) == kind.get("kind"))


def with_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> Table:
    """`table` with the overrides merged; their order counts only where they set the same field."""
    together: Table = {}
    for text in overrides:
        together = _joined(together, parse_override(text))
    return merge(table, together)


def _joined(base: Mapping[str, Any], over: Mapping[str, Any]) -> Table:
    """Merge key by key, a `kind` like any other: what was written beside it was written for it."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _joined(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def validate(cls: type[C], table: Mapping[str, Any], where: str = "") -> C:
    """Build a config from a table. Raises: ConfigError that lists each wrong field, with the nearest right name."""
    try:
        return cls.model_validate(dict(table))
    except ValidationError as error:
        lines = [_explain(cls, detail, where) for detail in error.errors()]
        raise ConfigError("\n".join(lines), hint=f"fields of {cls.__name__}: {', '.join(cls.model_fields)}") from error


def _explain(cls: type[Config], detail: Any, where: str) -> str:
    path = [str(part) for part in detail["loc"]]
    name = ".".join([where, *path] if where else path) or "the configuration"
    if detail["type"] == "extra_forbidden":
        known = _siblings(cls, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        return f"unknown field {name}" + (f"; did you mean {near[0]}?" if near else "")
    if detail["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in detail["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(detail["ctx"]["tag"], known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{name}.kind: there is no {detail['ctx']['tag']}, only {', '.join(known)}{hint}"
    if detail["type"] == "missing":
        return f"{name} is required"
    return f"{name}: {detail['msg'][0].lower()}{detail['msg'][1:]} (got {_short(detail.get('input'))})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _siblings(cls: type[Config], path: Sequence[str]) -> list[str]:
    """Field names of the config that `path` leads to, walking through unions by tag or name."""
    found: list[type[Config]] = [cls]
    for part in path:
        nested = [sub for owner in found if part in owner.model_fields for sub in _configs(owner.model_fields[part].annotation)]
        found = nested or found
    return sorted({name for owner in found for name in owner.model_fields})


def _configs(annotation: Any) -> Iterator[type[Config]]:
    """Every Config class inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated, list, tuple, dict):
        for part in typing.get_args(annotation):
            yield from _configs(part)


def input_fields(cls: type[Config]) -> dict[str, Input]:
    """The top-level fields of `cls` that name something on disk (also `T | None` and `list[T]` of such)."""
    found: dict[str, Input] = {}
    for name, field in cls.model_fields.items():
        marks = [mark for mark in field.metadata if isinstance(mark, Input)] or list(_marks(field.annotation))
        if marks:
            found[name] = marks[0]
    return found


def aside_fields(cls: type[Config]) -> set[str]:
    """The top-level fields of `cls` that do not change what is made."""
    return {name for name, field in cls.model_fields.items() if any(isinstance(mark, Aside) for mark in field.metadata)}


def _marks(annotation: Any) -> Iterator[Input]:
    if typing.get_origin(annotation) is Annotated:
        yield from (mark for mark in typing.get_args(annotation)[1:] if isinstance(mark, Input))
    for part in typing.get_args(annotation):
        yield from _marks(part)


def canonical(config: Config) -> Table:
    """The configuration in full, defaults included, as plain JSON values."""
    return config.model_dump(mode="json")


def describe(cls: type[Config], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Rows (name, type, default, help) of a config and of the configs inside it, in order of declaration."""
    rows = []
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        nested = list(_configs(field.annotation))
        kind = " | ".join(sub.__name__ for sub in nested) or _type_name(field.annotation)
        rows.append((prefix + name, kind, "" if nested else default, field.description or ""))
        for sub in nested:
            rows.extend(describe(sub, f"{prefix}{name}{_member(sub) if len(nested) > 1 else ''}."))
    return rows


def _member(cls: type[Config]) -> str:
    """How a member of a tagged union is told from the others in help: `[lora]`."""
    return f"[{cls.model_fields['kind'].default}]" if "kind" in cls.model_fields else ""


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(str(value) for value in typing.get_args(annotation))
    return getattr(annotation, "__name__", str(annotation)).replace("typing.", "")
