"""Command: the ``platziverse`` command line."""
