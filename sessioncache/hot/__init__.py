"""The hot tier: one function for each script, from typed arguments to typed replies.

Every function is a flow. A script that finds no valid hot copy answers *miss*, which is ``None`` here; what to do about
it is the business of `hydration`. Each script is idempotent by op id, token or nature, so `repeat` may send it again.

`reading` brings copies in and reads them, `writing` changes sessions, `draining` empties the pending logs, `leases` are
the holds and turns; `server` is what the Redis server says of itself.

Assumes that `Settings` and `Keyspace` are the same on every server; `startup` makes sure.
"""
