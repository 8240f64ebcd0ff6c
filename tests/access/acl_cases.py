"""What Mosquitto's documentation says about ACL files, as a table; also run against Mosquitto itself."""

from attrs import frozen


@frozen
class Case:
    """One question to the rules, and what Mosquitto 2.0 does.

    :param action: ``"publish"`` or ``"receive"``.
    """

    acl: str
    client_id: str
    username: "str | None"
    action: str
    topic: str
    allowed: bool


#: /usr/share/doc/mosquitto/examples/aclfile.example, and the examples of mosquitto.conf(5).
DOCUMENTED = """\
# This affects access control for clients with no username.
topic read $SYS/#

# This only affects clients with username "roger".
user roger
topic foo/bar

# This affects all clients.
pattern write $SYS/broker/connection/%c/state
pattern write sensor/%u/data
"""

#: The manual, sentence by sentence: access is optional, "deny" comes first wherever it stands, patterns are
#: for everyone "even if the user keyword has previously been given", and a second pattern sign.
MANUAL = """\
topic deny news/secret
topic read news/#
topic write inbox/+

user ana
topic both/ways
topic readwrite one/#
topic deny one/+/private

pattern write sensor/%u/data
pattern read status/%c
pattern deny sensor/eve/data
"""

DENYING = """\
topic public/#
topic deny public/secret
topic read spaces in the topic/#

user ana
topic sensors/#
topic deny sensors/+/safe
topic read only/read
topic write only/write

user bob
topic read +/b/#

user eve mallory
topic readwrite two/names

user idle

user ana
topic later/#

pattern read homes/%u/%c/state
pattern deny homes/+/forbidden/#
pattern readwrite homes/%u/#
pattern deny later/no
"""

CASES = [
    Case(acl, *row)
    for acl, rows in (
        (
            DOCUMENTED,
            [
                ("c1", "roger", "publish", "foo/bar", True),
                ("c1", "roger", "receive", "foo/bar", True),
                ("c1", "roger", "publish", "foo", False),
                ("c1", "roger", "publish", "foo/bar/baz", False),
                ("c1", None, "publish", "foo/bar", False),
                ("c1", "ana", "receive", "foo/bar", False),
                ("c1", "roger", "publish", "sensor/roger/data", True),
                ("c1", "roger", "receive", "sensor/roger/data", False),
                ("c1", "roger", "publish", "sensor/ana/data", False),
                ("c1", "ana", "publish", "sensor/ana/data", True),
                ("c1", None, "publish", "sensor//data", False),
                ("+", "roger", "publish", "sensor/roger/data", False),
                ("#", "roger", "publish", "sensor/roger/data", False),
                ("+", "roger", "publish", "foo/bar", True),
                ("c1", "+", "publish", "sensor/ana/data", False),
                # The server's own topics.
                ("c1", None, "receive", "$SYS/broker/version", True),
                ("c1", "roger", "receive", "$SYS/broker/version", False),
            ],
        ),
        (
            MANUAL,
            [
                ("c1", None, "receive", "news/today", True),
                ("c1", None, "publish", "news/today", False),
                ("c1", None, "receive", "news/secret", False),
                ("c1", None, "publish", "inbox/c1", True),
                ("c1", None, "receive", "inbox/c1", False),
                ("c1", None, "publish", "inbox/c1/deep", False),
                ("c1", "ana", "receive", "news/today", False),
                ("c1", "ana", "publish", "both/ways", True),
                ("c1", "ana", "receive", "both/ways", True),
                ("c1", "ana", "receive", "one/two/three", True),
                ("c1", "ana", "publish", "one/two/private", False),
                ("c1", "ana", "receive", "one/two/private", False),
                ("c1", "ana", "publish", "sensor/ana/data", True),
                ("c1", "bob", "publish", "sensor/bob/data", True),
                ("c1", "bob", "publish", "sensor/ana/data", False),
                ("c1", "bob", "publish", "sensor/bob/other", False),
                ("c1", "eve", "publish", "sensor/eve/data", False),
                ("c1", "bob", "receive", "status/c1", True),
                ("c1", None, "receive", "status/c1", True),
                ("c1", "bob", "receive", "status/c2", False),
                ("c1", "bob", "publish", "status/c1", False),
            ],
        ),
        (
            DENYING,
            [
                ("c1", None, "publish", "public/news", True),
                ("c1", None, "receive", "public/news", True),
                ("c1", None, "receive", "public", True),
                ("c1", None, "publish", "public/secret", False),
                ("c1", None, "receive", "public/secret", False),
                ("c1", None, "receive", "spaces in the topic/x", True),
                ("c1", None, "publish", "spaces in the topic/x", False),
                ("c1", "ana", "receive", "public/news", False),
                ("c1", "ana", "publish", "sensors/1/temperature", True),
                ("c1", "ana", "publish", "sensors/1/safe", False),
                ("c1", "ana", "receive", "sensors/1/safe", False),
                ("c1", "ana", "publish", "sensors/1/safe/not", True),
                ("c1", "ana", "receive", "only/read", True),
                ("c1", "ana", "publish", "only/read", False),
                ("c1", "ana", "receive", "only/write", False),
                ("c1", "ana", "publish", "only/write", True),
                ("c1", "ana", "publish", "later/yes", True),
                ("c1", "ana", "publish", "later/no", True),
                ("c1", "bob", "receive", "a/b", True),
                ("c1", "bob", "receive", "a/b/c/d", True),
                ("c1", "bob", "publish", "a/b", False),
                ("c1", "bob", "receive", "a/c", False),
                ("c1", "eve mallory", "publish", "two/names", True),
                ("c1", "idle", "publish", "public/news", False),
                ("c1", "idle", "publish", "homes/idle/x", True),
                ("c1", "idle", "receive", "homes/idle/c1/state", True),
                ("forbidden", "idle", "receive", "homes/idle/forbidden/state", False),
                ("c1", "idle", "publish", "homes/bob/x", False),
                ("c1", "bob", "publish", "homes/bob/x", True),
                ("c1", None, "receive", "homes//c1/state", False),
                ("homes/c", "idle", "publish", "homes/idle/x", True),
                ("%u", "bob", "receive", "homes/bob/bob/state", True),
            ],
        ),
    )
    for row in rows
]

#: Where we are stricter than Mosquitto, each with the row of the reliability notes or the reason.
STRICTER = [
    # The manual's rule for bridges, which we are no end of: $ topics are the server's.
    Case(DOCUMENTED, "c1", None, "publish", "$SYS/broker/connection/c1/state", False),
    # Row 20: a name that spans levels never takes the place of a pattern's one level.
    Case("pattern readwrite homes/%u/x\n", "c1", "a/b", "publish", "homes/a/b/x", False),
    Case("pattern readwrite homes/%c/x\n", "a/b", None, "publish", "homes/a/b/x", False),
    # A client cannot name itself into the server's topics.
    Case("pattern read %c/#\n", "$SYS", None, "receive", "$SYS/broker/uptime", False),
]
