"""Durable: what outlives the process. Sessions, messages that wait for them, Retained Messages, Wills."""
