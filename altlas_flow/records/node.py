"""What people see of a node, and say to have one known: `NodeInfo`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_serializer, field_validator
from pydantic.functional_validators import AfterValidator

from altlas_flow.records.base import Record
from altlas_flow.records.html import facts, listed, size
from altlas_flow.records.jsonable import decode, encode


class NodeStatus(StrEnum):
    """What a node is; what changes it is written down in ``altlas_flow/nodes/lifecycle.py``."""

    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    BUSY = "BUSY"
    ERROR = "ERROR"

    @classmethod
    def _missing_(cls, value: object) -> NodeStatus | None:
        return cls.__members__.get(str(value).upper())


class ModelLatency(Record):
    """How long a model's requests took on a node.

    Attributes
    ----------
    count : int
        Requests.
    mean, p50, p95 : float
        Seconds on the node, from arrival to the answer.
    """

    count: int = Field(default=0, ge=0, description="a whole number of at least 0")
    mean: float = Field(default=0.0, ge=0, description="seconds of at least 0")
    p50: float = Field(default=0.0, ge=0, description="seconds of at least 0")
    p95: float = Field(default=0.0, ge=0, description="seconds of at least 0")


def _name(value: str) -> str:
    if not value.strip() or value != value.strip() or any(ord(letter) < 32 for letter in value):
        raise ValueError("a name without blanks around it is needed")
    return value


class NodeInfo(Record):
    """A node: one Dask worker, as it is now, or as it is to be known when it joins.

    The first six are given to `register_node`; the rest is what the cluster knows of it.

    Attributes
    ----------
    node_id : str
        The worker's name.
    hostname : str, optional
        Of its machine.
    ip_address : str, optional
        An address, or a range such as ``10.0.0.0/24``.
    status : NodeStatus
    capabilities : dict
        ``cores``, ``memory`` (bytes that models may take), ``gpus`` (each with its ``name`` and ``memory``),
        ``resources``, ``labels``, ``versions``; what was said of a node that has not joined, as it was said.
    available_models : list of str
        Ids of the models that are loaded, or shall be.
    address : str, optional
        Dask's, where the worker has joined.
    joined, cordoned : bool
    reason : str
        Why it takes no work, where it takes none.
    slots, in_flight : int
        Batches that it runs at once; requests and parts that were sent to it and are not answered.
    served, failures : int
        Requests and parts answered there, and failures for reasons of the node, since it joined.
    usage : dict of str to float
        ``cpu`` (1 is one core), ``memory`` (bytes), and of each GPU ``gpu0`` (0 to 1) and
        ``gpu0_memory`` (bytes).
    latency : dict of str to ModelLatency
        By the id of the model.
    heartbeat : float, optional
        Seconds since it was last heard.
    """

    node_id: Annotated[str, AfterValidator(_name)] = Field(description="the worker's name")
    hostname: Annotated[str, AfterValidator(_name)] | None = Field(
        default=None, description="the name of its machine"
    )
    ip_address: str | None = Field(default=None, description='an address, or a range such as "10.0.0.0/24"')
    status: NodeStatus = Field(default=NodeStatus.ONLINE, description="ONLINE, BUSY, OFFLINE or ERROR")
    capabilities: dict[str, Any] = Field(default={}, description="a mapping of names to values")
    available_models: list[str] = Field(default=[], description="a list of ids of models")
    address: str | None = None
    joined: bool = False
    cordoned: bool = False
    reason: str = ""
    slots: int = 0
    in_flight: int = 0
    served: int = 0
    failures: int = 0
    usage: dict[str, float] = Field(default={})
    latency: dict[str, ModelLatency] = Field(default={})
    heartbeat: float | None = None

    @field_validator("status", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("capabilities", mode="before")
    @classmethod
    def _decode(cls, value: Any, info: Any) -> Any:
        return decode(value, str(info.field_name)) if info.mode == "json" else value

    @field_serializer("capabilities", when_used="json")
    def _encode(self, value: Any, info: Any) -> Any:
        return encode(value, info.field_name)

    def _repr_html_(self) -> str:
        """What is known of it; everything is escaped."""
        cordoned = " (cordoned)" if self.cordoned else ""
        usage = {
            name: size(value) if name.endswith("memory") else f"{value:.0%}"
            for name, value in self.usage.items()
        }
        capabilities = dict(self.capabilities)
        if isinstance(memory := capabilities.get("memory"), (int, float)):
            capabilities["memory"] = size(memory)
        pairs: list[tuple[str, Any]] = [
            ("why", self.reason),
            ("address", self.address or self.ip_address),
            ("host", self.hostname),
            ("has", listed(capabilities)),
            ("models", ", ".join(self.available_models)),
        ]
        if self.joined:
            pairs += [
                ("uses", listed(usage)),
                ("in flight", f"{self.in_flight}, of {self.slots} slots"),
                ("served", f"{self.served:,}, and {self.failures:,} failures of the node"),
            ]
        for at, (model, one) in enumerate(self.latency.items()):
            times = f"p50 {1000 * one.p50:.3g} ms, p95 {1000 * one.p95:.3g} ms"
            pairs.append(("" if at else "latency", f"{model}: {times}, {one.count:,} requests"))
        return facts(f"node {self.node_id}: {self.status}{cordoned}", pairs)

    def __repr__(self) -> str:
        where = f" at {self.address}" if self.address else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"<NodeInfo {self.node_id}{where}: {self.status}{why}>"
