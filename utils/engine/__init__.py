"""Entered for speed and safety: what makes a step fast, a run resumable, several processes one."""
