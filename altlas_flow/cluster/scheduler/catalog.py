"""The catalog that all clients of a cluster see, and the strategies that they may name."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.scheduler.lessor import slots_for
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.errors import ModelConflict, SpecError, describe
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement.node import Needs, refusal
from altlas_flow.placement.strategies import STRATEGIES as STRATEGY_NAMES
from altlas_flow.placement.strategies import adapt

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Says to clients that the recipe of an id was replaced.
CATALOG_TOPIC = "altlas-catalog"
#: Functions of clients that are kept as strategies; the latest ones.
STRATEGIES = 1000
#: Entry points that give strategies by name.
STRATEGY_GROUP = "altlas_flow.strategies"


class SharedCatalog(Mapping[str, ModelSpec]):
    """Models by id, kept by the scheduler plugin."""

    def __init__(self, scheduler: Scheduler, placer: Placer) -> None:
        self.scheduler, self.placer = scheduler, placer
        self._specs: dict[str, ModelSpec] = {}
        # Number of the latest change of the catalog: to a client, answers and events may overtake each other.
        # It begins above all that a scheduler which was here before has said.
        self.changes = time.time_ns()

    def __getitem__(self, model: str) -> ModelSpec:
        return self._specs[model]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    async def register(self, spec: str, replace: bool = False, memory: int = 0) -> dict[str, Any]:
        """Put a spec (as JSON) into the catalog; the same id with another recipe is a conflict.

        The answer holds as of the change of the catalog whose number is in it, as does that of `models`.
        """
        model = ModelSpec.model_validate_json(spec)
        known = self._specs.get(model.id)
        if known is not None and known.fingerprint != model.fingerprint and not replace:
            return {"error": pickle.dumps(ModelConflict(model.id))}
        if known is None or known.fingerprint != model.fingerprint:
            self.changes += 1
            event = {"id": model.id, "fingerprint": model.fingerprint, "change": self.changes}
            self.scheduler.log_event(CATALOG_TOPIC, event)
        self._specs[model.id] = model
        self.placer.note(model, memory)
        return {"error": None, "change": self.changes}

    async def models(self) -> dict[str, Any]:
        """The catalog: id -> spec as JSON."""
        models = {name: spec.model_dump_json() for name, spec in self._specs.items()}
        return {"models": models, "change": self.changes}

    async def eligible(self, spec: str, memory: int = 0) -> dict[str, Any]:
        """Addresses of the nodes that can serve a spec, with their slots, and why others cannot."""
        model = ModelSpec.model_validate_json(spec)
        self.placer.note(model, memory)
        needs = Needs.of(model.resources, model.labels, memory)
        able = {
            node.address: slots_for(needs, node) for node in self.placer.roster if not refusal(needs, node)
        }
        return {"nodes": able, "refused": self.placer.roster.reasons(needs)}

    async def add_strategy(self, name: str, function: bytes | None = None) -> dict[str, Any]:
        """Know a strategy: an entry point by its name, or a client's own callable."""
        if name in self.placer.strategies:
            return {"error": None}
        try:
            found = pickle.loads(function) if function is not None else _entry_point(name)
            self.placer.strategies[name] = adapt(found)
            own = [known for known in self.placer.strategies if "#" in known]
            for old in own[: max(0, len(own) - STRATEGIES)]:
                del self.placer.strategies[old]
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # whatever importing it may raise is for whoever asked for it
            label, built_in = name.partition("#")[0], ", ".join(STRATEGY_NAMES)
            wrong = SpecError(
                f"strategy {label!r} cannot be used ({describe(error)}): built in are {built_in}"
            )
            return {"error": pickle.dumps(wrong)}
        return {"error": None}


def _entry_point(name: str) -> Any:
    from importlib.metadata import entry_points

    for point in entry_points(group=STRATEGY_GROUP):
        if point.name == name:
            return point.load()
    raise LookupError(f"no strategy of that name is installed (entry points of {STRATEGY_GROUP})")
