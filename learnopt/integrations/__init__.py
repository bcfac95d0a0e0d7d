"""Adapters to other packages; each module needs its own package installed."""
