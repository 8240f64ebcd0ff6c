"""Tests of platziverse.bus."""
