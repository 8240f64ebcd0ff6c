"""A recorder as many write it first: paho-mqtt and psycopg2; not ours, but what ours is compared with.

``python -m bench.script PORT DSN``
"""

import json
import sys
from typing import Any

import psycopg2
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion


class Recorder:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None

    def message(self, client: Client, userdata: object, message: Any) -> None:
        document = json.loads(message.payload)
        device, moment = message.topic.split("/")[1], document.pop("Time") + "Z"
        document.pop("TempUnit")
        values = {**document.pop("AM2301"), **document}
        rows = [(device, moment, key, value) for key, value in values.items()]
        try:
            if self._connection is None:
                self._connection = psycopg2.connect(self._dsn)
            with self._connection, self._connection.cursor() as cursor:
                cursor.executemany("INSERT INTO readings VALUES (%s, %s, %s, %s)", rows)
        except psycopg2.Error as error:
            print(error, file=sys.stderr)
            self._connection = None


def main(port: int, dsn: str) -> None:
    client = Client(CallbackAPIVersion.VERSION2, "recorder", clean_session=False)
    client.on_message = Recorder(dsn).message
    client.on_connect = lambda client, *_: client.subscribe("tele/+/SENSOR", 1)
    client.connect("127.0.0.1", port)
    client.loop_forever(retry_first_connection=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
