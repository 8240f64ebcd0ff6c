"""The original's web page against our API and our broker.

The original is platzi/platziverse on GitHub; nothing of it is here, and npm has no package of it. So the
first test asks what the page and its proxy ask, and reads what they read: ``platziverse-web/proxy.js`` has
the requests and their header, ``client/app.vue``, ``agent.vue`` and ``metric.vue`` the fields. The second
one is the page itself, for whoever has a checkout in which ``npm install`` has run::

    ORIGINAL=~/platziverse python -m pytest tests/integration/test_original_page.py

It needs the ports that the original has written down: 1883 for MQTT, 8080 for the page.
"""

import json
import os
import socket
import urllib.error
import urllib.request
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
from twisted.trial.unittest import SkipTest

from tests.integration.browser import browser, missing
from tests.integration.daemon import PATIENCE, DaemonTestCase, Program

#: What the proxy sends with each request; its secret is in the source of the original.
TOKEN: Final = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VybmFtZSI6InBsYXR6aSIsImFkbWluIjp0cnVlfQ.c2ln"
AGENT: Final = {"uuid": "yyy", "username": "platzi", "name": "kitchen", "hostname": "pi", "pid": 10}
ORIGINAL: Final = os.environ.get("ORIGINAL", "")
PORTS: Final = (1883, 8080)
#: The values of all charts of the page.
DRAWN: Final = """[...document.querySelectorAll(".metric")]
    .flatMap((one) => one.__vue__.datacollection.datasets || []).flatMap((one) => one.data)"""


class NotFound(Exception):
    """The proxy answers 404, and the page shows the text."""


class OriginalPageCase(DaemonTestCase):
    port: int

    def say(self, client: paho.Client, value: float) -> None:
        """Let the agent report, and wait for the PUBACK."""
        metrics = [{"type": "temp", "value": value}, {"type": "state", "value": "on"}]
        payload = json.dumps({"agent": AGENT, "metrics": metrics})
        client.publish("agent/message", payload, qos=1).wait_for_publish(PATIENCE)


class RequestTests(OriginalPageCase):
    def proxied(self, path: str) -> Any:
        """Return what the proxy gives the page. :raises NotFound: it gives the page an error."""
        request = urllib.request.Request(f"http://localhost:{self.port}{path}")
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Accept", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                self.assertIn("application/json", answer.headers["Content-Type"])
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = json.loads(error.read())["error"]  # e.error.error
            self.assertRegex(text, "not found")  # which server.js makes a 404 of
            raise NotFound(text) from None

    def test_the_page_finds_what_it_asks_for(self) -> None:
        self.port = self.daemon(*self.shared_database()).ready()
        heard = self.start_program("mosquitto_sub", "-p", str(self.port), "-t", "agent/+", "-v", "-d")
        heard.wait_for("Subscribed")
        self.assertEqual(self.proxied("/api/agents"), [])
        agent = self.paho_client(self.port)
        for value in range(25):
            self.say(agent, value)
        self._look()
        self._hear(heard)
        for path in ("/api/agent/zzz", "/api/metrics/zzz", "/api/metrics/yyy/zzz"):
            with self.assertRaises(NotFound):
                self.proxied(path)

    def _look(self) -> None:
        """Read what the three components read."""
        [agent] = self.proxied("/api/agents")
        uuid = agent["uuid"]
        one = self.proxied(f"/api/agent/{uuid}")
        shown = {name: one[name] for name in ("name", "hostname", "pid", "connected")}
        self.assertEqual(shown, {"name": "kitchen", "hostname": "pi", "pid": 10, "connected": True})
        types = [metric["type"] for metric in self.proxied(f"/api/metrics/{uuid}")]
        self.assertEqual(sorted(types), ["state", "temp"])
        points = self.proxied(f"/api/metrics/{uuid}/temp")
        self.assertEqual([point["value"] for point in points], [str(value) for value in range(24, 4, -1)])
        for point in points:  # moment(m.createdAt)
            moment = datetime.strptime(point["createdAt"], "%Y-%m-%dT%H:%M:%S.%fZ")
            age = datetime.now(timezone.utc) - moment.replace(tzinfo=timezone.utc)
            self.assertLess(abs(age.total_seconds()), 600)

    def _hear(self, heard: Program) -> None:
        """Read what the page reads of what its server passes on."""
        connected = json.loads(heard.wait_for("^agent/connected (.*)")[1])
        self.assertEqual(connected["agent"]["uuid"], "yyy")
        message = json.loads(heard.wait_for("^agent/message (.*)")[1])
        self.assertEqual(message["agent"]["uuid"], "yyy")
        self.assertEqual([metric["type"] for metric in message["metrics"]], ["temp", "state"])


class PageTests(OriginalPageCase):
    def setUp(self) -> None:
        if not ORIGINAL:
            raise SkipTest("ORIGINAL names no checkout of platzi/platziverse")
        if absent := missing():
            raise SkipTest(f"not installed: {absent}")
        for port in PORTS:
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", port)) == 0:
                    raise SkipTest(f"port {port} is taken, and the original knows no other")

    def test_the_page_itself_shows_agents_and_their_charts(self) -> None:
        self.port = PORTS[0]
        listening = ("--listen", "tcp:1883:interface=127.0.0.1")
        self.daemon(*listening, *self.shared_database(), listen=False).ready()
        folder = str(Path(ORIGINAL) / "platziverse-web")
        endpoint = f"http://localhost:{self.port}"
        web = Program(self.program("node"), "server.js", cwd=folder, API_ENDPOINT=endpoint)
        self.addCleanup(web.kill)
        web.wait_for("listening on port 8080")
        page = browser()
        page.open("http://localhost:8080/")
        page.wait("document.querySelector('#app') === null")  # drawn
        agent = self.paho_client(self.port)
        self.say(agent, 22)
        page.sees("kitchen (10)", ".agent-title")
        page.sees("true", ".agent-status")
        page.evaluate("document.querySelector('.button').click()")
        page.sees("temp", ".metric-type")
        page.sees("state", ".metric-type")
        # A value of the API is text, one that is passed on is what the agent has sent.
        page.wait(f"{DRAWN}.includes('22')")
        self.say(agent, 23)
        page.wait(f"{DRAWN}.includes(23)")
        agent.disconnect()
        page.sees("false", ".agent-status")
        self.say(self.paho_client(self.port), 24)
        page.open("http://localhost:8080/")  # what it finds when it comes
        page.sees("kitchen (10)", ".agent-title")
        page.wait(f"['22', '23', '24'].every((one) => {DRAWN}.includes(one))")
