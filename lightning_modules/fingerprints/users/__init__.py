"""Who holds which key: the key registry, user names, verdicts, and the command `users`."""
