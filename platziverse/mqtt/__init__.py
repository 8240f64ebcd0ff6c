"""MQTT: the wire, pure. Bytes become Control Packets and back.

MQTT 3.1.1 as it is, without extensions [MQTT-7.0.0-2], and MQTT 5.
"""
