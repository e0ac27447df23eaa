"""The store: SQL. Plain functions of a Connection, each run in one transaction; they know no Redis.

`engine` makes connections, `plan` decides what a log does to the store, `apply` does it, `load` reads. `find`, `previews`
and `search` are for lists, `candidates` for housekeeping; `words` says what a search finds.
"""
