"""Policies by name, as files and as functions; a user's file runs in a process of its own."""
