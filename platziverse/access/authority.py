"""AccessAuthority: logins through twisted.cred, and access rules, behind the broker's port ``Authority``."""

import os
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, TypeAlias

from attrs import frozen
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.credentials import Anonymous, ICredentials, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from platziverse.access.acl import READ, WRITE, AccessRules, Decision, Subject
from platziverse.access.delays import LoginDelays
from platziverse.access.passwords import LoginsUnavailable, PasswordChecker, PasswordFile
from platziverse.access.scram import METHOD, ScramExchange
from platziverse.broker.interfaces import SERVER, Client
from platziverse.mqtt.errors import ConnectRefused
from platziverse.mqtt.memo import Memo
from platziverse.mqtt.packets import Connect, ConnectReturnCode
from platziverse.mqtt.topics import RESPONSES, is_anothers_response

log = Logger()

#: May this client, by Client Identifier and user name, read or write (the first one) this Topic Name?
Question: TypeAlias = tuple[int, str, str | None, str]

#: Answers remembered for deliveries and publishes, and characters of a question that is.
REMEMBERED: Final = 16_384
LONGEST_QUESTION: Final = 512

#: Seconds between two lines about logins that cannot be checked, however many there are.
QUIET: Final = 10.0


class IUser(Interface):
    """An IUser is the outcome of a login: the user name, or ``None`` for an anonymous client."""


@implementer(IRealm)
class Realm:
    """A Realm turns the answer of a checker into a user name."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        """Return the user for ``avatarId``: bytes of a name, or ``twisted.cred``'s empty tuple for nobody."""
        if IUser not in interfaces:
            raise NotImplementedError("only IUser can be asked for")
        return IUser, avatarId.decode() if isinstance(avatarId, bytes) else None, lambda: None


@frozen
class Explanation:
    """An Explanation says why a client may or may not ``publish``, ``receive`` or ``subscribe``."""

    action: str
    decision: Decision


def is_servers_own(topic: str, announcements: Collection[str]) -> bool:
    """Return whether no client may publish to ``topic``, whatever the rules say.

    :param announcements: Topic Names that are the server's own, beside everything below ``$`` but answers.
    """
    return topic in announcements or (topic[:1] == "$" and not topic.startswith(RESPONSES))


def _is_short(question: Question, _: bool) -> int:
    client_id, username, topic = question[1:]
    return len(client_id) + len(username or "") + len(topic) <= LONGEST_QUESTION


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]") or address


