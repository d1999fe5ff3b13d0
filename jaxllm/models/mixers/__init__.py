"""Sequence mixers: what moves information along the text. One file each: declarations, function, cache."""
