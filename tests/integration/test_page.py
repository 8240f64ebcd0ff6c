"""The page at ``/`` in a real Chromium, with a real daemon."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import paho.mqtt.client as paho
from twisted.trial.unittest import SkipTest

from platziverse import __version__
from platziverse.access.passwords import set_password
from tests.commandline import NOTHING
from tests.integration.browser import browser, missing
from tests.integration.daemon import NODE, PATIENCE, ROOT, Daemon, DaemonTestCase, clean_environment
from tests.pages import blocks
from tests.ports import free_port
from tests.postgres.scratch import scratch_server

LIBRARY: Final = ROOT / "platziverse/web/page/node_modules/uplot"
#: An agent whose name would do harm as markup, and one that would break the layout.
HOSTILE: Final = "<img src=x onerror=alert(1)>"
LONG: Final = "x" * 200
HOUR: Final = 3_600_000
#: Charts that uPlot has drawn something in: a canvas with a colour in it.
DRAWN: Final = """[...document.querySelectorAll(".u-wrap canvas")].filter((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value, index) => index % 4 === 3 && value > 0);
}).length"""
NEWER: Final = "9.9.9"
#: Rates may be less than a byte a second.
BYTES: Final = """(async () => {
    const { bytes } = await import(document.querySelector("link[href$='elements.js']").href);
    return [0, 0.7, 1, 1023, 1024, 5e15].map(bytes).map((text) => text.replace("\\u00a0", " "));
})()"""
#: Where a small line has the averages that /api/latest gives a minute after five o'clock, and a newer value.
SPARK: Final = """(async () => {
    const { href } = document.querySelector("link[href$='feed.js']");
    const { Series } = await import(href);
    const series = new Series({}, "temp");
    const spark = [...Array(10).fill(null), 1, 2];
    const newest = { unit: null, value: 3, time: Date.UTC(2026, 10, 24, 4, 56), spark };
    series.load(newest, Date.UTC(2026, 10, 24, 5, 1));
    series.add(4, Date.UTC(2026, 10, 24, 5, 1));
    return series.points.map(([time, value]) => [new Date(time).toISOString().slice(11, 19), value]);
})()"""


#: How old the newest number is that the first agents show.
AGE: Final = """(() => {
    const shown = [...document.querySelectorAll(".agent .value")].slice(0, 100).map((one) => one.innerText);
    const numbers = shown.map((text) => Number(text.replace(/[^0-9]/g, "")));
    return Date.now() - Math.max(...numbers.filter((number) => number > 1e12));
})()"""


class PageCase(DaemonTestCase):
    def setUp(self) -> None:
        if absent := missing():
            raise SkipTest(f"not installed: {absent}")
        self.database = scratch_server().create()
        self.dsn = scratch_server().dsn(self.database)

    def start(self, environ: Mapping[str, str] = NOTHING, login: str = "", port: int = 0) -> None:
        """Start a daemon and a browser."""
        arguments = ("--listen", f"tcp:{port}:interface=127.0.0.1", "--database", self.dsn)
        self.running = self.daemon(*arguments, listen=False, environ=environ)
        self.port = self.running.ready()
        self.url = f"http://localhost:{self.port}/"
        self.browser = browser(login)

    def client(self) -> paho.Client:
        return self.paho_client(self.port)

    def report(
        self, client: paho.Client, uuid: str, name: str, moment: int | None = None, /, **values: object
    ) -> paho.MQTTMessageInfo:
        agent = {"uuid": uuid, "name": name, "username": "platzi", "pid": 10, "hostname": "pi"}
        metrics = [{"type": type, "value": value} for type, value in values.items()]
        when = {} if moment is None else {"timestamp": moment}
        return client.publish(
            "agent/message", json.dumps({"agent": agent, "metrics": metrics, **when}), qos=1
        )

    def is_well(self) -> None:
        """Nobody complains, neither the browser nor axe, and nothing is wider than the page."""
        self.assertEqual(self.browser.do("axe"), [])
        self.browser.do("media", media={"colorScheme": "dark", "reducedMotion": "reduce"})
        self.browser.do("size", width=390, height=844)
        self.browser.wait("innerWidth === 390")
        wide = self.browser.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
        self.assertLessEqual(max(wide), 390)
        self.assertEqual(self.browser.do("axe"), [], "dark, on a phone")
        self.browser.do("media", media={"colorScheme": "light", "reducedMotion": "no-preference"})
        self.browser.do("size", width=1280, height=800)
        self.assertEqual(self.browser.do("complaints"), [])


class SessionTests(PageCase):
    def test_the_session_of_the_course_is_seen_live(self) -> None:
        """Row 487: names are text, whatever they are."""
        self.start()
        page = self.browser
        page.open(self.url)
        page.sees("No readings yet")
        self.assertEqual(page.evaluate(SPARK), [["04:52:30", 1], ["04:57:30", 2], ["05:01:00", 4]])
        self.assertEqual(page.evaluate(BYTES), ["0 B", "0.7 B", "1 B", "1,023 B", "1 KiB", "4,547.5 TiB"])
        self.is_well()
        page.do("click", selector="nav a[data-view=broker]")  # no PUBACK yet, so no latency to draw
        page.wait("document.querySelectorAll('.group .spark path').length > 0")
        page.wait("document.querySelector('.group .spark .area').getAttribute('d').length > 0")
        self.assertEqual(page.do("complaints"), [])
        page.do("click", selector="nav a[data-view=agents]")
        page.sees("No readings yet")
        command = page.evaluate("document.querySelector('code').innerText")
        self.assertIn(f"-h localhost -p {self.port} ", command)
        self.assertTrue(command.startswith("mqtt pub "))
        environment = clean_environment(PATH=f"{NODE}:{os.environ['PATH']}")
        self.program("mqtt")
        subprocess.run(["sh", "-c", command], env=environment, timeout=PATIENCE, check=True)
        page.sees("1,001", ".agent .value")
        page.sees("temp")
        page.sees("away", ".presence")
        client = self.client()
        self.report(client, "evil", HOSTILE, None, **{HOSTILE: 5, "state": "</li><script>alert(1)</script>"})
        self.report(client, LONG, LONG, None, **{LONG: LONG, "n": 1e300})
        page.sees(HOSTILE, ".name")
        page.sees("</li><script>", ".value")
        page.sees(LONG, ".name")
        page.sees("● connected", ".presence")
        self.is_well()
        page.do("press", key="/")
        page.do("fill", selector="#filter", text="PLATZI n")
        page.wait("document.querySelectorAll('.agent').length === 2")
        client.publish("agent/message", "Hello", qos=1)
        client.publish("agent/message", b"\x00\xff" * 20, qos=1)
        page.wait("document.getElementById('rejections').innerText === '2'")
        page.do("click", selector="nav a[data-view=rejected]")
        page.sees("JSON is malformed")
        client.publish("agent/message", f"{HOSTILE} at once", qos=1)
        page.wait("document.querySelectorAll('.rejections li').length === 3")
        for place in (1, 2, 3):
            page.do("click", selector=f".rejections li:nth-child({place}) summary")
        for text in ("Hello", "00 ff 00 ff", f"{HOSTILE} at once"):
            page.sees(text, ".payload pre")
        self.is_well()
        page.do("click", selector="nav a[data-view=broker]")
        page.sees("ready", ".group")
        page.sees("Daemons", "caption")
        page.wait("document.querySelector('.lists td').innerText.length > 0")
        self.is_well()


class LoadTests(PageCase):
    def test_a_thousand_events_a_second_are_drawn_as_they_come(self) -> None:
        """What is drawn does not get older; ``bench.page`` has the figures."""
        self.start()
        page, client = self.browser, self.client()
        page.open(self.url)
        page.do("metrics")
        began, sent, ages, used = time.monotonic(), 0, [], 0.0
        while (passed := time.monotonic() - began) < 8:
            while sent < passed * 1000:
                agent = {"uuid": str(sent % 250), "name": "b", "username": "b", "pid": 1, "hostname": "pi"}
                metrics = [{"type": "n", "value": int(time.time() * 1000)}, {"type": "m", "value": sent % 97}]
                client.publish("agent/message", json.dumps({"agent": agent, "metrics": metrics}))
                sent += 1
            if passed > 3:
                ages.append(page.evaluate(AGE))
                used = used or page.do("metrics")["TaskDuration"]
            time.sleep(0.05)
        busy = (page.do("metrics")["TaskDuration"] - used) / 5
        page.wait("document.querySelector('#count').innerText.includes('250 agents, 500 series')")
        self.assertLess(sorted(ages)[len(ages) // 2], 2000, ages)
        self.assertLess(busy, 0.5, "of the CPU that the page has")
        self.assertEqual(page.do("complaints"), [])


class ChartTests(PageCase):
    def setUp(self) -> None:
        super().setUp()
        if not LIBRARY.is_dir():
            raise SkipTest("the chart library is not there: npm ci in platziverse/web/page")
        self.start()
        self.now = int(time.time() * 1000)
        client = self.mqtt = self.client()
        sent = [
            self.report(
                client, "a/b c", "kitchen", self.now - age * 300_000, power=age % 50, temp=20.5, mode="heat"
            )
            for age in range(288)
        ]
        for one in sent:
            one.wait_for_publish(PATIENCE)
        self.uuid = "a%2Fb%20c"
        self.wait_for_roll_ups()

    def wait_for_roll_ups(self) -> None:
        """Make them, as the daemon does once a minute."""
        address = f"{self.url}api/series?agent={self.uuid}&type=power&from={self.now - 24 * HOUR}&points=300"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            answer = json.load(urllib.request.urlopen(address, timeout=PATIENCE))
            if sum(point[1] is not None for point in answer["series"][0]["points"]) > 280:
                return
            scratch_server().execute(self.database, "SELECT platziverse_roll_up(now(), 1000)")
        self.fail("no roll-ups")

    def test_a_day_is_drawn_zoomed_downloaded_and_read_as_a_table(self) -> None:
        page = self.browser
        page.open(f"{self.url}#/agent/{self.uuid}?range=24h")
        page.wait(f"{DRAWN} === 2")
        page.sees("steps of 5 min, from 5-minute roll-ups")
        label = page.wait(
            "document.querySelector('.plot').ariaLabel.includes('lowest 0, highest 49') && 'yes'"
        )
        self.assertEqual(label, "yes")
        page.sees("heat", ".texts dd")
        self.is_well()
        # Live: what comes is drawn, and said.
        self.report(self.mqtt, "a/b c", "kitchen", power=77, temp=20.5).wait_for_publish(PATIENCE)
        page.wait("document.querySelector('.plot').ariaLabel.includes('highest 77')")
        page.sees("now 77", ".readout")
        # Zoom with the mouse, and back.
        box = page.evaluate(
            "(({ left, top, width, height }) => [left, top, width, height])"
            "(document.querySelector('.u-over').getBoundingClientRect())"
        )
        left, top, width, height = box
        middle = top + height / 2
        page.do("drag", **{"from": [left + width * 0.25, middle], "to": [left + width * 0.5, middle]})
        page.wait("location.hash.includes('from=')")
        page.wait("!document.querySelector('.buttons a').hidden")
        first, last = (
            float(part.partition("=")[2]) for part in page.evaluate("location.hash").split("&")[1:]
        )
        self.assertEqual(round((last - first) / HOUR), 6)
        # The table of the same time; axe needs a minute for that of a whole day.
        page.do("click", selector="button[aria-pressed=false]")
        page.wait("document.querySelectorAll('table').length === 2")
        page.wait("document.querySelector('table').rows.length > 60")
        self.assertLess(page.evaluate("document.querySelector('table').rows.length"), 250)
        self.is_well()
        page.do("press", key="Escape")
        page.wait("!location.hash.includes('from=') && document.querySelector('.buttons a').hidden")
        page.wait("document.querySelector('table').rows.length > 250")
        # The file.
        found = page.do("download", selector="a[download]")
        rows = list(csv.DictReader(io.StringIO(found["text"])))
        self.assertEqual(found["name"], "metrics.csv")
        self.assertEqual({row["type"] for row in rows}, {"power", "temp"})
        self.assertGreater(len(rows), 500)

    def test_fingers_move_the_cursor_and_zoom(self) -> None:
        page = self.browser
        page.open(f"{self.url}#/agent/{self.uuid}?range=24h")
        page.wait(f"{DRAWN} === 2")
        left, middle, width = page.evaluate(
            "(({ left, top, width, height }) => [left, top + height / 2, width])"
            "(document.querySelector('.u-over').getBoundingClientRect())"
        )

        def at(part: float) -> list[float]:
            return [left + width * part, middle]

        page.do("touch", fingers=[[at(0.3), at(0.5)]])
        readouts = "[...document.querySelectorAll('.readout')].map((one) => one.innerText.split(': ')[0])"
        page.wait(f"(([one, other]) => /:/.test(one) && one === other)({readouts})")
        self.assertNotIn("from=", page.evaluate("location.hash"))
        # Two fingers go apart: what was below them stays there, so a quarter of the day is left.
        page.do("touch", fingers=[[at(0.4), at(0.1)], [at(0.6), at(0.9)]])
        page.wait("location.hash.includes('from=')")
        first, last = (
            float(part.partition("=")[2]) for part in page.evaluate("location.hash").split("&")[1:]
        )
        self.assertLess(abs((last - first) / HOUR - 6), 0.3)
        page.wait("document.querySelector('.plot').ariaLabel.includes('last')")
        # And together again: not beyond now.
        page.do("touch", fingers=[[at(0.1), at(0.4)], [at(0.9), at(0.6)]])
        page.wait(f"!location.hash.includes('from={round(first)}')")
        first, last = (
            float(part.partition("=")[2]) for part in page.evaluate("location.hash").split("&")[1:]
        )
        self.assertLess(abs((last - first) / HOUR - 24), 2)
        self.assertLessEqual(last, time.time() * 1000)
        self.assertEqual(page.do("complaints"), [])

    def test_all_of_it_can_be_done_with_the_keyboard(self) -> None:
        page = self.browser
        page.open(self.url)
        page.sees("kitchen")
        self.tab_to("document.activeElement.className === 'name'")
        page.do("press", key="Enter")
        page.wait(f"location.hash.startsWith('#/agent/') && {DRAWN} === 2")
        self.tab_to("document.activeElement.dataset.range === '24h'")
        page.do("press", key="Enter")
        page.wait("location.hash.endsWith('range=24h')")
        page.sees("5-minute roll-ups", ".step")
        self.tab_to("document.activeElement.className === 'plot'")
        for key in ("Home", "ArrowRight", "Shift+ArrowRight"):
            page.do("press", key=key)
        page.wait("document.activeElement.parentElement.querySelector('.readout').innerText.includes(':')")
        said = page.evaluate("document.getElementById('said').innerText")
        self.assertIn(":", said)
        # The cursor is at the same moment in both charts.
        times = page.wait(
            "(() => { const found = [...document.querySelectorAll('.readout')];"
            " const times = found.map((one) => one.innerText.split(': ')[0]);"
            " return times[0] === times[1] && times; })()"
        )
        self.assertTrue(said.startswith(times[0]), (said, times))
        page.do("press", key="+")
        page.wait("location.hash.includes('from=')")
        page.do("press", key="Escape")
        page.wait("!location.hash.includes('from=')")
        self.assertEqual(page.do("complaints"), [])

    def tab_to(self, condition: str) -> None:
        for _ in range(60):
            self.browser.do("press", key="Tab")
            if self.browser.evaluate(condition):
                return
        self.fail(f"the keyboard does not get to {condition}")


class ConnectionTests(PageCase):
    def newer(self) -> Path:
        """A copy of us with a higher version, which was built without npm."""
        folder = Path(tempfile.mkdtemp(prefix="platziverse-test-"))
        self.addCleanup(shutil.rmtree, folder)
        unwanted = shutil.ignore_patterns("node_modules", "__pycache__", "dropin.cache")
        for name in ("platziverse", "twisted"):
            shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
        place = folder / "platziverse/__init__.py"
        place.write_text(place.read_text().replace(f'"{__version__}"', f'"{NEWER}"'))
        return folder

    def test_a_daemon_that_is_killed_is_missed_and_a_newer_one_caught_up_with(self) -> None:
        """Row 488: an older page says so; without the library a plain line is drawn."""
        self.start()
        page = self.browser
        page.open(self.url)
        client = self.client()
        self.report(client, "yyy", "platzi", temp=33).wait_for_publish(PATIENCE)
        page.sees("33", ".value")
        self.assertEqual(page.do("complaints"), [])
        self.running.process.send_signal(signal.SIGKILL)
        self.running.ended()
        page.sees("No connection to the daemon since", "#notices")
        page.sees("no connection", "#state")
        folder = self.newer()
        self.again = Daemon(
            "--listen",
            f"tcp:{self.port}:interface=127.0.0.1",
            "--database",
            self.dsn,
            state_dir=self.state_dir(),
            cwd=str(folder),
            environ={"PYTHONPATH": str(folder)},
        )
        self.addCleanup(self.again.kill)
        self.again.ready()
        page.sees("live", "#state")
        page.wait("!document.getElementById('notices').innerText.includes('No connection')")
        self.report(self.client(), "yyy", "platzi", temp=34).wait_for_publish(PATIENCE)
        page.sees("34", ".value")
        page.sees(f"This page is of version {__version__}, the daemon of {NEWER}.", "#notices")
        page.do("complaints")  # of the time without a daemon
        page.do("click", selector=".notice[data-name=version] button")
        page.wait(f"document.documentElement.dataset.version === '{NEWER}'")
        page.sees("34", ".value")
        self.plain_charts()
        self.hidden_tab()

    def plain_charts(self) -> None:
        page = self.browser
        page.do("click", selector=".name")
        page.wait("document.querySelector('svg.plain path')?.getAttribute('d').length > 5")
        page.evaluate("document.querySelector('.plot').focus()")
        page.do("press", key="ArrowLeft")
        page.sees(": 3", ".readout")
        self.is_well()
        page.do("click", selector="nav a[data-view=agents]")
        page.sees("34", ".value")

    def hidden_tab(self) -> None:
        """A tab that nobody sees closes its stream; once it is seen again it has what it missed."""
        hide = (
            "(() => {{ Object.defineProperty(document, 'hidden', {{ value: {}, configurable: true }});"
            " document.dispatchEvent(new Event('visibilitychange')); }})()"
        )
        self.browser.evaluate(hide.format("true"))
        self.browser.sees("paused", "#state")
        self.report(self.client(), "yyy", "platzi", temp=35).wait_for_publish(PATIENCE)
        self.assertEqual(self.browser.evaluate("document.querySelector('.value').innerText"), "34")
        self.browser.evaluate(hide.format("false"))
        self.browser.sees("35", ".value")
        self.assertEqual(self.browser.do("complaints"), [])


class ReachTests(PageCase):
    def test_a_login_is_asked_for_and_lets_the_page_and_its_stream_in(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="platziverse-test-"))
        self.addCleanup(shutil.rmtree, folder)
        set_password(str(folder / "passwords"), "ana", b"secret")
        (folder / "acl").write_text("user ana\ntopic readwrite #\nrole admin\n")
        environ = {
            "PLATZIVERSE_WEB_READERS": "users",
            "PLATZIVERSE_ACCESS_ACL_FILE": str(folder / "acl"),
            "PLATZIVERSE_ACCESS_PASSWORD_FILE": str(folder / "passwords"),
            "PLATZIVERSE_ACCESS_ANONYMOUS": "never",
        }
        self.start(environ, login="ana:secret")
        self.browser.open(self.url)
        self.browser.sees("No readings yet")
        self.browser.sees("live", "#state")
        self.is_well()
        self.replay()

    def replay(self) -> None:
        """An admin stores again what is valid by now; what is not says why."""
        agent = {"uuid": "yyy", "name": "platzi", "username": "u", "pid": 1, "hostname": "h"}
        valid = json.dumps({"agent": agent, "metrics": [{"type": "temp", "value": "33"}]})
        for payload in ("Hello", valid):
            scratch_server().execute(
                self.database,
                """INSERT INTO rejected_messages (topic, "clientId", payload, reason, "createdAt")
                VALUES ('agent/message', 'c', %s, 'of then', now()) RETURNING id""",
                payload.encode(),
            )
        page = self.browser
        page.do("click", selector="nav a[data-view=rejected]")
        for number, told in ((1, "stored again: 1 metric added"), (2, "not stored: ")):
            page.do("click", selector=f".rejections li:nth-child({number}) summary")
            page.do("click", selector=f".rejections li:nth-child({number}) button")
            page.sees(told, f".rejections li:nth-child({number})")
        page.sees("JSON is malformed", ".rejections li:nth-child(2)")
        self.is_well_after_a_refusal()
        stored = scratch_server().execute(self.database, "SELECT type, value FROM metrics")
        self.assertEqual(stored, [("temp", "33")])
        self.running.wait_for("User 'ana' of .* has replayed the rejected message 2: 1 metrics were added")

    def is_well_after_a_refusal(self) -> None:
        """Chromium writes each answer of an error to its console."""
        self.assertEqual(self.browser.do("axe"), [])
        complaints = self.browser.do("complaints")
        self.assertEqual([text for text in complaints if "409" not in str(text)], [])

    def test_behind_nginx_below_a_prefix(self) -> None:
        nginx = self.program("nginx")
        self.start({"PLATZIVERSE_WEB_READERS": "everyone"})
        front, folder = free_port(), Path(tempfile.mkdtemp(prefix="platziverse-test-"))
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        (location,) = blocks("page.rst", "nginx")
        location = location.replace("127.0.0.1:8083", f"127.0.0.1:{self.port}")
        (folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\n"
            "events {}\n"
            f"http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};\n"
            f" fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};\n"
            f" server {{ listen 127.0.0.1:{front};\n"
            f"{location}\n }} }}\n"
        )
        proxy = subprocess.Popen([nginx, "-c", str(folder / "nginx.conf")])
        self.addCleanup(proxy.wait)
        self.addCleanup(proxy.kill)
        page = self.browser
        self.wait_for(front)
        page.open(f"http://localhost:{front}/iot/panel/")
        page.sees("No readings yet")
        page.sees("live", "#state")
        self.report(self.client(), "a/b?c#d", "platzi", temp=33)
        page.sees("33", ".value")
        page.do("click", selector=".name")
        page.sees("uuid a/b?c#d")
        page.wait("document.querySelectorAll('.chart').length === 1")
        self.assertEqual(page.do("complaints"), [])

    def wait_for(self, port: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://localhost:{port}/iot/panel/healthz", timeout=PATIENCE)
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.fail("nginx does not answer")
