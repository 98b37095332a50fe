"""The verb `serve`: its options, grouped as they are thought of, and how they become a `ServeConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from lianlu.core.errors import ConfigError

WHERE, HOW, TALK, WHO, CAPS = "Where", "How the model runs", "Adapters and sessions", "Who may ask", "Limits"
KINDS = ("linear", "dynamic", "yarn")

Model = Annotated[str, typer.Argument(help="A model name, @step, artifact, folder or .gguf file.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.", rich_help_panel=WHERE)]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=WHERE)]
GrpcPort = Annotated[int | None, typer.Option(min=0, max=65535, help="Serve gRPC too, on this port.", rich_help_panel=WHERE)]
Name = Annotated[str | None, typer.Option(help="Model name in the API (default: as given).", rich_help_panel=WHERE)]
Cert = Annotated[Path | None, typer.Option(help="Certificate in PEM form: serve https.", rich_help_panel=WHERE)]
CertKey = Annotated[Path | None, typer.Option(help="The certificate's key in PEM form.", rich_help_panel=WHERE)]
Cors = Annotated[list[str] | None, typer.Option(help="Origin whose pages may ask; may be repeated.", rich_help_panel=WHERE)]

Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="Number type of the arithmetic.", rich_help_panel=HOW)
]
Quant = Annotated[Literal["none", "int8", "int4"], typer.Option(help="Quantise the weights while loading.", rich_help_panel=HOW)]
Kv = Annotated[
    Literal["auto", "bfloat16", "int8", "int4"],
    typer.Option(help="Numbers that keys and values are kept in.", rich_help_panel=HOW),
]
Context = Annotated[int | None, typer.Option(min=1, help="Longest sequence, if not the model's own.", rich_help_panel=HOW)]
Rope = Annotated[str | None, typer.Option(help="Go beyond the trained length: linear:2, dynamic:2, yarn:4.", rich_help_panel=HOW)]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Tokens of keys and values held for all.", rich_help_panel=HOW)]
Speculate = Annotated[str | None, typer.Option(help="Propose tokens: ngram, or a small model.", rich_help_panel=HOW)]

Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", help="NAME=PATH: asked for by that name; PATH alone: merged in.", rich_help_panel=TALK),
]
SessionsOption = Annotated[Path | None, typer.Option(help="Keep named sessions in this folder.", rich_help_panel=TALK)]

ApiKey = Annotated[str | None, typer.Option(envvar="LIANLU_API_KEY", help="Ask clients for this key.", rich_help_panel=WHO)]
ApiKeys = Annotated[Path | None, typer.Option(help="TOML file of [[keys]] with limits of their own.", rich_help_panel=WHO)]
AdminKey = Annotated[
    str | None, typer.Option(envvar="LIANLU_ADMIN_KEY", help="Key for loading models, sleep, and the like.", rich_help_panel=WHO)
]
MetricsPublic = Annotated[bool, typer.Option("--metrics-public", help="No key for /metrics.", rich_help_panel=WHO)]

MaxRunning = Annotated[int, typer.Option(min=1, help="Sequences computed at one time.", rich_help_panel=CAPS)]
MaxQueued = Annotated[int, typer.Option(min=0, help="Sequences that may wait; more get 429.", rich_help_panel=CAPS)]
MaxFirst = Annotated[
    float | None, typer.Option(help="Refuse (429) what would wait longer for its first token, in s.", rich_help_panel=CAPS)
]
Drain = Annotated[float, typer.Option(min=0, help="Seconds that requests get when it stops.", rich_help_panel=CAPS)]


class Panels(typer.core.TyperCommand):
    """A verb with so many options that its help shows them under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one block for the arguments and one a heading."""
        blocks: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                heading = "Arguments" if parameter.param_type_name == "argument" else "Help"
                blocks.setdefault(getattr(parameter, "rich_help_panel", None) or heading, []).append(record)
        for heading, records in blocks.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def serve(
    model: Model,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    name: Name = None,
    grpc_port: GrpcPort = None,
    tls_cert: Cert = None,
    tls_key: CertKey = None,
    cors_origin: Cors = None,
    precision: Precision = "auto",
    quant: Quant = "none",
    kv: Kv = "auto",
    context: Context = None,
    rope: Rope = None,
    max_tokens: MaxTokens = None,
    speculate: Speculate = None,
    adapter: Adapters = None,
    sessions: SessionsOption = None,
    api_key: ApiKey = None,
    api_keys: ApiKeys = None,
    admin_key: AdminKey = None,
    metrics_public: MetricsPublic = False,
    max_running: MaxRunning = 64,
    max_queued: MaxQueued = 4096,
    max_first_token: MaxFirst = None,
    drain: Drain = 30.0,
) -> None:
    """Serve a model over the OpenAI REST API, and gRPC if asked. Ctrl-C finishes what runs, then stops."""
    from lianlu.serve.main import serve as serve_model

    path = local(model)
    engine: dict[str, Any] = {"max_running": max_running, "max_queued": max_queued, "max_first_token_s": max_first_token}
    engine |= {
        "dtype": precision,
        "quant": quant,
        "kv": kv,
        "context": context,
        "rope": scaling(rope, path),
        "max_tokens": max_tokens,
    }
    engine |= {"speculation": speculation(speculate), "sessions": sessions}
    merge, named = split_adapters(adapter or [])
    where = {"host": host, "port": port, "grpc_port": grpc_port, "tls_cert": tls_cert, "tls_key": tls_key}
    who = {"api_key": api_key, "api_keys": api_keys, "admin_key": admin_key, "metrics_public": metrics_public}
    rest = {"name": name or model, "merge": merge, "adapters": named, "cors_origins": cors_origin or [], "drain_s": drain}
    serve_model(path, engine=engine, **where, **who, **rest)


def local(name: str) -> Path:
    """The folder or file behind a model's or an adapter's name. Raises: LianluError that says what there is."""
    from lianlu.core.store import Store
    from lianlu.recipe.inputs import resolve_model

    return resolve_model(name, Store.locate())


def scaling(text: str | None, model: Path) -> dict[str, Any] | None:
    """`kind:factor` as a table of the engine; YaRN also has to know for which length `model` was trained. Raises: ConfigError."""
    if text is None:
        return None
    kind, _, factor = text.partition(":")
    try:
        number = float(factor)
    except ValueError:
        number = 0.0
    if kind not in KINDS or not 1 <= number <= 1024:
        raise ConfigError(f"cannot read --rope {text!r}", hint="write kind:factor, for example yarn:4 (linear, dynamic, yarn)")
    table = {"kind": kind, "factor": number}
    return table | {"original_max_position_embeddings": _trained_length(model)} if kind == "yarn" else table


def _trained_length(model: Path) -> int:
    from lianlu.model.config import YarnScaling
    from lianlu.model.load import read_config

    config = read_config(model)
    own = config.rope_scaling
    return own.original_max_position_embeddings if isinstance(own, YarnScaling) else config.max_position_embeddings


def speculation(text: str | None) -> dict[str, Any] | None:
    """`ngram`, or a model's name or path, as a table of the engine. Raises: LianluError if there is no such model."""
    if text is None:
        return None
    return {"kind": "ngram"} if text == "ngram" else {"kind": "draft", "model": local(text)}


def split_adapters(texts: list[str]) -> tuple[Path | None, dict[str, Path]]:
    """The adapter that is merged into the weights, and those with names. Raises: ConfigError for two of either."""
    merge: Path | None = None
    named: dict[str, Path] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if sign and (name in named or not name or not path):
            raise ConfigError(f"cannot take --adapter {text!r}", hint="write NAME=PATH, every name once")
        if not sign and merge is not None:
            raise ConfigError("two adapters without a name", hint="one is merged into the weights; name the others: NAME=PATH")
        if sign:
            named[name] = local(path)
        else:
            merge = local(text)
    return merge, named
