"""Which line obeys which normative statement of MQTT 3.1.1, and which tests show it."""