class AccessAuthority:
    """An AccessAuthority asks the password file or table who a client is, and rules what it may do.

    :param clock: steady time, for delays.
    :param checker: ``None``: there are no users, every client is anonymous.
    :param rules: ``None``: everyone may do everything but speak for the server.
    :param anonymous: where clients without a login may come from: ``local``, ``always`` or ``never``.
    :param announcements: Topic Names that the server alone publishes to.
    :param binding: what of an agent must be the user name of its client: ``none``, ``username`` or ``uuid``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        checker: PasswordChecker | None = None,
        rules: AccessRules | None = None,
        anonymous: str = "local",
        binding: str = "none",
        announcements: Collection[str] = (),
    ) -> None:
        self._clock = clock
        self._checker = checker
        self._anonymous = anonymous
        self._binding = binding
        self._announcements = frozenset(announcements)
        self._delays = LoginDelays(clock)
        # Who is not there has the same salt each time that SCRAM asks for it.
        self._secret = os.urandom(32)
        self._portal = Portal(Realm(), [AllowAnonymousAccess(), *([checker] if checker is not None else [])])
        self._verdicts: Memo[Question, bool] = Memo(self._decide, REMEMBERED, _is_short)
        #: How many logins have failed.
        self.failures = 0
        self._quiet_until = 0.0
        self.use(rules)

    def use(self, rules: AccessRules | None) -> None:
        """Put ``rules`` in force, for open connections too."""
        self.rules = rules
        self.restricts = rules is not None
        self._verdicts.clear()

    def use_password_file(self, users: PasswordFile) -> None:
        """Replace the users of the password file; who is connected is another's business."""
        assert self._checker is not None
        self._checker.use_password_file(users)

    @property
    def checks_names(self) -> bool:
        """True when a user name counts only if it was checked."""
        return self.rules is not None or self._checker is not None or self._binding != "none"

    def knows(self, username: str) -> "Deferred[bool]":
        """Fire with whether there is such a user, or there are none at all; see :class:`PasswordChecker`."""
        return succeed(True) if self._checker is None else self._checker.knows(username)

    def lets_in(self, local: bool) -> bool:
        """Return whether a client without a login may connect.

        :param local: it is on this machine.
        """
        return self._anonymous == "always" or (self._anonymous == "local" and local)

    def stop(self) -> None:
        """Check no more passwords, not even of clients that wait."""
        if self._checker is not None:
            self._checker.stop()

    # -- logins ----------------------------------------------------------------------------------

    def login(
        self, connect: Connect, address: str, certificate_user: str | None = None, near: bool = False
    ) -> "Deferred[str | None] | None":
        """Find out who the client is; see ``broker.interfaces.Authority``.

        :param certificate_user: name in a client certificate that TLS has verified; it is proof enough.
        """
        if certificate_user is not None:
            return succeed(certificate_user)
        if connect.username is None or self._checker is None:
            return self._login_anonymous(address, near)
        wait = self._delays.wait(_host(address))
        if wait is None:
            return fail(_too_many())
        # A missing password is not an empty one, and neither lets anyone in.
        if not connect.username or not connect.password:
            return self._refuse(Failure(UnauthorizedLogin("no password")), connect, address)
        credentials = UsernamePassword(connect.username.encode(), connect.password)
        if wait:
            waited: Deferred[None] = deferLater(self._clock, wait)
            checked = waited.addCallback(lambda _: self._enter(credentials))
        else:
            checked = self._enter(credentials)
        return checked.addErrback(self._refuse, connect, address)

    def exchange(self, method: str, client_id: str, address: str) -> "DelayedExchange | None":
        """Begin a login by an Authentication Method; ``None``: there is none of this name, or no users."""
        if method != METHOD or self._checker is None:
            return None
        scram = ScramExchange(self._checker.scram_keys, self._secret)

        def refuse(failure: Failure) -> "Deferred[Any]":
            return self._refuse(failure, Connect(client_id, username=scram.claimed), address)

        return DelayedExchange(scram, partial(self._delays.wait, _host(address)), self._clock, refuse)

    def _enter(self, credentials: ICredentials) -> "Deferred[str | None]":
        entered: Deferred[Any] = self._portal.login(credentials, None, IUser)
        return entered.addCallback(lambda found: found[1])

    def _login_anonymous(self, address: str, near: bool) -> "Deferred[str | None] | None":
        if not self.lets_in(near):
            code = ConnectReturnCode.NOT_AUTHORIZED
            return fail(ConnectRefused(code, f"anonymous clients may not connect from {_host(address)}"))
        if not self.checks_names:
            return None  # nothing depends on the name, so it may be what CONNECT says
        # A name that nobody has checked counts for nothing.
        return self._enter(Anonymous())

    def _refuse(self, failure: Failure, connect: Connect, address: str) -> "Deferred[str | None]":
        if not failure.check(UnauthorizedLogin):
            self._complain(failure, connect, address)
            return fail(ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, "logins cannot be checked"))
        self.failures += 1
        self._delays.failed(_host(address))
        return fail(
            ConnectRefused(
                ConnectReturnCode.BAD_USER_NAME_OR_PASSWORD,
                f"wrong user name or password, user {connect.username!r}",
            )
        )

    def _complain(self, failure: Failure, connect: Connect, address: str) -> None:
        """Log one line, however many clients are waiting; a bug is told each time."""
        if not failure.check(LoginsUnavailable):
            text = "Bug: the login of {address} {client_id!r} as {username!r}"
            name = connect.username
            log.failure(text, failure, address=address, client_id=connect.client_id, username=name)
        elif self._clock.seconds() >= self._quiet_until:
            self._quiet_until = self._clock.seconds() + QUIET
            log.error("Logins cannot be checked: {reason}", reason=failure.getErrorMessage())

    # -- rules -----------------------------------------------------------------------------------

    def reserved(self, topic: str) -> bool:
        """Return whether ``topic`` is the server's own, to which no rule can let a client publish."""
        return is_servers_own(topic, self._announcements)

    def may_publish(self, client: Client, topic: str) -> bool:
        """Return whether a client may publish; asked for every Will, and with rules for every PUBLISH."""
        if is_servers_own(topic, self._announcements):
            return False
        return self.rules is None or self._verdict(WRITE, client, topic)

    def may_subscribe(self, client: Client, topic_filter: str) -> bool:
        """Return ``False`` only when no message that the filter matches could ever be delivered.

        What a client is answered is for it alone, whatever the rules say. ADR 0194
        """
        rules = self.rules
        if topic_filter.startswith(RESPONSES) and client is not SERVER:
            return not is_anothers_response(client.client_id, topic_filter)
        if rules is None or client is SERVER:
            return True
        return rules.decide_filter(Subject(client.client_id, client.username), topic_filter).allowed

    def may_receive(self, client: Client, topic: str) -> bool:
        """Return whether a client may get a message with this Topic Name; asked at every delivery."""
        return self.rules is None or client is SERVER or self._verdict(READ, client, topic)

    def _verdict(self, access: int, client: Client, topic: str) -> bool:
        return self._verdicts[access, client.client_id, client.username, topic]

    def _decide(self, question: Question) -> bool:
        access, client_id, username, topic = question
        assert self.rules is not None
        if access == READ and topic.startswith(RESPONSES):
            return not is_anothers_response(client_id, topic)
        return self.rules.decide(Subject(client_id, username), topic, access).allowed

    def is_admin(self, username: str | None) -> bool:
        """Return whether a user that has been checked may change what others may only look at."""
        return self.rules is not None and username is not None and username in self.rules.admins

    def may_speak_for(self, client: Client, agent_uuid: str, agent_username: str) -> bool:
        """Return whether the client may report as this agent."""
        if self._binding == "none":
            return True
        return client.username == (agent_username if self._binding == "username" else agent_uuid)


