-- Subscription Identifiers of MQTT 5.

-- Of the SUBSCRIBE that the Subscription was made with; 0: it had none.
ALTER TABLE mqtt_subscriptions ADD COLUMN identifier integer NOT NULL DEFAULT 0;
