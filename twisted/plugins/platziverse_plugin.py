"""Makes ``twistd platziverse`` known. Nothing of ours is imported until it is used."""

from twisted.application.service import ServiceMaker

platziverse = ServiceMaker(
    "platziverse",
    "platziverse.service",
    "An MQTT broker that acknowledges a metric when PostgreSQL has committed it.",
    "platziverse",
)
