"""The chat page in headless Chromium: against a scripted API, which says what the test wrote, and against the real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lianlu.serve.main import running_server
from lianlu.tokenizer.tokenizer import Tokenizer

from .conftest import Script, Visit, opened, playwright_api

pytestmark = pytest.mark.e2e

UNNAMED = """[...document.querySelectorAll("button, input, select, textarea")]
    .filter((node) => node.offsetParent && !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
    .map((node) => node.outerHTML)"""


def test_a_message_and_its_reply(visit: Visit, script: Script) -> None:
    assert "Ask something" in visit.page.locator("#log").inner_text()
    assert visit.ask("hi") == "Hello there."
    assert script.bodies[-1] == {
        "model": "small",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    stats = visit.page.locator("article.assistant .stats").inner_text()
    assert "2 tokens" in stats
    assert re.search(r"first after \d+(\.\d+)? s", stats)
    assert "102 in context, 64 of them from the cache" in stats
    assert visit.page.locator("#context").inner_text() == "102 of 2,048 tokens"
    visit.ask("again")
    assert [message["role"] for message in script.bodies[-1]["messages"]] == ["user", "assistant", "user"]
    assert visit.page.title() == "hi - lianlu"


def test_text_is_shown_as_it_comes_and_stop_hangs_up(visit: Visit, script: Script) -> None:
    script.replies["count"] = [f"{number} " for number in range(1000)]
    script.pause_s = 0.02
    visit.say("count")
    playwright_api.expect(visit.reply()).to_contain_text("1 2 3")
    assert "999" not in visit.reply().inner_text()
    assert visit.page.locator("#send").is_hidden()
    visit.page.locator("#stop").click()
    visit.settle()
    kept = visit.reply().inner_text()
    end = time.monotonic() + 8
    while not script.num_gone and time.monotonic() < end:
        time.sleep(0.02)
    assert script.num_gone == 1
    assert visit.reply().inner_text() == kept
    assert "stopped" in visit.page.locator("article.assistant .stats").inner_text()
    visit.say("count")
    visit.page.locator("article").nth(3).wait_for()
    visit.page.keyboard.press("Escape")
    visit.settle()
    assert script.bodies[-1]["messages"][1]["content"].startswith("0 1 2 3")


def test_history_survives_a_reload(visit: Visit, script: Script) -> None:
    visit.ask("first talk")
    visit.page.locator("#new").click()
    visit.ask("second talk")
    visit.page.reload()
    assert "second talk" in visit.page.locator("#log").inner_text()
    titles = visit.page.locator("#list .open").all_inner_texts()
    assert titles == ["second talk", "first talk"]
    visit.page.locator("#list .open", has_text="first talk").click()
    assert "first talk" in visit.page.locator("#log").inner_text()
    visit.ask("more")
    assert [message["content"] for message in script.bodies[-1]["messages"]] == ["first talk", "Hello there.", "more"]


def test_a_reply_under_way_goes_on_behind_another_conversation(visit: Visit, script: Script) -> None:
    script.replies["slow"] = [f"w{number} " for number in range(20)]
    script.pause_s = 0.02
    visit.say("slow")
    visit.page.locator("#stop").wait_for()
    visit.page.locator("#new").click()
    assert visit.page.locator("#send").is_visible()
    visit.page.locator("#list .open", has_text="slow").click()
    playwright_api.expect(visit.reply()).to_contain_text("w19")


def test_conversations_are_renamed_deleted_and_brought_back(visit: Visit) -> None:
    visit.ask("some talk")
    visit.page.locator("#list li").hover()
    visit.page.get_by_label("Rename").click()
    visit.page.get_by_label("Title").fill("A better name")
    visit.page.keyboard.press("Enter")
    assert visit.page.locator("#list .open").inner_text() == "A better name"
    visit.page.locator("#list li").hover()
    visit.page.get_by_label("Delete").click()
    assert visit.page.locator("#list .open").count() == 0
    visit.page.get_by_role("button", name="Undo").click()
    visit.page.locator("#list .open", has_text="A better name").click()
    assert "some talk" in visit.page.locator("#log").inner_text()


def test_export_and_import(visit: Visit, tmp_path: Path) -> None:
    visit.ask("keep this")
    with visit.page.expect_download() as download:
        visit.page.locator("#export").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    saved = json.loads(path.read_text())
    assert [message["content"] for message in saved["conversations"][0]["messages"]] == ["keep this", "Hello there."]
    visit.page.locator("#import-file").set_input_files(path)
    visit.page.locator("#toast", has_text="1 conversations were added").wait_for()
    assert visit.page.locator("#list .open").all_inner_texts() == ["keep this", "keep this"]
    hostile = {"lianlu": "chats", "format": 1, "conversations": [
        5, {"id": "../x", "title": "<b>odd</b>", "messages": [{"role": "system", "content": 1}, {"role": "user", "content": 7},
            {"role": "assistant", "content": "<img src=x onerror=alert(1)>", "stats": {"tokens": 2, "x": {}}}]},
    ]}  # fmt: skip
    path.write_text(json.dumps(hostile))
    visit.page.locator("#import-file").set_input_files(path)
    visit.page.locator("#list .open", has_text="<b>odd</b>").click()
    assert visit.reply().inner_text() == "<img src=x onerror=alert(1)>"
    path.write_text("no JSON")
    visit.page.locator("#import-file").set_input_files(path)
    visit.page.locator("#toast", has_text="holds no conversations").wait_for()


def test_instructions_and_sampling_are_sent(visit: Visit, script: Script) -> None:
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 99, "seed": 7,
              "presence_penalty": 0.1, "frequency_penalty": -0.2, "repetition_penalty": 1.1}  # fmt: skip
    visit.open("#system").fill("Be brief.")
    for name, value in values.items():
        visit.open(f"#{name}").fill(str(value))
    visit.ask("hi")
    body = script.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert {name: body[name] for name in values} == values
    visit.page.reload()
    visit.open("#top_k").fill("1.5")
    visit.say("refused")
    visit.page.locator("#toast", has_text="Top k").wait_for()
    assert len(script.bodies) == 1
    assert visit.page.locator("#input").input_value() == "refused"
    visit.open("#defaults").click()
    visit.ask("plain")
    assert not script.bodies[-1].keys() & values.keys()
    assert script.bodies[-1]["messages"][0]["content"] == "Be brief."


def test_the_model_can_be_switched(visit: Visit, script: Script) -> None:
    assert visit.page.locator("#model option").all_inner_texts() == ["small", "law (small)"]
    visit.page.locator("#model").select_option("law")
    visit.ask("hi")
    assert script.bodies[-1]["model"] == "law"
    visit.page.reload()
    playwright_api.expect(visit.page.locator("#model")).to_have_value("law")
    assert visit.page.locator("article.assistant .who").inner_text().endswith("law")


def test_again_and_edit_go_on_from_there(visit: Visit, script: Script) -> None:
    script.replies["three"] = ["Third."]
    visit.ask("one")
    visit.ask("two")
    visit.page.get_by_role("button", name="Again").first.click()
    visit.settle()
    assert [message["content"] for message in script.bodies[-1]["messages"]] == ["one"]
    assert visit.page.locator("article").count() == 2
    visit.page.get_by_role("button", name="Edit").click()
    visit.page.get_by_label("Edit message").fill("three")
    visit.page.keyboard.press("Enter")
    playwright_api.expect(visit.reply()).to_have_text("Third.")
    assert [message["content"] for message in script.bodies[-1]["messages"]] == ["three"]


def test_errors_are_shown_and_can_be_tried_again(visit: Visit, script: Script) -> None:
    script.refusal = (429, "too many requests are waiting; try again later")
    visit.say("hi")
    error = visit.page.locator(".error")
    playwright_api.expect(error).to_contain_text("too many requests are waiting")
    script.refusal = None
    visit.page.get_by_role("button", name="Try again").click()
    playwright_api.expect(visit.reply()).to_have_text("Hello there.")
    assert error.count() == 0
    script.breaks_off = True
    visit.say("more")
    playwright_api.expect(error).to_contain_text("stopped before the reply was complete")
    assert visit.reply().inner_text() == "Hello there."
    visit.troubles.clear()  # the browser itself notes the status 429


def test_keyboard(visit: Visit, script: Script) -> None:
    box = visit.page.locator("#input")
    box.press_sequentially("a")
    box.press("Shift+Enter")
    box.press_sequentially("b")
    assert not script.bodies
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    assert not script.bodies
    box.press("Enter")
    visit.settle()
    assert script.bodies[-1]["messages"][0]["content"] == "a\nb"
    box.press("Enter")
    assert len(script.bodies) == 1


def test_two_languages_and_themes(browser: Any, api: tuple[Script, str], script: Script) -> None:
    context, visit = opened(browser, api[1], locale="zh-CN", color_scheme="dark")
    assert visit.page.locator("#send").inner_text() == "发送"
    assert visit.page.evaluate("document.documentElement.lang") == "zh"
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = visit.page.evaluate(colour)
    visit.open("#theme").select_option("light")
    light = visit.page.evaluate(colour)
    brightness = [sum(map(int, re.findall(r"\d+", shown))) for shown in (dark, light)]
    assert brightness[0] < 150
    assert brightness[1] > 600
    visit.open("#language").select_option("en")
    assert visit.page.locator("#send").inner_text() == "Send"
    visit.page.reload()
    assert visit.page.locator("#send").inner_text() == "Send"
    assert visit.page.evaluate(colour) == light
    assert visit.page.evaluate(UNNAMED) == []
    assert visit.troubles == []
    context.close()


def test_a_narrow_screen(browser: Any, api: tuple[Script, str], script: Script) -> None:
    script.replies["wide"] = ["```\n" + "x" * 500 + "\n```\n\n|" + "column|" * 30 + "\n|" + "-|" * 30 + "\n"]
    context, visit = opened(browser, api[1], viewport={"width": 360, "height": 640})
    visit.ask("wide")
    assert visit.page.locator(".body table").is_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.page.locator("#sidebar").is_hidden()
    visit.page.locator("#menu").click()
    visit.page.locator("#list .open").click()
    assert visit.page.locator("#sidebar").is_hidden()
    assert visit.troubles == []
    context.close()


def test_the_real_server(browser: Any, url: str) -> None:
    context, visit = opened(browser, url)
    assert visit.page.locator("#model").input_value() == "reciter"
    visit.open("#temperature").fill("0")
    assert visit.ask("What is 1 + 1?").startswith("Let me add.")
    assert "12 tokens" in visit.page.locator("article.assistant .stats").inner_text()
    visit.open("#max_tokens").fill("2")
    assert visit.ask("Once more") == "Let me"
    assert "cut off" in visit.page.locator("article.assistant .stats").nth(1).inner_text()
    assert visit.troubles == []
    context.close()


def test_stop_ends_the_work_of_the_real_server(browser: Any, url: str, reciter: Path, soon_idle: Callable[[str], bool]) -> None:
    end_token = Tokenizer.load(reciter).token_id("<|im_end|>")

    def never_ending(route: Any) -> None:
        wanted = {"logit_bias": {str(end_token): -100}, "temperature": 0}
        route.continue_(post_data=json.dumps(route.request.post_data_json | wanted))

    context, visit = opened(browser, url)
    visit.page.route("**/v1/chat/completions", never_ending)
    visit.say("Go on and on")
    playwright_api.expect(visit.reply()).to_contain_text("Let me add.")
    visit.page.keyboard.press("Escape")
    visit.settle()
    assert soon_idle(url)
    assert "stopped" in visit.page.locator("article.assistant .stats").inner_text()
    assert visit.troubles == []
    context.close()


def test_the_key_is_asked_for_and_forgotten_with_the_tab(browser: Any, reciter: Path) -> None:
    with running_server(reciter, api_key="secret") as address:
        context = browser.new_context(locale="en-US")
        context.set_default_timeout(8000)
        visit = Visit(context.new_page())
        visit.page.goto(address)
        playwright_api.expect(visit.page.locator("#state")).to_contain_text("API key is missing or wrong")
        visit.page.locator("#key").fill("secret")
        visit.page.locator("#key").press("Enter")
        playwright_api.expect(visit.page.locator("#model")).to_have_value(reciter.name)
        assert visit.page.locator("#state").inner_text() == ""
        visit.open("#temperature").fill("0")
        assert visit.ask("hi").startswith("Let me add.")
        assert "secret" not in visit.page.evaluate("JSON.stringify(localStorage)")
        context.close()
