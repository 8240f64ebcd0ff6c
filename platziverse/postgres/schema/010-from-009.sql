-- Charts of rows read the index of metrics alone, where vacuum has been: numbers stand in it, and vacuum comes after a
-- million rows, not after a fifth of a month. See docs/adr/0214.

DROP INDEX metrics_agent_type_created_idx;
CREATE INDEX metrics_agent_type_created_idx ON metrics ("agentId", type, "createdAt") INCLUDE (number);

-- Adds one partition, with the rows of the default partition that belong to it.
CREATE OR REPLACE FUNCTION platziverse_add_partition(parent text, part text, key text, lower text, upper text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(quote_ident(part)) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Attached rather than created in place: that would lock out readers and writers.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', part, parent);
    IF parent = 'metrics' THEN
        PERFORM platziverse_vacuum_early(part);
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format(
        'WITH moved AS (DELETE FROM %1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *)'
        ' INSERT INTO %5$I SELECT * FROM moved', parent || '_default', key, lower, upper, part);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, lower, upper);
    RETURN true;
END $$;

-- Lets autovacuum come to a month of metrics whenever a million rows are new.
CREATE FUNCTION platziverse_vacuum_early(part text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I SET'
        ' (autovacuum_vacuum_insert_threshold = 1000000, autovacuum_vacuum_insert_scale_factor = 0)', part);
END $$;

SELECT platziverse_vacuum_early(relname) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'metrics'::regclass;
