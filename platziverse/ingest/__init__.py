"""Ingest: group commit. What arrives while a batch commits is the next batch."""
