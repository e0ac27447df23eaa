SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

CREATE TABLE public.applied_ops (
    session_id character varying(255) NOT NULL,
    op_id character varying(255) NOT NULL,
    session_key character varying(512) NOT NULL,
    version bigint NOT NULL,
    refused boolean DEFAULT false NOT NULL,
    applied_at timestamp with time zone NOT NULL
);

CREATE TABLE public.layout (
    version integer NOT NULL,
    partitions integer NOT NULL
);

CREATE TABLE public.messages (
    session_id character varying(255) NOT NULL,
    seq bigint NOT NULL,
    message_id character varying(255) NOT NULL,
    role character varying(255),
    body text NOT NULL,
    text text NOT NULL,
    created_at timestamp with time zone NOT NULL
);

CREATE TABLE public.routes (
    session_key character varying(512) NOT NULL,
    session_id character varying(255),
    version bigint NOT NULL
);

CREATE TABLE public.sessioncache_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.sessions (
    session_id character varying(255) NOT NULL,
    session_key character varying(512),
    owner character varying(255),
    title character varying(255),
    platform character varying(255),
    chat_type character varying(255),
    origin json,
    metadata json,
    archived boolean DEFAULT false NOT NULL,
    important boolean DEFAULT false NOT NULL,
    suspended boolean DEFAULT false NOT NULL,
    deleted boolean DEFAULT false NOT NULL,
    message_count bigint DEFAULT 0 NOT NULL,
    last_seq bigint DEFAULT 0 NOT NULL,
    consolidated_seq bigint DEFAULT 0 NOT NULL,
    input_tokens bigint DEFAULT 0 NOT NULL,
    output_tokens bigint DEFAULT 0 NOT NULL,
    cache_read_tokens bigint DEFAULT 0 NOT NULL,
    cache_write_tokens bigint DEFAULT 0 NOT NULL,
    last_prompt_tokens bigint DEFAULT 0 NOT NULL,
    estimated_cost double precision DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    last_accessed timestamp with time zone NOT NULL,
    last_message_at timestamp with time zone,
    ended_at timestamp with time zone,
    end_reason character varying(64),
    parent_id character varying(255)
);

