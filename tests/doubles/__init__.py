"""Doubles: what stands in for parts of the product where a test decides how they behave."""
