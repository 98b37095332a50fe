"""Text to ids and back, for every stage: one class over all vocabularies and chat templates.

`Tokenizer.load` takes what a model brings along: a folder in the layout of transformers, a tokenizer.json, a SentencePiece
tokenizer.model, or a GGUF file. Text from outside is encoded without control tokens unless asked otherwise, so that nobody
can write `<|im_end|>` into a prompt. Conversations become ids and loss mask in `chat`, replies become messages in
`tool_calls`. No torch and no model here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from lianlu.formats.messages import Message, ToolSpec
from lianlu.tokenizer import chat, folder, tool_calls, tool_grammar
from lianlu.tokenizer.backend import Loaded, without_surrogates
from lianlu.tokenizer.stream import TextStream

# tokens that end a text or a turn, in the families lianlu runs; a file seldom names all of its own
END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<end_of_turn>", "</s>")
# of those, the ones that end a text rather than a turn
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


class Tokenizer:
    """A vocabulary with its special tokens and its chat template."""

    def __init__(self, loaded: Loaded) -> None:
        """Use `load`; this takes what a reader of files found. Raises: DataError for a broken chat template."""
        self._loaded = loaded
        self.backend = loaded.backend
        self.name = loaded.name
        self.bos_id = self._special("bos_token")
        self.pad_id = self._special("pad_token")
        self.eos_ids = self._ends()
        self.adds_bos = bool(loaded.config.get("add_bos_token")) and self.bos_id is not None
        self.today: date | None = None
        shown = {loaded.backend.specials[text] for text in tool_calls.MARKERS if text in loaded.backend.specials}
        self._hidden = frozenset(loaded.backend.specials.values()) - shown
        self._chat = chat.ChatFormat(loaded)

    @staticmethod
    def load(path: Path | str) -> Tokenizer:
        """Read the tokenizer of a folder, a tokenizer.json, a tokenizer.model or a .gguf. Raises: DataError naming the file."""
        return Tokenizer(folder.load(Path(path).expanduser()))

    def save(self, target: Path) -> None:
        """Write tokenizer files into a folder, for lianlu and transformers. Raises: ArtifactError for the disk."""
        folder.save(self._loaded, target)

    @property
    def vocab_size(self) -> int:
        """Ids are below this; a model may have more rows."""
        return self.backend.num_ids

    @property
    def end_of_text(self) -> int | None:
        """The id of the token that ends a document, or None if the vocabulary ends nothing."""
        ends = [index for token in END_OF_TEXT if (index := self.backend.token_id(token)) in self.eos_ids]
        return next(iter([*ends, *self.eos_ids]), None)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be rendered."""
        return self._chat.is_there

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of a text. With `specials`, control tokens spelled out in it become control tokens; nothing is put in front."""
        return self.backend.encode_runs([(without_surrogates(text), True)])[0] if specials else self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts at once, on all cores where the library can; control tokens spelled out in them are text."""
        return self.backend.encode_batch([without_surrogates(text) for text in texts])

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD. Control tokens are left out, except those of tool calls."""
        return self.backend.decode([index for index in ids if index not in self._hidden] if skip_specials else ids)

    def stream(self) -> TextStream:
        """Incremental `decode`, for a reply that grows token by token."""
        return TextStream(self.backend, self._hidden)

    def token_id(self, token: str) -> int | None:
        """Id of a token as the vocabulary spells it, or None."""
        return self.backend.token_id(token)

    def token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it, or None."""
        return self.backend.token(token_id)

    def contents(self) -> list[bytes | None]:
        """The bytes that each token adds inside a text, by id; None for control tokens and for ids that stand for nothing."""
        return [self.backend.content(index) for index in range(self.vocab_size)]

    def encode_within(self, text: str) -> list[int]:
        """Ids of a text that continues another one: nothing is put in front, control tokens spelled out in it are text."""
        return self.backend.encode_runs([("a", False), (without_surrogates(text), False)])[1]

    def render(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), reply: bool = False) -> chat.Rendered:
        """A conversation as ids, with a mask of those an assistant has to produce, its end token included.

        `reply=True` adds the opening of an assistant turn. The ids up to an assistant's turn are those that `reply=True`
        gives for the messages before it. Raises: RequestError for a conversation the template refuses, DataError for a
        template that fails or has no way to tell which tokens are the assistant's.
        """
        return self._chat.render(messages, tools, reply, self.today)

    def parse(self, text: str, tools: Sequence[ToolSpec] = ()) -> Message:
        """An assistant's reply as a message, tool calls taken out of the text; broken calls stay in the content."""
        return tool_calls.parse(text, tools)

    def tool_constraint(self, tools: Sequence[ToolSpec], choice: str = "auto", parallel: bool = True) -> str | None:
        """A Lark grammar (of llguidance) for replies whose tool calls are well formed, as the chat template shows them.

        `choice`: "auto" for text or calls, "required" for at least one call, "none" for no constraint (such a reply is not to
        be parsed for calls), or the name of the tool to call, once. Without `parallel` there is at most one call. None: nothing
        to enforce. Raises: RequestError for a choice that the tools do not allow, or without a chat template.
        """
        if choice == "none" or (choice == "auto" and not tools):
            return None
        dialect = tool_grammar.dialect_of(self._chat.choose(True).source)
        return tool_grammar.tool_grammar(tools, choice, parallel, dialect, self.backend.specials)

    def visible(self, text: str, tools: Sequence[ToolSpec] = ()) -> str:
        """The beginning of a partial reply that is surely content, safe to show before the rest is known."""
        return tool_calls.visible(text, tools)

    def _special(self, key: str) -> int | None:
        token = self._loaded.config.get(key)
        return self.backend.token_id(token) if isinstance(token, str) else None

    def _ends(self) -> tuple[int, ...]:
        """End tokens, the file's own first."""
        known = (self.backend.specials.get(token) for token in END_TOKENS)
        found = [self._special("eos_token"), *self._loaded.eos_ids, *known]
        return tuple(dict.fromkeys(index for index in found if index is not None and 0 <= index < self.backend.num_ids))
