-- Who sent what was rejected.

-- Address and port of the sender, as the log has them; null where nobody knows: before this version, and of messages that
-- came over no connection.
ALTER TABLE rejected_messages ADD COLUMN address text;
