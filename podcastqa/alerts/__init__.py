"""A threshold crossed or an operation refused becomes one mail, however many processes saw it."""
