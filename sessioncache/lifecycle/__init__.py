"""The life of a session: opened, written to, changed, moved, held, deleted.

Each change is one script on a warm session (one round trip), and an op in the pending log; each is idempotent by its op
id, so a repeat after a lost reply gets the first answer again (I3). A handle is bound to one session id: whatever
becomes current under its key later, its calls raise rather than touch that (I6). Only what spans keys or reaches below
the hot window takes more steps, each of which may be the last before a crash.

`handle` is what all share; `opening`, `messages`, `details`, `moving`, `deleting` and `leases` are what can be done.
"""
