"""Which Topic Filter gets which Topic Name: the examples of section 4.7 and their neighbours."""

from collections.abc import Iterator
from typing import Any

from tests.vectors.build import ack, expect, publish, send, suback, subscribe, vector

MATCHES = """
    sport/tennis/player1/#  sport/tennis/player1
    sport/tennis/player1/#  sport/tennis/player1/ranking
    sport/tennis/player1/#  sport/tennis/player1/score/wimbledon
    sport/#                 sport
    #                       sport
    #                       /
    #                       a/b/c/d/e/f/g
    sport/tennis/+          sport/tennis/player1
    sport/+                 sport/
    +/+                     /finance
    /+                      /finance
    +                       finance
    +/tennis/#              sport/tennis
    +/tennis/#              sport/tennis/a/b
    sport/+/player1         sport/tennis/player1
    a/+/+/d                 a/b/c/d
    a/+/#                   a/b
    a/+/#                   a//c
    +/b/+                   /b/
    a//b                    a//b
    /                       /
    //                      //
    +/                      a/
    a/#                     a/
    ACCOUNTS                ACCOUNTS
    a/$b                    a/$b
    a/#                     a/$b
    +/$b                    a/$b
"""
DIFFERS = """
    sport/tennis/+          sport/tennis/player1/ranking
    sport/+                 sport
    +                       /finance
    sport                   sport/
    sport/                  sport
    /finance                finance
    ACCOUNTS                Accounts
    sport/#                 sports
    sport/tennis/player1/#  sport/tennis/player10
    a/+                     a/b/c
    +/+                     a
    +/+/+                   a/b
    a/+/c                   a/b/c/d
    a/b                     a/b/c
    /+                      a/b/c
    a//b                    a/b
    +/b                     a/b/b
    a/+/#                   a
"""


def _pairs(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def matching() -> Iterator[dict[str, Any]]:
    for topic_filter, topic in _pairs(MATCHES):
        data = publish(topic, b"x")
        steps = [send(subscribe((topic_filter, 0))), expect(suback(0)), send(data), expect(data)]
        yield vector(f"{topic_filter} gets {topic}", "MQTT-3.3.2-3 MQTT-4.7.3-4", *steps, rows=(53,))
    for topic_filter, topic in _pairs(DIFFERS):
        steps = [send(subscribe((topic_filter, 0))), expect(suback(0))]
        steps += [send(publish(topic, b"x", 1, 8)), expect(ack(0x40, 8))]
        yield vector(f"{topic_filter} does not get {topic}", "MQTT-3.3.2-3 MQTT-4.7.3-4", *steps, rows=(53,))
