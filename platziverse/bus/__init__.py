"""Bus: what daemons tell each other."""
