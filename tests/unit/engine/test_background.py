"""The engine's thread: readers of all kinds, cancel, drain, close, and steps that fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lianlu.client.base import Sampling
from lianlu.core.errors import EngineError, RequestError
from lianlu.engine.background import BackgroundEngine
from lianlu.engine.config import EngineConfig
from lianlu.engine.sequence import Event, Request

WAIT_S = 20


@pytest.fixture
def background(lab: Any) -> Iterator[BackgroundEngine]:
    engine = BackgroundEngine(lab.engine())
    yield engine
    engine.close()


def request(*prompt: int, new: int = 8) -> Request:
    return Request(prompt or (1, 2, 3), Sampling(max_tokens=new), ignore_eos=True)


def hold(background: BackgroundEngine) -> threading.Event:
    """Keep the engine's thread busy until the event is set."""
    gate, inside = threading.Event(), threading.Event()
    threading.Thread(target=background.call, args=(lambda: (inside.set(), gate.wait(WAIT_S)),), daemon=True).start()
    assert inside.wait(WAIT_S)
    return gate


def test_events_come_to_a_thread(background: BackgroundEngine, lab: Any) -> None:
    events = list(background.submit(request()))
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert Event.joined(events).token_ids == lab.run(lab.engine(), [request()])[0].token_ids


def test_events_come_to_asyncio(background: BackgroundEngine, lab: Any) -> None:
    async def read(*prompt: int) -> list[Event]:
        return [event async for event in background.submit(request(*prompt))]

    async def main() -> list[list[Event]]:
        return await asyncio.gather(*(read(1, 2, number) for number in range(1, 9)))

    expected = lab.run(lab.engine(), [request(1, 2, number) for number in range(1, 9)])
    assert [Event.joined(events).token_ids for events in asyncio.run(main())] == [event.token_ids for event in expected]


def test_results_of_many_threads(background: BackgroundEngine, lab: Any) -> None:
    found: dict[int, Event] = {}

    def ask(number: int) -> None:
        found[number] = background.submit(request(1, number)).result()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    expected = lab.run(lab.engine(), [request(1, number) for number in range(1, 13)])
    assert [found[number].token_ids for number in range(1, 13)] == [event.token_ids for event in expected]


def test_asyncio_can_wait_for_the_end(background: BackgroundEngine) -> None:
    event = asyncio.run(background.submit(request(new=20)).aresult())
    assert len(event.token_ids) == 20


def test_a_slow_reader_gets_everything_in_one_event(background: BackgroundEngine) -> None:
    handle = background.submit(request(new=30))
    background.submit(request(4, new=60)).result()
    events = list(handle)
    assert len(events) == 1
    assert len(events[0].token_ids) == 30
    assert events[0].finish_reason == "length"


def test_a_reader_that_leaves_does_not_stop_the_others(background: BackgroundEngine) -> None:
    handle = background.submit(request(new=200))
    next(iter(handle))
    assert len(background.submit(request(4)).result().token_ids) == 8
    handle.cancel()
    assert handle.result().finish_reason == "cancelled"


def test_cancel_at_any_time(background: BackgroundEngine) -> None:
    gate = hold(background)
    early, late = background.submit(request(new=400)), background.submit(request(5))
    early.cancel()
    early.cancel()
    gate.set()
    assert early.result().finish_reason == "cancelled"
    assert late.result().finish_reason == "length"
    late.cancel()
    assert background.call(background.engine.scheduler.audit) is None
    assert background.stats().used_blocks == 0


def test_impossible_requests_are_refused_at_once(background: BackgroundEngine) -> None:
    with pytest.raises(RequestError) as caught:
        background.submit(request(*[1] * 300))
    assert caught.value.status == 400
    assert background.submit(request()).result().finish_reason == "length"


def test_too_many_are_refused_for_now(lab: Any) -> None:
    background = BackgroundEngine(lab.engine(EngineConfig(max_tokens=128, max_running=2, max_queued=1)))
    gate = hold(background)
    handles = [background.submit(request()) for _ in range(3)]
    with pytest.raises(RequestError) as caught:
        background.submit(request())
    assert caught.value.status == 429
    gate.set()
    assert [handle.result().finish_reason for handle in handles] == ["length"] * 3
    assert background.submit(request()).result().finish_reason == "length"
    background.close()


