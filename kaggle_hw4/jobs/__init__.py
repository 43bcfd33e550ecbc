"""Many trainings: what they cost, the plan, and who does the work."""
