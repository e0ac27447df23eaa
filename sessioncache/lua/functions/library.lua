#!lua name=sessioncache
-- The functions of sessioncache for redis-cli, which only read: docs/redis-cli.md. `sessioncache functions load` puts this text
-- into Redis, `sessioncache functions check` compares it. What follows is common.lua, then the other files of this folder.
