"""Net: one client's connection, from CONNECT to its end."""
