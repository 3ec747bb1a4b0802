"""The awaited names of the samples: as they stand there, from any event loop, with no ceremony."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import dask
import numpy as np
import psutil
import pytest

import altlas_flow as af
from altlas_flow import (
    DistributedModelOrchestrator,
    DistributionStrategy,
    EnhancedModelOrchestrator,
    InferenceRequest,
    InferenceResponse,
    NodeInfo,
    NodeStatus,
    ResultAggregationStrategy,
    TaskStatus,
    get_distributed_model_orchestrator,
    get_distributed_orchestrator,
    get_enhanced_orchestrator,
)
from altlas_flow import orchestrator as orchestrators
from altlas_flow.errors import (
    BadRequest,
    ConnectError,
    NoQuorum,
    PredictError,
    RequestCancelled,
    UnknownModel,
    UnknownNode,
    UnknownTask,
)
from tests import hub_zoo, models_zoo

pytestmark = pytest.mark.timeout(120)

LIMIT = 60  # seconds that any one wait may take


def llama(prompts, temperature=1.0):
    return [f"{prompt} at {temperature}" for prompt in prompts]


def gpt(prompts, temperature=1.0, top_k=5):
    return [f"{top_k}: {prompt}" for prompt in prompts]


def lengths(texts):
    if any(not text for text in texts):
        raise ValueError("an empty text")
    return [len(text) for text in texts]


def waits(gates):
    """Until the files are there."""
    end = time.monotonic() + LIMIT
    while not all(os.path.exists(gate) for gate in gates):
        assert time.monotonic() < end
        time.sleep(0.01)
    return list(gates)


def bloom(prompts, temperature=1.0):
    return [f"{prompt} ({temperature})" for prompt in prompts]


def paint(prompts):
    """Text to image: for each prompt one of its own, as uint8 of shape (8, 8, 3)."""
    seeds = [list(prompt.encode()) for prompt in prompts]
    return [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8) for seed in seeds]


def quick(texts):
    return ["quick" for _ in texts]


def slow(texts, seconds=1.5, gate=""):
    if gate:
        waits([gate])
    else:
        time.sleep(seconds)
    return ["slow" for _ in texts]


def fails(texts):
    raise ValueError("it cannot")


MODELS = {
    "llama-7b": llama,
    "gpt-j-6b": gpt,
    "bloom-7b1": bloom,
    "bert-base": lengths,
    "bert-large": waits,
    "model1": fails,
    "model2": quick,
    "model3": slow,
}


def specs():
    return [af.ModelSpec(id=name, source=function) for name, function in MODELS.items()]


@pytest.fixture(scope="module")
def shared():
    """The orchestrator of this process, with the models of the samples; stopped in the end."""
    orchestrator = get_distributed_model_orchestrator()
    asyncio.run(orchestrator.start())
    for spec in specs():
        orchestrator.flow.register(spec)
    yield orchestrator
    asyncio.run(orchestrator.stop())


@pytest.fixture
def own():
    """Makes orchestrators of one worker, which are stopped in the end."""
    made = []

    def make(**options):
        made.append(DistributedModelOrchestrator(workers=1, threads_per_worker=1, models=specs(), **options))
        return made[-1]

    yield make
    for orchestrator in made:
        asyncio.run(orchestrator.stop())


# ---------------------------------------------------------------- the samples


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_one_request():
    orchestrator = get_distributed_model_orchestrator()
    await orchestrator.start()
    request = InferenceRequest(
        model_id="llama-7b", inputs="What is the meaning of life?", parameters={"temperature": 0.7}
    )
    response = await orchestrator.run_distributed_inference(request)
    assert response.outputs == "What is the meaning of life? at 0.7"
    assert response.request_id == request.request_id


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("strategy", list(DistributionStrategy))
async def test_a_strategy_by_request(strategy):
    orchestrator = get_distributed_model_orchestrator()
    request = InferenceRequest(model_id="llama-7b", inputs="Hello", parameters={"temperature": 0.7})
    response = await orchestrator.run_distributed_inference(request, strategy=strategy)
    assert response.outputs == "Hello at 0.7"
    assert response.trace.strategy == strategy.value


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_a_batch_of_mixed_models():
    orchestrator = get_distributed_model_orchestrator()
    responses = await orchestrator.run_distributed_batch_inference(
        [
            InferenceRequest(model_id="llama-7b", inputs="First", parameters={"temperature": 0.7}),
            InferenceRequest(model_id="gpt-j-6b", inputs="Second", parameters={"top_k": 3}),
            InferenceRequest(model_id="bert-base", inputs="Third"),
        ]
    )
    found = {i: (response.model_id, response.outputs) for i, response in enumerate(responses)}
    assert found == {0: ("llama-7b", "First at 0.7"), 1: ("gpt-j-6b", "3: Second"), 2: ("bert-base", 5)}


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_a_node_from_its_registration_to_its_end():
    orchestrator = get_distributed_model_orchestrator()
    await orchestrator.register_node(
        NodeInfo(
            node_id="gpu-node-1",
            hostname="gpu-server",
            ip_address="192.168.1.100",
            status=NodeStatus.ONLINE,
            capabilities={"cuda_available": True, "cuda_devices": 4},
            available_models=["stable-diffusion", "llama-7b"],
        )
    )
    node = {one.node_id: one for one in await orchestrator.list_nodes()}["gpu-node-1"]
    assert not node.joined and node.status is NodeStatus.OFFLINE, "no worker of that name has come yet"
    assert node.hostname == "gpu-server" and node.ip_address == "192.168.1.100"
    assert node.capabilities == {"cuda_available": True, "cuda_devices": 4}
    assert node.available_models == ["stable-diffusion", "llama-7b"]
    await orchestrator.update_node_status("gpu-node-1", NodeStatus.BUSY)
    await orchestrator.update_node_models("gpu-node-1", ["bert-base"])
    node = {one.node_id: one for one in await orchestrator.list_nodes()}["gpu-node-1"]
    assert node.cordoned and node.available_models == ["bert-base"]
    await orchestrator.unregister_node("gpu-node-1")
    assert "gpu-node-1" not in {one.node_id for one in await orchestrator.list_nodes()}
    with pytest.raises(UnknownNode, match="gpu-node-1"):
        await orchestrator.update_node_status("gpu-node-1", NodeStatus.ONLINE)


@pytest.mark.asyncio
async def test_a_node_that_is_here(shared):
    (first, *_) = await shared.list_nodes()
    assert first.joined and first.status is NodeStatus.ONLINE and first.capabilities["cores"] >= 1
    await shared.update_node_status(first.node_id, NodeStatus.BUSY)
    now = {one.node_id: one for one in await shared.list_nodes()}[first.node_id]
    assert now.status is NodeStatus.BUSY and now.cordoned
    await shared.update_node_status(first.node_id, NodeStatus.ONLINE)
    await shared.update_node_models(first.node_id, ["bert-base"])
    now = {one.node_id: one for one in await shared.list_nodes()}[first.node_id]
    assert now.status is NodeStatus.ONLINE and now.available_models == ["bert-base"]


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_tasks_by_their_status_and_by_their_id(tmp_path):
    orchestrator = get_distributed_model_orchestrator()
    gate = tmp_path / "gate"
    request = InferenceRequest(request_id="task-123", model_id="bert-large", inputs=str(gate))
    asked = asyncio.create_task(orchestrator.run_distributed_inference(request))
    async with asyncio.timeout(LIMIT):
        while not await orchestrator.list_tasks(status_filter="running"):
            assert not asked.done(), "it ended before it was seen"
    (task,) = await orchestrator.list_tasks(status_filter="running")
    assert (task.task_id, task.model_id, task.status) == ("task-123", "bert-large", "running")
    assert (await orchestrator.get_task("task-123")).status is TaskStatus.RUNNING
    assert await orchestrator.cancel_task("task-123")
    gate.touch()
    with pytest.raises(RequestCancelled):
        await asked
    assert (await orchestrator.get_task("task-123")).status is TaskStatus.CANCELLED
    assert not await orchestrator.cancel_task("task-123"), "it was over"
    assert "task-123" in {one.task_id for one in await orchestrator.list_tasks()}
    assert await orchestrator.list_tasks(status_filter="running") == []
    with pytest.raises(UnknownTask, match="task-124"):
        await orchestrator.get_task("task-124")
    with pytest.raises(BadRequest, match="pending, running, completed, error, cancelled"):
        await orchestrator.list_tasks(status_filter="done")


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_several_models():
    orchestrator = get_distributed_model_orchestrator()
    request = InferenceRequest(inputs="What is the meaning of life?", parameters={"temperature": 0.7})
    responses = await orchestrator.run_distributed_parallel_inference(
        request,
        model_ids=["llama-7b", "gpt-j-6b", "bloom-7b1"],
        aggregation_strategy=ResultAggregationStrategy.ALL_RESPONSES,
    )
    found = {}
    for response in responses:
        found[response.model_id] = response.outputs
    assert found == {
        "llama-7b": "What is the meaning of life? at 0.7",
        "gpt-j-6b": "5: What is the meaning of life?",
        "bloom-7b1": "What is the meaning of life? (0.7)",
    }
    assert responses.outputs == found
    assert responses.missing == {} and responses.agreement is None


@pytest.fixture
def speaking(shared, tmp_path):
    """The models of the pipeline: a Whisper and a Llama at toy size, and what paints."""
    hear, speak = hub_zoo.build_speech(tmp_path / "whisper"), models_zoo.build_generator(tmp_path / "llama")
    specs_of_it = [
        af.ModelSpec(id="whisper-small", source=hear, task="automatic-speech-recognition"),
        af.ModelSpec(id="llama-7b", source=speak, task="text-generation", parameters={"max_new_tokens": 8}),
        af.ModelSpec(id="stable-diffusion", source=paint),
    ]
    for spec in specs_of_it:
        shared.flow.register(spec, replace=True)
    yield shared
    shared.flow.register(af.ModelSpec(id="llama-7b", source=llama), replace=True)


@pytest.mark.long
@pytest.mark.asyncio
async def test_a_pipeline(speaking, tmp_path, monkeypatch):
    folder = tmp_path / "sounds"
    folder.mkdir()
    (folder / "audio_data.wav").write_bytes(hub_zoo.wav(hub_zoo.tone()))
    monkeypatch.chdir(folder)  # the folder that is allowed
    orchestrator = get_distributed_model_orchestrator()
    requests = [
        InferenceRequest(model_id="whisper-small", inputs="audio_data.wav"),
        InferenceRequest(model_id="llama-7b", inputs=""),
        InferenceRequest(model_id="stable-diffusion", inputs=""),
    ]
    dependencies = [[], [0], [1]]
    responses = await orchestrator.run_distributed_pipeline_inference(requests, dependencies)
    assert [response.model_id for response in responses] == [request.model_id for request in requests]
    heard, said = responses[0].outputs, responses[1].outputs
    assert isinstance(heard, str) and heard
    assert isinstance(said, str) and said
    image = responses[-1].outputs
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    assert np.array_equal(image, paint([said])[0]), "what it painted is what was said"
    catalog = speaking.flow.models()
    assert [said] == catalog["llama-7b"].load().predict([heard])


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_racing_models(tmp_path):
    orchestrator = get_enhanced_orchestrator()
    # known to the scheduler, it leaves before the slow one, which might else have its slot
    await orchestrator.run_distributed_inference(InferenceRequest(model_id="model2", inputs="warm"))
    gate = tmp_path / "gate"
    request = InferenceRequest(inputs="Quick question", parameters={"model3": {"gate": str(gate)}})
    responses = await orchestrator.run_optimized_parallel_inference(
        request, model_ids=["model1", "model2", "model3"], timeout=LIMIT / 2, early_stopping=True
    )
    gate.touch()
    assert responses.outputs == "quick"
    assert [response.model_id for response in responses] == ["model2"]
    assert set(responses.missing) == {"model1", "model3"}


# ---------------------------------------------------------------- what they say beside


@pytest.mark.long
@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_racing_without_stopping_early_waits_until_the_timeout():
    orchestrator, request = get_enhanced_orchestrator(), InferenceRequest(inputs="x")
    await orchestrator.run_distributed_inference(InferenceRequest(model_id="model2", inputs="warm"))
    models = ["model1", "model2", "model3"]
    responses = await orchestrator.run_optimized_parallel_inference(request, models, early_stopping=False)
    assert responses.outputs == {"model2": "quick", "model3": "slow"}
    assert "it cannot" in responses.missing["model1"]
    late = InferenceRequest(inputs="x", parameters={"model3": {"seconds": 4.0}})
    responses = await orchestrator.run_optimized_parallel_inference(late, models, "3000ms", False)
    assert responses.outputs == {"model2": "quick"}
    assert "within 3 s" in responses.missing["model3"]
    with pytest.raises(NoQuorum, match=r"within 0\.3 s"):
        await orchestrator.run_optimized_parallel_inference(request, ["model3"], timeout=0.3)
    own = InferenceRequest(inputs="x", deadline=0.2)  # sooner than the timeout
    with pytest.raises(NoQuorum, match=r"within 0\.2 s"):
        await orchestrator.run_optimized_parallel_inference(own, ["model3"], timeout=30)


@pytest.mark.asyncio
@pytest.mark.usefixtures("shared")
async def test_what_is_asked_of_several_models_has_to_be_a_request_and_a_list():
    orchestrator, request = get_enhanced_orchestrator(), InferenceRequest(inputs="x")
    for call, match in [
        (orchestrator.run_distributed_parallel_inference("x", ["model2"]), "no request"),
        (orchestrator.run_distributed_parallel_inference(request, "model2"), "no list"),
        (orchestrator.run_distributed_parallel_inference(request, []), "at least one"),
        (orchestrator.run_distributed_parallel_inference(request, ["model2", "model2"]), "twice"),
        (orchestrator.run_distributed_parallel_inference(request, ["model2", {}]), "dict is no model"),
        (orchestrator.run_distributed_parallel_inference(request, ["model2"], "best"), "MAJORITY_VOTE"),
        (orchestrator.run_optimized_parallel_inference(request, ["model2"], timeout=0), "timeout=0"),
        (orchestrator.run_optimized_parallel_inference(request, ["model2"], 1, "yes"), "early_stopping"),
        (orchestrator.run_optimized_parallel_inference("x", ["model2"], 1), "no request"),
    ]:
        with pytest.raises(BadRequest, match=match):
            await call
    with pytest.raises(UnknownModel, match="nobody-knows"):
        await orchestrator.run_distributed_parallel_inference(request, ["model2", "nobody-knows"])


@pytest.mark.asyncio
async def test_whoever_gives_up_on_several_models_gives_them_up(shared):
    transport = shared.flow._transport
    asked = InferenceRequest(inputs="x")
    task = asyncio.create_task(shared.run_distributed_parallel_inference(asked, ["model3", "bert-base"]))
    while transport.open == 0:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert transport.open == 0


@pytest.mark.asyncio
async def test_where_no_strategy_is_named_that_of_the_settings_combines(flow):
    for word in ("cat", "dog"):
        flow.register(af.ModelSpec(id=f"race-{word}", source=saying(word)))
    with dask.config.set({"altlas.default-aggregation-strategy": "MAJORITY_VOTE"}):
        connected = await asyncio.to_thread(af.connect, flow.client)
    request = InferenceRequest(inputs="x")
    with connected:
        orchestrator = EnhancedModelOrchestrator(flow=connected)
        models = ["race-dog", "race-cat"]
        responses = await orchestrator.run_distributed_parallel_inference(request, models)
        assert responses.outputs == "dog"
        responses = await orchestrator.run_optimized_parallel_inference(request, models, early_stopping=False)
        assert (responses.outputs, responses.agreement) == ("dog", 0.5)


def saying(word):
    def says(rows, word=word):
        return [word] * len(rows)

    return says


def test_all_getters_give_the_same_one(shared):
    assert get_distributed_orchestrator() is get_distributed_model_orchestrator() is shared
    assert get_enhanced_orchestrator() is shared  # so all of them share one flow
    assert isinstance(shared, EnhancedModelOrchestrator)


@pytest.mark.asyncio
async def test_one_request_that_fails_is_raised_and_in_a_batch_it_is_in_its_response(shared):
    good, bad = (InferenceRequest(model_id="bert-base", inputs=text) for text in ("text", ""))
    unknown = InferenceRequest(model_id="nobody-knows", inputs="text")
    with pytest.raises(PredictError, match="empty text"):
        await shared.run_distributed_inference(bad)
    with pytest.raises(UnknownModel, match="nobody-knows"):
        await shared.run_distributed_inference(unknown)
    responses = await shared.run_distributed_batch_inference([bad, good, unknown])
    assert [response.outputs for response in responses] == [None, 4, None]
    assert [response.error and response.error.type for response in responses] == [
        "PredictError",
        None,
        "UnknownModel",
    ]
    with pytest.raises(PredictError):
        await shared.run_distributed_batch_inference([good, bad, unknown], raise_on_error=True)
    assert await shared.run_distributed_batch_inference([]) == []


@pytest.mark.asyncio
async def test_a_strategy_given_with_the_call_goes_before_the_requests_own(shared):
    request = InferenceRequest(model_id="bert-base", inputs="abc", strategy="ROUND_ROBIN")
    assert (await shared.run_distributed_inference(request)).trace.strategy == "ROUND_ROBIN"
    response = await shared.run_distributed_inference(request, strategy="least-loaded")
    assert response.trace.strategy == "LEAST_LOADED"


def test_one_orchestrator_serves_every_event_loop(shared):
    async def ask(text):
        await shared.start()
        request = InferenceRequest(model_id="bert-base", inputs=text)
        return (await shared.run_distributed_inference(request)).outputs

    assert asyncio.run(ask("one")) == 3
    assert asyncio.run(ask("three")) == 5
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append((n, asyncio.run(ask("x" * n))))) for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(found) == [(n, n) for n in range(1, 9)]


@pytest.mark.asyncio
async def test_whoever_gives_up_waiting_leaves_the_others_their_answers(shared):
    def ask(text):
        return shared.run_distributed_inference(InferenceRequest(model_id="bert-base", inputs=text))

    tasks = [asyncio.create_task(ask("x" * n)) for n in range(1, 6)]
    tasks[2].cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[2], asyncio.CancelledError)
    assert [item.outputs for item in found if isinstance(item, InferenceResponse)] == [1, 2, 4, 5]


def test_a_method_starts_it_where_nobody_did(own):
    orchestrator = own()
    assert "not started" in repr(orchestrator)
    with pytest.raises(ConnectError, match="start"):
        _ = orchestrator.flow

    async def ask():
        request = InferenceRequest(model_id="llama-7b", inputs="Hi", parameters={"temperature": 0.1})
        return await orchestrator.run_distributed_inference(request)

    assert asyncio.run(ask()).outputs == "Hi at 0.1"
    assert orchestrator.flow.client.status == "running"


@pytest.mark.long
def test_stopped_it_starts_again_and_leaves_no_process(own):
    orchestrator = own()
    request = InferenceRequest(model_id="bert-base", inputs="four")
    others = {process.pid for process in psutil.Process().children(recursive=True)}

    async def ask():
        await orchestrator.start()
        first = await orchestrator.run_distributed_inference(request)
        await orchestrator.stop()
        await orchestrator.stop()  # twice changes nothing
        with pytest.raises(ConnectError, match="start"):
            _ = orchestrator.flow
        left = [each for each in psutil.Process().children(recursive=True) if each.pid not in others]
        _, alive = psutil.wait_procs(left, timeout=LIMIT)
        (second,) = await orchestrator.run_distributed_batch_inference([request])
        return first.outputs, alive, second.outputs

    assert asyncio.run(ask()) == (4, [], 4)


@pytest.mark.asyncio
async def test_it_is_an_asynchronous_context_manager(flow):
    async with DistributedModelOrchestrator(flow=flow) as orchestrator:
        assert orchestrator.flow is flow
        for requests in (None, 5, "ab", {"a": 1}, af.InferenceRequest(model_id="minilm", inputs="a")):
            with pytest.raises(BadRequest, match="list of InferenceRequest"):
                await orchestrator.run_distributed_batch_inference(requests)
        with pytest.raises(BadRequest, match="InferenceRequest"):
            await orchestrator.run_distributed_inference("minilm")
    with pytest.raises(ConnectError):
        _ = orchestrator.flow


@pytest.mark.long
def test_uses_at_the_same_time_start_one_cluster(own, monkeypatch):
    orchestrator, made, connect = own(), [], orchestrators.connect

    def counted(*args, **options):
        made.append(connect(*args, **options))
        return made[-1]

    monkeypatch.setattr(orchestrators, "connect", counted)

    async def ask(text):
        request = InferenceRequest(model_id="bert-base", inputs=text)
        return (await orchestrator.run_distributed_inference(request)).outputs

    async def several(first):
        return await asyncio.gather(*(ask("x" * n) for n in range(first, first + 4)), orchestrator.start())

    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(asyncio.run(several(n)))) for n in (1, 5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(found) == [[n, n + 1, n + 2, n + 3, None] for n in (1, 5, 9)]
    assert len(made) == 1


@pytest.mark.long
def test_a_start_that_fails_is_raised_to_all_who_wait_and_may_be_tried_again(own, monkeypatch):
    orchestrator, connect = own(), orchestrators.connect

    def fails(*args, **options):
        raise ConnectError("no cluster today")

    async def both():
        return await asyncio.gather(orchestrator.start(), orchestrator.start(), return_exceptions=True)

    monkeypatch.setattr(orchestrators, "connect", fails)
    assert [str(error) for error in asyncio.run(both())] == ["no cluster today"] * 2
    monkeypatch.setattr(orchestrators, "connect", connect)
    assert asyncio.run(both()) == [None, None]


def test_a_flow_that_was_given_is_left_open(flow):
    orchestrator = DistributedModelOrchestrator(flow=flow)
    spec = flow.register(af.ModelSpec(id="given-lengths", source=lengths))

    async def ask():
        request = InferenceRequest(model_id=spec.id, inputs="abc")
        response = await orchestrator.run_distributed_inference(request)
        assert orchestrator.flow is flow
        await orchestrator.stop()
        return response.outputs

    assert asyncio.run(ask()) == 3
    assert flow.submit(spec.id, "ab").result(LIMIT).outputs == 2
    with pytest.raises(ConnectError, match="one of them"):
        DistributedModelOrchestrator("tcp://127.0.0.1:1", flow=flow)


def test_starting_leaves_the_event_loop_free(own):
    orchestrator = own()

    async def count():
        beats = 0

        async def heart():
            nonlocal beats
            while True:
                await asyncio.sleep(0.001)
                beats += 1

        task = asyncio.create_task(heart())
        await orchestrator.start()
        task.cancel()
        return beats

    # it takes a second and more
    assert asyncio.run(count()) > 50
