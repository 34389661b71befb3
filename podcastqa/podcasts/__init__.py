"""Whose podcasts: what each user subscribes to, saved and heard; brought in from files that belong to that user."""
