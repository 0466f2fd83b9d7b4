"""The command line: one entry point, and what its commands do. Importing it loads none of them."""