INSERT INTO public.applied_ops VALUES ('20261121_133321_2841c30e7aa8', 'vXmhDoJlWSszBvcl', 'chat:deleted', 1, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_6d477af15d37', 'cvF1IKJZKAtPTzdg', 'chat:refused', 1, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_80e5eef0b83e', 'TSfBYV5q9l04Ukrz', 'chat:deleting', 1, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_93e3e5681ac2', 'RkJz6rWBd_esnrnv', 'chat:stored', 1, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_5376c5a550e3', 'U8h8ZyKhF7CNESYk', 'chat:both', 1, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_5376c5a550e3', 'ws8HR5mRPxwoNqXG', 'chat:both', 4, false, '2026-11-21 13:33:21.521083+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_2841c30e7aa8', 'uRB7qfyDFMNFNug1', 'chat:deleted', 2, false, '2026-11-21 13:33:21.568038+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_2841c30e7aa8', 'eaZUSb0zTVxBZpKi', 'chat:deleted', 3, false, '2026-11-21 13:33:21.568038+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_2841c30e7aa8', 'tbOk01F_ca3X9U4r', 'chat:deleted', 4, false, '2026-11-21 13:33:21.568038+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_2841c30e7aa8', 'AA6qIcRH7K-LfYyV', 'chat:deleted', 5, false, '2026-11-21 13:33:21.568038+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_6d477af15d37', 'NHTisifYH5AeobbN', 'chat:refused', 2, true, '2026-11-21 13:33:21.607182+00');
INSERT INTO public.applied_ops VALUES ('20261121_133321_6d477af15d37', '0yBv46cFgy11rLQ1', 'chat:refused', 2, true, '2026-11-21 13:33:21.607182+00');
INSERT INTO public.applied_ops VALUES ('ended-1', 'AAAAAAAAAAAAAAAA', 'chat:stored', 1, true, '2026-01-01 12:00:00+00');

INSERT INTO public.layout VALUES (1, 64);

INSERT INTO public.messages VALUES ('20261121_133321_6d477af15d37', 2, 'fwXoRneWJR11WIuL', NULL, '{"content":"before"}', 'before', '2026-11-21 13:33:21.504+00');
INSERT INTO public.messages VALUES ('20261121_133321_80e5eef0b83e', 2, 'XChue4rgwIyFPbjG', NULL, '{"content":"goes"}', 'goes', '2026-11-21 13:33:21.495+00');
INSERT INTO public.messages VALUES ('20261121_133321_93e3e5681ac2', 2, 'xg-OFSlJesI3qjPj.0', 'user', '{"role":"user","content":"Grüße, 你好, שלום 👩‍👩‍👧"}', 'Grüße, 你好, שלום 👩‍👩‍👧', '2026-11-21 13:33:21.472+00');
INSERT INTO public.messages VALUES ('20261121_133321_93e3e5681ac2', 3, 'xg-OFSlJesI3qjPj.1', 'assistant', '{"role":"assistant","content":"nul \u0000 and   \\u0000","n":9223372036854775807,"f":1e+300,"z":[null,true,1.5,{"b":1,"a":2}]}', 'nul � and   \u0000', '2026-11-21 13:33:21.472+00');
INSERT INTO public.messages VALUES ('20261121_133321_93e3e5681ac2', 4, 'xg-OFSlJesI3qjPj.2', 'assistant', '{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{}"}}]}', '', '2026-11-21 13:33:21.472+00');
INSERT INTO public.messages VALUES ('20261121_133321_93e3e5681ac2', 5, 'xg-OFSlJesI3qjPj.3', 'tool', '{"role":"tool","content":[{"type":"text","text":"see"}],"tool_call_id":"c1"}', 'see', '2026-11-21 13:33:21.472+00');
INSERT INTO public.messages VALUES ('20261121_133321_93e3e5681ac2', 6, 'xg-OFSlJesI3qjPj.4', NULL, '{"no":"role"}', '', '2026-11-21 13:33:21.472+00');
INSERT INTO public.messages VALUES ('20261121_133321_5376c5a550e3', 2, 'SvVYpSafGfj_Fvra.0', 'user', '{"role":"user","content":"Grüße, 你好, שלום 👩‍👩‍👧"}', 'Grüße, 你好, שלום 👩‍👩‍👧', '2026-11-21 13:33:21.489+00');
INSERT INTO public.messages VALUES ('20261121_133321_5376c5a550e3', 3, 'SvVYpSafGfj_Fvra.1', 'assistant', '{"role":"assistant","content":"nul \u0000 and   \\u0000","n":9223372036854775807,"f":1e+300,"z":[null,true,1.5,{"b":1,"a":2}]}', 'nul � and   \u0000', '2026-11-21 13:33:21.489+00');
INSERT INTO public.messages VALUES ('20261121_133321_5376c5a550e3', 5, 'telegram-1', NULL, '{"content":"with an id"}', 'with an id', '2026-11-21 13:33:21.49+00');
INSERT INTO public.messages VALUES ('ended-1', 1, 'old-1', 'user', '{"role": "user", "content": "Straße 1 你好"}', 'Straße 1 你好', '2026-01-01 12:00:00+00');
INSERT INTO public.messages VALUES ('ended-1', 2, 'old-2', 'user', '{"role": "user", "content": "Straße 2 你好"}', 'Straße 2 你好', '2026-01-01 12:00:00+00');

INSERT INTO public.routes VALUES ('chat:both', '20261121_133321_5376c5a550e3', 5);
INSERT INTO public.routes VALUES ('chat:deleted', NULL, 5);
INSERT INTO public.routes VALUES ('chat:deleting', '20261121_133321_80e5eef0b83e', 2);
INSERT INTO public.routes VALUES ('chat:refused', '20261121_133321_6d477af15d37', 2);
INSERT INTO public.routes VALUES ('chat:stored', '20261121_133321_93e3e5681ac2', 6);

INSERT INTO public.sessioncache_version VALUES ('0001');

INSERT INTO public.sessions VALUES ('20261121_133321_2841c30e7aa8', 'chat:deleted', NULL, NULL, NULL, NULL, 'null', 'null', false, false, false, true, 0, 2, 0, 0, 0, 0, 0, 0, 0, '2026-11-21 13:33:21.501+00', '2026-11-21 13:33:21.502+00', '2026-11-21 13:33:21.558+00', '2026-11-21 13:33:21.502+00', '2026-11-21 13:33:21.558+00', 'deleted', NULL);
INSERT INTO public.sessions VALUES ('20261121_133321_6d477af15d37', 'chat:refused', NULL, NULL, NULL, NULL, 'null', 'null', false, false, false, true, 1, 2, 0, 0, 0, 0, 0, 0, 0, '2026-11-21 13:33:21.504+00', '2026-11-21 13:33:21.504+00', '2026-11-21 13:33:21.504+00', '2026-11-21 13:33:21.504+00', NULL, NULL, NULL);
INSERT INTO public.sessions VALUES ('20261121_133321_80e5eef0b83e', 'chat:deleting', NULL, NULL, NULL, NULL, 'null', 'null', false, false, false, false, 1, 2, 0, 0, 0, 0, 0, 0, 0, '2026-11-21 13:33:21.495+00', '2026-11-21 13:33:21.495+00', '2026-11-21 13:33:21.495+00', '2026-11-21 13:33:21.495+00', NULL, NULL, NULL);
INSERT INTO public.sessions VALUES ('20261121_133321_93e3e5681ac2', 'chat:stored', 'alice', NULL, NULL, NULL, 'null', 'null', false, false, false, false, 5, 6, 0, 0, 0, 0, 0, 0, 0, '2026-11-21 13:33:21.47+00', '2026-11-21 13:33:21.472+00', '2026-11-21 13:33:21.472+00', '2026-11-21 13:33:21.472+00', NULL, NULL, NULL);
INSERT INTO public.sessions VALUES ('20261121_133321_5376c5a550e3', 'chat:both', 'alice', NULL, NULL, NULL, 'null', 'null', false, false, false, false, 3, 5, 0, 0, 0, 0, 0, 0, 0, '2026-11-21 13:33:21.489+00', '2026-11-21 13:33:21.49+00', '2026-11-21 13:33:21.49+00', '2026-11-21 13:33:21.49+00', NULL, NULL, NULL);
INSERT INTO public.sessions VALUES ('ended-1', 'chat:stored', 'alice', 'Reise nach Köln 你好', 'telegram', 'dm', '{"chat_id": "42"}', '{"mood": [1, null]}', true, true, false, false, 2, 2, 1, 10, 20, 30, 40, 9, 0, '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', 'reset', NULL);
INSERT INTO public.sessions VALUES ('child-1', 'chat:stored', 'alice', NULL, NULL, NULL, 'null', 'null', false, false, true, false, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', '2026-01-01 12:00:00+00', NULL, '2026-01-01 12:00:00+00', 'fork', 'ended-1');

ALTER TABLE ONLY public.applied_ops
    ADD CONSTRAINT applied_ops_pkey PRIMARY KEY (session_id, op_id);

ALTER TABLE ONLY public.layout
    ADD CONSTRAINT layout_pkey PRIMARY KEY (version);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_by_id UNIQUE (session_id, message_id);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (session_id, seq);

ALTER TABLE ONLY public.routes
    ADD CONSTRAINT routes_pkey PRIMARY KEY (session_key);

ALTER TABLE ONLY public.sessioncache_version
    ADD CONSTRAINT sessioncache_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (session_id);

CREATE INDEX applied_ops_by_key ON public.applied_ops USING btree (session_key, version);

CREATE INDEX applied_ops_by_time ON public.applied_ops USING btree (applied_at);

CREATE INDEX sessions_by_key ON public.sessions USING btree (session_key, last_seq);

CREATE INDEX sessions_by_owner ON public.sessions USING btree (owner, updated_at);

ALTER TABLE ONLY public.messages
    ADD CONSTRAINT messages_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(session_id);

