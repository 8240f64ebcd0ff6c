"""PostgreSQL: connections, the schema and its upkeep, reads."""
