-- Users who may log in, beside those of the password file; see `platziverse passwd --database-users`.

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
