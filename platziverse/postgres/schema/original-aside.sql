-- The tables of the original step aside; what 001.sql makes takes their names.

DO $$
DECLARE
    unknown text;
BEGIN
    SELECT string_agg(format('%s.%s', table_name, column_name), ', ' ORDER BY table_name, column_name) INTO unknown
        FROM information_schema.columns
        WHERE table_schema = current_schema() AND (
            table_name = 'agents' AND column_name NOT IN (
                'id', 'uuid', 'username', 'name', 'hostname', 'pid', 'connected', 'createdAt', 'updatedAt')
            OR table_name = 'metrics' AND column_name NOT IN (
                'id', 'type', 'value', 'createdAt', 'updatedAt', 'agentId'));
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'the original has no column %; its content would be lost', unknown;
    END IF;
    SELECT string_agg(tgname, ', ') INTO unknown FROM pg_trigger
        WHERE tgrelid IN ('agents'::regclass, 'metrics'::regclass) AND NOT tgisinternal;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'the original has no trigger %; it would be lost', unknown;
    END IF;
END $$;

CREATE SCHEMA platziverse_original;

-- Indexes and sequences go with their tables.
ALTER TABLE agents SET SCHEMA platziverse_original;
ALTER TABLE metrics SET SCHEMA platziverse_original;
