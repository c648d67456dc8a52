"""What the database is told: tables, functions and queries. Text only; ``{p}`` is the prefix.

The rule on which delivery rests: whoever writes into a shard holds its advisory lock until the
commit, and takes its ids after the lock. So within a shard ids become visible in their order, and
who reads on from the last id that it saw misses nothing. Several locks are taken in ascending
order. Names that users give are bytes: what is no text for the database is no reason to fail.

Functions end in the version of what they are called with: a newer release adds others, and nodes
of both run side by side.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "FUNCTIONS",
    "HISTORY",
    "INSTANCE",
    "IS_LOST",
    "LOSE",
    "MEMBERS",
    "OPEN",
    "PARTITION_OF",
    "PUBLISH",
    "READ",
    "REMOVE_HISTORY",
    "SCHEMA_VERSION",
    "SERVER",
    "SWEEP",
    "TABLES",
    "TIMELINE",
    "TOPS",
    "TRANSPORT_SECONDS",
    "UPKEEP",
    "WRITE_MEMBERS",
    "fill",
)

SCHEMA_VERSION: Final = 1
"""Of the tables; a node refuses newer ones."""

TRANSPORT_SECONDS: Final = 300
"""How long what nobody keeps stays in the log at least: a node that was away for less, and comes
back, still receives it."""

PARTITION_OF: Final = "{p}_log_%s"

TABLES: Final = """
CREATE TABLE {p}_meta (
    version int NOT NULL,           -- of these tables
    instance text NOT NULL,         -- another one after they were made anew
    shard_count int NOT NULL,
    generation int NOT NULL,        -- streams of an older one have ended
    timeline text NOT NULL          -- of the server: another one after a failover or a restore
);
CREATE TABLE {p}_log (
    shard int NOT NULL,
    id bigint NOT NULL,             -- rises within a shard, in the order of commits
    created_at timestamptz NOT NULL,
    kind int NOT NULL,              -- 0: of a channel; 1: for nodes; 2: a node asks itself
    channel bytea NOT NULL,         -- UTF-8; of kinds 1 and 2 a node's id, or empty for all
    epoch text,
    "offset" bigint NOT NULL,       -- 0: not kept
    record bytea NOT NULL
) PARTITION BY RANGE (created_at);
CREATE INDEX ON {p}_log (shard, id);
CREATE INDEX ON {p}_log (channel, "offset") WHERE "offset" > 0;
CREATE SEQUENCE {p}_ids;
CREATE TABLE {p}_streams (
    channel bytea PRIMARY KEY,
    epoch text NOT NULL,
    generation int NOT NULL,
    top bigint NOT NULL,            -- offset of the newest publication
    first bigint NOT NULL,          -- offset of the oldest one that is kept
    size bigint NOT NULL,           -- how many are
    expires_at timestamptz NOT NULL,
    meta_expires_at timestamptz NOT NULL,
    version bytea,                  -- 20 digits
    version_epoch bytea
) WITH (fillfactor = 70);           -- room for new versions of a row beside the old ones
CREATE TABLE {p}_results (          -- idempotency keys
    key bytea PRIMARY KEY,
    epoch text NOT NULL,
    "offset" bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON {p}_results (expires_at);
CREATE TABLE {p}_batches (          -- what became of calls whose answer may have been lost
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL,
    epochs text[],
    bases bigint[],
    left_out int[],
    left_out_epochs text[],
    left_out_offsets bigint[]
);
CREATE INDEX ON {p}_batches (created_at);
CREATE TABLE {p}_presence (
    channel bytea NOT NULL,
    client_id bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    record bytea NOT NULL,
    PRIMARY KEY (channel, client_id)
) WITH (fillfactor = 70);
CREATE TABLE {p}_shards (           -- how far the log was swept
    shard int PRIMARY KEY,
    swept_id bigint NOT NULL DEFAULT 0,
    noted_id bigint NOT NULL DEFAULT 0,
    noted_at timestamptz NOT NULL DEFAULT now()
);
"""

FUNCTIONS: Final = """
-- Takes the locks of shards, and says which generation of streams counts.
CREATE OR REPLACE FUNCTION {p}_lock_1(lock_key int, shards int[], wait_milliseconds int)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    each int;
    current_timeline text := {p}_timeline();
    counted int;
BEGIN
    PERFORM set_config('lock_timeout', wait_milliseconds::text, true);
    FOREACH each IN ARRAY shards LOOP
        PERFORM pg_advisory_xact_lock(lock_key, each);
    END LOOP;
    SELECT generation INTO counted FROM {p}_meta WHERE timeline = current_timeline;
    IF NOT FOUND THEN
        -- Another server wrote before us, perhaps more than this one knows of.
        UPDATE {p}_meta SET generation = generation + 1, timeline = current_timeline
        WHERE timeline <> current_timeline;
        SELECT generation INTO STRICT counted FROM {p}_meta;
    END IF;
    RETURN counted;
END $$;

-- Appends and delivers a batch. Groups are channels, each once; items name theirs by its place.
-- An item's place is 1, 2 ... among those of its group that are kept, and 0 when it is not.
CREATE OR REPLACE FUNCTION {p}_publish_1(
    lock_key int, batch uuid, is_retry bool, deadline float8, wait_milliseconds int,
    shards int[],
    group_kinds int[], group_channels bytea[], group_shards int[], group_counts bigint[],
    group_sizes bigint[], group_ttls float8[], group_meta_ttls float8[],
    item_groups int[], item_places bigint[], item_records bytea[],
    extra_items int[], extra_keys bytea[], extra_versions bytea[], extra_version_epochs bytea[],
    OUT epochs text[], OUT bases bigint[], OUT left_out int[], OUT left_out_epochs text[],
    OUT left_out_offsets bigint[], OUT answered_at float8
) LANGUAGE plpgsql AS $$
DECLARE
    counted int;
    moment timestamptz;
    extra int;
    item int;
    the_group int;
    group_versions bytea[];
    group_version_epochs bytea[];
    known record;
BEGIN
    counted := {p}_lock_1(lock_key, shards, wait_milliseconds);
    moment := clock_timestamp();
    IF extract(epoch FROM moment) > deadline THEN
        RAISE EXCEPTION 'too late' USING ERRCODE = 'WB001';
    END IF;
    answered_at := extract(epoch FROM moment);
    IF is_retry THEN
        SELECT b.epochs, b.bases, b.left_out, b.left_out_epochs, b.left_out_offsets
        INTO epochs, bases, left_out, left_out_epochs, left_out_offsets
        FROM {p}_batches b WHERE b.id = batch;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF cardinality(extra_items) > 0 THEN
        FOR extra IN 1 .. cardinality(extra_items) LOOP
            item := extra_items[extra];
            the_group := item_groups[item];
            IF extra_keys[extra] IS NOT NULL THEN
                SELECT r.epoch, r."offset" INTO known FROM {p}_results r
                WHERE r.key = extra_keys[extra] AND r.expires_at > moment;
                IF FOUND THEN
                    left_out := array_append(left_out, item);
                    left_out_epochs := array_append(left_out_epochs, known.epoch);
                    left_out_offsets := array_append(left_out_offsets, known."offset");
                    item_places[item] := -1;
                    CONTINUE;
                END IF;
            END IF;
            IF extra_versions[extra] IS NOT NULL THEN
                IF group_versions[the_group] IS NULL THEN
                    SELECT s.version, s.version_epoch INTO known FROM {p}_streams s
                    WHERE s.channel = group_channels[the_group]
                        AND s.meta_expires_at > moment AND s.generation = counted;
                    group_versions[the_group] := known.version;
                    group_version_epochs[the_group] := known.version_epoch;
                END IF;
                IF group_versions[the_group] IS NOT NULL
                    AND group_version_epochs[the_group] = extra_version_epochs[extra]
                    AND extra_versions[extra] <= group_versions[the_group]
                THEN
                    left_out := array_append(left_out, item);
                    left_out_epochs := array_append(left_out_epochs, NULL);
                    left_out_offsets := array_append(left_out_offsets, NULL);
                    item_places[item] := -1;
                    CONTINUE;
                END IF;
                group_versions[the_group] := extra_versions[extra];
                group_version_epochs[the_group] := extra_version_epochs[extra];
            END IF;
        END LOOP;
        IF cardinality(left_out) > 0 THEN
            -- Places without those that are left out.
            FOR each IN 1 .. cardinality(group_counts) LOOP
                group_counts[each] := 0;
            END LOOP;
            FOR each IN 1 .. cardinality(item_places) LOOP
                IF item_places[each] > 0 THEN
                    the_group := item_groups[each];
                    group_counts[the_group] := group_counts[the_group] + 1;
                    item_places[each] := group_counts[the_group];
                END IF;
            END LOOP;
        END IF;
    END IF;
    -- Groups without a count keep nothing, and have no base. Rows are returned as they are written.
    WITH written AS (
        INSERT INTO {p}_streams AS s (
            channel, epoch, generation, top, first, size, expires_at, meta_expires_at,
            version, version_epoch
        )
        SELECT
            g.channel, left(gen_random_uuid()::text, 8), counted, g.count,
            greatest(1, g.count - g.size + 1), g.size,
            moment + g.ttl * interval '1 second', moment + g.meta_ttl * interval '1 second',
            group_versions[g.number], group_version_epochs[g.number]
        FROM unnest(
            group_channels, group_counts, group_sizes, group_ttls, group_meta_ttls
        ) WITH ORDINALITY AS g(channel, count, size, ttl, meta_ttl, number)
        WHERE g.count > 0
        ON CONFLICT (channel) DO UPDATE SET
            epoch = CASE WHEN s.meta_expires_at > moment AND s.generation = counted
                THEN s.epoch ELSE excluded.epoch END,
            generation = counted,
            top = excluded.top + CASE WHEN s.meta_expires_at > moment AND s.generation = counted
                THEN s.top ELSE 0 END,
            first = CASE WHEN s.meta_expires_at > moment AND s.generation = counted
                THEN greatest(
                    CASE WHEN s.expires_at > moment THEN s.first ELSE s.top + 1 END,
                    s.top + excluded.top - excluded.size + 1
                )
                ELSE excluded.first END,
            size = excluded.size,
            expires_at = excluded.expires_at,
            meta_expires_at = excluded.meta_expires_at,
            version = CASE
                WHEN excluded.version IS NOT NULL THEN excluded.version
                WHEN s.meta_expires_at > moment AND s.generation = counted THEN s.version
            END,
            version_epoch = CASE
                WHEN excluded.version IS NOT NULL THEN excluded.version_epoch
                WHEN s.meta_expires_at > moment AND s.generation = counted THEN s.version_epoch
            END
        RETURNING s.epoch, s.top
    ), kept AS (
        SELECT g.count, g.number, row_number() OVER (ORDER BY g.number) AS place
        FROM unnest(group_counts) WITH ORDINALITY AS g(count, number) WHERE g.count > 0
    ), numbered AS (
        SELECT w.epoch, w.top, row_number() OVER () AS place FROM written w
    ), joined AS (
        SELECT kept.number, numbered.epoch, numbered.top - kept.count AS base
        FROM kept JOIN numbered USING (place)
    )
    SELECT array_agg(joined.epoch ORDER BY g.number), array_agg(joined.base ORDER BY g.number)
    INTO epochs, bases
    FROM generate_subscripts(group_counts, 1) AS g(number) LEFT JOIN joined USING (number);
    INSERT INTO {p}_log (shard, id, created_at, kind, channel, epoch, "offset", record)
    SELECT
        group_shards[i.the_group], nextval('{p}_ids'), moment, group_kinds[i.the_group],
        group_channels[i.the_group],
        CASE WHEN i.place > 0 THEN epochs[i.the_group] END,
        CASE WHEN i.place > 0 THEN bases[i.the_group] + i.place ELSE 0 END,
        i.record
    FROM unnest(item_groups, item_places, item_records) AS i(the_group, place, record)
    WHERE i.place >= 0;
    IF cardinality(extra_items) > 0 THEN
        INSERT INTO {p}_results AS r (key, epoch, "offset", expires_at)
        SELECT
            x.key,
            CASE WHEN item_places[x.item] > 0 THEN epochs[item_groups[x.item]] ELSE '' END,
            CASE WHEN item_places[x.item] > 0
                THEN bases[item_groups[x.item]] + item_places[x.item] ELSE 0 END,
            moment + interval '300 seconds'
        FROM unnest(extra_items, extra_keys) AS x(item, key)
        WHERE x.key IS NOT NULL AND item_places[x.item] >= 0
        ON CONFLICT (key) DO UPDATE SET
            epoch = excluded.epoch, "offset" = excluded."offset",
            expires_at = excluded.expires_at;
        IF cardinality(left_out) > 0 THEN
            -- An old version is told the stream's top.
            FOR each IN 1 .. cardinality(left_out) LOOP
                IF left_out_epochs[each] IS NULL THEN
                    the_group := item_groups[left_out[each]];
                    SELECT s.epoch, s.top INTO known FROM {p}_streams s
                    WHERE s.channel = group_channels[the_group];
                    left_out_epochs[each] := known.epoch;
                    left_out_offsets[each] := known.top;
                END IF;
            END LOOP;
        END IF;
    END IF;
    INSERT INTO {p}_batches VALUES (
        batch, moment, epochs, bases, left_out, left_out_epochs, left_out_offsets
    );
    PERFORM pg_notify(
        '{p}_wake',
        CASE WHEN cardinality(shards) <= 64 THEN array_to_string(shards, ',') ELSE '' END
    );
END $$;

-- Gives channels that nobody published to an epoch, which stays.
CREATE OR REPLACE FUNCTION {p}_open_1(
    lock_key int, wait_milliseconds int, shards int[], channels bytea[], ttls float8[],
    meta_ttls float8[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    counted int := {p}_lock_1(lock_key, shards, wait_milliseconds);
    moment timestamptz := clock_timestamp();
BEGIN
    INSERT INTO {p}_streams AS s (
        channel, epoch, generation, top, first, size, expires_at, meta_expires_at
    )
    SELECT
        g.channel, left(gen_random_uuid()::text, 8), counted, 0, 1, 0,
        moment + g.ttl * interval '1 second', moment + g.meta_ttl * interval '1 second'
    FROM unnest(channels, ttls, meta_ttls) AS g(channel, ttl, meta_ttl)
    ON CONFLICT (channel) DO UPDATE SET
        epoch = excluded.epoch, generation = counted, top = 0, first = 1,
        expires_at = excluded.expires_at, meta_expires_at = excluded.meta_expires_at,
        version = NULL, version_epoch = NULL
    WHERE s.meta_expires_at <= moment OR s.generation <> counted;
END $$;

-- Makes partitions ahead and drops old ones, as who owns the tables; one at a time.
CREATE OR REPLACE FUNCTION {p}_partitions_1(
    lock_key int, lookahead_days int, retention_days int, is_urgent bool
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    each date;
    partition text;
BEGIN
    -- Those who wait for a publication must not wait behind this.
    PERFORM set_config('lock_timeout', '1000', true);
    IF is_urgent THEN
        PERFORM pg_advisory_xact_lock(lock_key, -1);
    ELSIF NOT pg_try_advisory_xact_lock(lock_key, -1) THEN
        RETURN;
    END IF;
    FOR ahead IN -1 .. lookahead_days LOOP
        each := today + ahead;
        partition := format('{p}_log_%s', to_char(each, 'YYYYMMDD'));
        IF to_regclass(quote_ident(partition)) IS NULL THEN
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF {p}_log FOR VALUES FROM (%L) TO (%L)',
                partition, each::text || ' 00:00:00+00', (each + 1)::text || ' 00:00:00+00'
            );
        END IF;
    END LOOP;
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '{p}_log'::regclass AND c.relname ~ '^{p}_log_[0-9]{8}$'
    LOOP
        IF to_date(right(partition, 8), 'YYYYMMDD') < today - retention_days THEN
            BEGIN
                EXECUTE format('DROP TABLE %I', partition);
            EXCEPTION WHEN lock_not_available THEN
                NULL;  -- The next time will do.
            END;
        END IF;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION {p}_partitions_1(int, int, int, bool) FROM PUBLIC;

-- Removes some of what has ended, and says how many rows that were.
CREATE OR REPLACE FUNCTION {p}_sweep_1(row_count int, transport_seconds float8)
RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    each record;
    last_id bigint;
    removed int;
    removed_count int := 0;
    moment timestamptz := clock_timestamp();
    still timestamptz := moment - transport_seconds * interval '1 second';
BEGIN
    DELETE FROM {p}_results WHERE key IN (
        SELECT key FROM {p}_results WHERE expires_at <= moment LIMIT row_count
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    removed_count := removed_count + removed;
    DELETE FROM {p}_batches WHERE id IN (
        SELECT id FROM {p}_batches WHERE created_at <= still LIMIT row_count
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    removed_count := removed_count + removed;
    DELETE FROM {p}_presence WHERE (channel, client_id) IN (
        SELECT channel, client_id FROM {p}_presence WHERE expires_at <= moment LIMIT row_count
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    removed_count := removed_count + removed;
    DELETE FROM {p}_streams WHERE channel IN (
        SELECT channel FROM {p}_streams WHERE meta_expires_at <= moment LIMIT row_count
        FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    removed_count := removed_count + removed;
    FOR each IN SELECT shard, swept_id, noted_id, noted_at FROM {p}_shards FOR UPDATE LOOP
        IF each.swept_id < each.noted_id AND each.noted_at <= still THEN
            SELECT max(l.id) INTO last_id FROM (
                SELECT id FROM {p}_log
                WHERE shard = each.shard AND id > each.swept_id AND id <= each.noted_id
                ORDER BY id LIMIT row_count
            ) l;
            DELETE FROM {p}_log l
            WHERE l.shard = each.shard AND l.id > each.swept_id AND l.id <= last_id AND (
                l."offset" = 0 OR NOT EXISTS (
                    SELECT FROM {p}_streams s
                    WHERE s.channel = l.channel AND s.epoch = l.epoch
                        AND s.expires_at > moment AND l."offset" >= s.first
                )
            );
            GET DIAGNOSTICS removed = ROW_COUNT;
            removed_count := removed_count + removed;
            UPDATE {p}_shards SET swept_id = coalesce(last_id, each.noted_id)
            WHERE shard = each.shard;
        ELSIF each.swept_id >= each.noted_id THEN
            SELECT l.id INTO last_id FROM {p}_log l WHERE l.shard = each.shard
            ORDER BY l.id DESC LIMIT 1;
            IF last_id > each.noted_id THEN
                UPDATE {p}_shards SET noted_id = last_id, noted_at = moment
                WHERE shard = each.shard;
            END IF;
        END IF;
    END LOOP;
    RETURN removed_count;
END $$;
"""

TIMELINE: Final = """
CREATE OR REPLACE FUNCTION {p}_timeline() RETURNS text LANGUAGE sql STABLE AS
$$ SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) $$;
SELECT {p}_timeline();
"""
"""Some managed servers do not tell; then only what nodes remember shows that data were lost."""

SERVER: Final = """
SELECT
    current_setting('server_version_num')::int AS version,
    pg_is_in_recovery() AS is_standby,
    current_setting('transaction_read_only') = 'on' AS is_read_only,
    current_setting('transaction_isolation') AS isolation,
    to_regclass('{p}_meta') IS NOT NULL AS has_tables,
    extract(epoch FROM clock_timestamp())::float8 AS seconds
"""

INSTANCE: Final = "SELECT version, instance, shard_count FROM {p}_meta"

PUBLISH: Final = """
SELECT * FROM {p}_publish_1(
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20
)
"""

OPEN: Final = "SELECT {p}_open_1($1, $2, $3, $4, $5, $6)"

HISTORY: Final = """
SELECT q.number, s.epoch, s.top, l."offset", l.record
FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bool[])
    WITH ORDINALITY AS q(channel, after, row_count, is_reverse, number)
JOIN {p}_streams s ON s.channel = q.channel AND s.meta_expires_at > now()
    AND s.generation = (SELECT generation FROM {p}_meta WHERE timeline = {p}_timeline())
LEFT JOIN LATERAL (
    (
        SELECT "offset", record FROM {p}_log l
        WHERE NOT q.is_reverse AND s.expires_at > now() AND l.channel = s.channel
            AND l."offset" > 0 AND l."offset" > q.after AND l."offset" >= s.first
            AND l.epoch = s.epoch AND l.created_at > now() - $5 * interval '1 second'
        ORDER BY l."offset" LIMIT q.row_count
    )
    UNION ALL
    (
        SELECT "offset", record FROM {p}_log l
        WHERE q.is_reverse AND s.expires_at > now() AND l.channel = s.channel
            AND l."offset" > 0 AND l."offset" < q.after AND l."offset" >= s.first
            AND l.epoch = s.epoch AND l.created_at > now() - $5 * interval '1 second'
        ORDER BY l."offset" DESC LIMIT q.row_count
    )
) l ON true
"""

REMOVE_HISTORY: Final = "UPDATE {p}_streams SET first = top + 1 WHERE channel = $1"

TOPS: Final = """
SELECT c.shard, coalesce(l.id, 0) AS id, l.created_at
FROM unnest($1::int[]) AS c(shard)
LEFT JOIN LATERAL (
    SELECT id, created_at FROM {p}_log WHERE shard = c.shard ORDER BY id DESC LIMIT 1
) l ON true
"""

READ: Final = """
SELECT l.shard, l.id, l.created_at, l.kind, l.channel, l.epoch, l."offset", l.record
FROM unnest($1::int[], $2::bigint[]) AS c(shard, last_id)
CROSS JOIN LATERAL (
    SELECT m.*, sum(octet_length(m.record)) OVER (ORDER BY m.id) - octet_length(m.record) AS before
    FROM (
        SELECT shard, id, created_at, kind, channel, epoch, "offset", record FROM {p}_log
        WHERE shard = c.shard AND id > c.last_id AND created_at > now() - interval '1 hour'
        ORDER BY id LIMIT $3
    ) m
) l
WHERE l.before < $4
"""

IS_LOST: Final = """
SELECT EXISTS (
    SELECT FROM unnest($1::int[], $2::bigint[], $3::timestamptz[]) AS a(shard, id, created_at)
    WHERE a.id > (SELECT last_value FROM {p}_ids) OR (
        a.created_at > now() - $4 * interval '1 second' AND NOT EXISTS (
            SELECT FROM {p}_log l
            WHERE l.shard = a.shard AND l.id = a.id AND l.created_at = a.created_at
        )
    )
)
"""

LOSE: Final = """
WITH locked AS (SELECT {p}_lock_1($1, $2, $3)),
counted AS (
    SELECT setval('{p}_ids', greatest($4, (SELECT last_value FROM {p}_ids))) FROM locked
)
UPDATE {p}_meta SET generation = generation + 1 FROM counted
"""

UPKEEP: Final = "SELECT {p}_partitions_1($1, $2, $3, $4)"

SWEEP: Final = """
SELECT CASE WHEN pg_try_advisory_xact_lock($1, -1) THEN {p}_sweep_1($2, $3) ELSE 0 END AS count
"""

WRITE_MEMBERS: Final = """
WITH removed AS (
    DELETE FROM {p}_presence p USING unnest($1::bytea[], $2::bytea[]) AS r(channel, client_id)
    WHERE p.channel = r.channel AND p.client_id = r.client_id
)
INSERT INTO {p}_presence AS p (channel, client_id, expires_at, record)
SELECT a.channel, a.client_id, clock_timestamp() + a.lease * interval '1 second', a.record
FROM unnest($3::bytea[], $4::bytea[], $5::float8[], $6::bytea[])
    AS a(channel, client_id, lease, record)
ON CONFLICT (channel, client_id) DO UPDATE SET
    expires_at = excluded.expires_at, record = excluded.record
"""

MEMBERS: Final = """
SELECT q.number, p.record
FROM unnest($1::bytea[]) WITH ORDINALITY AS q(channel, number)
JOIN {p}_presence p ON p.channel = q.channel AND p.expires_at > clock_timestamp()
"""


def fill(statement: str, prefix: str) -> str:
    """Write the prefix into a statement; it was checked to be a plain name."""
    return statement.replace("{p}", prefix)
