"""What becomes of models whose answers are not needed any more: those that wait, and those that run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import _contest, _programs
from benchmarks._sent import dawdle, hold, identity, note

#: Who answers first, and where the others wait or run: workers of one thread.
FREE, BUSY = "free", ("busy", "full")
#: Seconds that the quickest takes: by then, the others run.
QUICK = 0.25
#: Seconds that a model takes which cannot be interrupted.
DEAF = 1.0
#: Tokens that a text would have, if nobody stopped it: many seconds.
TOKENS, CONTEXT = 8_000, 8_192
#: Seconds after the verdict until the slot that others wait for is free: by then they know.
GRACE = 0.1
LIMIT, LOOK = 60.0, 0.002
#: Modules without which no text is generated.
NEEDED = ("torch", "transformers", "tokenizers")
WRITERS, SLEEPERS = [f"write-{name}" for name in BUSY], [f"sleep-{name}" for name in BUSY]
NOTERS = [f"note-{number}" for number in (1, 2)]


@dataclass(frozen=True)
class Freed:
    """How soon slots were free for the next request.

    Attributes
    ----------
    seconds : float
        From the verdict until each of the losers' workers has answered a new request, the last one.
    lone : float
        What the same requests took when nothing else was under way.
    """

    seconds: float
    lone: float


class Losers:
    """Rounds over one cluster.

    Parameters
    ----------
    flow : Flow
    folder : path
        For files that the models look at and write.
    writer : path, optional
        A model that generates text; without it none is asked.
    """

    def __init__(self, flow: Any, folder: Path, writer: Path | None) -> None:
        import altlas_flow as af

        self.flow, self.folder, self.writes = flow, folder, writer is not None
        self._numbers = itertools.count()

        def function(id: str, source: Any, at: str, **parameters: Any) -> None:
            labels = {"worker": at}
            flow.register(
                af.ModelSpec(id=id, runtime="function", source=source, parameters=parameters, labels=labels)
            )

        function("quick", dawdle, FREE, seconds=QUICK)
        function("hold", hold, BUSY[0])
        for name in NOTERS:
            function(name, note, BUSY[0], name=name)
        for at in BUSY:
            function(f"at-{at}", identity, at)
            function(f"sleep-{at}", dawdle, at, seconds=DEAF)
            if writer is not None:
                flow.register(
                    af.ModelSpec(
                        id=f"write-{at}",
                        source=str(writer),
                        task="text-generation",
                        options={"max_length": CONTEXT},
                        labels={"worker": at},
                    )
                )
        for name in ("quick", *SLEEPERS):
            flow.submit(name, "warm up").result(LIMIT)
        for name in WRITERS if self.writes else ():
            flow.submit(name, "warm up", max_new_tokens=8).result(LIMIT)
        self.rest()

    def rest(self) -> float:
        """Seconds until each of the losers' workers has answered a request to an identity."""
        start = time.perf_counter()
        for handle in [self.flow.submit(f"at-{at}", next(self._numbers)) for at in BUSY]:
            handle.result(LIMIT)
        return time.perf_counter() - start

    def queued(self) -> int:
        """How many models ran that waited for a slot when the verdict came: none should."""
        number = next(self._numbers)
        gate, notes = self.folder / f"gate-{number}", self.folder / f"notes-{number}"
        held = self.flow.submit("hold", str(gate))
        try:
            _until("the slot is taken", lambda: held.status == "running")
            fanout = self.flow.fan_out(["quick", *NOTERS], str(notes), combine="FIRST_RESPONSE")
            _check(fanout.result(LIMIT), fanout, "quick")
            time.sleep(GRACE)
        finally:
            gate.touch()
        held.result(LIMIT)
        # whatever was behind it in the queue has its turn before this one
        self.rest()
        return len(notes.read_text(encoding="utf-8").splitlines()) if notes.exists() else 0

    def running(self, losers: list[str], **parameters: Any) -> Freed:
        """Models run when the verdict comes; how soon their slots do something else."""
        self.rest()
        lone = self.rest()
        fanout = self.flow.fan_out(
            ["quick", *losers],
            "once upon a time",
            combine="FIRST_RESPONSE",
            parameters=dict.fromkeys(losers, parameters),
        )
        _until("the losers run", lambda: all(one.status == "running" for one in fanout.handles[1:]))
        _check(fanout.result(LIMIT), fanout, "quick")
        return Freed(self.rest(), lone)


def _until(what: str, true: Any) -> None:
    ends = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > ends:
            raise _contest.ContestantFailed(f"not within {LIMIT:g} s: {what}")
        time.sleep(LOOK)


def _check(found: Any, fanout: Any, winner: str) -> None:
    if [one.model_id for one in found] != [winner]:
        raise ValueError(f"{[one.model_id for one in found]} answered first, not {winner}")
    states = [handle.status for handle in fanout.handles]
    if states != ["completed", *["cancelled"] * (len(states) - 1)]:
        raise ValueError(f"after the verdict the requests are {', '.join(states)}")


@contextmanager
def losers_over(folder: Path, writer: Path | None) -> Iterator[Losers]:
    """Rounds over programs of these workers."""
    import altlas_flow as af

    environments = {name: _programs.labelled(worker=name) for name in (FREE, *BUSY)}
    with (
        _programs.cluster(folder, environments) as programs,
        af.connect(programs.scheduler_file) as flow,
    ):
        yield Losers(flow, folder, writer)


def can_write() -> bool:
    """Whether texts can be generated here."""
    return all(find_spec(module) for module in NEEDED)


def build_writer(folder: Path) -> Path:
    """A Llama of toy size with random weights over bytes, which never ends a text by itself; its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    letters = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(letters),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    # a token that the model does not have: otherwise the tokenizer's would end texts
    model.generation_config.eos_token_id = 10**6
    model.save_pretrained(folder)
    return folder
