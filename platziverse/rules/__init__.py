"""Rules: how messages of any device become Reports, as configured in TOML."""
