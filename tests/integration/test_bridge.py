"""A Mosquitto that bridges to us with its default settings."""

import shutil
import tempfile
from pathlib import Path

from tests.crash.counters import scrape
from tests.integration.daemon import DaemonTestCase
from tests.integration.test_conversations import PahoClient
from tests.ports import free_port

SETTINGS = """
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_type all
connection edge
address 127.0.0.1:{ours}
remote_clientid edge
topic # both 1
restart_timeout 1
bridge_protocol_version {version}
"""


class BridgeTests(DaemonTestCase):
    """Row 270."""

    def bridge(self, version: str) -> tuple[int, int]:
        """Our port, and that of a Mosquitto that is connected to it."""
        ours, theirs = self.daemon(*self.shared_database()).port(), free_port()
        folder = Path(tempfile.mkdtemp(prefix="platziverse-bridge-"))  # Mosquitto reads it as another user
        self.addCleanup(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "settings").write_text(SETTINGS.format(port=theirs, ours=ours, version=version))
        program = self.start_program("mosquitto", "-c", str(folder / "settings"))
        program.wait_for("Received SUBACK from")
        self.assertNotIn("Refused", program.output)
        return ours, theirs

    def watch(self, port: int) -> PahoClient:
        client = PahoClient(port, f"watcher of {port}")
        client.start()
        self.addCleanup(client.stop)
        client.subscribe(("from/#", 1))
        return client

    def check(self, version: str) -> None:
        ours, theirs = self.bridge(version)
        watchers = self.watch(ours), self.watch(theirs)
        watchers[1].client.publish("from/edge", b"a", 1, retain=True)
        self.assertEqual([each.take(1)[0].payload for each in watchers], [b"a"] * 2)
        watchers[0].client.publish("from/us", b"b", 1, retain=True)
        self.assertEqual([each.take(1)[0].payload for each in watchers], [b"b"] * 2)
        for port, (own, other) in ((ours, (b"b", b"a")), (theirs, (b"a", b"b"))):
            late = PahoClient(port, f"late to {port}")
            late.start()
            self.addCleanup(late.stop)
            late.subscribe(("from/#", 1))
            kept = {message.payload: message.retain for message in late.take(2)}
            self.assertEqual(kept, {own: True, other: True})
        for watcher in watchers:  # nothing has come twice
            watcher.client.publish("from/end", b"end", 1)
            self.assertEqual(watcher.take(1)[0].payload, b"end")
        counters = scrape(ours)
        assert counters is not None
        self.assertGreaterEqual(counters["platziverse_bridge_notifications_total"], 1)
        self.assertEqual(counters["platziverse_messages_denied_total"], 0)

    def test_it_connects_and_messages_go_both_ways_once_and_are_kept_on_both_sides(self) -> None:
        self.check("mqttv311")

    def test_so_does_one_that_speaks_mqtt_3_1(self) -> None:
        self.check("mqttv31")
