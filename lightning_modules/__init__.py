"""Everything that learns, and the pure-torch packages it is made of."""
