"""MQTT: the wire, pure. Bytes become Control Packets and back."""
