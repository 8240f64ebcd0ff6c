-- What `sync({force: true})` of the original makes with Sequelize 4.
CREATE TABLE agents (
    id serial PRIMARY KEY, uuid varchar(255) NOT NULL, username varchar(255) NOT NULL, name varchar(255) NOT NULL,
    hostname varchar(255) NOT NULL, pid integer NOT NULL, connected boolean NOT NULL DEFAULT false,
    "createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL
);
CREATE TABLE metrics (
    id serial PRIMARY KEY, type varchar(255) NOT NULL, value text NOT NULL,
    "createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL,
    "agentId" integer REFERENCES agents (id) ON DELETE SET NULL ON UPDATE CASCADE
);
