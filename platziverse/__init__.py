"""platziverse: an MQTT 3.1.1 broker and the recorder behind it."""

from typing import Final

__version__: Final = "0.1.0"