def test_a_failed_step_fails_what_runs_and_the_thread_goes_on(background: BackgroundEngine) -> None:
    good = background.submit(request()).result()
    step, broken = background.engine.runner.step, threading.Event()

    def failing(chunks: Any) -> Any:
        if not broken.is_set():
            broken.set()
            raise RuntimeError("a kernel broke")
        return step(chunks)

    background.engine.runner.step = failing  # type: ignore[method-assign]
    gate = hold(background)
    handles = [background.submit(request()) for _ in range(3)]
    gate.set()
    for handle in handles:
        error = handle.result().error
        assert isinstance(error, EngineError)
        assert "a kernel broke" in error.message
        assert isinstance(error.__cause__, RuntimeError)
    assert background.submit(request()).result().token_ids == good.token_ids


def test_jobs_run_between_steps(background: BackgroundEngine) -> None:
    assert background.call(lambda: threading.current_thread().name) == "lianlu-engine"
    with pytest.raises(ZeroDivisionError):
        background.call(lambda: 1 // 0)
    assert background.submit(request()).result().finish_reason == "length"


def test_drain_lets_what_runs_finish(background: BackgroundEngine) -> None:
    handles = [background.submit(request(number, new=30)) for number in range(1, 6)]
    assert not background.draining
    assert background.drain(WAIT_S)
    assert background.draining
    assert [handle.result().finish_reason for handle in handles] == ["length"] * 5
    with pytest.raises(RequestError) as caught:
        background.submit(request())
    assert caught.value.status == 503


def test_drain_gives_up_what_takes_too_long(background: BackgroundEngine) -> None:
    handles = [background.submit(request(number, new=10_000)) for number in range(1, 4)]
    assert not background.drain(0)
    assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 3
    assert background.stats().used_blocks == 0


def test_close_ends_everything_and_may_be_repeated(lab: Any) -> None:
    background = BackgroundEngine(lab.engine())
    handle = background.submit(request(new=10_000))
    background.close()
    background.close()
    assert handle.result().finish_reason == "cancelled"
    assert not background._thread.is_alive()
    with pytest.raises(RequestError):
        background.submit(request())
    with pytest.raises(EngineError):
        background.call(lambda: None)


def test_an_idle_engine_sleeps(background: BackgroundEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    background.submit(request()).result()
    looks: list[int] = []
    monkeypatch.setattr(type(background.engine), "idle", property(lambda self: looks.append(1) or True))
    time.sleep(0.1)
    assert len(looks) <= 1


def test_a_reader_whose_loop_is_gone_does_no_harm(background: BackgroundEngine) -> None:
    async def begin() -> Any:
        handle = background.submit(request(new=200))
        async for _ in handle:
            return handle

    handle = asyncio.run(begin())
    assert background.submit(request(9)).result().finish_reason == "length"
    assert handle.result().finish_reason == "length"


def test_jobs_take_turns_with_steps(background: BackgroundEngine) -> None:
    gate = hold(background)
    handle = background.submit(request(new=12))
    steps: list[int] = []

    async def main() -> None:
        jobs = [background.acall(lambda: steps.append(background.engine.stats().num_steps)) for _ in range(6)]
        running = asyncio.gather(*jobs)
        await asyncio.sleep(0)
        gate.set()
        await running

    asyncio.run(main())
    assert steps == sorted(set(steps))
    assert handle.result().finish_reason == "length"


def test_a_job_that_is_cancelled_before_its_turn_does_not_run(background: BackgroundEngine) -> None:
    gate, ran = hold(background), []

    async def main() -> None:
        job = asyncio.ensure_future(background.acall(lambda: ran.append(1)))
        await asyncio.sleep(0)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        gate.set()
        assert await background.acall(lambda: 7) == 7

    asyncio.run(main())
    assert ran == []


def test_too_many_jobs_are_refused(lab: Any) -> None:
    background = BackgroundEngine(lab.engine(lab.small.model_copy(update={"max_running": 1, "max_queued": 1})))
    gate = hold(background)

    async def main() -> None:
        jobs = [asyncio.ensure_future(background.acall(lambda: 1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError) as caught:
            await background.acall(lambda: 1)
        assert caught.value.status == 429
        gate.set()
        assert await asyncio.gather(*jobs) == [1, 1]

    asyncio.run(main())
    background.close()
