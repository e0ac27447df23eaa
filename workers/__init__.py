"""The processes that drain: the RQ job, the schedule, and what starts them. All behaviour is in `sessioncache`."""
