"""A message of a device beside an ``agent/message`` with as many metrics, in bytecode instructions."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.agents.payload import parse
from platziverse.mqtt.packets import Publish
from tests.agents.doubles import FakeClient
from tests.rules.reading import HEAD, NOW, rules
from tests.test_cost import instructions

MANY = 50


def tasmota(numbers: int) -> bytes:
    """A SENSOR message as Tasmota writes it, with so many numbers."""
    readings = {f"Reading{number}": number + 0.5 for number in range(numbers)}
    document = {"Time": "2026-11-28T16:20:38", "AM2301": readings}
    return json.dumps(document, separators=(",", ":")).encode()


def agents(numbers: int) -> bytes:
    """An ``agent/message`` with so many metrics."""
    agent = {"uuid": "yyy", "username": "platzi", "name": "platzi", "hostname": "here", "pid": 10}
    metrics = [{"type": f"Reading{number}", "value": number + 0.5} for number in range(numbers)]
    return json.dumps({"agent": agent, "metrics": metrics, "timestamp": int(NOW - 20) * 1000}).encode()


class CostTests(SynchronousTestCase):
    def count(self, read: Any) -> float:
        read()  # what is learnt at the first message is not its price

        def path() -> None:
            for _ in range(MANY):
                read()

        return instructions(path) / MANY

    def test_a_message_of_tasmota_costs_little_more_than_one_of_an_agent(self) -> None:
        """A rule finds a time, and what to do with each key; both have the same Report then."""
        found, client = rules(f'{HEAD}time = "$.Time"').find("t/kitchen"), FakeClient("bridge")
        assert found is not None
        for numbers in (4, 13):
            device = Publish("t/kitchen", tasmota(numbers), 1, packet_id=1)
            agent = Publish("agent/message", agents(numbers), 1, packet_id=1)
            cost = self.count(lambda device=device: found.read(device, client, NOW))
            beside = self.count(lambda agent=agent: parse(agent, "bridge", NOW))
            self.assertLess(cost, 750 + 1.2 * beside, (cost, beside))
