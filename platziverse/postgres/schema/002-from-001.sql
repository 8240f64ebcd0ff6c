-- Who may log in, and agents that stay with their username.

-- Beside those of the password file; see `platziverse passwd --database-users`.

CREATE TABLE mqtt_users (
    username text PRIMARY KEY CHECK (username <> ''),
    "passwordHash" text NOT NULL CHECK ("passwordHash" LIKE '$argon2%'),
    "createdAt" timestamptz NOT NULL DEFAULT now(),
    "updatedAt" timestamptz NOT NULL DEFAULT now()
);

-- Default privileges may have given it to whoever reads the dashboards.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS grantee
        FROM pg_class, aclexplode(relacl) acl
        WHERE pg_class.oid = 'mqtt_users'::regclass AND acl.grantee <> relowner
    LOOP
        EXECUTE format('REVOKE ALL ON mqtt_users FROM %s', given.grantee);
    END LOOP;
END $$;

-- With `binding = "username"` a client may say in any message that an agent is its own. An agent that is
-- there already belongs to the username it has; see docs/adr/0042.
CREATE FUNCTION platziverse_agent_taken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('platziverse.bound', true) = 'on' THEN
        RAISE EXCEPTION 'the agent belongs to another username' USING ERRCODE = '23P99';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER agent_taken BEFORE UPDATE OF username ON agents
    FOR EACH ROW WHEN (OLD.username IS DISTINCT FROM NEW.username)
    EXECUTE FUNCTION platziverse_agent_taken();
