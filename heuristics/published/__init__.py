"""Stages that only the four seed programs use; the project's own policies use none of them."""
