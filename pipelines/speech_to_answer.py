"""Ask by voice: a sound, its text, and a generated answer, as a chain of two models that want a GPU.

::

    python pipelines/speech_to_answer.py                      # toy models, a sound made here: anywhere
    python pipelines/speech_to_answer.py --audio question.wav
    python pipelines/speech_to_answer.py --audio question.wav --pipeline pipelines/speech_to_answer.yaml

Without ``--scheduler`` it starts one worker that declares a GPU, ``GPU=1``: that is what the models ask for
and the scheduler counts. Where there is none, they run on the CPU. The same by hand, on several machines:
``altlas-flow worker ADDRESS --resources GPU=1`` (or ``dask worker ADDRESS --resources GPU=1``) from the
project's root, and ``--scheduler ADDRESS``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import struct
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

import altlas_flow as af
from altlas_flow.errors import AltlasError

if not __package__:  # run as a file: its neighbours are found from the project's root, here and by workers
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines import tiny_models

if TYPE_CHECKING:
    from altlas_flow import Flow
    from altlas_flow.pipeline.result import PipelineResult

TINY = Path(__file__).with_name("speech_to_answer_tiny.yaml")
#: Seconds that an answer may take, with fetching and loading the models.
LIMIT = 1800.0
RATE = 16_000


def tones(*hertz: float, seconds: float = 0.4) -> bytes:
    """Tones one after another, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE)
        for pitch in hertz:
            steps = (math.sin(2 * math.pi * pitch * at / RATE) for at in range(int(seconds * RATE)))
            written.writeframes(b"".join(struct.pack("<h", round(16_000 * step)) for step in steps))
    return file.getvalue()


@contextlib.contextmanager
def connected(scheduler: str | None = None) -> Iterator[Flow]:
    """A flow on a cluster that runs, or on one worker of this machine that declares a GPU."""
    if scheduler is not None:
        with af.connect(scheduler) as flow:
            yield flow
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            resources={"GPU": 1},
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
        af.connect(client) as flow,
    ):
        yield flow


def ask(flow: Flow, pipeline: af.Pipeline, audio: str | bytes) -> PipelineResult:
    """What each stage made of a sound: the path of a file in an allowed folder, or its bytes.

    Raises
    ------
    AltlasError
        Where a stage failed.
    """
    return flow.submit(pipeline, audio, keep=True).result(LIMIT)


@click.command()
@click.option("--audio", metavar="FILE", help="In or below this folder.  [default: a few tones]")
@click.option(
    "--pipeline",
    "file",
    type=click.Path(path_type=Path),
    default=TINY,
    help="Its file.  [default: the toy one]",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of a cluster that runs.")
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(audio: str | None, file: Path, scheduler: str | None, debug: bool) -> None:
    """Answer a spoken question."""
    try:
        if file.resolve() == TINY:
            tiny_models.build(TINY.with_name("tiny"))
        pipeline = af.Pipeline.load(file)
        with connected(scheduler) as flow:
            found = ask(flow, pipeline, audio or tones(440, 660, 550))
    except AltlasError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(2) from error
    click.echo(f"heard:  {found.outputs_of('hear')}")
    click.echo(f"answer: {found.outputs}\n")
    click.echo(f"{found.report}\n")
    click.echo(found.mermaid())


if __name__ == "__main__":
    main()
