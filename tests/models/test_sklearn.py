"""Runtime ``sklearn``: the numbers of scikit-learn, from files that cannot run code."""

from __future__ import annotations

import logging
import math
import pickle
import string
import zipfile
from functools import partial
from importlib import import_module

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from scipy.stats import rv_continuous
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, TweedieRegressor
from sklearn.metrics import pairwise
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils import Bunch

import altlas_flow as af
from altlas_flow.errors import BadRow, InputError, ModelLoadError, ParameterError, SpecError, UnsafeModel
from altlas_flow.models.runtimes.skopsfiles import REVIEWED

TREE = "sklearn.tree._tree.Tree"
IRIS = load_iris(as_frame=True)
DIGITS = load_digits()


def spec(path, **fields):
    return af.ModelSpec(id=path.stem, runtime="sklearn", source=str(path), **fields)


@pytest.fixture
def saved(tmp_path):
    """A fitted estimator as a model that is loaded."""

    def save(model, name="model", **fields):
        path = tmp_path / f"{name}.skops"
        skops.io.dump(model, path)
        return spec(path, **fields).load()

    return save


@pytest.fixture(scope="module")
def digits():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3)).fit(
        DIGITS.data[:400], DIGITS.target[:400]
    )


@pytest.fixture(scope="module")
def iris():
    names = np.array(IRIS.target_names)[IRIS.target]
    return LogisticRegression(max_iter=500).fit(IRIS.data, names)


def test_labels_are_those_of_the_estimator_and_pythons_own(saved, digits):
    model, rows = saved(digits), DIGITS.data[400:]
    found = model.predict(list(rows))
    assert found == digits.predict(rows).tolist()
    assert {*found} == {*range(10)}
    assert {type(label) for label in found} == {int}
    assert model.predict(rows[:50].tolist(), batch=7) == found[:50]
    assert model.output_types() == {"label": pa.int64()}
    assert model.device == "cpu"


def test_probabilities_are_by_label(saved, iris):
    model = saved(iris)
    rows = IRIS.data.to_numpy()
    found = model.predict(rows.tolist(), parameters={"output": "probabilities"})
    expected = iris.predict_proba(IRIS.data)
    assert list(found[0]) == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose([list(row.values()) for row in found], expected, atol=1e-12)
    assert {type(value) for value in found[0].values()} == {float}
    fields = [(name, pa.float64()) for name in found[0]]
    assert model.output_types({"output": "probabilities"}) == {"probabilities": pa.struct(fields)}
    assert model.output_types() == {"label": pa.string()}


def test_records_are_taken_by_their_names_in_whatever_order(saved, iris):
    model = saved(iris)
    records = IRIS.data.to_dict("records")
    turned = [dict(reversed(record.items())) | {"other": "x"} for record in records]
    expected = iris.predict(IRIS.data).tolist()
    assert model.predict(records) == model.predict(turned) == expected
    assert model.predict([*IRIS.data.to_numpy()[:2], turned[2]]) == expected[:3]
    assert model.predict(IRIS.data.to_numpy(np.float32)[:5]) == expected[:5]
    del turned[1]["petal width (cm)"]
    with pytest.raises(BadRow, match=r"row 1 .*the input has no 'petal width \(cm\)': give all columns"):
        model.predict(turned)


