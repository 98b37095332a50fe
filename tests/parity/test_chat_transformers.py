"""Chat templates: text, ids and masks against transformers' apply_chat_template.

The templates below are in the style of Qwen 2.5, Llama 3, Mistral and Gemma: the constructs that published templates use.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lianlu.core.store import Output
from lianlu.formats.documents import Document, write_documents
from lianlu.formats.messages import Message, ToolCall, ToolSpec
from lianlu.tokenizer.chat import builtin
from lianlu.tokenizer.tokenizer import Tokenizer
from lianlu.tokenizer.train import TokenizerConfig, run

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
