"""Entered to find something out: what a network does, what another choice would do, what it costs."""
