"""platziverse: an MQTT broker, for 3.1.1 and 5, and the recorder behind it."""

from typing import Final

__version__: Final = "0.1.0"
