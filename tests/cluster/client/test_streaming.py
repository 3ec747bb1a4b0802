"""Answers piece by piece: while they are made, whoever waits for them and however."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading

import pytest

import altlas_flow as af
from altlas_flow.errors import BadRequest, PredictError, RequestCancelled, StreamBroken
from altlas_flow.models.loaded import LoadedModel
from tests.cluster.stages import another, echo, fill, model, quiet
from tests.laboratory import LIMIT, laboratory, until

pytestmark = pytest.mark.timeout(120)

#: Tokens of a text that nobody would wait for.
ENDLESS = 15_000


def writer(folder, **fields):
    return af.ModelSpec(id="writer", task="text-generation", source=str(folder), **fields)


@pytest.fixture
def spec(tiny_generator_folder):
    return writer(tiny_generator_folder)


def here(spec, prompts, **parameters):
    """What the model answers without a cluster."""
    with LoadedModel(spec, threads=1) as loaded:
        return loaded.predict(prompts, parameters=parameters)


def listening(dask_worker):
    """Requests that are listened to on a worker."""
    return sum(map(len, dask_worker.plugins["altlas-host"].speaker._listeners.values()))


def listeners(lab):
    return sum(lab.flow.client.run(listening).values())


def test_pieces_come_before_the_request_is_over_and_are_its_answer(solo, spec):
    quiet(solo)
    handle = solo.flow.submit(spec, "hello", max_new_tokens=300)
    stream, open_ones = iter(handle.stream()), []
    pieces = []
    for piece in stream:
        open_ones.append(not handle.done())
        pieces.append(piece)
    assert all(pieces) and len(pieces) > 2
    assert open_ones[0]
    response = handle.result(LIMIT)
    assert "".join(pieces) == response.outputs == here(spec, ["hello"], max_new_tokens=300)[0]
    assert response.tries == 1
    # once it is over, it is one piece, as often as one likes
    assert list(handle.stream()) == list(handle.stream()) == [response.outputs]
    quiet(solo)
    assert listeners(solo) == 0


def test_a_request_that_is_cancelled_while_it_is_streamed_ends_and_frees_its_worker(solo, spec):
    """No text of that length is there when the second request is answered: it was given up on the way."""
    handle = solo.flow.submit(spec, "hello", max_new_tokens=ENDLESS)
    stream, pieces = iter(handle.stream()), []
    pieces.append(next(stream))
    assert handle.status == "running"
    assert handle.cancel()
    with pytest.raises(RequestCancelled, match=handle.request_id):
        pieces.extend(stream)
    assert solo.flow.submit(spec, "x", max_new_tokens=2).result(LIMIT).ok
    assert 0 < len("".join(pieces)) < ENDLESS / 4
    quiet(solo)


def test_a_deadline_ends_a_text_that_grows_and_frees_its_worker(solo, spec):
    handle = solo.flow.submit(spec, "hello", max_new_tokens=ENDLESS, deadline=0.5)
    with pytest.raises(af.errors.DeadlineExceeded):
        for _ in handle.stream():
            pass
    assert solo.flow.submit(spec, "x", max_new_tokens=2).result(LIMIT).ok
    quiet(solo)


def test_several_listen_to_one_request_and_to_others_at_once_from_any_event_loop(solo, spec):
    async def listen(handle, count=None):
        text, pieces = "", handle.stream().__aiter__()
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                text += piece
                if count is not None and len(text) > count:
                    break
        return text

    async def run():
        handles = [solo.flow.submit(spec, prompt, max_new_tokens=200) for prompt in ("on", "the", "way")]
        texts = await asyncio.gather(*map(listen, handles), listen(handles[0]), listen(handles[1], 5))
        answers = [(await handle).outputs for handle in handles]
        return texts, answers

    texts, answers = asyncio.run(run())
    assert texts[:4] == [*answers, answers[0]]
    assert answers[1].startswith(texts[4]) and len(texts[4]) > 5
    assert len(set(answers)) == 3


@pytest.mark.parametrize("how", ["break", "close", "task"])
def test_whoever_leaves_a_stream_leaves_the_request_alone(solo, spec, how):
    quiet(solo)
    handle = solo.flow.submit(spec, "hello", max_new_tokens=ENDLESS)
    if how == "break":
        for _ in handle.stream():
            break
    elif how == "close":
        stream = iter(handle.stream())
        next(stream)
        stream.close()
    else:

        async def run():
            async def forever():
                async for _ in handle.stream():
                    heard.set()

            heard = asyncio.Event()
            task = asyncio.create_task(forever())
            await heard.wait()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        asyncio.run(run())
    until(lambda: listeners(solo) == 0)
    assert len(solo.flow._transport._dispatch.listening._ears) == 0
    assert handle.status == "running"
    assert handle.cancel()  # else it would be for long
    quiet(solo)


def test_who_listens_before_a_request_leaves_hears_it_all(solo, spec, gate):
    fill(solo, gate)
    handle = solo.flow.submit(spec, "hello", max_new_tokens=300)
    pieces, began = [], threading.Event()

    def listen():
        stream = iter(handle.stream())
        began.set()
        pieces.extend(stream)

    thread = threading.Thread(target=listen)
    thread.start()
    assert began.wait(LIMIT)
    assert handle.status == "pending"
    gate.open("fill")
    thread.join(LIMIT)
    assert "".join(pieces) == handle.result(LIMIT).outputs


def test_listening_that_comes_before_its_envelope_is_remembered(solo, spec):
    """As what is cancelled early: the worker's plugin is told of an envelope that begins later."""

    def early(dask_worker):
        from altlas_flow.models.watch import Watch

        plugin, said = dask_worker.plugins["altlas-host"], []
        speaker, plugin.speaker._say = plugin.speaker, lambda word, **what: said.append(what)
        try:
            plugin.listen("later", 0, True)
            plugin.listen("later", 1, True)
            plugin.listen("later", 1, False)

            class Delivery:
                def rows_of(self, requests):
                    return requests

            watch = Watch(2, "later")
            plugin.begin("later", watch, Delivery())
            for row in (0, 1):
                watch.pieces.begin(row)
                watch.pieces.add(row, "text")
            speaker._flush()
            plugin.end("later", rows=0, seconds=None, faults=0, closing=False, took=0.0)
        finally:
            speaker._say = plugin.words.say
        return [(one["request"], one["text"]) for one in said], plugin._listened

    assert list(solo.flow.client.run(early).values()) == [([(0, "text")], {})]


