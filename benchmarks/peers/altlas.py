"""Contestant `altlas_flow`: ours, as the README shows it: connect, run."""

from __future__ import annotations

from _protocol import arguments, passes


def main() -> None:
    args = arguments(("--workers", {"type": int, "default": None}))
    import altlas_flow as af

    spec = af.ModelSpec(id="benchmark", runtime="transformers", task="feature-extraction", source=args.model)
    with af.connect(workers=args.workers) as flow:
        summaries = []

        def job(folder: str) -> None:
            summaries.append(
                flow.run(
                    args.input + "/*.parquet",
                    spec,
                    input=args.column,
                    output="embedding",
                    to=folder,
                    progress=False,
                )
            )

        passes(args, job, summary=lambda: str(summaries[-1]))


if __name__ == "__main__":
    main()