def test_columns_of_several_kinds_go_to_a_column_transformer(saved):
    frame = pd.DataFrame({"colour": ["red", "blue", "red", "green"] * 5, "size": range(20)})
    frame["price"] = frame["size"] * 2.0 + (frame["colour"] == "red")
    steps = ColumnTransformer(
        [("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])], remainder="passthrough"
    )
    fitted = make_pipeline(steps, LinearRegression()).fit(frame[["colour", "size"]], frame["price"])
    model = saved(fitted)
    found = model.predict(frame[["size", "colour"]].to_dict("records"))
    np.testing.assert_allclose(found, frame["price"])
    assert {type(value) for value in found} == {float}
    assert model.output_types() is None
    with pytest.raises(BadRow, match="row 1"):
        model.predict([{"colour": "red", "size": 1}, {"colour": "red", "size": "large"}])


def test_texts_go_to_a_vectoriser(saved):
    texts = ["good day", "bad day", "good night", "so bad"]
    fitted = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, ["+", "-", "+", "-"])
    model = saved(fitted)
    assert model.predict([*texts, "good"]) == ["+", "-", "+", "-", "+"]
    assert model.predict([{"a": "bad", "b": "day"}]) == ["-"]
    faults = model.runtime.prepare(["good", 7, None, {"a": None}, {"a": 3}], {}).faults
    assert sorted(faults) == [1, 2, 3, 4]
    assert "is a int, and the model takes texts" in str(faults[1])


def test_what_is_no_row_is_the_fault_of_its_row(saved, digits):
    runtime = saved(digits).runtime
    good = DIGITS.data[0].tolist()
    bad = [None, math.nan, "text", good[:-1], [good], [[1.0], [2.0, 3.0]], 7.0, ["a"] * 64, {"a": 1.0}]
    prepared = runtime.prepare([good, *bad, tuple(good)], {})
    assert sorted(prepared.faults) == list(range(1, len(bad) + 1))
    assert all(isinstance(fault, InputError) for fault in prepared.faults.values())
    assert "null" in str(prepared.faults[1])
    assert "has shape (63,), and the model takes 64 numbers in a row" in str(prepared.faults[4])
    assert "wrap it in a list of rows, or give an array" in str(prepared.faults[7])
    assert prepared.costs is None
    several = runtime.prepare([DIGITS.data[:3]], {}).faults[0]
    assert "has shape (3, 64), which is 3 rows: several rows are a list: list(x)" in str(several)
    assert not runtime.prepare(list(DIGITS.data[:3]), {}).faults


def test_a_row_that_the_estimator_refuses_is_found_in_its_batch(saved, digits):
    rows = DIGITS.data[:20].tolist()
    rows[13][5] = None  # a missing number: it has no use for NaN
    work = saved(digits)
    with pytest.raises(BadRow, match=r"row 13 .*NaN"):
        work.predict(rows)


def test_what_gives_no_probabilities_says_so(saved):
    model = saved(RidgeClassifier().fit(IRIS.data.to_numpy(), IRIS.target))
    assert model.predict(IRIS.data.to_numpy()[:2].tolist()) == [0, 0]
    with pytest.raises(ParameterError, match="a RidgeClassifier gives no probabilities"):
        model.predict([[1.0] * 4], parameters={"output": "probabilities"})
    with pytest.raises(ParameterError, match="'output' is 'proba': give one of label, probabilities"):
        model.predict([[1.0] * 4], parameters={"output": "proba"})
    with pytest.raises(ParameterError, match="does not know parameter 'outputs'"):
        model.predict([[1.0] * 4], parameters={"outputs": "label"})


def test_clusters_numbers_and_transformed_rows_are_what_the_estimator_gives(saved):
    rows = IRIS.data.to_numpy()
    cluster = KMeans(3, n_init=1, random_state=0).fit(rows)
    assert saved(cluster).predict(list(rows)) == cluster.predict(rows).tolist()
    several = LinearRegression().fit(rows, rows[:, :2])
    np.testing.assert_allclose(saved(several).predict(list(rows)), rows[:, :2])
    scaled = PCA(2).fit(rows)
    found = saved(scaled).predict(list(rows))
    assert found.shape == (150, 2)
    np.testing.assert_allclose(found, scaled.transform(rows))


def test_trees_are_read_only_where_the_spec_says_so(saved, caplog):
    forest = RandomForestClassifier(5, random_state=0).fit(IRIS.data.to_numpy(), IRIS.target)
    with pytest.raises(
        UnsafeModel, match=rf"holds {TREE}, which could .*options={{'trusted': \['{TREE}'\]}}"
    ):
        saved(forest)
    with caplog.at_level(logging.WARNING):
        model = saved(forest, options={"trusted": [TREE]})
    assert f"{TREE} is trusted, as its spec says" in caplog.text
    rows = IRIS.data.to_numpy()
    assert model.predict(list(rows)) == forest.predict(rows).tolist()


def test_a_class_of_scipy_that_runs_text_of_its_state_is_refused(saved, tmp_path):
    fitted = FunctionTransformer().fit([[1.0]])
    fitted.note = rv_continuous(name="x")
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\n"
    fitted.note._parse_arg_template = code + fitted.note._parse_arg_template
    with pytest.raises(UnsafeModel, match=r"holds scipy\.stats\._distn_infrastructure\.rv_continuous"):
        saved(fitted)
    assert not ran.exists()


def test_what_a_file_would_have_called_is_refused(saved, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    options = {"dtype": "uint8", "mode": "w+", "shape": 4}
    called = {
        r"numpy\.memmap": FunctionTransformer(np.memmap, kw_args=options),
        r"functools\.partial": FunctionTransformer(partial(np.memmap, str(victim), **options)),
        "euclidean_distances": KNeighborsClassifier(metric=pairwise.euclidean_distances),
        "StandardScaler": FunctionTransformer(StandardScaler),
        "BaseEstimator": FunctionTransformer(BaseEstimator),
    }
    for text, model in called.items():
        with pytest.raises(UnsafeModel, match=text):
            saved(model)
    assert victim.read_bytes() == b"kept"


@pytest.mark.parametrize("hidden", ["alone", "in a pipeline", "in an array", "in a record"])
def test_a_vectoriser_that_would_open_files_is_refused(saved, hidden):
    reader = CountVectorizer(input="filename", vocabulary=["a"])
    if hidden == "alone":
        model = reader
    elif hidden == "in a pipeline":
        model = make_pipeline(FunctionTransformer(), FeatureUnion([("a", reader)]))
    else:
        model = FunctionTransformer()
        parts = np.array([None, reader], dtype=object)
        model.note = parts if hidden == "in an array" else {"a": [(reader,)]}
    with pytest.raises(
        UnsafeModel, match=r"CountVectorizer .*input='filename'.*opens files.*input='content'"
    ):
        saved(model)


def test_no_module_is_imported_because_a_file_names_it(saved, tmp_path):
    fitted = FunctionTransformer().fit([[1.0]])
    path = tmp_path / "model.skops"
    fitted.note = string.Template("x")
    skops.io.dump(fitted, path)
    with zipfile.ZipFile(path) as packed:
        content = {name: packed.read(name) for name in packed.namelist()}
    # a module that is run when it is imported, and ends the process
    told = content["schema.json"].replace(b'"string"', b'"numpy.f2py.__main__"')
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in (content | {"schema.json": told}).items():
            packed.writestr(name, text)
    with pytest.raises(UnsafeModel, match=r"holds numpy\.f2py\.__main__\.Template"):
        spec(path).load()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer", "ignore:.*close to the specified")
@pytest.mark.parametrize(
    "model",
    [
        MLPClassifier((4,), max_iter=2, random_state=0),
        CalibratedClassifierCV(LogisticRegression(max_iter=500), cv=2),
        VotingClassifier([("a", LogisticRegression(max_iter=500)), ("b", RidgeClassifier())]),
        StackingClassifier([("a", RidgeClassifier())], LogisticRegression(max_iter=500), cv=2),
        GridSearchCV(LogisticRegression(max_iter=500), {"C": [1.0, 2.0]}, cv=StratifiedKFold(2)),
        GaussianProcessRegressor(kernels.RBF() * 2.0 + kernels.WhiteKernel(), optimizer=None),
        TweedieRegressor(power=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_estimators_hold_classes_that_were_looked_through(saved, model):
    rows = IRIS.data.to_numpy()
    model.fit(rows, IRIS.target)
    unknown = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    assert unknown and {*unknown} <= REVIEWED
    np.testing.assert_allclose(saved(model).predict(list(rows)), model.predict(rows))


def test_classes_that_were_looked_through_have_no_ways_of_their_own_to_be_read():
    for name in REVIEWED:
        module, _, last = name.rpartition(".")
        found = getattr(import_module(module), last)
        assert name.startswith("sklearn.") and isinstance(found, type)
        assert found.__reduce__ is object.__reduce__ and found.__reduce_ex__ is object.__reduce_ex__, name
        reads = getattr(found, "__setstate__", None)
        # of all estimators; and one that does nothing
        known = (None, BaseEstimator.__setstate__, Bunch.__setstate__)
        assert reads in known, name


def test_functions_are_trusted_only_where_the_spec_says_so(saved):
    with pytest.raises(UnsafeModel, match="rundocs"):
        saved(FunctionTransformer(np.testing.rundocs).fit([[1.0]]))
    mean = FunctionTransformer(np.nan_to_num).fit([[1.0]])
    with pytest.raises(UnsafeModel, match=r"holds numpy\.nan_to_num"):
        saved(mean)
    assert saved(mean, options={"trusted": ["numpy.nan_to_num"]}).predict([[2.0]]).tolist() == [[2.0]]


def test_what_is_not_of_the_libraries_is_named(saved):
    with pytest.raises(UnsafeModel, match=r"holds string\.Template, which"):
        saved(FunctionTransformer(kw_args={"x": string.Template("a")}).fit([[1.0]]))


@pytest.mark.parametrize("trusted", ["all", True, [7]])
def test_what_is_trusted_is_a_list_of_names(saved, digits, trusted):
    with pytest.raises(SpecError, match="'trusted' is a list of names"):
        saved(digits, options={"trusted": trusted})


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.skops"])
def test_a_pickle_is_refused_whatever_it_is_called(tmp_path, digits, name):
    path = tmp_path / name
    (joblib.dump if name.endswith("joblib") else lambda x, to: to.write_bytes(pickle.dumps(x)))(digits, path)
    for source in (path, tmp_path):
        with pytest.raises(UnsafeModel, match=r"is a pickle, which can run code .*skops\.io\.dump"):
            spec(source, allow=("pickle",)).load()


@pytest.mark.parametrize("name", ["model.pkl", "model.pickle", "model.joblib"])
def test_a_pickle_needs_no_runtime_to_be_refused(tmp_path, digits, name):
    (tmp_path / name).write_bytes(pickle.dumps(digits))
    found = af.ModelSpec(id="pickled", source=tmp_path / name)
    assert found.runtime == "sklearn"
    with pytest.raises(UnsafeModel, match=r"is a pickle, which can run code .*skops\.io\.dump"):
        found.load()


def test_a_folder_has_one_file(tmp_path, digits):
    with pytest.raises(ModelLoadError, match=r"has no \.skops file"):
        spec(tmp_path).load()
    skops.io.dump(digits, tmp_path / "a.skops")
    assert spec(tmp_path).load().predict([DIGITS.data[0]]) == [0]
    skops.io.dump(digits, tmp_path / "b.skops")
    with pytest.raises(SpecError, match=r"holds a\.skops, b\.skops: name one"):
        spec(tmp_path).load()
    with pytest.raises(ModelLoadError, match="does not exist here"):
        spec(tmp_path / "none.skops").load()


def test_a_damaged_file_is_said_to_be(tmp_path, saved, digits):
    saved(digits)
    whole = (tmp_path / "model.skops").read_bytes()
    (tmp_path / "cut.skops").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.skops").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "odd.skops", "w") as packed:
        packed.writestr("schema.json", "{}")
    for name in ("cut", "empty", "odd"):
        with pytest.raises(ModelLoadError, match=r"\.skops (is no skops file|cannot be read)"):
            spec(tmp_path / f"{name}.skops").load()


def test_what_is_no_estimator_is_refused(saved):
    with pytest.raises(SpecError, match="holds a dict, which neither predicts nor transforms"):
        saved({"a": 1})
    with pytest.raises(SpecError, match="does not know option 'colour'"):
        saved(PCA(1).fit(IRIS.data.to_numpy()), options={"colour": 1})


def test_a_file_of_another_version_is_read_and_that_is_logged(tmp_path, saved, digits, caplog):
    saved(digits)
    with (
        zipfile.ZipFile(tmp_path / "model.skops") as old,
        zipfile.ZipFile(tmp_path / "old.skops", "w") as new,
    ):
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                import sklearn

                assert sklearn.__version__.encode() in content
                content = content.replace(f'\\"{sklearn.__version__}\\"'.encode(), b'\\"1.0.0\\"')
            new.writestr(name, content)
    with caplog.at_level(logging.WARNING):
        assert spec(tmp_path / "old.skops").load().predict([DIGITS.data[0]]) == [0]
    assert "1.0.0" in caplog.text


def test_memory_is_counted_and_let_go(saved, digits):
    model = saved(digits)
    assert model.runtime.memory() > 1000
    model.unload()
    assert model.runtime.memory() == 0


def test_a_relative_source_is_resolved_where_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = af.ModelSpec(id="m", source="model.skops")
    assert relative.runtime == "sklearn"
    assert relative.resolved().source == str(tmp_path / "model.skops")