def test_what_does_not_come_in_pieces_comes_as_one(solo):
    spec = model(echo)
    assert list(solo.flow.submit(spec, "whole").stream()) == ["whole"]
    with pytest.raises(BadRequest, match="answers with a int, and only texts come in pieces"):
        list(solo.flow.submit(spec, 5).stream())
    with pytest.raises(BadRequest, match="submit each input by itself"):
        solo.flow.submit(spec, ["a", "b"]).stream()


def test_the_error_of_a_request_is_raised_at_the_end(solo, spec):
    def fails(rows):
        raise ValueError("never")

    with pytest.raises(PredictError, match="never"):
        list(solo.flow.submit(model(fails), "x").stream())
    with pytest.raises(af.errors.InputError, match="not a text"):
        list(solo.flow.submit(spec, 7).stream())


def test_streaming_on_the_clients_own_loop_is_refused(solo, spec):
    handle = solo.flow.submit(spec, "hello", max_new_tokens=3)

    async def there():
        with pytest.raises(BadRequest, match="use async for"):
            iter(handle.stream())
        return "".join([piece async for piece in handle.stream()])

    loop = solo.flow.client.loop.asyncio_loop
    assert asyncio.run_coroutine_threadsafe(there(), loop).result(LIMIT) == handle.result().outputs


def test_a_stream_ends_when_its_flow_is_closed(solo, spec):
    with another(solo) as flow:
        handle = flow.submit(spec, "hello", max_new_tokens=ENDLESS)
        stream = iter(handle.stream())
        next(stream)
    with pytest.raises(af.errors.ClusterLost):
        list(stream)
    quiet(solo)


def test_a_frame_has_a_column_of_texts_and_chats_are_documents(solo, spec):
    import pandas as pd

    frame = pd.DataFrame({"prompt": ["hello", "on"]})
    parameters = {"max_new_tokens": 5, "temperature": 0.7, "seed": 3}
    texts = solo.flow.map(frame, spec, input="prompt", output="text", parameters=parameters)["text"]
    assert texts.tolist() == here(spec, ["hello", "on"], **parameters)
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    found = solo.flow.submit(spec, chat, **parameters).result(LIMIT)
    assert [found.outputs] == here(spec, [chat], **parameters)


@pytest.mark.long
def test_many_prompts_at_once_share_batches(solo, spec):
    prompts = [f"{n} on" for n in range(24)]
    sizes = []
    while len(sizes) < 5 and max(sizes, default=0) < 8:  # how many are the fastest is found by measuring
        rows = solo.flow.submit_many(spec, prompts, max_new_tokens=60).result(LIMIT)
        sizes.append(max(row.batch_size for row in rows))
        assert [row.outputs for row in rows] == here(spec, prompts, max_new_tokens=60)
    assert max(sizes) >= 8, sizes


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seeded", [True, False])
def test_a_text_whose_worker_dies_goes_on_elsewhere_if_it_is_the_same(tiny_generator_folder, seeded):
    drawn = {"temperature": 1.0, "max_new_tokens": 6000, **({"seed": 5} if seeded else {})}
    spec = writer(tiny_generator_folder)
    with laboratory({"a": {}, "b": {}}) as lab:
        for _ in "ab":  # both have loaded it
            lab.flow.submit(spec, "x", max_new_tokens=2, strategy="ROUND_ROBIN").result(3 * LIMIT)
        handle = lab.flow.submit(spec, "hello", parameters=drawn)
        stream, pieces = iter(handle.stream()), []
        pieces += itertools.islice(stream, 5)
        flight = handle._flight
        lab.kill(flight.node)
        if seeded:
            pieces += stream
            assert "".join(pieces) == handle.result(3 * LIMIT).outputs
            assert handle.tries == 2
        else:
            with pytest.raises(StreamBroken, match="begun again"):
                pieces += stream
            assert handle.result(3 * LIMIT).outputs  # the request itself is answered
