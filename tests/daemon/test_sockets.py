"""The sockets of several workers."""

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from platziverse.daemon.listening import CannotListen, divided
from platziverse.daemon.sockets import Closing, Sockets, operator_socket, sibling_socket, worker_dir


class Readers:
    """Readers are what a reactor would read."""

    def __init__(self) -> None:
        self.found: set[Any] = set()
        self.addReader, self.removeReader = self.found.add, self.found.discard


class SocketsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def sockets(self, workers: int = 3) -> Sockets:
        sockets = Sockets(workers)
        self.addCleanup(sockets.close)
        return sockets

    def names(self, sockets: Sockets, index: int, workers: int = 3) -> list[Any]:
        found: list[Any] = []
        for worker in range(workers):
            one = socket.socket(fileno=os.dup(sockets.of(worker)[index]))
            self.addCleanup(one.close)
            found.append(one.getsockname())
        return found

    def test_each_worker_has_a_socket_of_its_own_at_one_port(self) -> None:
        sockets = self.sockets()
        sockets.open("tcp:0:interface=127.0.0.1")
        names = self.names(sockets, 0)
        self.assertEqual(len(set(names)), 1)
        self.assertEqual(len({os.fstat(sockets.of(worker)[0]).st_ino for worker in range(3)}), 3)
        self.assertEqual(sockets.listen, ["systemd:domain=INET:index=0"])
        host, port = names[0]
        self.assertEqual(sockets.readable, f"{host}:{port}")
        for _ in range(3):
            socket.create_connection((host, port)).close()

    def test_what_else_the_description_says_is_kept(self) -> None:
        sockets = self.sockets()
        sockets.open("tcp:0:interface=127.0.0.1:protocol=mqtt")
        sockets.open("haproxy:tcp:0:interface=127.0.0.1")
        sockets.open("ssl:0:interface=127.0.0.1")
        self.assertEqual(
            sockets.listen,
            [
                "systemd:domain=INET:index=0:protocol=mqtt",
                "haproxy:systemd:domain=INET:index=1",
                "systemd:domain=INET:index=2:protocol=tls",
            ],
        )

    def test_what_comes_to_a_worker_that_does_not_run_is_closed(self) -> None:
        sockets, readers = self.sockets(2), Readers()
        sockets.open("tcp:0:interface=127.0.0.1")
        sockets.open(f"unix:{os.path.join(self.folder, 'shared')}")
        own, other = (sockets.own(worker) for worker in range(2))
        self.assertEqual((len(own), len(other)), (1, 1))  # the other one is for both
        clients = [socket.create_connection(own[0].getsockname()) for _ in range(20)]
        for client in clients:
            self.addCleanup(client.close)
        closing = Closing(readers, own)
        closing.begin()
        (ear,) = readers.found
        self.assertEqual(ear.fileno(), own[0].fileno())
        for _ in range(21):
            ear.doRead()
        there = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                other[0].accept()[0].close()
                there += 1
        self.assertEqual((closing.end(), closing.end(), readers.found), (20 - there, 0, set()))
        self.assertLess(there, 20)
        for client in clients:
            client.settimeout(10)
            self.assertEqual(client.recv(1), b"")

    def test_a_port_that_another_has_is_refused_although_sockets_may_share_ports(self) -> None:
        theirs = self.sockets()
        theirs.open("tcp:0:interface=127.0.0.1")
        port = theirs.readable.rpartition(":")[2]
        error = self.assertRaises(CannotListen, self.sockets().open, f"tcp:{port}:interface=127.0.0.1")
        self.assertIn("it is in use", str(error))
        self.assertTrue(error.taken)

    def test_workers_share_a_unix_socket(self) -> None:
        sockets, path = self.sockets(), os.path.join(self.folder, "mqtt")
        sockets.open(f"unix:{path}:mode=600")
        self.assertEqual(self.names(sockets, 0), [path] * 3)
        self.assertEqual(sockets.listen, ["systemd:domain=UNIX:index=0"])
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertEqual(sockets.readable, path)

    def test_a_unix_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not(self) -> None:
        path = os.path.join(self.folder, "mqtt")
        left = socket.socket(socket.AF_UNIX)
        left.bind(path)
        left.close()
        self.sockets().open(f"unix:{path}")
        error = self.assertRaises(CannotListen, self.sockets().open, f"unix:{path}")
        self.assertIn("it is in use", str(error))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    def test_what_is_no_socket_is_not_replaced(self) -> None:
        path = os.path.join(self.folder, "data")
        with open(path, "w", encoding="ascii") as file:
            file.write("x")
        self.assertRaises(CannotListen, self.sockets().open, f"unix:{path}")
        with open(path, encoding="ascii") as file:
            self.assertEqual(file.read(), "x")

    def test_each_has_one_where_the_others_find_it(self) -> None:
        sockets = self.sockets()
        own = [worker_dir(self.folder, number) for number in (1, 2, 3)]
        paths = [sibling_socket(own[0], number) for number in (1, 2, 3)]
        for folder in own:
            os.makedirs(folder)
        sockets.open_for_operators(self.folder)
        self.assertEqual(self.names(sockets, 0), paths)
        self.assertEqual(self.names(sockets, 1), 3 * [os.path.join(self.folder, "http")])
        self.assertEqual([os.path.dirname(path) for path in paths], own)
        for path in (*paths, os.path.join(self.folder, "http")):
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(divided(sockets.listen[1])[1], "operator")

    def test_the_group_of_a_directory_may_do_what_it_may_do_there(self) -> None:
        modes = {0o700: 0o600, 0o711: 0o600, 0o755: 0o600, 0o770: 0o660, 0o777: 0o660}
        for mode, expected in modes.items():
            os.chmod(self.folder, mode)
            operator_socket(self.folder).close()  # and is replaced the next time
            self.assertEqual(os.stat(os.path.join(self.folder, "http")).st_mode & 0o777, expected)

    def test_a_folder_that_cannot_be_used_is_named(self) -> None:
        for missing in (os.path.join(self.folder, "missing"), os.path.join(self.folder, 120 * "x")):
            error = self.assertRaises(CannotListen, self.sockets(1).open_for_operators, missing)
            self.assertIn(missing, str(error))
