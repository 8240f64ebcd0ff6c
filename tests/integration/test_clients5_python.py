"""The clients of MQTT 5 that are written in Python: paho-mqtt, aiomqtt, gmqtt."""

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.clients5 import ClientContract
from tests.integration.clients5_python import AiomqttClient, GmqttClient, PahoClient


class Paho(ClientContract, SynchronousTestCase):
    make = PahoClient


class Aiomqtt(ClientContract, SynchronousTestCase):
    make = AiomqttClient


class Gmqtt(ClientContract, SynchronousTestCase):
    make = GmqttClient
