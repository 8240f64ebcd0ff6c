"""Bus URLs: what they mean, what is wrong with them, and what of them is shown."""

import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from platziverse.bus.url import BusUrl, parse_url, without_password

ROOT = Path(__file__).parent.parent.parent
WITHOUT_HIREDIS = """\
import sys
sys.modules["hiredis"] = None
from platziverse.bus.making import make_bus
from platziverse.bus.settings import BusSettings
from platziverse.command.checkbus import check_bus
from platziverse.config import Config
from platziverse.errors import Unusable
settings = BusSettings(url="redis://localhost")
try:
    make_bus(settings, None, None)
except Unusable as error:
    print(error)
print(*check_bus(Config(bus=settings)))
"""


class ExtraTests(SynchronousTestCase):
    def test_without_the_extra_its_name_is_said(self) -> None:
        said = subprocess.check_output([sys.executable, "-c", WITHOUT_HIREDIS], text=True, cwd=ROOT)
        start, check = said.splitlines()
        self.assertEqual(start, "bus.url: hiredis is missing: pip install 'platziverse[redis]'")
        self.assertIn("error    bus: redis://localhost: hiredis is missing: pip install", check)


class UrlTests(SynchronousTestCase):
    maxDiff = None

    def test_each_form_means_what_users_of_redis_expect(self) -> None:
        expected = {
            "redis://": BusUrl("redis", (("localhost", 6379),)),
            "redis://h:7": BusUrl("redis", (("h", 7),)),
            "redis://h/2": BusUrl("redis", (("h", 6379),), database=2),
            "redis://h?db=2": BusUrl("redis", (("h", 6379),), database=2),
            "redis://:p%40%2F:s@h": BusUrl("redis", (("h", 6379),), password="p@/:s"),
            "redis://me:p@h": BusUrl("redis", (("h", 6379),), username="me", password="p"),
            "redis://[::1]:7": BusUrl("redis", (("::1", 7),)),
            "rediss://h": BusUrl("redis", (("h", 6379),), tls=True),
            "unix:///run/redis.sock?db=1": BusUrl("redis", path="/run/redis.sock", database=1),
            "redis+unix://me:p@/run/r.sock": BusUrl("redis", path="/run/r.sock", username="me", password="p"),
            "redis+sentinel://a,b:2/main": BusUrl("sentinel", (("a", 26379), ("b", 2)), service="main"),
            "rediss+sentinel://a/main": BusUrl("sentinel", (("a", 26379),), tls=True, service="main"),
            "redis+cluster://a:1,b": BusUrl("cluster", (("a", 1), ("b", 6379))),
            "postgresql:": BusUrl("postgresql"),
            "postgresql://me@h/db": BusUrl("postgresql", dsn="postgresql://me@h/db"),
        }
        self.assertEqual({url: parse_url(url) for url in expected}, expected)

    def test_what_is_wrong_is_said_without_the_password(self) -> None:
        wrong = {
            "redis": "write redis://HOST:PORT",
            "http://h": "write redis://HOST:PORT",
            "redis://:secret@h:port": "no HOST:PORT",
            "redis://:secret@h:99999": "no HOST:PORT",
            "redis://:sec/ret@h": "HOST:PORT",
            "redis://:secret@h/x": "no number of a Redis database",
            "redis://:secret@h?timeout=1": "there is ?db=NUMBER",
            "redis://:secret@a,b": "redis+sentinel:// or redis+cluster://",
            "redis+sentinel://:secret@a": "the name of the master is missing",
            "redis+cluster://:secret@a/1": "has no database numbers",
            "unix://run/redis.sock": "three slashes",
            "redis://h#fragment": "write redis://HOST:PORT",
            "postgresql:/h/db": "postgresql: alone is the database of the daemon",
            "postgresql:dbname=other": "is no connection string",
            "postgresql://me:sec%ret@h/db": "written %40 and %25",
            "postgresql://me:sec@ret@h/db": "written %40 and %25",
            "postgres://me:secret@h/db?nonsense=1": "is no connection string",
        }
        for url, text in wrong.items():
            error = self.assertRaises(ValueError, parse_url, url)
            self.assertIn(text, str(error))
            self.assertNotIn("secret", str(error))
            self.assertNotIn("ret@", str(error))

    def test_a_password_is_never_shown(self) -> None:
        shown = {
            "redis://me:p:w@h/1": "redis://me:***@h/1",
            "redis://:pw@h": "redis://:***@h",
            "redis://me@h": "redis://me@h",
            "redis://h:6379": "redis://h:6379",
            "redis://:s/lash@h": "redis://:***@h",
            "postgresql://me:pw@h/db": "postgresql://me:***@h/db",
            "postgresql://me@h/db?password=pw&sslmode=require": "postgresql://me@h/db?password=***&sslmode=require",
            "postgresql:": "postgresql:",
        }
        self.assertEqual({url: without_password(url) for url in shown}, shown)
