-- After original-aside.sql: our tables are made once more, all of them, in a schema that nobody looks into.

SELECT set_config('platziverse.home', current_schema(), true),
    set_config('platziverse.path', current_setting('search_path'), true);
CREATE SCHEMA platziverse_remade;
SET LOCAL search_path = platziverse_remade;
