"""platziverse beside other brokers, on this machine: ``python -m bench`` (``make bench``)."""
