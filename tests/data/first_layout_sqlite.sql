BEGIN TRANSACTION;
CREATE TABLE applied_ops (
	session_id VARCHAR(255) NOT NULL, 
	op_id VARCHAR(255) NOT NULL, 
	session_key VARCHAR(512) NOT NULL, 
	version BIGINT NOT NULL, 
	refused BOOLEAN DEFAULT 0 NOT NULL, 
	applied_at DATETIME NOT NULL, 
	PRIMARY KEY (session_id, op_id)
);
INSERT INTO "applied_ops" VALUES('20261121_133321_2841c30e7aa8','vXmhDoJlWSszBvcl','chat:deleted',1,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_6d477af15d37','cvF1IKJZKAtPTzdg','chat:refused',1,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_80e5eef0b83e','TSfBYV5q9l04Ukrz','chat:deleting',1,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_93e3e5681ac2','RkJz6rWBd_esnrnv','chat:stored',1,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_5376c5a550e3','U8h8ZyKhF7CNESYk','chat:both',1,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_5376c5a550e3','ws8HR5mRPxwoNqXG','chat:both',4,0,'2026-11-21 13:33:21.521083');
INSERT INTO "applied_ops" VALUES('20261121_133321_2841c30e7aa8','uRB7qfyDFMNFNug1','chat:deleted',2,0,'2026-11-21 13:33:21.568038');
INSERT INTO "applied_ops" VALUES('20261121_133321_2841c30e7aa8','eaZUSb0zTVxBZpKi','chat:deleted',3,0,'2026-11-21 13:33:21.568038');
INSERT INTO "applied_ops" VALUES('20261121_133321_2841c30e7aa8','tbOk01F_ca3X9U4r','chat:deleted',4,0,'2026-11-21 13:33:21.568038');
INSERT INTO "applied_ops" VALUES('20261121_133321_2841c30e7aa8','AA6qIcRH7K-LfYyV','chat:deleted',5,0,'2026-11-21 13:33:21.568038');
INSERT INTO "applied_ops" VALUES('20261121_133321_6d477af15d37','NHTisifYH5AeobbN','chat:refused',2,1,'2026-11-21 13:33:21.607182');
INSERT INTO "applied_ops" VALUES('20261121_133321_6d477af15d37','0yBv46cFgy11rLQ1','chat:refused',2,1,'2026-11-21 13:33:21.607182');
INSERT INTO "applied_ops" VALUES('ended-1','AAAAAAAAAAAAAAAA','chat:stored',1,1,'2026-01-01 12:00:00.000000');
CREATE TABLE layout (
	version INTEGER NOT NULL, 
	partitions INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "layout" VALUES(1,64);
CREATE TABLE messages (
	session_id VARCHAR(255) NOT NULL, 
	seq INTEGER NOT NULL, 
	message_id VARCHAR(255) NOT NULL, 
	role VARCHAR(255), 
	body TEXT NOT NULL, 
	text TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (session_id, seq), 
	CONSTRAINT messages_by_id UNIQUE (session_id, message_id), 
	FOREIGN KEY(session_id) REFERENCES sessions (session_id)
);
INSERT INTO "messages" VALUES('20261121_133321_6d477af15d37',2,'fwXoRneWJR11WIuL',NULL,'{"content":"before"}','before','2026-11-21 13:33:21.504000');
INSERT INTO "messages" VALUES('20261121_133321_80e5eef0b83e',2,'XChue4rgwIyFPbjG',NULL,'{"content":"goes"}','goes','2026-11-21 13:33:21.495000');
INSERT INTO "messages" VALUES('20261121_133321_93e3e5681ac2',2,'xg-OFSlJesI3qjPj.0','user','{"role":"user","content":"Grüße, 你好, שלום 👩‍👩‍👧"}','Grüße, 你好, שלום 👩‍👩‍👧','2026-11-21 13:33:21.472000');
INSERT INTO "messages" VALUES('20261121_133321_93e3e5681ac2',3,'xg-OFSlJesI3qjPj.1','assistant','{"role":"assistant","content":"nul \u0000 and   \\u0000","n":9223372036854775807,"f":1e+300,"z":[null,true,1.5,{"b":1,"a":2}]}','nul � and   \u0000','2026-11-21 13:33:21.472000');
INSERT INTO "messages" VALUES('20261121_133321_93e3e5681ac2',4,'xg-OFSlJesI3qjPj.2','assistant','{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"look","arguments":"{}"}}]}','','2026-11-21 13:33:21.472000');
INSERT INTO "messages" VALUES('20261121_133321_93e3e5681ac2',5,'xg-OFSlJesI3qjPj.3','tool','{"role":"tool","content":[{"type":"text","text":"see"}],"tool_call_id":"c1"}','see','2026-11-21 13:33:21.472000');
INSERT INTO "messages" VALUES('20261121_133321_93e3e5681ac2',6,'xg-OFSlJesI3qjPj.4',NULL,'{"no":"role"}','','2026-11-21 13:33:21.472000');
INSERT INTO "messages" VALUES('20261121_133321_5376c5a550e3',2,'SvVYpSafGfj_Fvra.0','user','{"role":"user","content":"Grüße, 你好, שלום 👩‍👩‍👧"}','Grüße, 你好, שלום 👩‍👩‍👧','2026-11-21 13:33:21.489000');
INSERT INTO "messages" VALUES('20261121_133321_5376c5a550e3',3,'SvVYpSafGfj_Fvra.1','assistant','{"role":"assistant","content":"nul \u0000 and   \\u0000","n":9223372036854775807,"f":1e+300,"z":[null,true,1.5,{"b":1,"a":2}]}','nul � and   \u0000','2026-11-21 13:33:21.489000');
INSERT INTO "messages" VALUES('20261121_133321_5376c5a550e3',5,'telegram-1',NULL,'{"content":"with an id"}','with an id','2026-11-21 13:33:21.490000');
INSERT INTO "messages" VALUES('ended-1',1,'old-1','user','{"role": "user", "content": "Straße 1 你好"}','Straße 1 你好','2026-01-01 12:00:00.000000');
INSERT INTO "messages" VALUES('ended-1',2,'old-2','user','{"role": "user", "content": "Straße 2 你好"}','Straße 2 你好','2026-01-01 12:00:00.000000');
CREATE TABLE routes (
	session_key VARCHAR(512) NOT NULL, 
	session_id VARCHAR(255), 
	version BIGINT NOT NULL, 
	PRIMARY KEY (session_key)
);
INSERT INTO "routes" VALUES('chat:both','20261121_133321_5376c5a550e3',5);
INSERT INTO "routes" VALUES('chat:deleted',NULL,5);
INSERT INTO "routes" VALUES('chat:deleting','20261121_133321_80e5eef0b83e',2);
INSERT INTO "routes" VALUES('chat:refused','20261121_133321_6d477af15d37',2);
INSERT INTO "routes" VALUES('chat:stored','20261121_133321_93e3e5681ac2',6);
CREATE TABLE sessioncache_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT sessioncache_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "sessioncache_version" VALUES('0001');
CREATE TABLE sessions (
	session_id VARCHAR(255) NOT NULL, 
	session_key VARCHAR(512), 
	owner VARCHAR(255), 
	title VARCHAR(255), 
	platform VARCHAR(255), 
	chat_type VARCHAR(255), 
	origin JSON, 
	metadata JSON, 
	archived BOOLEAN DEFAULT 0 NOT NULL, 
	important BOOLEAN DEFAULT 0 NOT NULL, 
	suspended BOOLEAN DEFAULT 0 NOT NULL, 
	deleted BOOLEAN DEFAULT 0 NOT NULL, 
	message_count BIGINT DEFAULT 0 NOT NULL, 
	last_seq BIGINT DEFAULT 0 NOT NULL, 
	consolidated_seq BIGINT DEFAULT 0 NOT NULL, 
	input_tokens BIGINT DEFAULT 0 NOT NULL, 
	output_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_read_tokens BIGINT DEFAULT 0 NOT NULL, 
	cache_write_tokens BIGINT DEFAULT 0 NOT NULL, 
	last_prompt_tokens BIGINT DEFAULT 0 NOT NULL, 
	estimated_cost FLOAT DEFAULT 0 NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	last_accessed DATETIME NOT NULL, 
	last_message_at DATETIME, 
	ended_at DATETIME, 
	end_reason VARCHAR(64), 
	parent_id VARCHAR(255), 
	PRIMARY KEY (session_id)
);
INSERT INTO "sessions" VALUES('20261121_133321_2841c30e7aa8','chat:deleted',NULL,NULL,NULL,NULL,NULL,NULL,0,0,0,1,0,2,0,0,0,0,0,0,0.0,'2026-11-21 13:33:21.501000','2026-11-21 13:33:21.502000','2026-11-21 13:33:21.558000','2026-11-21 13:33:21.502000','2026-11-21 13:33:21.558000','deleted',NULL);
INSERT INTO "sessions" VALUES('20261121_133321_6d477af15d37','chat:refused',NULL,NULL,NULL,NULL,NULL,NULL,0,0,0,1,1,2,0,0,0,0,0,0,0.0,'2026-11-21 13:33:21.504000','2026-11-21 13:33:21.504000','2026-11-21 13:33:21.504000','2026-11-21 13:33:21.504000',NULL,NULL,NULL);
INSERT INTO "sessions" VALUES('20261121_133321_80e5eef0b83e','chat:deleting',NULL,NULL,NULL,NULL,NULL,NULL,0,0,0,0,1,2,0,0,0,0,0,0,0.0,'2026-11-21 13:33:21.495000','2026-11-21 13:33:21.495000','2026-11-21 13:33:21.495000','2026-11-21 13:33:21.495000',NULL,NULL,NULL);
INSERT INTO "sessions" VALUES('20261121_133321_93e3e5681ac2','chat:stored','alice',NULL,NULL,NULL,NULL,NULL,0,0,0,0,5,6,0,0,0,0,0,0,0.0,'2026-11-21 13:33:21.470000','2026-11-21 13:33:21.472000','2026-11-21 13:33:21.472000','2026-11-21 13:33:21.472000',NULL,NULL,NULL);
INSERT INTO "sessions" VALUES('20261121_133321_5376c5a550e3','chat:both','alice',NULL,NULL,NULL,NULL,NULL,0,0,0,0,3,5,0,0,0,0,0,0,0.0,'2026-11-21 13:33:21.489000','2026-11-21 13:33:21.490000','2026-11-21 13:33:21.490000','2026-11-21 13:33:21.490000',NULL,NULL,NULL);
INSERT INTO "sessions" VALUES('ended-1','chat:stored','alice','Reise nach Köln 你好','telegram','dm','{"chat_id": "42"}','{"mood": [1, null]}',1,1,0,0,2,2,1,10,20,30,40,9,0.0,'2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','reset',NULL);
INSERT INTO "sessions" VALUES('child-1','chat:stored','alice',NULL,NULL,NULL,NULL,NULL,0,0,1,0,0,0,0,0,0,0,0,0,0.0,'2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000','2026-01-01 12:00:00.000000',NULL,'2026-01-01 12:00:00.000000','fork','ended-1');
CREATE INDEX sessions_by_key ON sessions (session_key, last_seq);
CREATE INDEX sessions_by_owner ON sessions (owner, updated_at);
CREATE INDEX applied_ops_by_key ON applied_ops (session_key, version);
CREATE INDEX applied_ops_by_time ON applied_ops (applied_at);
COMMIT;
