"""The live verbs: serve, chat, agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lianlu.cli.serving import Panels, local, serve

GROUP = "live"
Model = Annotated[str, typer.Argument(help="A model name, @step, artifact, folder, .gguf file, or a server's URL.")]
AdapterOption = Annotated[str | None, typer.Option("--adapter", help="A LoRA adapter: @step, artifact or folder.")]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="Number type of the arithmetic.")]


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command("serve", cls=Panels, rich_help_panel=GROUP)(serve)
    app.command("chat", rich_help_panel=GROUP)(chat)
    app.command("agent", rich_help_panel=GROUP)(agent)


def _local(name: str | None) -> Path | None:
    return None if name is None else local(name)


def chat(model: Model, adapter: AdapterOption = None, precision: Precision = "auto") -> None:
    """Talk to a model in the terminal; /help lists what you can type."""
    from lianlu.apps.chat.terminal import chat as talk
    from lianlu.engine.connect import connect

    client = connect(_target(model), adapter=_local(adapter), precision=precision)
    try:
        talk(client)
    finally:
        client.close()


def agent(
    model: Model,
    task: Annotated[str, typer.Argument(help="What the agent is to do.")],
    adapter: AdapterOption = None,
    precision: Precision = "auto",
    max_steps: Annotated[int, typer.Option(min=1, help="How many replies the model may give.")] = 6,
) -> None:
    """Give a task to an agent that may run Python in a sandbox; shows every step."""
    from lianlu.apps.agent_terminal import solve
    from lianlu.engine.connect import connect

    solve(connect(_target(model), adapter=_local(adapter), precision=precision), task, max_steps)


def _target(model: str) -> str:
    return model if model.startswith(("http://", "https://")) else str(_local(model))
