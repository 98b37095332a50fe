"""Chat templates: text, ids and masks against transformers' apply_chat_template.

The templates below are in the style of Qwen 2.5, Llama 3, Mistral and Gemma: the constructs that published templates use.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.formats.examples.record import Raw
from lianlu.formats.examples.sources import Source, find_sources
from lianlu.formats.messages import Conversation, Message, ToolCall, ToolSpec
from lianlu.tokenizer.chat import builtin
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.tokenizer.train import TokenizerConfig, run
from lianlu.train.conversations import Renderer

transformers = pytest.importorskip("transformers")

QWEN_STYLE = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are Q.' }}
    {%- endif %}
    {{- "\\n\\n# Functions\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Q.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- set plain = message.role == "assistant" and not message.tool_calls %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or plain %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3_STYLE = (
    "{{ bos_token }}{% for message in messages %}{% set content = '<|im_start|>' + message['role'] + '<|pad|>\\n\\n'"
    "+ message['content'] | trim + '<|im_end|>' %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|pad|>\\n\\n' }}{% endif %}"
)
MISTRAL_STYLE = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA_STYLE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}{{ '<|im_start|>' + role + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
)
STYLES = {"qwen": QWEN_STYLE, "llama3": LLAMA3_STYLE, "mistral": MISTRAL_STYLE, "gemma": GEMMA_STYLE, "chatml": builtin("chatml")}

TOOLS = [
    ToolSpec(
        name="add",
        description="Adds <two> numbers & more.",
        parameters={"type": "object", "properties": {"a": {"type": "number"}}},
    )
]
TALK = [
    Message(role="user", content="What is 12 + 30? 你好"),
    Message(role="assistant", content="It's 42.\n\n```python\nprint(12 + 30)\n```"),
    Message(role="user", content="Thanks! 😀"),
    Message(role="assistant", content="You're welcome."),
]
WITH_TOOLS = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="Add."),
    Message(role="assistant", content="Sure.", tool_calls=[ToolCall(id="c", name="add", arguments={"a": 1.5, "b": "é"})]),
    Message(role="tool", content="3", tool_call_id="c", name="add"),
    Message(role="tool", content="4", tool_call_id="d", name="add"),
    Message(role="assistant", content="Seven."),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    docs, out = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("tokenizer")
    texts = [
        builtin("chatml"),
        "It's 42. You're welcome. What is it? 你好 [INST] [/INST] user assistant system",
        Path(__file__).read_text(),
    ]
    write_documents(docs, [Document(id=f"{n}", text=texts[n % 3]) for n in range(30)])
    run(TokenizerConfig(data=str(docs), vocab_size=800), Output(out))
    return out


def both(folder: Path, style: str):
    ours = Tokenizer.load(folder)
    ours._loaded.templates["default"] = STYLES[style]
    ours = Tokenizer(ours._loaded)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = STYLES[style]
    return ours, theirs


def plain(messages: list[Message]) -> list[dict]:
    rows = []
    for message in messages:
        row = {"role": message.role, "content": message.content}
        if message.tool_calls:
            calls = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in message.tool_calls
            ]
            row["tool_calls"] = calls
        rows.append(row)
    return rows


@pytest.mark.parametrize("style", list(STYLES))
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("reply", [False, True])
def test_text_and_ids(folder: Path, style: str, count: int, reply: bool) -> None:
    ours, theirs = both(folder, style)
    options = {"add_generation_prompt": reply}
    rendered = ours.render(TALK[:count], reply=reply)
    assert rendered.text == theirs.apply_chat_template(plain(TALK[:count]), tokenize=False, **options)
    assert rendered.ids == theirs.apply_chat_template(plain(TALK[:count]), return_dict=False, **options)


@pytest.mark.parametrize("style", ["qwen", "chatml"])
@pytest.mark.parametrize("tools", [TOOLS, []])
def test_text_and_ids_with_tools(folder: Path, style: str, tools: list[ToolSpec]) -> None:
    ours, theirs = both(folder, style)
    raw = [{"type": "function", "function": tool.model_dump()} for tool in tools] or None
    rendered = ours.render(WITH_TOOLS, tools)
    assert rendered.text == theirs.apply_chat_template(plain(WITH_TOOLS), tools=raw, tokenize=False)
    assert rendered.ids == theirs.apply_chat_template(plain(WITH_TOOLS), tools=raw, return_dict=False)


def test_the_mask_of_generation_tags(folder: Path) -> None:
    ours, theirs = both(folder, "chatml")
    for messages in (TALK, WITH_TOOLS):
        found = theirs.apply_chat_template(plain(messages), return_dict=True, return_assistant_tokens_mask=True)
        rendered = ours.render(messages)
        assert rendered.ids == found["input_ids"]
        assert [int(is_target) for is_target in rendered.mask] == found["assistant_masks"]


EXPECTED = {
    "qwen": ["It's 42.\n\n```python\nprint(12 + 30)\n```<|im_end|>", "You're welcome.<|im_end|>"],
    "llama3": ["It's 42.\n\n```python\nprint(12 + 30)\n```<|im_end|>", "You're welcome.<|im_end|>"],
    "mistral": [" It's 42.\n\n```python\nprint(12 + 30)\n```<|endoftext|>", " You're welcome.<|endoftext|>"],
    "gemma": ["It's 42.\n\n```python\nprint(12 + 30)\n```<|im_end|>", "You're welcome.<|im_end|>"],
    "chatml": ["It's 42.\n\n```python\nprint(12 + 30)\n```<|im_end|>", "You're welcome.<|im_end|>"],
}


@pytest.mark.parametrize("style", list(STYLES))
def test_targets(folder: Path, style: str) -> None:
    ours, _ = both(folder, style)
    rendered = ours.render(TALK)
    found, before = [], False
    for index, is_target in zip(rendered.ids, rendered.mask, strict=True):
        if is_target:
            found = [*found[:-1], [*found[-1], index]] if before else [*found, [index]]
        before = is_target
    assert [ours.decode(run, skip_specials=False) for run in found] == EXPECTED[style]


def test_calls_in_qwen_style_are_targets(folder: Path) -> None:
    ours, _ = both(folder, "qwen")
    rendered = ours.render(WITH_TOOLS, TOOLS)
    text = ours.decode([i for i, is_target in zip(rendered.ids, rendered.mask, strict=True) if is_target], skip_specials=False)
    assert (
        text == 'Sure.\n<tool_call>\n{"name": "add", "arguments": {"a": 1.5, "b": "é"}}\n</tool_call><|im_end|>Seven.<|im_end|>'
    )
    assert rendered.untrained == ()


def test_a_trained_tokenizer_loads_in_transformers(folder: Path) -> None:
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_ids[0], ours.pad_id)
    assert len(theirs) == ours.vocab_size
    for text in ("It's 42. 你好 😀", "<tool_call>x</tool_call><|im_end|>", "  two\n\n"):
        ids = theirs.encode(text, add_special_tokens=False)
        assert ids == ours.encode(text, specials=True)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)


SHIPPED = {"chatml": builtin("chatml"), "internlm2": builtin("internlm2")}


@pytest.mark.parametrize("name", list(SHIPPED))
def test_the_mask_of_generation_tags_with_tools(folder: Path, name: str) -> None:
    ours, theirs = both(folder, "chatml")
    ours._loaded.templates["default"] = SHIPPED[name]
    ours, theirs.chat_template = Tokenizer(ours._loaded), SHIPPED[name]
    raw = [{"type": "function", "function": tool.model_dump()} for tool in TOOLS]
    for messages in (TALK, WITH_TOOLS, WITH_TOOLS[1:]):
        found = theirs.apply_chat_template(plain(messages), tools=raw, return_dict=True, return_assistant_tokens_mask=True)
        rendered = ours.render(messages, TOOLS)
        assert rendered.ids == found["input_ids"]
        assert [int(is_target) for is_target in rendered.mask] == found["assistant_masks"]


GOLDEN = {
    "alpaca": (
        {"instruction": "Add.", "input": "12 + 30", "output": "42", "history": [["Hi", "Hello!"]]},
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[Hello!<|im_end|>]\n"
        "<|im_start|>user\nAdd.\n12 + 30<|im_end|>\n<|im_start|>assistant\n[42<|im_end|>]",
    ),
    "sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "Add."},
                {"from": "gpt", "value": "Sure."},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "3"},
                {"from": "gpt", "value": "Three."},
            ],
            "system": "Be brief.",
        },
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"
        '[Sure.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>]\n'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n[Three.<|im_end|>]",
    ),
    "openai": (
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "no", "weight": 0},
                {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "yes"},
                {"role": "user", "content": "bye"},
            ]
        },
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[yes<|im_end|>]",
    ),
    "pairs": ({"question": "2+2?", "answer": 4}, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n[4<|im_end|>]"),
    "text": ({"text": "It's 42."}, "<|endoftext|>[It's 42.<|endoftext|>]"),
}


@pytest.mark.parametrize("name", list(GOLDEN))
def test_what_is_learnt_of_a_record_written_by_hand(folder: Path, name: str) -> None:
    """Brackets are around what is to be predicted; nothing after it is computed."""
    record, wanted = GOLDEN[name]
    ours, _ = both(folder, "chatml")
    source = Source(Path("a.jsonl"), "a.jsonl", name, by_line=True)
    (piece,) = Renderer(ours, 1000, True).outcome(source, Raw(1, record)).pieces
    shown, before = "", False
    for token, is_target in zip(piece.ids.tolist(), piece.mask.tolist(), strict=True):
        shown += ("[" if is_target and not before else "]" if before and not is_target else "") + ours.decode([token], False)
        before = is_target
    assert shown + "]" == wanted


def test_examples_of_real_data_are_those_of_transformers(folder: Path, shared_data: Path) -> None:
    ours, theirs = both(folder, "chatml")
    renderer = Renderer(ours, 100_000, True)
    for name, count in (("glaive_toolcall_en_demo", 60), ("alpaca_zh_demo", 60)):
        (source,) = find_sources(shared_data / "sft" / f"{name}.json.gz").sources
        for raw in islice(source.read(), count):
            item = source.convert(raw)
            assert isinstance(item, Conversation)
            tools = [{"type": "function", "function": tool.model_dump()} for tool in item.tools] or None
            found = theirs.apply_chat_template(
                plain(item.messages), tools=tools, return_dict=True, return_assistant_tokens_mask=True
            )
            (piece,) = renderer.outcome(source, raw).pieces
            assert piece.ids.tolist() == found["input_ids"][: len(piece.ids)]
            assert [int(is_target) for is_target in piece.mask] == found["assistant_masks"][: len(piece.ids)]
            assert not any(found["assistant_masks"][len(piece.ids) :])
