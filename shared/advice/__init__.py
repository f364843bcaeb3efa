"""Advice about a spec: pure functions of what is asked for, that refuse nothing (refusing is the schema's work)."""
