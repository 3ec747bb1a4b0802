"""Which token comes next: the likeliest, or one drawn with the row's own random generator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from altlas_flow.errors import ParameterError

if TYPE_CHECKING:
    import torch

#: Tokens that a row may get where nobody says.
NEW_TOKENS = 64
#: Stop strings at most.
STOPS = 64


@dataclass(frozen=True)
class Sampling:
    """How a text goes on.

    Attributes
    ----------
    temperature : float
        0: always the likeliest token; else scores are divided by it before one is drawn.
    top_k : int or None
        Only so many of the likeliest tokens are drawn from.
    top_p : float
        Only the likeliest tokens that have this probability together are drawn from.
    seed : int or None
        Of each row's own generator; None: another one each time.
    max_new_tokens : int or None
        None: `NEW_TOKENS`, or as many as there is room for.
    stop : tuple of str
        A text ends before the first of these.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: Mapping[str, Any], label: str = "a model") -> Sampling:
        """From the parameters of a request; None stands for not given.

        Raises
        ------
        ParameterError
        """
        given = {name: value for name, value in parameters.items() if value is not None}

        def number(name: str, kind: type, good: Any, bounds: str) -> Any:
            value = given.get(name)
            if name in given and (isinstance(value, bool) or not isinstance(value, kind) or not good(value)):
                raise ParameterError(f"{label}: parameter {name!r} is {bounds}, not {value!r}")
            return value

        temperature = number(
            "temperature", Real, lambda t: 0 <= t <= 100, "a number from 0 (the likeliest token) to 100"
        )
        top_p = number("top_p", Real, lambda p: 0 < p <= 1, "a number above 0, at most 1")
        return cls(
            temperature=float(temperature or 0.0),
            top_k=number("top_k", Integral, lambda k: k >= 1, "a whole number of at least 1"),
            top_p=1.0 if top_p is None else float(top_p),
            seed=number("seed", Integral, lambda s: 0 <= s < 2**63, "a whole number from 0 to 2**63 - 1"),
            max_new_tokens=number(
                "max_new_tokens", Integral, lambda n: 1 <= n <= 2**31, "a whole number of at least 1"
            ),
            stop=_stops(given.get("stop", ()), label),
        )

    def generator(self) -> torch.Generator | None:
        """The random generator of one row; None where nothing is drawn."""
        import torch

        if self.temperature == 0:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(int(self.seed))
        return generator

    def choose(self, scores: torch.Tensor, generators: list[torch.Generator | None]) -> list[int]:
        """The next token of each row.

        Each row is drawn from its own generator, and from the cumulated probabilities in the order of the
        vocabulary: what shares the batch changes its scores in the last digits, and so hardly ever its token.

        Parameters
        ----------
        scores : torch.Tensor, shape (rows, vocabulary)
        generators : list of torch.Generator
            One for each row.

        Raises
        ------
        ArithmeticError
            Where scores are no numbers: the weights are damaged, or too large for their precision.
        """
        import torch

        best = scores.float().max(-1)
        if any(map(math.isnan, best.values.tolist())):
            raise ArithmeticError(
                "the model's scores are no numbers (NaN): see whether its weights are sound"
            )
        if self.temperature == 0:
            likeliest: list[int] = best.indices.tolist()
            return likeliest
        scaled = (scores.double() - best.values.double().unsqueeze(-1)) / self.temperature
        if self.top_k is not None and self.top_k < scaled.shape[-1]:
            least = scaled.topk(int(self.top_k), -1).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -math.inf)
        chances = scaled.softmax(-1)
        if self.top_p < 1:
            ordered = chances.sort(-1, descending=True).values
            # a token is in where those before it do not make up top_p yet
            within = (ordered.cumsum(-1) - ordered < self.top_p).sum(-1, keepdim=True)
            chances = chances.masked_fill(chances < ordered.gather(-1, within - 1), 0.0)
        sums = chances.cumsum(-1)
        drawn = [torch.rand((), dtype=torch.float64, generator=generator) for generator in generators]
        points = torch.stack(drawn).to(sums.device).unsqueeze(-1) * sums[:, -1:]
        places = torch.searchsorted(sums, points, right=True).squeeze(-1)
        found: list[int] = places.clamp(max=sums.shape[-1] - 1).tolist()
        return found


def _stops(value: Any, label: str) -> tuple[str, ...]:
    stops = (value,) if isinstance(value, str) else value
    good = isinstance(stops, (list, tuple)) and len(stops) <= STOPS
    if not good or not all(isinstance(stop, str) and stop for stop in stops):
        raise ParameterError(
            f"{label}: parameter 'stop' is a text or a list of at most {STOPS} texts that are not empty, "
            f"not {value!r}"
        )
    return tuple(stops)
