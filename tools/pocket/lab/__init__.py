"""The laboratory: judges, the figures they give, and the tables that choose defaults."""
