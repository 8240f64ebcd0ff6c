"""Embedded: the private PostgreSQL of a machine that has none."""
