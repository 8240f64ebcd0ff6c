"""CPU time and memory of other processes."""

import mmap
import os
import subprocess
import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from bench.accounting import cpu_seconds, resident, settle, tree_cpu_seconds

#: Spends a fifth of a second of CPU time, half of it in a thread, says so, and waits.
SPENDER = """
import sys, threading, time
def spend():
    end = time.thread_time() + 0.1
    while time.thread_time() < end: pass
thread = threading.Thread(target=spend)
thread.start()
thread.join()
spend()
print("spent", flush=True)
sys.stdin.read()
"""
#: Does it in a child of its own that has ended.
PARENT = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPENDER!r}], stdin=subprocess.DEVNULL)"
)


class AccountingTests(SynchronousTestCase):
    def started(self, program: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{program}\nsys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        for clean_up in (process.stdout.close, process.wait, process.stdin.close):
            self.addCleanup(clean_up)
        self.assertEqual(process.stdout.readline(), b"spent\n")
        return process.pid

    def test_our_own_clock_reads_the_same_from_outside(self) -> None:
        self.assertLess(abs(cpu_seconds([os.getpid()]) - time.process_time()), 0.05)

    def test_ended_threads_are_included(self) -> None:
        self.assertTrue(0.2 <= cpu_seconds([self.started(SPENDER)]) < 2.0)

    def test_ended_children_are_included_in_the_tree(self) -> None:
        pid = self.started(PARENT)
        settle([pid])
        self.assertGreaterEqual(tree_cpu_seconds(pid), 0.18)

    def test_memory_is_counted_in_bytes(self) -> None:
        before = resident(os.getpid())
        with mmap.mmap(-1, 30_000_000) as fresh:  # what malloc gives may have been resident before
            fresh.write(b"x" * len(fresh))
            self.assertTrue(25e6 < resident(os.getpid()) - before < 90e6)
