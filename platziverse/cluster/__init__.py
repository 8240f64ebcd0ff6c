"""Cluster: several daemons that behave like one broker. Pure: it is given a bus, a clock and a broker."""
