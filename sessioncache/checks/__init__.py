"""Checks of the tiers, for `doctor`: each a flow that says what it found. None of them writes anything."""
