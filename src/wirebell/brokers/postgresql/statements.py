"""The tables, and the functions that write into them. Text only; ``{p}`` is the prefix.

The rule on which delivery rests: whoever writes into a shard holds its advisory lock until the
commit, and takes its ids after the lock. So within a shard ids become visible in their order, and
who reads on from the last id that it saw misses nothing. Several locks are taken in ascending
order. Names that users give are bytes: what is no text for the database is no reason to fail.

Functions end in the version of what they are called with: a newer release adds others, and nodes
of both run side by side. What else is asked stands with who asks it.
"""

from __future__ import annotations

import functools
from typing import Final

__all__ = (
    "FUNCTIONS",
    "SCHEMA_VERSION",
    "TABLES",
    "TIMELINE",
    "TRANSPORT_SECONDS",
    "fill",
)

SCHEMA_VERSION: Final = 1
"""Of the tables; a node refuses newer ones."""

TRANSPORT_SECONDS: Final = 300
"""How long what nobody keeps stays in the log at least: a node that was away for less, and comes
back, still receives it."""

TABLES: Final = """
CREATE TABLE {p}_meta (
    version int NOT NULL,           -- of these tables
    instance text NOT NULL,         -- another one after they were made anew
    shard_count int NOT NULL,
    generation int NOT NULL,        -- streams of an older one have ended
    timeline text NOT NULL,         -- of the server: another one after a failover or a restore
    swept_at timestamptz NOT NULL DEFAULT '-infinity'
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
    swept_id bigint NOT NULL DEFAULT 0
);
"""

FUNCTIONS: Final = """
-- Returns 8 hexadecimal digits; gen_random_uuid() takes ten times as long.
CREATE OR REPLACE FUNCTION {p}_epoch_1() RETURNS text LANGUAGE sql VOLATILE AS
$$ SELECT lpad(to_hex(floor(random() * 4294967296)::bigint), 8, '0') $$;

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
    -- Groups without a count keep nothing, and have no base.
    WITH written AS (
        INSERT INTO {p}_streams AS s (
            channel, epoch, generation, top, first, size, expires_at, meta_expires_at,
            version, version_epoch
        )
        SELECT
            g.channel, {p}_epoch_1(), counted, g.count,
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
        RETURNING s.channel, s.epoch, s.top
    )
    SELECT array_agg(w.epoch ORDER BY g.number), array_agg(w.top - g.count ORDER BY g.number)
    INTO epochs, bases
    FROM unnest(group_channels, group_counts) WITH ORDINALITY AS g(channel, count, number)
    LEFT JOIN written w ON w.channel = g.channel AND g.count > 0;
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
    -- A queue that somebody who listens does not empty must not end the commit: nodes look anyway.
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(
            '{p}_wake',
            CASE WHEN cardinality(shards) <= 64 THEN array_to_string(shards, ',') ELSE '' END
        );
    END IF;
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
        g.channel, {p}_epoch_1(), counted, 0, 1, 0,
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
    lock_key int, lookahead_days int, retention_days int
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    each date;
    partition text;
BEGIN
    PERFORM set_config('lock_timeout', '2000', true);
    PERFORM pg_advisory_xact_lock(lock_key, -1);
    FOR ahead IN -1 .. lookahead_days LOOP
        each := today + ahead;
        partition := format('{p}_log_%s', to_char(each, 'YYYYMMDD'));
        IF to_regclass(quote_ident(partition)) IS NULL THEN
            -- Attaching waits for nobody who reads or writes, as PARTITION OF would.
            EXECUTE format('CREATE TABLE %I (LIKE {p}_log)', partition);
            EXECUTE format(
                'ALTER TABLE {p}_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                partition, each::text || ' 00:00:00+00', (each + 1)::text || ' 00:00:00+00'
            );
        END IF;
    END LOOP;
    -- Dropping does wait, and whoever publishes behind it.
    PERFORM set_config('lock_timeout', '100', true);
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '{p}_log'::regclass AND c.relname ~ '^{p}_log_[0-9]{8}$'
            AND c.relname < format('{p}_log_%s', to_char(today - retention_days, 'YYYYMMDD'))
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE %I', partition);
        EXCEPTION WHEN lock_not_available THEN
            EXIT;  -- The next time will do.
        END;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION {p}_partitions_1(int, int, int) FROM PUBLIC;
"""

TIMELINE: Final = """
CREATE OR REPLACE FUNCTION {p}_timeline() RETURNS text LANGUAGE sql STABLE AS
$$ SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) $$;
SELECT {p}_timeline();
"""
"""Some managed servers do not tell; then only what nodes remember shows that data were lost."""


@functools.cache
def fill(statement: str, prefix: str) -> str:
    """Write the prefix into a statement; it was checked to be a plain name."""
    return statement.replace("{p}", prefix)
