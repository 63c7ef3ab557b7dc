"""The problem, and what a placement is, costs and moves; numpy and exact arithmetic only."""
