-- Whose a Session was, until nothing is owed there any more.

-- Daemons that have died with it, the first one first: for it are the messages that others owe to the first of them, until
-- its owner has taken all of these; NULL: those that are owed to its owner. See docs/adr/0220.
ALTER TABLE mqtt_sessions ADD COLUMN "inheritedFrom" smallint[];

-- Mostly empty.
CREATE INDEX mqtt_sessions_inherited_idx ON mqtt_sessions (id) WHERE "inheritedFrom" IS NOT NULL;
