"""Rewrite rules, by what they are about."""
