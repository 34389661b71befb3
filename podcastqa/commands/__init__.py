"""What each command of the shell does: one file a subject, each with its table of commands; `cli` merges the tables."""
