"""paho-mqtt, aiomqtt and gmqtt, each as a client of the contract."""

import asyncio
import logging
import queue
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import aiomqtt
import gmqtt
import paho.mqtt.client as paho
from gmqtt.storage import PersistentStorage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.integration.clients5 import Message, Properties, Start
from tests.integration.daemon import PATIENCE
from tests.proxy import Proxy

T = TypeVar("T")
HOST: Final = "127.0.0.1"


def properties(packet: int, **values: Any) -> PahoProperties:
    """Properties of paho, by the names that it has for them."""
    found = PahoProperties(packet)
    for name, value in values.items():
        setattr(found, name, value)
    return found


def to_paho(packet: int, values: Properties) -> PahoProperties:
    """Of ours: ``content_type`` is its ``ContentType``."""
    return properties(packet, **{name.title().replace("_", ""): value for name, value in values.items()})


def from_paho(found: PahoProperties | None) -> Properties:
    values = {} if found is None else vars(found)
    names = {name: name.title().replace("_", "") for name in _NAMES}
    return {name: values[paho_name] for name, paho_name in names.items() if paho_name in values}


_NAMES: Final = (
    "content_type",
    "response_topic",
    "correlation_data",
    "payload_format_indicator",
    "user_property",
    "message_expiry_interval",
)


class Paho5:
    """A paho-mqtt client of MQTT 5 whose events can be waited for."""

    def __init__(self, port: int, client_id: str) -> None:
        self.events: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.port, self.ended = port, False
        self.client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        client.on_message = lambda client, data, message: self.events.put(("message", message))
        client.on_connect = lambda c, d, flags, code, props: self.events.put(
            ("connect", (flags, code, props))
        )
        client.on_subscribe = lambda c, d, mid, codes, props: self.events.put(("subscribe", codes))
        client.on_publish = lambda c, d, mid, code, props: self.events.put(("publish", (code, props)))
        client.on_disconnect = lambda c, d, flags, code, props: self.events.put(("disconnect", (code, props)))

    def start(self, clean: bool = True, **values: Any) -> Any:
        asked = properties(PacketTypes.CONNECT, **values)
        self.client.connect(HOST, self.port, clean_start=clean, properties=asked)
        self.client.loop_start()
        return self.event("connect")

    def event(self, kind: str) -> Any:
        while True:
            name, value = self.events.get(timeout=PATIENCE)
            self.ended = self.ended or name == "disconnect"
            if name == kind:
                return value

    def publish(self, topic: str, payload: bytes, qos: int, **more: Any) -> Any:
        """Publish at QoS 1 or 2; return code and Properties of the answer."""
        self.client.publish(topic, payload, qos, **more)
        return self.event("publish")

    def subscribe(self, topic_filter: str, qos: int, **options: Any) -> int:
        self.client.subscribe(topic_filter, options=SubscribeOptions(qos, **options))
        code: int = self.event("subscribe")[0].value
        return code

    def stop(self) -> None:
        if not self.ended:
            self.client.disconnect()
            self.event("disconnect")
        self.close()

    def close(self) -> None:
        """Stop, and close all sockets, which paho leaves to the collector of garbage."""
        self.client.loop_stop()
        self.client.reinitialise()


class PahoClient:
    """paho-mqtt. Of PUBREC it looks at nothing but the Packet Identifier, and goes on to PUBREL."""

    shown: Final[dict[int, str | None]] = {1: "Payload format invalid: JSON is malformed", 2: None}

    def __init__(self, port: int, client_id: str) -> None:
        self._paho = Paho5(port, client_id)
        self._messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._paho.client.on_message = lambda client, data, message: self._messages.put(message)

    def start(self, start: Start) -> None:
        if (will := start.will) is not None:
            delayed = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay)
            self._paho.client.will_set(will.topic, will.payload, 1, properties=delayed)
        self._paho.start(start.clean, SessionExpiryInterval=start.expiry)
        for topic_filter in start.filters:
            assert self._paho.subscribe(topic_filter, 2) == 2

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **values: Any) -> str:
        sent = to_paho(PacketTypes.PUBLISH, values)
        code, told = self._paho.publish(topic, payload, qos, retain=retain, properties=sent)
        return f"{code}: {told.ReasonString}" if qos == 1 and code.is_failure else ""

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            self.publish("" if number else topic, payload, 1, topic_alias=1)

    def take(self) -> Message:
        message = self._messages.get(timeout=PATIENCE)
        more = from_paho(message.properties)
        return Message(message.topic, bytes(message.payload), message.qos, message.retain, more)

    def cut(self) -> None:
        sock: Any = self._paho.client.socket()
        sock.shutdown(socket.SHUT_RDWR)
        self._paho.event("disconnect")
        self._paho.close()

    def stop(self) -> None:
        self._paho.stop()


