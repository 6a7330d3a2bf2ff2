-- What the loader wrote while its ledger had version 1 (pg_dump of PostgreSQL 18): import 1 is published, with a reject;
-- 2 is being removed: its table is detached; 3 is staged: its one part is committed.

CREATE SCHEMA loader;
CREATE TABLE loader.block (
    import_key integer NOT NULL,
    part integer NOT NULL,
    byte_start bigint NOT NULL,
    byte_end bigint NOT NULL,
    line_count bigint NOT NULL,
    row_count bigint NOT NULL,
    reject_count bigint NOT NULL,
    CONSTRAINT block_check CHECK ((byte_end > byte_start))
);
CREATE TABLE loader.import (
    import_key integer NOT NULL,
    id uuid NOT NULL,
    state text DEFAULT 'loading'::text NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    mode text NOT NULL,
    location text NOT NULL,
    source_bytes bigint,
    validator text,
    data_start bigint NOT NULL,
    column_count smallint NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    receipt jsonb,
    CONSTRAINT import_check CHECK (((state = 'published'::text) <= (receipt IS NOT NULL))),
    CONSTRAINT import_mode_check CHECK ((mode = ANY (ARRAY['append'::text, 'replace'::text]))),
    CONSTRAINT import_state_check CHECK ((state = ANY (ARRAY['loading'::text, 'published'::text, 'removing'::text])))
);
CREATE TABLE public.trips (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer NOT NULL,
    part integer NOT NULL
)
PARTITION BY LIST (import_key);
CREATE TABLE loader.import_1 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 1 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 1))
)
PARTITION BY LIST (part);
CREATE TABLE loader.import_1_part_1 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 1 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer DEFAULT 1 CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 1)),
    CONSTRAINT part_key CHECK ((part = 1))
);
CREATE TABLE loader.import_2 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 2 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 2))
)
PARTITION BY LIST (part);
CREATE TABLE loader.import_2_part_2 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 2 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer DEFAULT 2 CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 2)),
    CONSTRAINT part_key CHECK ((part = 2))
);
CREATE TABLE loader.import_3 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 3 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 3))
)
PARTITION BY LIST (part);
CREATE TABLE loader.import_3_part_5 (
    hvfhs_license_num text,
    dispatching_base_num text,
    originating_base_num text,
    request_datetime timestamp without time zone,
    on_scene_datetime timestamp without time zone,
    pickup_datetime timestamp without time zone,
    dropoff_datetime timestamp without time zone,
    pulocationid integer,
    dolocationid integer,
    trip_miles double precision,
    trip_time bigint,
    base_passenger_fare double precision,
    tolls double precision,
    bcf double precision,
    sales_tax double precision,
    congestion_surcharge double precision,
    airport_fee double precision,
    tips double precision,
    driver_pay double precision,
    shared_request_flag text,
    shared_match_flag text,
    access_a_ride_flag text,
    wav_request_flag text,
    wav_match_flag text,
    cbd_congestion_fee double precision,
    import_key integer DEFAULT 3 CONSTRAINT trips_import_key_not_null NOT NULL,
    part integer DEFAULT 5 CONSTRAINT trips_part_not_null NOT NULL,
    CONSTRAINT import_key CHECK ((import_key = 3)),
    CONSTRAINT part_key CHECK ((part = 5))
)
WITH (autovacuum_enabled=off);
ALTER TABLE loader.import ALTER COLUMN import_key ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME loader.import_import_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE SEQUENCE loader.part_number
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
CREATE TABLE loader.part (
    part integer DEFAULT nextval('loader.part_number'::regclass) NOT NULL,
    import_key integer NOT NULL,
    row_count bigint,
    committed_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE TABLE loader.reject (
    import_key integer NOT NULL,
    part integer NOT NULL,
    line bigint NOT NULL,
    byte_offset bigint NOT NULL,
    column_name text,
    value text,
    reason text NOT NULL,
    original bytea NOT NULL
);
ALTER TABLE ONLY public.trips ATTACH PARTITION loader.import_1 FOR VALUES IN (1);
ALTER TABLE ONLY loader.import_1 ATTACH PARTITION loader.import_1_part_1 FOR VALUES IN (1);
ALTER TABLE ONLY loader.import_2 ATTACH PARTITION loader.import_2_part_2 FOR VALUES IN (2);
INSERT INTO loader.block VALUES (1, 1, 353, 856, 4, 3, 1);
INSERT INTO loader.block VALUES (2, 2, 353, 1158, 5, 5, 0);
INSERT INTO loader.block VALUES (3, 5, 353, 994, 4, 4, 0);
INSERT INTO loader.import OVERRIDING SYSTEM VALUE VALUES (1, '01a22d33-6f06-72fc-98b8-9e040933d882', 'published', 1, 'append', '/data/a.csv', 856, '1706745600000000000-2170901-856', 353, 24, '2026-11-30 16:04:35.204325+00', '{"notes": [], "parts": 1, "blocks": 1, "source": "/data/a.csv", "seconds": 0.202, "attempts": 1, "import_id": "01a22d33-6f06-72fc-98b8-9e040933d882", "validator": "1706745600000000000-2170901-856", "data_bytes": 856, "import_key": 1, "rows_copied": 3, "rows_parsed": 4, "published_at": "2026-11-30T16:04:35+00:00", "source_bytes": 856, "rows_rejected": 1, "rows_published": 3, "length_verified": true}');
INSERT INTO loader.import OVERRIDING SYSTEM VALUE VALUES (3, '01900000-0000-7000-8000-00000000000b', 'loading', 5, 'append', '/data/b.csv', 994, '1706745600000000000-2170902-994', 353, 24, '2026-11-30 16:04:42.294319+00', NULL);
INSERT INTO loader.import OVERRIDING SYSTEM VALUE VALUES (2, '01a22d33-7324-765f-8151-c23323edcece', 'removing', 2, 'append', '/data/c.csv', 1158, '1706745600000000000-2170904-1158', 353, 24, '2026-11-30 16:04:36.256065+00', '{"notes": [], "parts": 1, "blocks": 1, "source": "/data/c.csv", "seconds": 0.167, "attempts": 1, "import_id": "01a22d33-7324-765f-8151-c23323edcece", "validator": "1706745600000000000-2170904-1158", "data_bytes": 1158, "import_key": 2, "rows_copied": 5, "rows_parsed": 5, "published_at": "2026-11-30T16:04:36+00:00", "source_bytes": 1158, "rows_rejected": 0, "rows_published": 5, "length_verified": true}');
INSERT INTO loader.import_1_part_1 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-01 00:38:17', '2024-01-01 00:43:36', '2024-01-01 00:45:03', '2024-01-01 00:53:27', 225, 19, 1.98, 504, 11.71, 0, 0.32, 1.04, 0, 0, 2.22, 8.84, 'N', 'N', 'N', 'N', 'N', NULL, 1, 1);
INSERT INTO loader.import_1_part_1 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-11 08:12:17', '2024-01-11 08:21:47', '2024-01-11 08:24:38', '2024-01-11 08:35:53', 151, 84, 2.92, 675, 11.41, 0, 0.31, 1.01, 0, 0, 0, 8.19, 'N', 'N', 'N', 'N', 'N', NULL, 1, 1);
INSERT INTO loader.import_1_part_1 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-21 16:28:59', '2024-01-21 16:38:45', '2024-01-21 16:41:32', '2024-01-21 16:51:30', 195, 44, 1.53, 598, 14.65, 0, 0.4, 1.3, 0, 0, 0, 10.95, 'N', 'N', 'N', 'N', 'Y', NULL, 1, 1);
INSERT INTO loader.import_2_part_2 VALUES ('HV0003', 'B03404', 'B03404', '2023-12-31 23:57:07', '2023-12-31 23:58:54', '2024-01-01 00:01:49', '2024-01-01 00:17:59', 63, 66, 4.19, 970, 12.4, 0, 0.34, 1.1, 2.75, 0, 0, 9.75, 'N', 'N', 'N', 'N', 'N', NULL, 2, 2);
INSERT INTO loader.import_2_part_2 VALUES ('HV0005', 'B03406', NULL, '2024-01-07 04:46:08', NULL, '2024-01-07 04:52:06', '2024-01-07 05:13:02', 264, 116, 9.34, 1256, 40.15, 0, 1.1, 3.56, 2.75, 0, 0, 33.32, 'N', 'N', 'N', 'N', 'N', NULL, 2, 2);
INSERT INTO loader.import_2_part_2 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-13 09:44:20', '2024-01-13 09:58:44', '2024-01-13 09:59:35', '2024-01-13 10:56:31', 103, 58, 10.26, 3416, 34.99, 0, 0.96, 3.11, 0, 0, 6.29, 29.18, 'N', 'N', 'N', 'N', 'N', NULL, 2, 2);
INSERT INTO loader.import_2_part_2 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-19 14:08:41', '2024-01-19 14:15:42', '2024-01-19 14:15:57', '2024-01-19 14:42:58', 235, 96, 10.24, 1621, 51.59, 0, 1.42, 4.58, 0, 0, 0, 36.06, 'N', 'N', 'N', 'N', 'N', NULL, 2, 2);
INSERT INTO loader.import_2_part_2 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-25 19:34:37', '2024-01-25 19:48:47', '2024-01-25 19:51:07', '2024-01-25 20:15:00', 132, 165, 6.66, 1433, 24, 0, 0.66, 2.13, 0, 0, 0, 20.25, 'N', 'N', 'N', 'N', 'N', NULL, 2, 2);
INSERT INTO loader.import_3_part_5 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-01 00:04:59', '2024-01-01 00:16:55', '2024-01-01 00:19:43', '2024-01-01 00:43:00', 228, 134, 1.41, 1397, 16.61, 0, 0.46, 1.47, 0, 0, 0, 14.73, 'N', 'N', 'N', 'N', 'N', NULL, 3, 5);
INSERT INTO loader.import_3_part_5 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-08 18:03:28', '2024-01-08 18:11:17', '2024-01-08 18:12:50', '2024-01-08 18:32:21', 108, 56, 2.69, 1171, 16.94, 5.2, 0.61, 1.96, 2.75, 0, 0, 11.68, 'N', 'N', 'N', 'N', 'N', NULL, 3, 5);
INSERT INTO loader.import_3_part_5 VALUES ('HV0003', 'B03404', 'B03404', '2024-01-16 12:37:09', '2024-01-16 12:50:17', '2024-01-16 12:52:01', '2024-01-16 13:00:25', 80, 5, 0.9, 504, 6.28, 0, 0.17, 0.56, 2.75, 0, 0.87, 4.33, 'N', 'N', 'N', 'N', 'N', NULL, 3, 5);
INSERT INTO loader.import_3_part_5 VALUES ('HV0005', 'B03406', NULL, '2024-01-24 06:01:06', NULL, '2024-01-24 06:07:53', '2024-01-24 06:36:54', 126, 244, 6.436, 1741, 41.35, 0, 1.14, 3.67, 2.75, 0, 7.44, 30.59, 'N', 'N', 'N', 'N', 'N', NULL, 3, 5);
INSERT INTO loader.part VALUES (1, 1, 3, '2026-11-30 16:04:35.256153+00');
INSERT INTO loader.part VALUES (2, 2, 5, '2026-11-30 16:04:36.311883+00');
INSERT INTO loader.part VALUES (5, 3, 4, '2026-11-30 16:04:50.994333+00');
INSERT INTO loader.reject VALUES (1, 1, 5, 845, NULL, 'HV0003,bad', 'wrong number of fields', '\x4856303030332c626164');
SELECT pg_catalog.setval('loader.import_import_key_seq', 3, true);
SELECT pg_catalog.setval('loader.part_number', 5, true);
ALTER TABLE ONLY loader.block
    ADD CONSTRAINT block_pkey PRIMARY KEY (import_key, byte_start);
ALTER TABLE ONLY loader.import
    ADD CONSTRAINT import_id_key UNIQUE (id);
ALTER TABLE ONLY loader.import
    ADD CONSTRAINT import_pkey PRIMARY KEY (import_key);
ALTER TABLE ONLY loader.part
    ADD CONSTRAINT part_pkey PRIMARY KEY (part);
CREATE INDEX block_part_idx ON loader.block USING btree (part);
CREATE INDEX part_import_key_idx ON loader.part USING btree (import_key);
CREATE INDEX reject_import_key_line_idx ON loader.reject USING btree (import_key, line);
CREATE INDEX reject_part_idx ON loader.reject USING btree (part);
ALTER TABLE ONLY loader.block
    ADD CONSTRAINT block_part_fkey FOREIGN KEY (part) REFERENCES loader.part(part) ON DELETE CASCADE;
ALTER TABLE ONLY loader.part
    ADD CONSTRAINT part_import_key_fkey FOREIGN KEY (import_key) REFERENCES loader.import(import_key);
ALTER TABLE ONLY loader.reject
    ADD CONSTRAINT reject_part_fkey FOREIGN KEY (part) REFERENCES loader.part(part) ON DELETE CASCADE;
