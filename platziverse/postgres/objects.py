"""Compares the tables of a database with those that our schema makes there, object by object.

What they should be is not written down a second time: the steps run in a schema of their own, in a
transaction that is rolled back.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

_EXPECTED: Final = "platziverse_expected"
#: Name and description of every object of a schema that is ours, or stands on a table of ours.
_OBJECTS: Final = """WITH ours AS (
    SELECT oid, relname, relispartition, relkind FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
    AND (relname = ANY(%(tables)s) OR relname ~ '^(metrics(_5m|_1h)?|message_keys)_(default|[0-9_]+)$'))
SELECT 'column ' || relname || '.' || attname, format_type(atttypid, atttypmod)
    || CASE WHEN attnotnull THEN ' not null' ELSE '' END
    || CASE WHEN attgenerated <> '' OR attidentity <> '' THEN ' generated'
        WHEN atthasdef THEN ' default' ELSE '' END
    FROM ours JOIN pg_attribute ON attrelid = oid
    WHERE attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p') AND NOT relispartition
    AND relname = ANY(%(tables)s)
UNION ALL SELECT 'constraint ' || conname || ' of ' || relname, pg_get_constraintdef(pg_constraint.oid)
    FROM ours JOIN pg_constraint ON conrelid = ours.oid WHERE contype <> 'n' AND relname = ANY(%(tables)s)
UNION ALL SELECT 'index ' || indexrelid::regclass, CASE WHEN indisvalid THEN 'valid' ELSE 'not valid' END
    FROM ours JOIN pg_index ON indrelid = oid WHERE relname = ANY(%(tables)s)
UNION ALL SELECT 'trigger ' || tgname || ' of ' || relname,
    CASE tgenabled WHEN 'O' THEN 'on' WHEN 'D' THEN 'off' ELSE tgenabled::text END
    FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal AND relname = ANY(%(tables)s)
UNION ALL SELECT 'partition ' || relname, CASE WHEN relispartition THEN 'attached' ELSE 'detached' END
    FROM ours WHERE relkind IN ('r', 'p') AND relname <> ALL(%(tables)s)
UNION ALL SELECT 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ')', 'there'
    FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace AND proname LIKE 'platziverse\\_%%'"""
_TABLES: Final = """SELECT relname FROM pg_class
    WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"""


def differences(cursor: Any, steps: Sequence[str]) -> list[str]:
    """One line for each object that is missing, different, or in the way of what we write.

    :param cursor: of a connection of psycopg2 in autocommit.
    :param steps: the SQL of all steps of the schema.
    :raises psycopg2.Error: we may not make a schema, for example.
    """
    try:
        cursor.execute("BEGIN; SELECT current_schema()")
        ((home,),) = cursor.fetchall()
        cursor.execute(f"CREATE SCHEMA {_EXPECTED}; SET LOCAL search_path = {_EXPECTED}")
        for sql in steps:
            cursor.execute(sql)
        cursor.execute(_TABLES, (_EXPECTED,))
        tables = [name for (name,) in cursor]
        expected = _objects(cursor, _EXPECTED, tables)
        cursor.execute("SELECT set_config('search_path', quote_ident(%s), true)", (home,))
        found = _objects(cursor, home, tables)
    finally:
        cursor.execute("ROLLBACK")
    return list(_compared(expected, found))


def _objects(cursor: Any, schema: str, tables: list[str]) -> dict[str, str]:
    cursor.execute(_OBJECTS, {"schema": schema, "tables": tables})
    return dict(cursor.fetchall())


def _compared(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    for name, wanted in expected.items():
        if name not in found:
            yield f"{name} is missing"
        elif found[name] != wanted:
            yield f"{name} is {found[name]}, not {wanted}"
    for name in sorted(found.keys() - expected.keys()):
        kind, given = name.partition(" ")[0], found[name]
        if kind in ("constraint", "trigger") or (kind == "column" and given.endswith("not null")):
            yield f"{name} is not ours ({given}) and may refuse good messages"
        elif given in ("detached", "not valid"):
            yield f"{name} is {given}"
