"""Mutated packets and Topic Filters, by the million: nothing but the package's own errors may escape."""
