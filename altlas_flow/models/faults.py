"""Whose fault a failure is: the node's, so that another may do it, or that of what was asked."""

from __future__ import annotations

from threading import current_thread, main_thread

from altlas_flow.errors import HostClosed, ModelLoadError, NodeLost, root_cause, text_of
from altlas_flow.models.memory import is_out_of_memory

#: How the errors of a GPU that has gone bad begin, or what they say.
GPU_FAULTS = ("cuda error", "cublas", "cudnn", "nccl", "device-side assert", "no kernel image", "driver")


class Miscount(ValueError):
    """A model gave another number of answers than it was given inputs.

    Parameters
    ----------
    count : int
        Of its answers.
    text : str
    """

    def __init__(self, count: int, text: str) -> None:
        self.count, self.text = count, text
        super().__init__(count, text)

    def __str__(self) -> str:
        return self.text


def is_interrupt(error: BaseException) -> bool:
    """Whether somebody at the keyboard wants this process to end.

    In any other thread than the main one, a KeyboardInterrupt is an error like any other: the model
    raised it.
    """
    return isinstance(error, KeyboardInterrupt) and current_thread() is main_thread()


def of_the_node(error: BaseException) -> bool:
    """Whether `error` is a fault of the node: lost, closing, without the model, out of memory, a bad GPU."""
    if isinstance(error, (HostClosed, ModelLoadError, NodeLost)):
        return True
    cause = root_cause(error)
    if is_out_of_memory(error) or is_out_of_memory(cause):
        return True
    text = f"{type(cause).__name__} {text_of(cause)}".lower()
    return isinstance(cause, RuntimeError) and any(sign in text for sign in GPU_FAULTS)
