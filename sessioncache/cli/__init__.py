"""The ``sessioncache`` command. It asks and shows; all behaviour is below."""
