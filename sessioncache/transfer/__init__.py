"""Moving in and out: readers of other stores' files, and of our own exports; what they find is imported by `importing`."""
