"""Broker: who gets which message. It knows no transport, no JSON and no SQL."""
