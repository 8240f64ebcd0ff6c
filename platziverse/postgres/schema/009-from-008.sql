-- What MQTT 5 has sent with a message that was rejected.

-- Properties by name, as docs/mqtt5.rst has them; null where there were none: before this version, of older clients, and of
-- messages without any.
ALTER TABLE rejected_messages ADD COLUMN properties jsonb;
