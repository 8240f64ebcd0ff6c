"""Daemon: the process. It alone knows every room, and the order in which they start and stop."""
