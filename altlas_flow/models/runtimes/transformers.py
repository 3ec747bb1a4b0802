"""Runtime ``transformers``: models of the hub or a folder; each task has a class of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from altlas_flow.errors import SpecError, names
from altlas_flow.models.runtimes.common import BaseRuntime
from altlas_flow.models.runtimes.encoders import EncoderRuntime
from altlas_flow.models.runtimes.generation import GenerationRuntime
from altlas_flow.models.runtimes.marking import TokenRuntime, ZeroShotRuntime
from altlas_flow.models.runtimes.media import ImageRuntime, SpeechRuntime
from altlas_flow.models.runtimes.sources import bundled as bundled

if TYPE_CHECKING:
    from altlas_flow.models.spec import ModelSpec

#: What does each task. Their modules are cheap to import: heavy libraries are imported in `load`.
TASKS: dict[str, type[BaseRuntime]] = {
    "feature-extraction": EncoderRuntime,
    "text-classification": EncoderRuntime,
    "text-generation": GenerationRuntime,
    "zero-shot-classification": ZeroShotRuntime,
    "token-classification": TokenRuntime,
    "automatic-speech-recognition": SpeechRuntime,
    "image-classification": ImageRuntime,
}


class UnknownTask(BaseRuntime):
    """Stands for the model of a spec whose task nobody does: it can be neither asked nor loaded."""

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Say which tasks there are; see `load`."""
        self.load()

    def load(self) -> NoReturn:
        """Say which tasks there are.

        Raises
        ------
        SpecError
        """
        raise SpecError(
            f"model {self.spec.id!r}: runtime 'transformers' does not know task {self.spec.task!r}: "
            f"set task to one of {names(sorted(TASKS))}"
        )


class TransformersRuntime(BaseRuntime):
    """Gives the runtime of a spec's task: an instance of its class in `TASKS`.

    Parameters
    ----------
    spec : ModelSpec
    device : str
    """

    path_tasks = SpeechRuntime.path_tasks | ImageRuntime.path_tasks

    def __new__(cls, spec: ModelSpec, *, device: str = "cpu") -> Any:
        """The runtime of the task; `UnknownTask`, which says so when it is loaded, where nobody does it."""
        return TASKS.get(spec.task or "", UnknownTask)(spec, device=device)
