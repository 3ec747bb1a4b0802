"""Files of skops: found, looked through, and read with what is trusted and nothing else."""

from __future__ import annotations

import gc
import importlib
import logging
import warnings
from pathlib import Path
from threading import Lock
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from altlas_flow.errors import SpecError, UnsafeModel, names, one_line
from altlas_flow.models.runtimes.common import PICKLES, missing_source

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec

logger = logging.getLogger(__name__)

#: What fitted estimators hold beside what skops trusts, and was looked through: written in Python, read by
#: setting attributes alone, and harmless where a file has it called in place of a function, with whatever.
#: Everything else is named by the user: classes of SciPy run text of their state, those of NumPy write files,
#: and of compiled ones the content is not checked: it could crash the worker, or read its memory.
REVIEWED = frozenset(
    f"sklearn.{module}.{name}"
    for module, found in {
        "_loss.loss": "HalfTweedieLoss HalfTweedieLossIdentity",
        "calibration": "_CalibratedClassifier _SigmoidCalibration",
        "gaussian_process._gpc": "_BinaryGaussianProcessClassifierLaplace",
        "gaussian_process.kernels": (
            "CompoundKernel ConstantKernel DotProduct ExpSineSquared Exponentiation Matern PairwiseKernel "
            "Product RBF RationalQuadratic Sum WhiteKernel"
        ),
        "impute._iterative": "IterativeImputer _ImputerTriplet",
        "metrics._scorer": "_PassthroughScorer",
        "model_selection._search_successive_halving": "HalvingGridSearchCV HalvingRandomSearchCV",
        "model_selection._split": (
            "GroupKFold GroupShuffleSplit KFold LeaveOneGroupOut LeaveOneOut LeavePGroupsOut LeavePOut "
            "PredefinedSplit RepeatedKFold RepeatedStratifiedKFold ShuffleSplit StratifiedGroupKFold "
            "StratifiedKFold StratifiedShuffleSplit TimeSeriesSplit"
        ),
        "multiclass": "_ConstantPredictor",
        "neural_network._stochastic_optimizers": "AdamOptimizer SGDOptimizer",
        "utils._bunch": "Bunch",
    }.items()
    for name in found.split()
)
_PICKLES = (*PICKLES, ".joblib", ".pickle", ".gz", ".z")
#: How pickles begin, of protocol 2 and later.
_PICKLED = b"\x80"
#: What holds nothing of a file, or leads out of it to the whole process.
_OUTSIDE = (type, ModuleType, FunctionType, str, bytes, int, float)

_loading = Lock()  # what is warned of is caught for the whole process


def find_file(spec: ModelSpec) -> Path:
    """The skops file of a model.

    Raises
    ------
    UnsafeModel
        Where there is only a pickle.
    SpecError
        Where there is more than one.
    FileNotFoundError
    """
    source = Path(spec.source).expanduser()
    if not source.exists():
        raise missing_source(source)
    file = source
    if source.is_dir():
        found = sorted(source.glob("*.skops"))
        pickles = [file for file in sorted(source.iterdir()) if file.suffix in _PICKLES]
        if len(found) > 1:
            listed = names([file.name for file in found])
            raise SpecError(f"model {spec.id!r}: {source} holds {listed}: name one of them as source")
        if not found and not pickles:
            raise FileNotFoundError(f"{source} has no .skops file: save the model there with skops.io.dump")
        file = (found or pickles)[0]
    with file.open("rb") as opened:
        begin = opened.read(1)
    if begin == _PICKLED or file.suffix in _PICKLES:
        raise UnsafeModel(
            f"model {spec.id!r}: {file} is a pickle, which can run code when it is read: save the model with "
            "skops.io.dump(model, 'model.skops')"
        )
    return file


def uncompressed(file: Path) -> int:
    """Bytes of what is in a skops file."""
    with ZipFile(file) as packed:
        return sum(entry.file_size for entry in packed.infolist())


def read_model(spec: ModelSpec, file: Path) -> Any:
    """What is in a skops file, if all its types are trusted.

    Raises
    ------
    SpecError
        Where scikit-learn or skops is not installed, or the option ``trusted`` is no list of names.
    UnsafeModel
        Where it has other types, or would open files that rows name.
    OSError
        Where it cannot be read.
    """
    try:
        skops = importlib.import_module("skops.io")
    except ImportError as error:
        raise SpecError(
            f"model {spec.id!r}: runtime 'sklearn' needs scikit-learn and skops ({one_line(error)}): "
            "pip install 'altlas-flow[sklearn]' where the workers run"
        ) from error
    allowed = spec.options.get("trusted", [])
    if not isinstance(allowed, list) or not all(isinstance(name, str) for name in allowed):
        raise SpecError(f"model {spec.id!r}: option 'trusted' is a list of names of types: give one")
    with _loading, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            unknown = skops.get_untrusted_types(file=str(file))
            used = [name for name in unknown if name in allowed]
            trusted = [name for name in unknown if name in allowed or name in REVIEWED]
            if refused := [name for name in unknown if name not in trusted]:
                raise UnsafeModel(
                    f"model {spec.id!r}: {file} holds {names(refused, 10)}, which could run code, or crash "
                    f"the worker: if you trust the file, say so with options={{'trusted': {refused}}}"
                )
            model = skops.load(str(file), trusted=trusted)
            _refuse_readers(spec, file, model)
        except (UnsafeModel, MemoryError):
            raise
        except BadZipFile as error:
            raise OSError(
                f"{file} is no skops file, or damaged ({one_line(error)}): save it with skops.io.dump"
            ) from error
        except Exception as error:
            # a file of another version, or one that was tampered with, fails in any way
            raise OSError(
                f"{file} cannot be read ({type(error).__name__}: {one_line(error, 160)}): save the model "
                "again with the versions of scikit-learn and skops that the workers have"
            ) from error
    for text in dict.fromkeys(one_line(warning.message, 300) for warning in said):
        logger.warning("model %r: %s", spec.id, text)
    if used:
        logger.warning("model %r: %s is trusted, as its spec says", spec.id, names(used, 10))
    return model


def _refuse_readers(spec: ModelSpec, file: Path, model: Any) -> None:
    """Vectorisers that take rows for paths: whoever asks the model could read any file of the worker."""
    seen: set[int] = set()
    todo: list[Any] = [model]
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, _OUTSIDE):
            continue
        seen.add(id(found))
        if hasattr(type(found), "build_analyzer"):
            given = getattr(found, "input", "content")
            if not (type(given) is str and given == "content"):
                raise UnsafeModel(
                    f"model {spec.id!r}: {file} holds a {type(found).__name__} with "
                    f"input={one_line(repr(given), 40)}, which opens files that rows name: save it with "
                    "input='content', and give texts"
                )
        todo += gc.get_referents(found)
        if isinstance(found, np.ndarray) and found.dtype.hasobject:
            todo += found.ravel().tolist()  # the collector does not know what is in an array
