"""Runs that are going on, in a browser: what their folders say now, served read-only."""
