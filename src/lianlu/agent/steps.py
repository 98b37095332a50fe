"""What happens in a run of an agent: one list of typed steps.

The prompt of the next turn is a projection of the list (`to_messages`), and so are the trace on disk (`agent.trace`), the
picture in a terminal and, later, training data. Wall times are kept beside each step in a field of their own, which a
trace can leave out, so that equal runs give equal files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lianlu.client.base import FinishReason
from lianlu.formats.messages import Message, ToolCall, ToolSpec

StopReason = Literal["answer", "length", "steps", "tokens", "time", "repeated", "refused", "error"]


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    seconds: float | None = None


class Given(_Step):
    """The conversation that the run begins with."""

    kind: Literal["given"] = "given"
    messages: tuple[Message, ...]


class Turn(_Step):
    """What the model said, its calls included."""

    kind: Literal["turn"] = "turn"
    message: Message
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Called(_Step):
    """A call and its answer; `skipped` if the tool was not run because the same call had just been answered."""

    kind: Literal["called"] = "called"
    call: ToolCall
    message: Message
    skipped: bool = False


class Nudge(_Step):
    """What the loop told the model, in the user's place."""

    kind: Literal["nudge"] = "nudge"
    text: str


Step = Annotated[Given | Turn | Called | Nudge, Field(discriminator="kind")]


class Run(BaseModel):
    """A finished run: its steps, why it stopped, and with what model and tools. `error` goes with the reason "refused"."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str = ""
    tools: tuple[ToolSpec, ...] = ()
    steps: tuple[Step, ...] = ()
    stop_reason: StopReason = "answer"
    error: str = ""

    @property
    def answer(self) -> str:
        """The text of the last turn if the run came to an answer (even one that was cut off), else nothing."""
        last = self.turns[-1].message.content if self.turns else ""
        return last if self.stop_reason in ("answer", "length") else ""

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        return to_messages(self.steps)

    @property
    def turns(self) -> list[Turn]:
        return [step for step in self.steps if isinstance(step, Turn)]

    @property
    def calls(self) -> list[Called]:
        return [step for step in self.steps if isinstance(step, Called)]

    @property
    def completion_tokens(self) -> int:
        return sum(turn.completion_tokens for turn in self.turns)


def to_messages(steps: Iterable[Step]) -> list[Message]:
    """The conversation that the steps make up."""
    messages: list[Message] = []
    for step in steps:
        if isinstance(step, Given):
            messages.extend(step.messages)
        elif isinstance(step, Nudge):
            messages.append(Message(role="user", content=step.text))
        else:
            messages.append(step.message)
    return messages
