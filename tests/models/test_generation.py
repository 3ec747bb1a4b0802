"""Texts that go on: as transformers' own loop has them, each to its own end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from altlas_flow.errors import BadRow, InputError, ModelLoadError, ParameterError, SpecError, UnsafeModel
from altlas_flow.models.loaded import MEMORY_SHARE, LoadedModel, search_for
from altlas_flow.models.memory import used_memory
from altlas_flow.models.runtimes.generation import GenerationRuntime, kept_bytes
from altlas_flow.models.spec import ModelSpec
from tests import models_zoo

#: Of uneven length.
PROMPTS = ["hello", "on the other hand, there is more than one way in", "x", "an €", "the the the the the"]
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def spec_of(folder: Path, **fields: Any) -> ModelSpec:
    return ModelSpec(id="writer", task="text-generation", source=str(folder), **fields)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What is this small takes longer with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tiny_generator_folder: Path) -> LoadedModel:
    return spec_of(tiny_generator_folder).load()


def write(model: LoadedModel, prompts: Sequence[Any], **parameters: Any) -> list[str]:
    texts = model.predict(list(prompts), parameters=parameters)
    assert isinstance(texts, list)
    return texts


def generated(folder: Path, prompts: list[str], count: int) -> list[str]:
    """What transformers' own loop makes of them, padded to the left; without the tokens that end a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from altlas_flow.models.runtimes.sources import quiet

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
        made = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    width, texts = inputs["input_ids"].shape[1], []
    said = model.generation_config.eos_token_id
    ends = said if isinstance(said, list) else [said]
    for row in made.tolist():
        tokens = list(itertools.takewhile(lambda token: token not in ends, row[width:]))
        texts.append(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return texts


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_likeliest_text_is_that_of_transformers_own_loop(tmp_path: Path, kind: str) -> None:
    model = spec_of(models_zoo.build_generator(tmp_path, kind=kind)).load()
    expected = generated(tmp_path, PROMPTS, 24)
    assert write(model, PROMPTS, max_new_tokens=24) == expected
    assert generated(tmp_path, PROMPTS[1:2], 24) == expected[1:2]
    assert [write(model, [prompt], max_new_tokens=24)[0] for prompt in PROMPTS] == expected


def test_rows_end_each_for_itself_at_what_the_model_says_ends_a_text(tmp_path: Path) -> None:
    models_zoo.build_generator(tmp_path)
    file = tmp_path / "generation_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"eos_token_id": [2, *range(40, 52)]}))
    expected = generated(tmp_path, PROMPTS, 40)
    assert len({len(text) for text in expected}) > 2
    assert write(spec_of(tmp_path).load(), PROMPTS, max_new_tokens=40) == expected


def test_a_seed_gives_the_same_text_whatever_shares_its_batch(model: LoadedModel) -> None:
    drawn = {"temperature": 1.2, "top_p": 0.95, "max_new_tokens": 30}
    alone = [write(model, [prompt], seed=11, **drawn)[0] for prompt in PROMPTS]
    assert write(model, PROMPTS, seed=11, **drawn) == alone
    assert write(model, [*reversed(PROMPTS), "more"], seed=11, **drawn)[:-1] == alone[::-1]
    assert write(model, ["hello"] * 3, seed=11, **drawn) == [alone[0]] * 3
    assert write(model, PROMPTS, seed=12, **drawn) != alone
    assert len(set(write(model, ["hello"] * 3, **drawn))) == 3


def test_a_text_ends_before_a_stop_string_also_of_several_tokens(model: LoadedModel) -> None:
    (whole,) = write(model, ["hello"], max_new_tokens=60)
    stop = whole[12:16]
    assert len(stop) == 4
    (cut,) = write(model, ["hello"], max_new_tokens=60, stop=[stop, "never there"])
    assert cut == whole[: whole.index(stop)]
    assert write(model, ["hello"], max_new_tokens=60, stop=whole[0]) == [""]


def test_a_chat_goes_through_the_models_template(model: LoadedModel) -> None:
    runtime = model.runtime
    assert isinstance(runtime, GenerationRuntime)
    prepared = runtime.prepare([HELLO], {})
    tokens = runtime._tokenizer("user: hello\nassistant:", add_special_tokens=False).input_ids
    assert prepared.items[0].tokens.tolist() == tokens
    as_table = {"messages": np.array(HELLO["messages"], object)}  # as pandas reads it from a file
    assert write(model, [HELLO, as_table]) == write(model, [HELLO]) * 2


def test_several_columns_are_a_text_of_lines(model: LoadedModel) -> None:
    assert write(model, [{"title": "on", "body": "the"}]) == write(model, ["on\nthe"])
    assert write(model, [{"message": "on", "body": "the"}]) == write(model, ["on\nthe"])
    assert write(model, [{"passage": "on"}, {"text": "the"}]) == write(model, ["on", "the"])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "null"),
        (7, "is a int, not a text"),
        ({"messages": []}, "list of dicts with role and content"),
        ({"messages": "hello"}, "list of dicts with role and content"),
        ({"messages": [{"role": "user"}]}, "list of dicts with role and content"),
        ({"messages": [{"role": "king", "content": "hello"}]}, "roles are user and assistant"),
        ({"role": "user", "content": "hello"}, "give a chat as {'messages': [...]}"),
        ([{"role": "user", "content": "hello"}], "give a chat as {'messages': [...]}"),
        ({"message": HELLO["messages"]}, "did you mean 'messages'?"),
        ({"message": HELLO["messages"][0]}, "did you mean 'messages'?"),
        (
            {"message": "hello"},
            "the input has a text as 'message', which is no key: did you mean 'messages'?",
        ),
        ({"Mesages": "hello"}, "did you mean 'messages'?"),
        ("half \ud800", "cannot be tokenised"),
    ],
)
def test_what_is_no_prompt_is_the_fault_of_its_row(model: LoadedModel, row: Any, text: str) -> None:
    work = model.work(["hello", row, "x"], {"max_new_tokens": 3})
    while work.waiting:
        model.execute(model.cut([work]))
    assert list(work.result.errors) == [1]
    assert isinstance(work.result.errors[1], InputError) and text in str(work.result.errors[1])
    assert [work.result.outputs[0], work.result.outputs[2]] == write(model, ["hello", "x"], max_new_tokens=3)


