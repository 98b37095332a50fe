"""The models behind a server: their names and states, who may ask for which, and the sequences of each request.

Between the files of routes, which know HTTP, and `engine.background`, which knows neither HTTP nor JSON. A route asks
`route` for the engine behind a model's name and `run` for the sequences of a request. The first model is the default one:
it answers bodies that name no model and, if it has no name itself, bodies that name any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from lianlu.core.config import Config
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.engine import Stats
from lianlu.engine.sequence import Event, Request
from lianlu.serve.failures import ApiError
from lianlu.serve.keys import Caller, Keys
from lianlu.serve.metrics import Metrics
from lianlu.serve.models import Lora, Served
from lianlu.serve.recent import Entry, Recent
from lianlu.serve.run import Run

if TYPE_CHECKING:
    from lianlu.tokenizer.tokenizer import Tokenizer


class Limits(Config):
    """What a server lets its clients do."""

    max_body_bytes: int = 16_000_000
    """Longest request body."""
    metrics_public: bool = False
    """Whether /metrics is open to everybody although there are keys."""
    max_recent: int = 1000
    """Requests that /debug/why remembers."""


@dataclass(frozen=True)
class Route:
    """Where a request goes: the engine, the adapter to put on it, and the model's name in the reply."""

    engine: BackgroundEngine
    tokenizer: Tokenizer
    name: str
    adapter: str = ""
    label: str = ""
    """The name in figures, which clients cannot make up."""


@dataclass
class Service:
    """The served models by name, their adapters, and the keys of those who may ask."""

    models: dict[str, Served] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)
    engine_config: EngineConfig = field(default_factory=EngineConfig)
    """How models that are loaded later are run."""
    adapters: dict[str, Lora] = field(default_factory=dict)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.stats)
        self.recent = Recent(self.limits.max_recent)

    @property
    def default(self) -> Served:
        """The model that answers when none is named."""
        return next(iter(self.models.values()))

    @property
    def state(self) -> str:
        """State of the default model; draining once the server is being stopped."""
        return "draining" if self.stopping else self.default.state

    def ready(self) -> BackgroundEngine:
        """The default model's engine. Raises: ApiError (503) while it cannot take requests."""
        return self._engine_of(self.default)

    def route(self, name: str, caller: Caller) -> Route:
        """Where a request for the model or adapter `name` goes; "" is the default model.

        Raises: ApiError (404: unknown, 403: not for this caller, 503: loading, asleep, draining or failed).
        """
        served, adapter = self.find(name)
        if not caller.may_use(adapter or served.name):
            hint = f"this key may use {', '.join(map(repr, sorted(caller.models or ())))}"
            raise ApiError("this key may not use that model", status=403, hint=hint, param="model", code="model_not_allowed")
        engine = self._engine_of(served)
        return Route(engine, engine.engine.tokenizer, adapter or served.name or name, adapter, adapter or served.name)

    def find(self, name: str) -> tuple[Served, str]:
        """The served model behind a name, and the adapter if the name is one's. Raises: ApiError (404)."""
        if name in self.models:
            return self.models[name], ""
        if name in self.adapters:
            return self.adapters[name].served, name
        if not name or not self.default.name:
            return self.default, ""
        hint = f"this server has {', '.join(map(repr, [*self.models, *self.adapters]))}"
        raise ApiError(f"there is no model {name[:200]!r}", status=404, hint=hint, param="model", code="model_not_found")

    def _engine_of(self, served: Served) -> BackgroundEngine:
        state = "draining" if self.stopping else served.state
        if state != "ready" or served.engine is None:
            who = "the server" if self.stopping or len(self.models) == 1 else f"the model {served.name!r}"
            raise ApiError(f"{who} is {state}", status=503, hint="try again later", code=state)
        return served.engine

    def check_room(self, route: Route) -> None:
        """Refuse before the work of reading a prompt what would be refused after it. Raises: RequestError (429)."""
        stats, config = route.engine.stats(), route.engine.engine.config
        num_open = stats.num_running + stats.num_queued
        if num_open >= config.max_running + config.max_queued:
            raise route.engine.engine.admission.full(num_open)

    def run(self, route: Route, caller: Caller, job_id: str, requests: Sequence[Request]) -> Run:
        """Submit the sequences of one request, for `caller` and with the route's adapter. Raises: RequestError, all or none."""
        marked = [replace(request, adapter=route.adapter, salt=caller.salt) for request in requests]
        stats = route.engine.stats()
        # choices of one prompt share its computation, so it is charged once
        shared = [index > 0 and request.prompt == marked[index - 1].prompt for index, request in enumerate(marked)]
        run = Run(route.engine, marked, lambda index, event: self.note(route, caller, job_id, event, shared[index]))
        self.recent.begin(Entry(job_id, route.name, caller.name, len(marked), stats.num_running + stats.num_queued))
        return run

    def note(self, route: Route, caller: Caller, job_id: str, event: Event, shares_prompt: bool = False) -> None:
        """Keep books on a sequence that has ended; called once for each, with its last event.

        `shares_prompt`: its prompt's tokens are charged to another sequence.
        """
        caller.charge(event.completion_tokens + (0 if shares_prompt else event.prompt_tokens))
        self.metrics.ended(route.label, event)
        self.recent.ended(job_id, event)

    def stats(self) -> dict[str, Stats]:
        """The counters of every loaded model, by its name."""
        return {served.name: served.engine.stats() for served in list(self.models.values()) if served.engine is not None}

    def load(self) -> dict[str, int]:
        """How busy the engines are, in sum; nothing while there is none."""
        total: dict[str, int] = {}
        for stats in self.stats().values():
            for key, value in asdict(stats).items():
                total[key] = total.get(key, 0) + value
        return total

    def close(self) -> None:
        """End every engine."""
        for served in self.models.values():
            served.close()
