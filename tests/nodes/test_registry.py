"""Who is a registered node, and who may join."""

from __future__ import annotations

import pytest

from altlas_flow.errors import BadRequest
from altlas_flow.nodes.registry import Entry, Registry, Visitor, network_of


def visitor(name="", peer="10.0.0.7"):
    return Visitor(name, peer)


def registry(*entries, closed=True):
    made = Registry(closed)
    for entry in entries:
        made.put(entry)
    return made


def test_a_worker_is_matched_by_its_name_then_its_host_then_its_address():
    known = registry(
        Entry("by-address", network=network_of("10.0.0.7")),
        Entry("by-host", host="gpu-server", addresses=frozenset({"10.0.0.7"})),
        Entry("by-name"),
    )
    assert known.match(visitor("by-name")).node_id == "by-name"
    assert known.match(visitor("else")).node_id == "by-host"
    known.drop("by-host")
    assert known.match(visitor("else")).node_id == "by-address"
    known.drop("by-address")
    assert known.match(visitor("else")) is None


def test_the_open_let_everybody_in_and_the_closed_only_those_registered():
    assert registry(closed=False).refusal(visitor("anybody")) is None
    assert "nor one of 10.0.0.7 is registered" in registry(Entry("a")).refusal(visitor("b"))
    assert registry(Entry("a")).refusal(visitor("a")) is None


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", network=network_of("192.168.1.100")),
        Entry("a", network=network_of("192.168.1.0/24")),
        Entry("a", host="gpu-server", addresses=frozenset({"192.168.1.100"})),
        Entry("a", host="gpu-server"),
    ],
)
def test_a_name_alone_does_not_open_a_door_that_wants_an_address_too(entry):
    said = registry(entry).refusal(visitor("a"))
    assert said is not None
    assert "it came from 10.0.0.7" in said
    assert registry(entry, closed=False).match(visitor("a")) is None


def test_an_address_is_one_node_and_a_range_is_many():
    one = registry(Entry("a", network=network_of("10.0.0.7")))
    assert one.refusal(visitor("x")) is None
    assert one.refusal(visitor("y"), taken={"a"}) is not None
    many = registry(Entry("rack", network=network_of("10.0.0.0/24")))
    assert many.refusal(visitor("y"), taken={"rack"}) is None
    assert many.refusal(visitor("y", peer="10.0.1.7")) is not None


def test_an_address_of_ipv4_within_ipv6_is_the_same():
    assert (
        registry(Entry("a", network=network_of("10.0.0.0/8"))).refusal(visitor("x", "::ffff:10.0.0.7"))
        is None
    )
    assert registry(Entry("a", network=network_of("fe80::/10"))).refusal(visitor("x", "fe80::1")) is None
    assert registry(Entry("a", network=network_of("10.0.0.0/8"))).refusal(visitor("x", "not-an-address"))


def test_a_nanny_that_says_no_name_is_known_by_host_or_address_only():
    assert not registry(Entry("a")).may_be_nanny(visitor())
    assert registry(Entry("a", network=network_of("10.0.0.0/24"))).may_be_nanny(visitor())
    assert registry(Entry("a"), closed=False).may_be_nanny(visitor())


@pytest.mark.parametrize("wrong", ["", "gpu-server", "10.0.0.300", "10.0.0.0/99"])
def test_what_is_no_address_is_refused_in_one_line(wrong):
    with pytest.raises(BadRequest, match="neither an address nor a range") as caught:
        network_of(wrong)
    assert "\n" not in str(caught.value)
