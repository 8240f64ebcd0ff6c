"""Kills the real daemon and a real PostgreSQL under load from real sockets, and counts what is left.

``python -m tests.crash --kills 1000 --faults 200`` is the long run; ``test_crash.py`` the short one.
"""
