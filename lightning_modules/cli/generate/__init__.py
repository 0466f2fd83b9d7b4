"""The command `generate`: images of a generator, with or without a key, or a GM data set."""
