"""Recorded frames: bags, folders and videos as one stream."""
