"""Pure functions of a conversation: no I/O, no clock of their own."""
