"""What ``platziverse check`` says about the server of the bus."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.bus.settings import BusSettings
from platziverse.command.checkbus import check_bus
from platziverse.command.findings import ERROR, OK, WARNING
from platziverse.config import Config
from tests.redis import MISSING_REDIS, RedisServer, cluster, redis, sentinels
from tests.servers import MISSING
from tests.servers import cluster as postgres


class CheckBusTests(SynchronousTestCase):
    skip = MISSING_REDIS or MISSING or None

    def found(self, url: str, database: str = "", **settings: Any) -> list[tuple[str, str]]:
        config = Config(database=database, bus=BusSettings(url=url, **settings))
        return [(finding.level, finding.text) for finding in check_bus(config)]

    def error(self, url: str, **settings: Any) -> str:
        ((level, text),) = self.found(url, **settings)
        self.assertEqual(level, ERROR)
        self.assertNotIn("\n", text)
        self.assertNotIn("hunter2", text)
        return text

    def server(self, *options: str) -> RedisServer:
        server = RedisServer(*options)
        self.addCleanup(server.remove)
        return server

    def test_without_a_bus_nothing_is_said(self) -> None:
        self.assertEqual(self.found(""), [])

    def test_a_bus_that_works_is_fine(self) -> None:
        for url in (redis().url, f"unix://{redis().path}", sentinels().url, cluster().url):
            fine = f"{url}: set 'platziverse' may publish and subscribe"
            self.assertEqual(self.found(url), [(OK, fine)])

    def test_the_database_as_a_bus_is_fine(self) -> None:
        fine = "postgresql:: set 'platziverse' may publish and subscribe"
        self.assertEqual(self.found("postgresql:", postgres().dsn()), [(OK, fine)])

    def test_a_server_that_is_not_there(self) -> None:
        gone = self.server()
        gone.remove()
        self.assertIn(f"127.0.0.1:{gone.port} cannot be reached: Connection refused", self.error(gone.url))
        self.assertIn("cannot be reached", self.error(f"redis+sentinel://127.0.0.1:{gone.port}/main"))
        self.assertIn("cannot be reached", self.error(f"redis+cluster://127.0.0.1:{gone.port}"))
        self.assertIn("cannot be reached: No such file or directory", self.error("unix:///nowhere/socket"))

    def test_a_password_that_is_wrong_or_missing(self) -> None:
        server = self.server("--requirepass", "right")
        self.assertIn("WRONGPASS", self.error(server.url, password="hunter2"))
        self.assertIn("check bus.password", self.error(f"redis://:hunter2@127.0.0.1:{server.port}"))
        self.assertIn("set bus.password_file", self.error(server.url))
        self.assertEqual(self.found(server.url, password="right")[0][0], OK)

    def test_a_user_that_may_not_publish_or_subscribe(self) -> None:
        for rights in ("-publish", "-subscribe"):
            server = self.server("--user", "pv", "on", "nopass", "&pv:*", "+@all", rights)
            text = self.error(f"redis://pv:hunter2@127.0.0.1:{server.port}")
            self.assertIn(f"NOPERM this user has no permissions to run the '{rights[1:]}' command", text)

    def test_a_port_of_something_else(self) -> None:
        sentinel = sentinels().sentinels[0]
        self.assertIn("it is a Sentinel: write redis+sentinel://", self.error(sentinel.url))
        self.assertIn("write redis:// in bus.url", self.error(f"redis+cluster://127.0.0.1:{redis().port}"))

    def test_a_master_that_the_sentinels_do_not_know(self) -> None:
        self.assertIn("check the end of bus.url", self.error(sentinels().url.replace("/main", "/other")))

    def test_a_sentinel_that_does_not_help_is_a_warning(self) -> None:
        gone = self.server()
        gone.remove()
        found = self.found(sentinels().url.replace("//", f"//127.0.0.1:{gone.port},"))
        self.assertEqual([level for level, _ in found], [WARNING, OK])
