-- For dashboards: a chart in one call.

-- Numbers of one type of an agent from a moment to before another one, summed up in steps: of rows, or of roll-ups from
-- steps of 5 minutes and of an hour on, which are then the least. The last two buckets come from rows, as their roll-ups
-- are not made yet. A step without rows is left out; see docs/adr/0165.
CREATE FUNCTION platziverse_series(
    of_agent text, of_type text, since timestamptz, until timestamptz, step interval DEFAULT '1 min')
RETURNS TABLE ("time" timestamptz, avg double precision, min double precision, max double precision,
    last double precision, n bigint) LANGUAGE plpgsql STABLE SET plan_cache_mode = force_custom_plan AS $$
#variable_conflict use_column
DECLARE
    agent integer := (SELECT id FROM agents WHERE uuid = of_agent);
    seconds double precision := greatest(date_part('epoch', step), 0.001);
    level integer := CASE WHEN seconds >= 3600 THEN 3600 WHEN seconds >= 300 THEN 300 ELSE 0 END;
    begins timestamptz;
    rolled timestamptz;
BEGIN
    IF level > 0 THEN
        seconds := ceil(seconds / level) * level;
    END IF;
    begins := to_timestamp(floor(date_part('epoch', since) / seconds) * seconds);
    rolled := CASE WHEN level = 0 THEN begins ELSE greatest(begins, least(until,
        platziverse_bucket(now(), level) - make_interval(secs => level))) END;
    RETURN QUERY
    SELECT to_timestamp(floor(date_part('epoch', t) / seconds) * seconds), sum(total) / sum(c),
        min(low), max(high), (array_agg(final ORDER BY t DESC))[1], sum(c)::bigint
    FROM (
        SELECT bucket AS t, n AS c, min AS low, max AS high, sum AS total, last AS final FROM metrics_5m
        WHERE level = 300 AND "agentId" = agent AND type = of_type AND bucket >= begins AND bucket < rolled
        UNION ALL
        SELECT bucket, n, min, max, sum, last FROM metrics_1h
        WHERE level = 3600 AND "agentId" = agent AND type = of_type AND bucket >= begins AND bucket < rolled
        UNION ALL
        SELECT "createdAt", 1, number, number, greatest(least(number, 1e290), -1e290), number FROM metrics
        WHERE "agentId" = agent AND type = of_type AND number IS NOT NULL
        AND "createdAt" >= rolled AND "createdAt" < until
    ) AS measured GROUP BY 1 ORDER BY 1;
END $$;
