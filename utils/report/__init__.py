"""Entered to publish: runs/ -> results/ -> the README's tables and images/."""
