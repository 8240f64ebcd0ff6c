"""The wire: bytes to Control Packets and back. Pure: no Twisted, no clock, no log, no I/O.

MQTT 3.1.1 as it is, without extensions [MQTT-7.0.0-2].
"""
