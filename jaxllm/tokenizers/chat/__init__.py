"""Conversations as text and ids."""
