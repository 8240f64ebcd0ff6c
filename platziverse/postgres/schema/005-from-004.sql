-- What is known of all metrics of one type of an agent; written when the first of them comes. See docs/adr/0152.
-- No foreign key, as for metrics (docs/adr/0009): a trigger deletes the rows of agents that are deleted.

CREATE TABLE series (
    "agentId" integer NOT NULL,
    type varchar(255) NOT NULL,
    unit varchar(32),
    -- The rule that made it, as in rules.toml#3; NULL: agent/message, or a handler.
    rule text,
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY ("agentId", type)
);

CREATE FUNCTION platziverse_forget_series() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM series USING gone WHERE series."agentId" = gone.id;
    RETURN NULL;
END $$;

CREATE TRIGGER agents_gone AFTER DELETE ON agents REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION platziverse_forget_series();
