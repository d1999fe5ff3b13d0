"""Token files of other programs, opened where they are and only read."""
