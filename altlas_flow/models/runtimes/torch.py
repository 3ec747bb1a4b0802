"""Runtime ``torch``: a module's class from an import path, its weights from safetensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import InputError, SpecError, one_line
from altlas_flow.models.faults import Miscount
from altlas_flow.models.runtimes.base import Prepared
from altlas_flow.models.runtimes.common import (
    PICKLES,
    BaseRuntime,
    as_list,
    check_pickle,
    is_null,
    missing_source,
    module_bytes,
    null_fault,
)
from altlas_flow.models.spec import import_object
from altlas_flow.models.types import declared_types

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class TorchRuntime(BaseRuntime):
    """Builds ``spec.entry`` with ``**spec.options`` and loads its weights from `spec.source`.

    The source is a safetensors file, or a folder with ``model.safetensors``. Rows are numbers or
    arrays of one shape; they are stacked into one tensor, float32, or int64 where all are integers.
    The module takes that tensor and answers with one whose first dimension is the rows.
    """

    known_parameters = frozenset()

    def load(self) -> None:
        """Import the class, build it, load the weights (every name must match).

        Raises
        ------
        UnsafeModel
            Where the weights are a pickle that the spec does not allow.
        SpecError
            Where the class cannot be built, or the weights do not fit it.
        OSError
            Where the weights are missing or damaged.
        """
        import torch

        assert self.spec.entry is not None  # held by ModelSpec
        file = self._weights_file()
        built = import_object(self.spec.entry)
        try:
            module = built(**self.spec.options)
        except TypeError as error:
            raise SpecError(
                f"model {self.spec.id!r}: {self.spec.entry} cannot be built from options: {one_line(error)}"
            ) from error
        if not isinstance(module, torch.nn.Module):
            raise SpecError(
                f"model {self.spec.id!r}: entry {self.spec.entry} gives a {type(module).__name__}: "
                "name a class derived from torch.nn.Module"
            )
        try:
            module.load_state_dict(self._read(file), strict=True)
        except RuntimeError as error:
            raise SpecError(
                f"model {self.spec.id!r}: the weights in {file} do not fit {self.spec.entry}: "
                f"{one_line(error)}"
            ) from error
        self._module: Any = module.to(self.device).eval()
        self._bytes = module_bytes(module)

    def _weights_file(self) -> Path:
        source = Path(self.spec.source).expanduser()
        if not source.exists():
            raise missing_source(source)
        if not source.is_dir():
            return source
        if (file := source / "model.safetensors").exists():
            return file
        pickles = sorted(file for file in source.iterdir() if file.suffix in PICKLES)
        if pickles:
            return pickles[0]
        raise FileNotFoundError(f"{source} has no model.safetensors: save the weights there")

    def _read(self, file: Path) -> dict[str, Any]:
        if file.suffix != ".safetensors":
            import torch

            check_pickle(self.spec, file)
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return state
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise damaged(file, error) from error

    def prepare(self, rows: Sequence[Any], parameters: Mapping[str, Any]) -> Prepared:
        """Rows as arrays; a null, what is no number, and another shape than most rows have are faults."""
        import numpy as np

        items: list[Any] = list(as_list(rows))
        faults: dict[int, Exception] = {}
        for at, row in enumerate(items):
            if is_null(row):
                faults[at] = null_fault()
                continue
            try:
                array = np.asarray(row)
            except ValueError:
                faults[at] = InputError("the input has entries of different lengths, not one shape")
                continue
            if array.dtype.kind not in "biuf":
                faults[at] = InputError(f"the input is a {type(row).__name__}, not numbers")
                continue
            whole = array.dtype.kind in "biu"
            items[at] = array.astype(np.int64 if whole else np.float32, copy=False)
        shapes = Counter(item.shape for at, item in enumerate(items) if at not in faults)
        if len(shapes) > 1:
            # a batch has one shape, and the odd ones out are at fault, wherever they stand
            shape = shapes.most_common(1)[0][0]
            for at, item in enumerate(items):
                if at not in faults and item.shape != shape:
                    faults[at] = InputError(f"the input has shape {item.shape}, most rows have {shape}")
        return Prepared(items, faults=faults)

    def predict(self, items: Sequence[Any], parameters: Mapping[str, Any]) -> np.ndarray | list[Any]:
        """Stack the rows, call the module.

        Raises
        ------
        ValueError, TypeError
            Where the module does not answer with one entry for each row.
        """
        import numpy as np
        import torch

        # integers beside floats become float32: stacked they would become float64
        mixed = len({item.dtype for item in items}) > 1
        stacked = np.stack(items).astype(np.float32) if mixed else np.stack(items)
        with torch.inference_mode():
            answer = self._module(torch.from_numpy(stacked).to(self.device, non_blocking=True))
            if not isinstance(answer, torch.Tensor):
                raise TypeError(f"the module returned a {type(answer).__name__}: return one tensor")
            if answer.ndim == 0 or answer.shape[0] != len(items):
                raise Miscount(
                    answer.shape[0] if answer.ndim else 1,
                    f"the module returned shape {tuple(answer.shape)} for {len(items)} inputs: "
                    "return one entry for each",
                )
            if answer.dtype is torch.bfloat16:
                answer = answer.float()  # NumPy has no bfloat16
            result: np.ndarray = answer.cpu().numpy()
            return result

    def output_types(self) -> dict[str, pa.DataType] | None:
        """What the spec declares in ``outputs``."""
        return declared_types(self.spec.outputs) if self.spec.outputs else None

    def unload(self) -> None:
        """Let go of the module."""
        self.__dict__.pop("_module", None)
        self._bytes = 0

    def memory(self) -> int:
        """Bytes of the parameters and buffers."""
        return getattr(self, "_bytes", 0)


def damaged(file: Path, cause: Exception) -> OSError:
    """The error for a file of weights that cannot be read."""
    return OSError(f"{file} is damaged or half-written ({one_line(cause)}): copy the model again")
