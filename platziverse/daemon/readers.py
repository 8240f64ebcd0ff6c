"""Readers: who may read over HTTP, by the users and the access rules of MQTT."""

from typing import Final

from attrs import field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from platziverse.access.authority import AccessAuthority
from platziverse.broker.interfaces import Client
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.packets import Connect, ConnectReturnCode
from platziverse.net.peer import certificate_user
from platziverse.web.answers import HTTPError
from platziverse.web.readers import Login, Reader

#: Whoever may receive this may read.
TOPIC: Final = "agent/message"

#: What is answered in the place of a CONNACK.
STATUS: Final = {
    ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD: (401, "wrong user name or password"),
    ConnectReturnCode.NOT_AUTHORIZED: (401, "a login is needed, one of MQTT; see the setting web.readers"),
    ConnectReturnCode.SERVER_UNAVAILABLE: (503, "logins cannot be checked now, or too many have failed"),
}


@frozen
class MQTTReader:
    """An MQTTReader may read what an MQTT client with the same login may receive.

    Rules for a Client Identifier do not apply, as it has none.
    """

    username: str | None
    _authority: AccessAuthority = field(eq=False)
    _client: Client = field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_client", Client("", 0, username=self.username))

    @property
    def may_read(self) -> bool:
        """Return whether it may read at all, by the rules of this moment."""
        return self.may_receive(TOPIC)

    @property
    def may_change(self) -> bool:
        """Return whether it has the role ``admin``, by the rules of this moment."""
        return self._authority.is_admin(self.username)

    def may_receive(self, topic: str) -> bool:
        """Return whether it may receive messages of a Topic Name, by the rules of this moment."""
        return self._authority.may_receive(self._client, topic)


class MQTTLogins:
    """MQTTLogins is the ``Logins`` of a daemon: delays, users and rules are those of MQTT."""

    def __init__(self, authority: AccessAuthority) -> None:
        self._authority = authority

    @property
    def has_admins(self) -> bool:
        """Return whether a user has the role ``admin``."""
        rules = self._authority.rules
        return rules is not None and bool(rules.admins)

    def lets_in(self, near: bool) -> bool:
        """Return whether a reader without a login may read."""
        return self._authority.lets_in(near)

    def log_in(self, login: Login) -> "Deferred[Reader]":
        """Find out who a reader is; see ``web.readers.Logins``."""
        connect = Connect("", username=login.username, password=login.password)
        try:
            named = certificate_user(login.transport)
        except ConnectRefused:
            return fail(HTTPError(403, "the certificate has no usable name"))
        answer = self._authority.login(connect, login.address, named, login.near)
        if answer is None:  # there are no users, and nothing depends on names
            answer = succeed(None)
        return answer.addCallbacks(self._reader, self._refuse, (login,))

    def _reader(self, username: str | None, login: Login) -> Reader:
        """Return a reader. :raises HTTPError: it has shown a name that nobody can check."""
        if username is None and login.username is not None:
            raise HTTPError(*STATUS[ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD])
        return MQTTReader(username, self._authority)

    def _refuse(self, failure: Failure) -> Failure:
        failure.trap(ConnectRefused)
        refused: ConnectRefused = failure.value  # type: ignore[assignment]
        return Failure(HTTPError(*STATUS[refused.return_code]))
