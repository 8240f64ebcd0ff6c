"""Where clients of several daemons connect to."""

import random
from collections.abc import Sequence

from attrs import define, field

from tests.crash.visitor import Visitor


@define(eq=False)
class Places:
    """Clients with Clean Session 1 connect anywhere; the others to the daemon that has their Session.

    :param ports: of the daemons.
    :param moving: Sessions move with their clients, so all connect anywhere.
    :ivar homes: Client Identifier → which daemon has its Session.
    :ivar closed: daemons to which no client with a Session may connect for now, as it may move to an heir.
    :ivar out: daemons to which nobody may connect for now.
    """

    ports: Sequence[int]
    rng: random.Random
    moving: bool = False
    homes: dict[str, int] = field(factory=dict)
    closed: set[int] = field(factory=set)
    out: set[int] = field(factory=set)

    def __call__(self, visitor: Visitor) -> "tuple[str, int] | None":
        if self.moving or not visitor.persistent:
            return self._address(self.rng.choice([n for n in range(len(self.ports)) if n not in self.out]))
        home = self.homes.setdefault(visitor.name, len(self.homes) % len(self.ports))
        return None if home in self.closed | self.out else self._address(home)

    def _address(self, number: int) -> tuple[str, int]:
        return "127.0.0.1", self.ports[number]
