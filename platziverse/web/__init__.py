"""Web: HTTP on the shared port."""