def _too_many() -> ConnectRefused:
    return ConnectRefused(ConnectReturnCode.SERVER_UNAVAILABLE, "too many failed logins from its address")


class DelayedExchange:
    """A DelayedExchange is a login in steps which waits, is counted and refused as one with a password is.

    :param wait: returns the seconds until it may begin; ``None``: too many wait already.
    :param refuse: makes of what has failed a :class:`ConnectRefused`.
    """

    def __init__(
        self,
        exchange: ScramExchange,
        wait: Callable[[], float | None],
        clock: IReactorTime,
        refuse: "Callable[[Failure], Deferred[Any]]",
    ) -> None:
        self._exchange, self._wait, self._clock, self._refuse = exchange, wait, clock, refuse
        self._begun = False

    @property
    def username(self) -> str | None:
        """The user name that the client has proven; ``None``: none yet."""
        return self._exchange.username

    def step(self, data: bytes) -> "Deferred[bytes]":
        """Take what the client says; the first time it may have to wait."""
        wait = 0.0 if self._begun else self._wait()
        self._begun = True
        if wait is None:
            return fail(_too_many())
        if not wait:
            return self._exchange.step(data).addErrback(self._refuse)
        waited: Deferred[Any] = deferLater(self._clock, wait)
        return waited.addCallback(lambda _: self._exchange.step(data)).addErrback(self._refuse)


def explain(
    rules: AccessRules | None,
    client_id: str,
    username: str | None,
    topic: str,
    announcements: Collection[str] = (),
) -> list[Explanation]:
    """Say which of ``rules`` decides; needs no running daemon.

    :param announcements: see :func:`is_servers_own`.
    :param topic: a Topic Name, for ``publish`` and ``receive``, or a Topic Filter with wildcards, for
        ``subscribe``.
    """
    subject = Subject(client_id, username)
    everything = Decision(True, None, "there is no ACL file")
    if topic.startswith(RESPONSES):
        return _explain_answers(rules, subject, topic)
    if "+" in topic or "#" in topic:
        return [Explanation("subscribe", rules.decide_filter(subject, topic) if rules else everything)]
    publish, receive = (rules.decide(subject, topic, kind) if rules else everything for kind in (WRITE, READ))
    if is_servers_own(topic, announcements):
        publish = Decision(False, None, "the topic is the server's own")
    return [Explanation("publish", publish), Explanation("receive", receive)]


def _explain_answers(rules: AccessRules | None, subject: Subject, topic: str) -> list[Explanation]:
    """Say who may have what a client is answered, which is for it alone; anybody may answer by the rules."""
    its_own = not is_anothers_response(subject.client_id, topic)
    receive = Decision(its_own, None, "it is for the client with that Client Identifier alone")
    if "+" in topic or "#" in topic:
        return [Explanation("subscribe", receive)]
    everything = Decision(True, None, "there is no ACL file")
    publish = rules.decide(subject, topic, WRITE) if rules is not None else everything
    return [Explanation("publish", publish), Explanation("receive", receive)]
