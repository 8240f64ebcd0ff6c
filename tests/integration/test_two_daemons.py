"""Two daemons on one database: what one has stored the other knows, and presence is each one's own."""

import json
import os
import shutil
import signal
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.crash.waiting import poll
from tests.integration.daemon import DaemonTestCase
from tests.servers import cluster, execute


def client(port: int, name: str) -> mqtt.Client:
    made = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv311)
    made.connect("127.0.0.1", port)
    made.loop_start()
    return made


def message(uuid: str, number: int) -> bytes:
    agent = {"uuid": uuid, "username": "u", "name": "n", "hostname": "h", "pid": 1}
    metrics = [{"type": "t", "value": number}]
    return json.dumps({"agent": agent, "metrics": metrics, "timestamp": time.time() * 1000}).encode()


class TwoDaemons(DaemonTestCase):
    def test_a_message_is_stored_once_and_presence_follows_the_daemon(self) -> None:
        """row 125: neither resets the agents of the other, not even one that was killed and starts again."""
        dsn = cluster().database("template1")
        state = self.state_dir()
        first, second = self.daemon("--database", dsn, state_dir=state), self.daemon("--database", dsn)
        ports = first.ready(), second.ready()
        agents = [client(port, f"agent-{number}") for number, port in enumerate(ports)]
        bodies = [message("agent-0", 1), message("agent-0", 2)]
        for body in bodies:
            agents[0].publish("agent/message", body, 1).wait_for_publish(30)
        again = client(ports[1], "again")
        for body in (*bodies, message("agent-1", 3)):
            again.publish("agent/message", body, 1).wait_for_publish(30)
        found = second.books() or {}
        self.assertEqual((found["stored"], found["duplicates"]), (1, 2))
        self.assertEqual(execute(dsn, "SELECT value FROM metrics ORDER BY value"), [("1",), ("2",), ("3",)])

        connected = "SELECT uuid FROM agents WHERE connected ORDER BY uuid"
        self.assertEqual(execute(dsn, connected), [("agent-0",), ("agent-1",)])
        agents[0].publish("agent/message", message("agent-0", 4), 1).wait_for_publish(30)
        agents[1].publish("agent/message", message("other", 5), 1).wait_for_publish(30)
        for each in (agents[0], again):
            each.disconnect()
            each.loop_stop()
        # The second daemon has heard agent-0 after the first: it is the first's again with its next message.
        poll(lambda: execute(dsn, connected) == [("other",)], 10, "those who left are disconnected")
        first.stop(signal.SIGKILL)
        survivor = self.daemon("--database", dsn, state_dir=state).ready()
        self.assertEqual(execute(dsn, connected), [("other",)])
        second.stop(signal.SIGKILL)
        agents[1].loop_stop()
        self.the_dead_are_mourned(dsn, survivor)

    def test_the_daemon_whose_state_directory_was_copied_ends_and_the_copy_goes_on(self) -> None:
        """Row 300."""
        dsn = cluster().database("template1")
        state, copy = self.state_dir(), self.state_dir()
        first = self.daemon("--database", dsn, state_dir=state)
        first.ready()
        shutil.copy(os.path.join(state, "instance"), os.path.join(copy, "instance"))
        second = self.daemon("--database", dsn, state_dir=copy)
        second.ready()
        self.assertEqual(first.ended(), 1)
        self.assertIn(f"identity in {state}/instance", first.output.splitlines()[-1])
        agent = client(second.ready(), "agent")
        agent.publish("agent/message", message("agent", 1), 1).wait_for_publish(30)
        agent.disconnect()
        agent.loop_stop()
        self.assertEqual(second.stop(signal.SIGTERM), 0)

    def the_dead_are_mourned(self, dsn: str, port: int) -> None:
        """Row 145: the state directory of the second daemon is gone with its container."""
        heard: list[bytes] = []
        dashboard = client(port, "dashboard")
        dashboard.on_message = lambda client, userdata, message: heard.append(bytes(message.payload))
        dashboard.subscribe("agent/disconnected", 1)
        connected = "SELECT uuid FROM agents WHERE connected"
        self.assertEqual(execute(dsn, connected), [("other",)])
        poll(lambda: heard, 40, "the survivor tells that the agent has gone")
        self.assertEqual((heard, execute(dsn, connected)), ([b'{"agent":{"uuid":"other"}}'], []))
        dashboard.loop_stop()
