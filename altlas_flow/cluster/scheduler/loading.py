"""Loading models on nodes, and unloading them, as operators ask."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from altlas_flow.cluster.keys import DIGITS
from altlas_flow.cluster.scheduler.placer import Placer
from altlas_flow.errors import AltlasError, ClusterError, NodeLost, UnknownModel, describe
from altlas_flow.models.spec import ModelSpec
from altlas_flow.placement.node import Node

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger(__name__)


class Loading:
    """Asks hosts to load and unload models.

    Parameters
    ----------
    scheduler : distributed.Scheduler
    placer : Placer
    catalog : mapping of str to ModelSpec
    limit : float
        Seconds that loading one model may take.
    """

    def __init__(
        self, scheduler: Scheduler, placer: Placer, catalog: Mapping[str, ModelSpec], limit: float
    ) -> None:
        self.scheduler, self.placer, self.catalog, self.limit = scheduler, placer, catalog, limit

    def ids(self, digits: str) -> list[str]:
        """Ids of the recipe whose fingerprint begins so."""
        found = [model for model, spec in self.catalog.items() if spec.fingerprint.startswith(digits)]
        return found or [self.placer.ids.get(digits, digits)]

    def spec(self, model: str) -> ModelSpec:
        """The spec of an id.

        Raises
        ------
        UnknownModel
        """
        spec = self.catalog.get(model)
        if spec is None:
            raise UnknownModel(model, self.catalog)
        return spec

    async def load(self, address: str, spec: ModelSpec) -> None:
        """Have a model loaded by the host at an address."""
        self.placer.note(spec)
        size = await self._ask(address, "altlas_load", spec=spec.model_dump_json())
        # its host says so too, a little later: who asked may look at once
        self.placer.roster.loaded(address, spec.fingerprint[:DIGITS], size)

    async def unload(self, node: Node, model: str, digits: str) -> None:
        """Have a model unloaded, where nobody uses it."""
        if not await self._ask(node.address, "altlas_unload", digits=digits):
            raise ClusterError(f"model {model!r} is in use on {node.name}: cordon the node first, or wait")
        self.placer.roster.loaded(node.address, digits, None)

    async def _ask(self, address: str, operation: str, **arguments: Any) -> Any:
        """Ask a host; what went wrong there is raised here."""
        try:
            remote = self.scheduler.rpc(address)
            answer = await asyncio.wait_for(getattr(remote, operation)(**arguments), self.limit)
        except (OSError, TimeoutError) as error:
            raise ClusterError(
                f"worker {address} does not answer within {self.limit:.0f} s ({describe(error)})"
            ) from error
        if answer.get("error") is not None:
            problem = pickle.loads(answer["error"])
            assert isinstance(problem, AltlasError)
            raise problem
        return answer.get("result")

    async def load_quietly(self, address: str, models: Iterable[str]) -> None:
        """As `load`, of several; what fails is logged, for nobody waits for it."""
        for model in models:
            try:
                await self.load(address, self.spec(model))
            except (AltlasError, NodeLost) as error:
                logger.warning("a node that has joined could not load %r: %s", model, error)
