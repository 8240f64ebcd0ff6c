"""Agents: what ``agent/message`` means, and what becomes of agents when connections end."""
