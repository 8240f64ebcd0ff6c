"""Who runs the embedded PostgreSQL and where it lives."""

import os
import shutil
import stat
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from platziverse.embedded.cluster import kept_password
from platziverse.embedded.places import (
    EmbeddedError,
    Owner,
    choose_owner,
    find_home,
    find_socket_dir,
    make_dir,
    make_state_dir,
    reachable,
    write_private,
)
from tests.postgres.scratch import open_dir

STRANGER = Owner(54321, 54321)


class PlacesCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.dir = open_dir()
        self.addCleanup(shutil.rmtree, self.dir, True)

    def mode(self, *parts: str) -> int:
        return stat.S_IMODE(os.stat(os.path.join(self.dir, *parts)).st_mode)


class Directories(PlacesCase):
    def test_a_new_directory_has_its_mode_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0o077))
        make_dir(os.path.join(self.dir, "a", "b"), 0o711)
        self.assertEqual((self.mode("a"), self.mode("a", "b")), (0o711, 0o711))

    def test_a_directory_that_was_there_keeps_its_mode(self) -> None:
        os.mkdir(os.path.join(self.dir, "a"), 0o750)
        make_dir(os.path.join(self.dir, "a", "b"), 0o700)
        self.assertEqual((self.mode("a"), self.mode("a", "b")), (0o750, 0o700))

    def test_a_closed_directory_anywhere_above_is_not_reachable(self) -> None:
        make_dir(os.path.join(self.dir, "a", "b"), 0o711)
        inner = os.path.join(self.dir, "a", "b")
        self.assertTrue(reachable(inner, STRANGER))
        os.chmod(os.path.join(self.dir, "a"), 0o700)
        self.assertFalse(reachable(inner, STRANGER))
        self.assertTrue(reachable(inner, Owner(os.geteuid(), os.getegid())))

    def test_what_does_not_exist_is_not_reachable(self) -> None:
        self.assertFalse(reachable(os.path.join(self.dir, "none"), STRANGER))

    def test_a_path_through_a_file_is_one_line(self) -> None:
        Path(self.dir, "file").write_text("")
        error = self.assertRaises(EmbeddedError, make_dir, os.path.join(self.dir, "file", "x"), 0o700)
        self.assertNotIn("\n", str(error))


class TheHome(PlacesCase):
    def setUp(self) -> None:
        super().setUp()
        self.state_dir = os.path.join(self.dir, "state")
        make_state_dir(self.state_dir)
        self.owner = choose_owner(self.state_dir)

    def test_it_is_private_to_whoever_runs_postgresql(self) -> None:
        home = find_home(self.state_dir, self.owner)
        self.assertEqual((self.mode("state", "postgres"), os.stat(home).st_uid), (0o700, self.owner.uid))
        self.assertNotEqual(self.owner.uid, 0)

    def test_an_empty_one_made_by_roots_own_hand_is_taken(self) -> None:
        os.mkdir(os.path.join(self.state_dir, "postgres"), 0o700)
        self.assertEqual(os.stat(find_home(self.state_dir, self.owner)).st_uid, self.owner.uid)

    def test_somebody_elses_is_refused(self) -> None:
        find_home(self.state_dir, self.owner)
        error = self.assertRaises(EmbeddedError, find_home, self.state_dir, STRANGER)
        self.assertIn("belongs to user", str(error))

    def test_a_link_that_leads_nowhere_is_made_again(self) -> None:
        if os.geteuid():
            raise SkipTest("only root's data goes elsewhere")
        os.chmod(self.state_dir, 0o700)
        os.symlink("/nonexistent", os.path.join(self.state_dir, "postgres"))
        home = find_home(self.state_dir, self.owner, os.path.join(self.dir, "var"))
        self.assertEqual(os.path.dirname(home), os.path.join(self.dir, "var"))

    def test_root_gives_it_to_the_owner_of_the_state_directory(self) -> None:
        if os.geteuid():
            raise SkipTest("only root can choose")
        os.chown(self.state_dir, STRANGER.uid, STRANGER.gid)
        self.assertEqual(choose_owner(self.state_dir), STRANGER)


class PrivateFiles(PlacesCase):
    def test_a_file_is_its_owners_alone_and_replaced_as_a_whole(self) -> None:
        path = os.path.join(self.dir, "secret")
        for text in "first\n", "second\n":
            write_private(path, text)
            self.assertEqual((Path(path).read_text(), self.mode("secret")), (text, 0o600))
        self.assertEqual(os.listdir(self.dir), ["secret"])

    def test_one_that_cannot_be_written_leaves_what_was_there(self) -> None:
        path = os.path.join(self.dir, "secret")
        write_private(path, "first\n")
        os.symlink("elsewhere", f"{path}.new")
        self.assertRaises(OSError, write_private, path, "second\n")
        self.assertEqual(Path(path).read_text(), "first\n")

    def test_a_password_is_kept_and_made_anew_when_its_file_is_damaged(self) -> None:
        path = os.path.join(self.dir, "pgpass")
        begins = "localhost:*:platziverse:platzi:"
        whole = f"{begins}{kept_password(path)}\n"
        self.assertEqual(Path(path).read_text(), whole)
        self.assertEqual(f"{begins}{kept_password(path)}\n", whole)
        for damaged in "", "\0" * 40, f"{begins}\n", whole[:-9], begins[:20], "ñ":
            Path(path).write_text(damaged)
            made = kept_password(path)
            self.assertEqual(len(made), 24)
            self.assertEqual(Path(path).read_text(), f"{begins}{made}\n")


class TheSocket(PlacesCase):
    def setUp(self) -> None:
        super().setUp()
        self.owner = choose_owner(self.dir)

    def test_it_is_with_the_data_where_that_can_be(self) -> None:
        self.assertEqual(find_socket_dir("/short/data", self.owner), "/short/data")

    def test_a_long_path_or_a_comma_gives_it_a_private_place_of_its_own(self) -> None:
        for data in ("/" + "long/" * 25, f"{self.dir}/one,two"):
            path = find_socket_dir(data, self.owner)
            self.addCleanup(shutil.rmtree, path, True)
            found = os.stat(path)
            self.assertEqual((stat.S_IMODE(found.st_mode), found.st_uid), (0o700, self.owner.uid))
            self.assertLess(len(f"{path}/.s.PGSQL.65535"), 108)
            self.assertEqual(find_socket_dir(data, self.owner), path)

    def test_a_place_that_somebody_prepared_is_not_used(self) -> None:
        data = f"{self.dir}/one,two"
        prepared = find_socket_dir(data, self.owner)
        self.addCleanup(shutil.rmtree, prepared, True)
        os.chmod(prepared, 0o777)
        another = find_socket_dir(data, self.owner)
        self.addCleanup(shutil.rmtree, another, True)
        self.assertNotEqual(another, prepared)