class Loop:
    """An event loop of asyncio in a thread of its own, as both other clients want one."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def end(self) -> None:
        """End it with all that the client may have begun."""
        self.run(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class AiomqttClient:
    """aiomqtt. It drops the Reason Code of every acknowledgement."""

    shown: Final[dict[int, str | None]] = {1: None, 2: None}

    def __init__(self, port: int, client_id: str) -> None:
        self._proxy, self._client_id, self._ended = Proxy(port), client_id, False

    def start(self, start: Start) -> None:
        self._loop = Loop()
        self._loop.run(self._start(start))

    async def _start(self, start: Start) -> None:
        will = None
        if (left := start.will) is not None:
            delayed = properties(PacketTypes.WILLMESSAGE, WillDelayInterval=left.delay)
            will = aiomqtt.Will(left.topic, left.payload, 1, properties=delayed)
        self._client = aiomqtt.Client(
            HOST,
            self._proxy.port,
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=start.clean,
            properties=properties(PacketTypes.CONNECT, SessionExpiryInterval=start.expiry),
            will=will,
        )
        await self._client.__aenter__()
        for topic_filter in start.filters:
            [code] = await self._client.subscribe(topic_filter, 2)
            assert code.value == 2

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **values: Any) -> str:
        sent = to_paho(PacketTypes.PUBLISH, values)
        try:
            self._loop.run(self._client.publish(topic, payload, qos, retain, sent))
        except aiomqtt.MqttError as error:
            return str(error)
        return ""

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            self.publish("" if number else topic, payload, 1, topic_alias=1)

    def take(self) -> Message:
        message = self._loop.run(self._client.messages.__anext__())
        more = from_paho(message.properties)
        return Message(message.topic.value, message.payload, message.qos, message.retain, more)

    def cut(self) -> None:
        """It has no way to."""
        self._ended = True
        self._proxy.stop()
        with suppress(aiomqtt.MqttError):
            self.take()
        self._loop.end()

    def stop(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.run(self._client.__aexit__(None, None, None))
            self._loop.end()
            self._proxy.stop()


class GmqttClient:
    """gmqtt. It does not look at the code of PUBACK; that of PUBREC is in its log.

    It can wait for no acknowledgement, but says how many messages have none.
    """

    shown: Final[dict[int, str | None]] = {1: None, 2: "refused (0x99)"}

    def __init__(self, port: int, client_id: str) -> None:
        self._proxy, self._client_id, self._ended = Proxy(port), client_id, False
        self._storage = PersistentStorage()
        self._messages: queue.Queue[Message] = queue.Queue()
        self._log: list[str] = []

    def start(self, start: Start) -> None:
        self._loop = Loop()
        self._loop.run(self._start(start))

    async def _start(self, start: Start) -> None:
        will = None
        if (left := start.will) is not None:
            will = gmqtt.Message(left.topic, left.payload, 1, will_delay_interval=left.delay)
        logger = logging.Logger(self._client_id)
        logger.addFilter(self._note)
        self._client = gmqtt.Client(
            self._client_id,
            start.clean,
            will_message=will,
            persistent_storage=self._storage,
            logger=logger,
            session_expiry_interval=start.expiry,
            topic_alias_maximum=10,
        )
        self._client.set_config({"reconnect_retries": -2})  # with 0 it comes back once; -1 is for ever
        granted: asyncio.Queue[tuple[int, ...]] = asyncio.Queue()
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda client, mid, codes, more: granted.put_nowait(codes)
        await self._client.connect(HOST, self._proxy.port)
        for topic_filter in start.filters:
            self._client.subscribe(topic_filter, qos=2)
            assert await asyncio.wait_for(granted.get(), PATIENCE) == (2,)

    def _note(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self._log.append(record.getMessage())
        return False

    def _on_message(self, client: Any, topic: str, payload: bytes, qos: int, more: dict[str, Any]) -> int:
        pairs = {name: value for name, value in more.items() if name not in ("dup", "retain", "topic_alias")}
        found: Properties = {
            "payload_format_indicator" if name == "payload_format_id" else name: value
            if name == "user_property"
            else value[0]
            for name, value in pairs.items()
        }
        self._messages.put(Message(topic, payload, qos, bool(more["retain"]), found))
        return 0

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, **values: Any) -> str:
        if "payload_format_indicator" in values:
            values["payload_format_id"] = values.pop("payload_format_indicator")
        self._log.clear()
        self._loop.run(self._publish(gmqtt.Message(topic, payload, qos, retain, **values)))
        return "\n".join(self._log)

    async def _publish(self, message: Any) -> None:
        self._client.publish(message)
        await self._storage.wait_empty()

    def alias(self, topic: str, payloads: list[bytes]) -> None:
        for number, payload in enumerate(payloads):
            self.publish("" if number else topic, payload, 1, topic_alias=1)

    def take(self) -> Message:
        return self._messages.get(timeout=PATIENCE)

    def cut(self) -> None:
        """It has no way to."""
        self._end()

    def stop(self) -> None:
        if not self._ended:
            self._loop.run(self._client.disconnect())
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._proxy.stop()
        self._loop.end()