def test_a_model_without_a_template_takes_no_messages(tmp_path: Path) -> None:
    model = spec_of(models_zoo.build_generator(tmp_path, chat=False)).load()
    with pytest.raises(BadRow, match="no chat template: give a text"):
        model.predict([HELLO])


def test_a_prompt_that_leaves_no_room_is_a_fault_that_says_how_much_there_is(
    tiny_generator_folder: Path,
) -> None:
    model = spec_of(tiny_generator_folder, options={"max_length": 16}).load()
    fits = "abcdefghi"  # ten tokens, with that of the beginning
    assert len(write(model, [fits])) == 1  # as many as there is room for, where nobody says
    write(model, [fits], max_new_tokens=6)
    with pytest.raises(BadRow, match=r"10 tokens, and the model reads 16 .* ask for max_new_tokens=6"):
        model.predict([fits], parameters={"max_new_tokens": 7})
    with pytest.raises(BadRow, match=r"has 16 tokens, .*: shorten it"):
        model.predict(["abcdefghijklmno"])


def test_a_row_costs_its_prompt_and_what_it_may_write(model: LoadedModel) -> None:
    prepared = model.runtime.prepare(["a", None, "abcd"], {"max_new_tokens": 100})
    assert prepared.costs is not None
    assert prepared.costs.tolist() == [102, 0, 105]


def test_batches_keep_to_the_memory_that_their_tokens_take(tiny_generator_folder: Path) -> None:
    spec = spec_of(tiny_generator_folder)
    runtime = spec.load().runtime
    assert isinstance(runtime, GenerationRuntime)
    # two layers, two heads of 8 numbers for keys and values each, of 4 bytes
    assert runtime.token_bytes == 2 * 2 * 2 * 8 * 4

    from transformers import GPT2Config

    assert kept_bytes(GPT2Config(n_layer=3, n_head=4, n_embd=32), 2) == 2 * 3 * 32 * 2
    used = used_memory()
    model = LoadedModel(spec, memory_limit=int(2 * used / MEMORY_SHARE))
    work = model.work(["hello"] * 100, {"max_new_tokens": 100})
    assert model.cut([work]).budget == search_for("cpu", tokens=True, steps=True).value
    model._token_bytes = used // 1000  # as a large model's: room for about a thousand tokens
    assert 500 < model.cut([work]).budget < 1500
    model._token_bytes = used
    assert model.cut([work]).budget == search_for("cpu", tokens=True, steps=True).smallest


@pytest.mark.parametrize("name", ["temperature", "max_new_tokens", "stop", "seed", "top_p", "top_k"])
def test_parameters_are_looked_at_before_anything_is_loaded(name: str) -> None:
    runtime = GenerationRuntime(spec_of(Path("nowhere")))
    with pytest.raises(ParameterError, match=f"model 'writer': parameter '{name}'"):
        runtime.check_parameters({name: -1})
    with pytest.raises(ParameterError, match="did you mean temperature="):
        runtime.check_parameters({"temprature": 1})


def test_what_is_not_whole_or_not_safe_is_not_loaded(tmp_path: Path) -> None:
    folder = models_zoo.build_generator(tmp_path / "g")
    with pytest.raises(SpecError, match="'max_length'"):
        spec_of(folder, options={"max_length": 1}).load()
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelLoadError, match="damaged"):
        spec_of(folder).load()
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModel, match="convert it to safetensors"):
        spec_of(folder).load()
    with pytest.raises(ModelLoadError, match=r"no weights for .*: it is not a model for text-generation"):
        spec_of(models_zoo.build_embedder(tmp_path / "e")).load()


def test_the_answers_are_one_column_of_text(model: LoadedModel) -> None:
    types = model.runtime.output_types()
    assert types is not None and {name: str(kind) for name, kind in types.items()} == {"text": "string"}
    assert "MiB" in repr(model) and model.runtime.memory() > 0
